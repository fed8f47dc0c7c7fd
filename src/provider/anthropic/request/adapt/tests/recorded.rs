//! Requests that were really sent.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::Value;

use super::super::adapt;
use crate::capability::{Capabilities, Feature, Features, Fit, fit};
use crate::provider::anthropic::request::RequestView;

struct Recorded {
    file: String,
    body: Bytes,
    value: Value,
    status: u64,
    answer: String,
}

fn recorded() -> Vec<Recorded> {
    let root = std::env::var_os("SEAWALL_RECORDINGS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recordings"),
        PathBuf::from,
    );
    let mut found = Vec::new();
    for kind in ["count_tokens", "errors", "messages", "streams"] {
        let Ok(folder) = fs::read_dir(root.join("anthropic").join(kind)) else {
            println!("skipped: no recordings at {}", root.display());
            continue;
        };
        for entry in folder {
            let path = entry.expect("an entry").path();
            let text = fs::read_to_string(&path).expect("a readable recording");
            let exchange: Value = serde_json::from_str(&text).expect("JSON");
            let Some(body) = exchange["request"]["body"].as_str() else {
                continue;
            };
            let Ok(value @ Value::Object(_)) = serde_json::from_str(body) else {
                continue;
            };
            found.push(Recorded {
                file: path.display().to_string(),
                body: Bytes::from(body.to_owned()),
                value,
                status: exchange["response"]["status"].as_u64().expect("a status"),
                answer: exchange["response"]["body"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            });
        }
    }
    found
}

/// Every object at or below a value.
fn objects(value: &Value) -> Vec<&serde_json::Map<String, Value>> {
    match value {
        Value::Object(fields) => {
            let below = fields.values().flat_map(objects);
            std::iter::once(fields).chain(below).collect()
        }
        Value::Array(elements) => elements.iter().flat_map(objects).collect(),
        _ => Vec::new(),
    }
}

/// Whether a block is the result of a call that the provider made.
fn is_server_result(kind: &str) -> bool {
    kind.ends_with("_tool_result") && kind != "tool_result"
}

/// A copy without what is inside the results of the provider's calls: documents that it fetched are
/// its own.
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let is_result = fields
                .get("type")
                .and_then(Value::as_str)
                .is_some_and(is_server_result);
            let kept = fields
                .iter()
                .filter(|(name, _)| !is_result || *name != "content");
            kept.map(|(name, value)| (name.clone(), pruned(value)))
                .collect()
        }
        Value::Array(elements) => elements.iter().map(pruned).collect(),
        other => other.clone(),
    }
}

fn cited(object: &serde_json::Map<String, Value>) -> bool {
    match object.get("citations") {
        Some(Value::Array(list)) => !list.is_empty(),
        Some(wanted) => wanted["enabled"] == true,
        None => false,
    }
}

/// The needs of a request, found another way: in its whole tree.
fn needs(value: &Value) -> Features {
    let value = &pruned(value);
    let messages = objects(&value["messages"]);
    let kinds: Vec<&str> = messages
        .iter()
        .filter_map(|o| o.get("type")?.as_str())
        .collect();
    let tools: Vec<&Value> = value["tools"].as_array().into_iter().flatten().collect();
    let own = |tool: &&Value| tool.get("input_schema").is_some();
    let any = |wanted: &[&str]| kinds.iter().any(|kind| wanted.contains(kind));
    let everywhere = ["system", "messages", "tools"].map(|name| objects(&value[name]));
    let marked = everywhere
        .iter()
        .flatten()
        .any(|o| o.get("cache_control").is_some_and(|mark| !mark.is_null()));
    let last = value["messages"].as_array().and_then(|list| list.last());
    let thinking = value["thinking"]["type"].as_str();
    let present = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
    let says = [
        (
            Feature::Tools,
            tools.iter().any(own)
                || any(&["tool_use", "tool_result", "tool_addition", "tool_removal"]),
        ),
        (
            Feature::ForcedTools,
            matches!(value["tool_choice"]["type"].as_str(), Some("any" | "tool")),
        ),
        (
            Feature::ServerTools,
            !tools.iter().all(own)
                || present("mcp_servers")
                || present("container")
                || any(&["server_tool_use", "mcp_tool_use", "container_upload"])
                || kinds.iter().any(|kind| is_server_result(kind)),
        ),
        (Feature::Images, any(&["image"])),
        (Feature::Documents, any(&["document"])),
        (
            Feature::Thinking,
            thinking.is_some_and(|kind| kind != "disabled"),
        ),
        (Feature::NoThinking, thinking == Some("disabled")),
        (
            Feature::Effort,
            value["output_config"].get("effort").is_some(),
        ),
        (Feature::Citations, messages.iter().copied().any(cited)),
        (
            Feature::JsonSchema,
            present("output_format") || value["output_config"].get("format").is_some(),
        ),
        (Feature::PromptCaching, marked || present("cache_control")),
        (
            Feature::Sampling,
            ["temperature", "top_p", "top_k"].into_iter().any(present),
        ),
        (
            Feature::Prefill,
            last.is_some_and(|last| last["role"] == "assistant"),
        ),
        (
            Feature::ThinkingBlocks,
            any(&["thinking", "redacted_thinking"]),
        ),
    ];
    says.into_iter()
        .filter(|(_, is)| *is)
        .map(|(feature, _)| feature)
        .collect()
}

/// What was said in a request, tools' words included.
fn words(value: &Value) -> Vec<&str> {
    let said = |o: &'_ serde_json::Map<String, Value>, name: &str| o.contains_key(name);
    objects(value)
        .into_iter()
        .filter(|o| {
            said(o, "role")
                || o.get("type")
                    .is_some_and(|t| t == "text" || t == "tool_result")
        })
        .flat_map(|o| [o.get("content"), o.get("text")])
        .filter_map(|text| text?.as_str())
        .collect()
}

#[test]
fn the_needs_of_every_recorded_request_are_found() {
    let mut seen = Features::NONE;
    let all = recorded();
    for request in &all {
        let view = RequestView::parse(&request.body).expect("a view");
        assert!(view.needs.are_known(), "{}", request.file);
        assert_eq!(
            view.needs.features,
            needs(&request.value),
            "{}",
            request.file
        );
        assert_eq!(view.needs.max_tokens, request.value["max_tokens"].as_u64());
        seen = seen.union(view.needs.features);
    }
    let rare = Features::from(Feature::AssistantDocuments)
        .with(Feature::TextCitations)
        .with(Feature::FastMode)
        .with(Feature::InferenceGeo)
        .with(Feature::MaxTokens);
    assert!(
        all.is_empty() || seen.union(rare) == Features::all(),
        "{seen}"
    );
}

#[test]
fn what_the_provider_took_is_not_refused_and_a_refused_prefill_is() {
    for request in recorded() {
        let view = RequestView::parse(&request.body).expect("a view");
        let target = Capabilities::of(view.model.as_deref(), "2023-06-01");
        let fitted = fit(&view.needs, 1, &target, Features::NONE);
        if request.status == 200 {
            assert_eq!(fitted, Ok(Fit::default()), "{}", request.file);
        }
        if request
            .answer
            .contains("does not support assistant message prefill")
        {
            let refused = fitted.expect_err("the provider refused it");
            assert_eq!(refused.as_str(), "cannot_prefill", "{}", request.file);
        }
    }
}

#[test]
fn a_recorded_request_for_itself_keeps_every_byte() {
    for request in recorded() {
        let view = RequestView::parse(&request.body).expect("a view");
        let own = view.model.as_deref();
        for to in [None, own] {
            let same = adapt(&request.body, &view, own, to, &Fit::default()).expect("itself");
            assert_eq!(
                same.body.as_ptr(),
                request.body.as_ptr(),
                "{}",
                request.file
            );
            assert!(same.losses.is_empty());
        }
    }
}

#[test]
fn a_recorded_request_for_another_model_says_the_same() {
    for request in recorded() {
        let view = RequestView::parse(&request.body).expect("a view");
        let own = view.model.as_deref();
        let other = adapt(
            &request.body,
            &view,
            own,
            Some("claude-other"),
            &Fit::default(),
        );
        let other = other.unwrap_or_else(|e| panic!("{}: {e}", request.file));
        let value: Value = serde_json::from_slice(&other.body).expect("JSON");
        assert_eq!(value["model"], "claude-other");
        assert_eq!(words(&value), words(&request.value), "{}", request.file);
        let again = RequestView::parse(&other.body).expect("a view").needs;
        let thoughts = Features::from(Feature::ThinkingBlocks).with(Feature::Thinking);
        assert_eq!(
            again.features,
            view.needs.features.minus(other.losses),
            "{}",
            request.file
        );
        assert!(other.losses.minus(thoughts).is_empty(), "{}", request.file);
    }
}

#[test]
fn a_recorded_request_without_any_of_its_needs_still_says_its_words() {
    for request in recorded() {
        let view = RequestView::parse(&request.body).expect("a view");
        for feature in view.needs.features.iter() {
            let target = Capabilities::everything().without(feature.into());
            let plan = fit(&view.needs, 1, &target, Features::all()).expect("allowed");
            let adapted = match adapt(&request.body, &view, None, None, &plan) {
                Ok(adapted) => adapted,
                Err(misfit) => panic!("{} without {feature}: {misfit}", request.file),
            };
            assert!(
                adapted.losses.contains(feature),
                "{} {feature}",
                request.file
            );
            let left = RequestView::parse(&adapted.body).expect("a view").needs;
            assert!(
                !left.features.contains(feature),
                "{} {feature}",
                request.file
            );
            if feature == Feature::Prefill {
                continue;
            }
            let text = String::from_utf8(adapted.body.to_vec()).expect("UTF-8");
            let value: Value = serde_json::from_str(&text).expect("JSON");
            let after = words(&value);
            for said in words(&request.value) {
                assert!(
                    after.iter().any(|after| after.contains(said)),
                    "{} without {feature} does not say {said:?}",
                    request.file
                );
            }
        }
    }
}

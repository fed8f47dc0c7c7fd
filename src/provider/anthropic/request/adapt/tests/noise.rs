//! Requests that nobody would write.

use bytes::Bytes;
use proptest::prelude::{
    Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::Value;

use super::super::adapt;
use crate::capability::{Feature, Features, Fit};
use crate::provider::anthropic::request::RequestView;

const BLOCKS: [&str; 16] = [
    r#"{"type":"text","text":"a"}"#,
    r#"{"text":"b","type":"text","cache_control":{"type":"ephemeral"}}"#,
    r#"{"type":"text","text":"c","citations":[{"type":"char_location"}]}"#,
    r#"{"type":"thinking","thinking":"t","signature":"s"}"#,
    r#"{"type":"redacted_thinking","data":"d"}"#,
    r#"{"type":"image","source":{"type":"url"}}"#,
    r#"{"type":"document","source":{"type":"text","data":"d"},"citations":{"enabled":true}}"#,
    r#"{"type":"document","title":"T","source":{"type":"content","content":[BLOCK]}}"#,
    r#"{"type":"tool_use","id":"i","name":"f","input":{"a":[1]}}"#,
    r#"{"type":"tool_result","tool_use_id":"i","content":[BLOCK,BLOCK]}"#,
    r#"{"type":"tool_result","tool_use_id":"i","content":"gone"}"#,
    r#"{"type":"server_tool_use","id":"w","name":"web_search","input":{}}"#,
    r#"{"type":"web_search_tool_result","tool_use_id":"w","content":[{"type":"web_search_result"}]}"#,
    r#"{"type":"container_upload","file_id":"f"}"#,
    r#"{"type":"search_result","source":"u","title":"t","citations":{"enabled":true},"content":[BLOCK]}"#,
    r#"{"type":"tool_addition","tool":{}}"#,
];

const FIELDS: [&str; 15] = [
    r#""system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}]"#,
    r#""tools":[{"name":"f","input_schema":{}},{"type":"web_search_20250305","name":"web_search","cache_control":{}}]"#,
    r#""tool_choice":{"type":"tool","name":"f"}"#,
    r#""thinking":{"type":"enabled","budget_tokens":4000}"#,
    r#""output_config":{"effort":"low","format":{}}"#,
    r#""output_format":{}"#,
    r#""temperature":0.5"#,
    r#""top_k":4"#,
    r#""speed":"fast""#,
    r#""inference_geo":"us""#,
    r#""mcp_servers":[{}]"#,
    r#""container":"c""#,
    r#""cache_control":{"type":"ephemeral"}"#,
    r#""context_management":{"edits":[{"type":"clear_thinking_20251015"}]}"#,
    r#""stream":true"#,
];

fn block() -> impl Strategy<Value = String> {
    let flat = || prop::sample::select(BLOCKS.to_vec());
    (flat(), flat(), flat()).prop_map(|(outer, inner, innermost)| {
        let text = r#"{"type":"text","text":"x"}"#;
        let inner = inner.replace("BLOCK", innermost).replace("BLOCK", text);
        outer.replace("BLOCK", &inner)
    })
}

fn message(role: &'static str) -> impl Strategy<Value = String> {
    let blocks = prop::collection::vec(block(), 1..4);
    let content = prop_oneof![
        Just("\"words\"".to_owned()),
        blocks.prop_map(|blocks| format!("[{}]", blocks.join(",")))
    ];
    content.prop_map(move |content| format!(r#"{{"role":"{role}","content":{content}}}"#))
}

fn request() -> impl Strategy<Value = String> {
    let turns = prop::collection::vec((message("user"), message("assistant")), 0..4);
    let last = message("user");
    let fields = prop::sample::subsequence(FIELDS.to_vec(), 0..FIELDS.len());
    (turns, last, any::<bool>(), fields).prop_map(|(turns, last, ends, fields)| {
        let mut messages: Vec<String> = turns.into_iter().flat_map(|(a, b)| [a, b]).collect();
        if ends || messages.is_empty() {
            messages.push(last);
        }
        let mut all: Vec<String> = fields.into_iter().map(str::to_owned).collect();
        all.push(format!(r#""messages":[{}]"#, messages.join(",")));
        all.push(r#""max_tokens":8000"#.to_owned());
        format!("{{{}}}", all.join(","))
    })
}

fn losses() -> impl Strategy<Value = Features> {
    prop::sample::subsequence(Feature::ALL.to_vec(), 0..=Feature::ALL.len())
        .prop_map(|features| features.into_iter().collect())
}

fn models() -> impl Strategy<Value = (Option<&'static str>, Option<&'static str>)> {
    let model =
        || prop::sample::select(vec![None, Some("claude-opus-5"), Some("claude-haiku-4-5")]);
    (model(), model())
}

/// Whether a list that holds blocks or messages is empty anywhere.
fn has_empty_content(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let empty = value.as_array().is_some_and(Vec::is_empty);
            (empty && (name == "content" || name == "messages")) || has_empty_content(value)
        }),
        Value::Array(elements) => elements.iter().any(has_empty_content),
        _ => false,
    }
}

fn roles(body: &Value) -> Vec<&str> {
    let messages = body["messages"].as_array().expect("messages");
    messages
        .iter()
        .map(|m| m["role"].as_str().expect("a role"))
        .collect()
}

fn fitted(losses: Features, shorter: bool) -> Fit {
    Fit {
        losses,
        max_tokens: shorter.then_some(2_000),
    }
}

proptest! {
    #[test]
    fn what_was_to_go_is_gone_and_a_valid_request_is_left(
        body in request(), losses in losses(), (from, to) in models(), shorter in any::<bool>(),
    ) {
        let body = Bytes::from(body);
        let view = RequestView::parse(&body).expect("a view");
        let adapted = match adapt(&body, &view, from, to, &fitted(losses, shorter)) {
            Ok(adapted) => adapted,
            Err(misfit) => {
                // Only a message of nothing but thinking is there, and it is the last.
                prop_assert!(misfit.as_str().starts_with("cannot_"), "{misfit}");
                return Ok(());
            }
        };
        let after: Value = serde_json::from_slice(&adapted.body).expect("JSON");
        let seen = RequestView::parse(&adapted.body).expect("a view");
        let planned = view.needs.moved(from, to).with_consequences(losses);
        let left = planned.minus(planned.minus(seen.needs.features));
        prop_assert!(left.is_empty(), "{left} left in {after}");
        prop_assert!(!has_empty_content(&after), "{after}");
        prop_assert_eq!(seen.max_tokens, Some(if shorter { 2_000 } else { 8_000 }));
        if to.is_some() {
            prop_assert_eq!(seen.model.as_deref(), to);
        }
        let roles = roles(&after);
        prop_assert!(roles.is_sorted_by(|a, b| a != b), "{roles:?}");
        prop_assert_eq!(roles.first().copied(), Some("user"));
        // What got lost was planned, or hangs on it.
        let hanging = Features::from(Feature::Citations).with(Feature::ForcedTools);
        let unplanned = adapted.losses.minus(planned).minus(hanging).minus(Feature::MaxTokens.into());
        prop_assert!(unplanned.is_empty(), "{unplanned}");
        prop_assert_eq!(adapted.losses.contains(Feature::MaxTokens), shorter);
    }

    #[test]
    fn no_bytes_panic(
        body in request(), losses in losses(), (from, to) in models(),
        at in any::<prop::sample::Index>(), noise in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let mut bytes = body.into_bytes();
        let start = at.index(bytes.len());
        let end = (start + noise.len()).min(bytes.len());
        bytes.splice(start..end, noise);
        let body = Bytes::from(bytes);
        if let Ok(view) = RequestView::parse(&body)
            && let Ok(adapted) = adapt(&body, &view, from, to, &fitted(losses, true))
        {
            let again = serde_json::from_slice::<serde::de::IgnoredAny>(&adapted.body);
            prop_assert!(again.is_ok());
        }
    }
}

use bytes::Bytes;
use serde_json::Value;

use super::{Adapted, adapt};
use crate::capability::{Capabilities, Feature, Features, Fit, Misfit, fit};
use crate::provider::anthropic::request::RequestView;

mod noise;
mod recorded;

fn adapted(
    body: &str,
    (from, to): (Option<&str>, Option<&str>),
    losses: Features,
    max_tokens: Option<u64>,
) -> Result<Adapted, Misfit> {
    let body = Bytes::from(body.to_owned());
    let view = RequestView::parse(&body).expect("a view");
    let fit = Fit { losses, max_tokens };
    adapt(&body, &view, from, to, &fit)
}

/// What a body becomes without a feature, its model kept; and what that lost.
fn without(feature: Feature, body: &str) -> (String, String) {
    let adapted = adapted(body, (None, None), feature.into(), None).expect("an adapted body");
    let text = String::from_utf8(adapted.body.to_vec()).expect("UTF-8");
    serde_json::from_str::<Value>(&text).expect("JSON");
    (text, adapted.losses.to_string())
}

fn messages(list: &str) -> String {
    format!(r#"{{"messages":[{list}],"z":1}}"#)
}

#[test]
fn each_loss_takes_its_own_out_and_leaves_the_rest_in_place() {
    for (feature, before, after) in [
        (
            Feature::Sampling,
            r#"{"a": 1.50 ,"temperature":1,"top_p":0.5,"b":{ "top_k":1},"top_k":3}"#,
            r#"{"a":1.50,"b":{ "top_k":1}}"#,
        ),
        (
            Feature::Thinking,
            r#"{"thinking":{"type":"adaptive"},"context_management":{"edits":[{"type":"clear_thinking_20251015","keep":"all"}]}}"#,
            r"{}",
        ),
        (
            Feature::Thinking,
            r#"{"thinking":{"type":"enabled"},"context_management":{"edits":[{"type":"clear_thinking_20251015"},{"type":"clear_tool_uses_20250919"}],"x":1}}"#,
            r#"{"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}],"x":1}}"#,
        ),
        (
            Feature::NoThinking,
            r#"{"thinking":{"type":"disabled"},"stream":true}"#,
            r#"{"stream":true}"#,
        ),
        (
            Feature::Effort,
            r#"{"output_config":{"effort":"low","format":{"type":"json_schema"}}}"#,
            r#"{"output_config":{"format":{"type":"json_schema"}}}"#,
        ),
        (
            Feature::Effort,
            r#"{"output_config":{"effort":"low"}}"#,
            "{}",
        ),
        (
            Feature::JsonSchema,
            r#"{"output_config":{"effort":"low","format":{"type":"json_schema"}}}"#,
            r#"{"output_config":{"effort":"low"}}"#,
        ),
        (
            Feature::JsonSchema,
            r#"{"output_format":{"type":"json_schema"},"b":2}"#,
            r#"{"b":2}"#,
        ),
        (Feature::FastMode, r#"{"speed":"fast","b":2}"#, r#"{"b":2}"#),
        (
            Feature::InferenceGeo,
            r#"{"a":{"inference_geo":"us"},"inference_geo":"us"}"#,
            r#"{"a":{"inference_geo":"us"}}"#,
        ),
        (
            Feature::ForcedTools,
            r#"{"tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},"tools":[{"name":"f","input_schema":{}}]}"#,
            r#"{"tool_choice":{"type":"auto","disable_parallel_tool_use":true},"tools":[{"name":"f","input_schema":{}}]}"#,
        ),
        (
            Feature::ServerTools,
            r#"{"mcp_servers":[{"name":"s"}],"container":"c","tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"f","input_schema":{}}],"tool_choice":{"type":"any"}}"#,
            r#"{"tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"any"}}"#,
        ),
        (
            Feature::PromptCaching,
            r#"{"cache_control":{"type":"ephemeral"},"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"tools":[{"name":"f","cache_control":{},"input_schema":{"properties":{"cache_control":{}}}}]}"#,
            r#"{"system":[{"type":"text","text":"s"}],"tools":[{"name":"f","input_schema":{"properties":{"cache_control":{}}}}]}"#,
        ),
    ] {
        let (seen, losses) = without(feature, before);
        assert_eq!(seen, after, "{feature} of {before}");
        assert_eq!(losses, feature.as_str(), "{before}");
    }
}

#[test]
fn images_and_documents_leave_a_text_that_says_so() {
    let image = r#"{"type":"image","source":{"type":"url","url":"u"},"cache_control":{"type":"ephemeral"}}"#;
    let document = r#"{"title":"Plan","type":"document","source":{"type":"file","file_id":"f"}}"#;
    for (feature, before, after) in [
        (
            Feature::Images,
            format!(r#"{{"role":"user","content":[{image}]}}"#),
            r#"{"role":"user","content":[{"type":"text","text":"[Left out: an image]","cache_control":{"type":"ephemeral"}}]}"#,
        ),
        (
            Feature::Images,
            format!(
                r#"{{"role":"user","content":[{{"tool_use_id":"t","type":"tool_result","content":[{image}]}}]}}"#
            ),
            r#"{"role":"user","content":[{"tool_use_id":"t","type":"tool_result","content":[{"type":"text","text":"[Left out: an image]","cache_control":{"type":"ephemeral"}}]}]}"#,
        ),
        (
            Feature::Images,
            format!(
                r#"{{"role":"user","content":[{{"type":"document","source":{{"type":"content","content":[{image}]}}}}]}}"#
            ),
            r#"{"role":"user","content":[{"type":"document","source":{"type":"content","content":[{"type":"text","text":"[Left out: an image]","cache_control":{"type":"ephemeral"}}]}}]}"#,
        ),
        (
            Feature::Documents,
            format!(r#"{{"role":"user","content":[{document},{{"type":"text","text":"?"}}]}}"#),
            r#"{"role":"user","content":[{"type":"text","text":"[Left out: the document \"Plan\"]"},{"type":"text","text":"?"}]}"#,
        ),
        (
            Feature::AssistantDocuments,
            format!(
                r#"{{"role":"user","content":[{document}]}},{{"content":[{document}],"role":"assistant"}},{{"role":"user","content":"?"}}"#
            ),
            r#"{"role":"user","content":[DOCUMENT]},{"content":[{"type":"text","text":"[Left out: the document \"Plan\"]"}],"role":"assistant"},{"role":"user","content":"?"}"#,
        ),
    ] {
        let (seen, losses) = without(feature, &messages(&before));
        let after = after.replace("DOCUMENT", document);
        assert_eq!(seen, messages(&after), "{before}");
        assert_eq!(losses, feature.as_str());
    }
}

#[test]
fn tools_become_text_and_their_results_the_users_words() {
    let before = r#"{"model":"m","tools":[{"name":"f","input_schema":{}}],"tool_choice":{"type":"any"},"messages":[
        {"role":"user","content":"Weather?"},
        {"role":"assistant","content":[{"type":"text","text":"I ask."},{"type":"tool_use","id":"t1","name":"f","input":{"city":"Köln"}},{"type":"tool_use","id":"t2","name":"f","input":{}}]},
        {"role":"user","content":[
          {"type":"tool_result","tool_use_id":"t1","content":"12 °C\n","cache_control":{"type":"ephemeral"}},
          {"type":"tool_result","tool_use_id":"t2","is_error":true,"content":[{"type":"text","text":"no"},{"type":"image","source":{}}]},
          {"type":"tool_result","tool_use_id":"t3"}]}]}"#;
    let (seen, losses) = without(Feature::Tools, before);
    let expected = concat!(
        r#"{"model":"m","messages":[{"role":"user","content":"Weather?"},"#,
        r#"{"role":"assistant","content":[{"type":"text","text":"I ask."},"#,
        r#"{"type":"text","text":"[Called the tool f with {\"city\":\"Köln\"}]"},"#,
        r#"{"type":"text","text":"[Called the tool f with {}]"}]},"#,
        r#"{"role":"user","content":["#,
        r#"{"type":"text","text":"[Result of the tool f]\n12 °C\n","cache_control":{"type":"ephemeral"}},"#,
        r#"{"type":"text","text":"[Error of the tool f]"},{"type":"text","text":"no"},"#,
        r#"{"type":"image","source":{}},{"type":"text","text":"[Result of the tool ]"}]}]}"#,
    );
    assert_eq!(seen, expected);
    assert_eq!(losses, "tools, forced_tools");
}

#[test]
fn a_choice_of_a_tool_that_went_is_left_to_the_model() {
    let tools = r#""tools":[{"type":"web_search_20250305","name":"web_search"},{"name":"f","input_schema":{}}]"#;
    for (choice, after, losses) in [
        (
            r#"{"type":"tool","name":"f"}"#,
            r#"{"type":"auto"}"#,
            "tools, forced_tools",
        ),
        (
            r#"{"type":"tool","name":"web_search"}"#,
            r#"{"type":"tool","name":"web_search"}"#,
            "tools",
        ),
        (r#"{"type":"any"}"#, r#"{"type":"any"}"#, "tools"),
        (r#"{"type":"none"}"#, r#"{"type":"none"}"#, "tools"),
    ] {
        let (seen, lost) = without(
            Feature::Tools,
            &format!(r#"{{"tool_choice":{choice},{tools}}}"#),
        );
        let tools = r#""tools":[{"type":"web_search_20250305","name":"web_search"}]"#;
        assert_eq!(seen, format!(r#"{{"tool_choice":{after},{tools}}}"#));
        assert_eq!(lost, losses, "{choice}");
    }
}

#[test]
fn calls_of_the_provider_leave_a_text_and_no_citation_of_them() {
    let before = messages(
        r#"{"role":"user","content":"?"},{"role":"assistant","content":[{"type":"server_tool_use","id":"s","name":"web_search","input":{}},{"type":"web_search_tool_result","tool_use_id":"s","content":[{"type":"web_search_result"}]},{"type":"text","text":"It is.","citations":[{"type":"web_search_result_location"}]}]},{"role":"user","content":[{"type":"container_upload","file_id":"f"}]}"#,
    );
    let (seen, losses) = without(Feature::ServerTools, &before);
    let after = messages(
        r#"{"role":"user","content":"?"},{"role":"assistant","content":[{"type":"text","text":"[Called the tool web_search with {}]"},{"type":"text","text":"[Left out: web search tool result]"},{"type":"text","text":"It is."}]},{"role":"user","content":[{"type":"text","text":"[Left out: container upload]"}]}"#,
    );
    assert_eq!(seen, after);
    assert_eq!(losses, "server_tools, citations");
}

#[test]
fn citations_go_where_they_are_lost_and_nowhere_else() {
    let cited = r#"{"type":"text","text":"a","citations":[{"type":"char_location"}]}"#;
    let document =
        r#"{"type":"document","citations":{"enabled":true},"source":{"type":"text","data":"d"}}"#;
    let body = |user: &str, document: &str, assistant: &str| {
        messages(&format!(
            r#"{{"role":"user","content":[{document},{user}]}},{{"role":"assistant","content":[{assistant}]}},{{"role":"user","content":"?"}}"#
        ))
    };
    let plain = r#"{"type":"text","text":"a"}"#;
    let before = body(cited, document, cited);
    let (seen, losses) = without(Feature::TextCitations, &before);
    assert_eq!(seen, body(plain, document, cited));
    assert_eq!(losses, "text_citations");
    let (seen, losses) = without(Feature::Citations, &before);
    let uncited = document.replace(r#""citations":{"enabled":true},"#, "");
    assert_eq!(seen, body(plain, &uncited, plain));
    assert_eq!(losses, "citations");
}

#[test]
fn a_prefill_goes_with_all_of_the_assistants_last_words() {
    let user = r#"{"role":"user","content":"?"}"#;
    let assistant = r#"{"role":"assistant","content":"{"}"#;
    let (seen, losses) = without(
        Feature::Prefill,
        &messages(&[user, assistant, assistant].join(",")),
    );
    assert_eq!((seen.as_str(), &*losses), (&*messages(user), "prefill"));
    let nothing = adapted(
        &messages(assistant),
        (None, None),
        Feature::Prefill.into(),
        None,
    );
    assert_eq!(
        nothing.expect_err("nothing left").as_str(),
        "cannot_prefill"
    );
}

const THOUGHT: &str = r#"{"type":"thinking","thinking":"hm","signature":"s"}"#;

#[test]
fn thinking_of_another_model_goes_and_the_turns_still_alternate() {
    let to = (Some("claude-opus-5"), Some("claude-haiku-4-5"));
    let before = format!(
        r#"{{"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":[{THOUGHT}]}},{{"role":"user","content":"b"}},{{"role":"assistant","content":[{THOUGHT},{{"type":"text","text":"c"}},{{"type":"redacted_thinking","data":"x"}}]}},{{"role":"user","content":"d"}}],"model":"claude-opus-5"}}"#
    );
    let seen = adapted(&before, to, Features::NONE, None).expect("an adapted body");
    let expected = r#"{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":[{"type":"text","text":"[Left out: thinking of another model]"}]},{"role":"user","content":"b"},{"role":"assistant","content":[{"type":"text","text":"c"}]},{"role":"user","content":"d"}],"model":"claude-haiku-4-5"}"#;
    assert_eq!(seen.body, expected);
    assert_eq!(seen.losses, Feature::ThinkingBlocks.into());

    // Another spelling of the same model keeps them.
    let same = (Some("claude-opus-5"), Some("anthropic.claude-opus-5-v1"));
    let seen = adapted(&before, same, Features::NONE, None).expect("an adapted body");
    assert_eq!(
        seen.body,
        before.replace(r#":"claude-opus-5""#, r#":"anthropic.claude-opus-5-v1""#)
    );
    assert!(seen.losses.is_empty());
    // At the end nothing must stand that an answer would go on from.
    let last = messages(&format!(
        r#"{{"role":"user","content":"a"}},{{"role":"assistant","content":[{THOUGHT}]}}"#
    ));
    let seen = adapted(&last, to, Features::NONE, None).expect("an adapted body");
    let only = r#"{"model":"claude-haiku-4-5","messages":[{"role":"user","content":"a"}],"z":1}"#;
    assert_eq!(seen.body, only);
}

#[test]
fn a_budget_does_not_stay_where_its_turn_has_lost_its_thinking() {
    let body = |kind: &str| {
        format!(
            r#"{{"thinking":{{"type":"{kind}","budget_tokens":2000}},"messages":[{{"role":"user","content":"a"}},{{"role":"assistant","content":[{THOUGHT},{{"type":"tool_use","id":"t","name":"f","input":{{}}}}]}},{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"t"}}]}},{{"role":"assistant","content":[{{"type":"tool_use","id":"u","name":"f","input":{{}}}}]}},{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"u"}}]}}]}}"#
        )
    };
    let to = (Some("claude-opus-4-5"), Some("claude-haiku-4-5"));
    let losses = |body: &str| {
        let seen = adapted(body, to, Features::NONE, None).expect("an adapted body");
        let value: Value = serde_json::from_slice(&seen.body).expect("JSON");
        assert_eq!(
            value.get("thinking").is_none(),
            seen.losses.contains(Feature::Thinking)
        );
        seen.losses.to_string()
    };
    assert_eq!(losses(&body("enabled")), "thinking, thinking_blocks");
    assert_eq!(losses(&body("adaptive")), "thinking_blocks");
    // Once the user has spoken, the turn is over.
    let over = body("enabled").replace(
        r#"[{"type":"tool_result","tool_use_id":"u"}]"#,
        r#""and now?""#,
    );
    assert_eq!(losses(&over), "thinking_blocks");
}

#[test]
fn a_shorter_answer_takes_its_part_of_the_thinking() {
    let body = r#"{"max_tokens": 64000,"thinking":{"type":"enabled","budget_tokens":32000}}"#;
    let seen = adapted(body, (None, None), Feature::MaxTokens.into(), Some(8_000));
    let seen = seen.expect("an adapted body");
    let expected = r#"{"max_tokens":8000,"thinking":{"type":"enabled","budget_tokens":4000}}"#;
    assert_eq!(seen.body, expected);
    assert_eq!(seen.losses, Feature::MaxTokens.into());
}

#[test]
fn what_is_not_there_is_not_lost_and_no_byte_moves() {
    let body = r#"{ "model":"m" , "messages":[{"role":"user","content":"hi"}]}"#;
    let seen = adapted(body, (None, None), Features::all(), None).expect("an adapted body");
    assert_eq!(
        (seen.body, seen.losses),
        (Bytes::from(body), Features::NONE)
    );
    let seen = adapted(body, (Some("m"), Some("n")), Features::all(), None).expect("another model");
    assert_eq!(seen.body, body.replace("\"m\"", "\"n\""));
    assert!(seen.losses.is_empty());
}

#[test]
fn a_body_that_cannot_be_understood_is_refused() {
    let deep = |depth: usize| {
        let open = r#"{"type":"tool_result","content":["#.repeat(depth);
        let image = r#"{"type":"image","source":{}}"#;
        let inside = format!("{open}{image}{}", "]}".repeat(depth));
        messages(&format!(r#"{{"role":"user","content":[{inside}]}}"#))
    };
    adapted(&deep(8), (None, None), Feature::Images.into(), None).expect("deep, and well");
    let image = r#"{"type":"image","source":{}}"#;
    for odd in [
        deep(9),
        deep(60),
        messages(&format!(
            r#"{{"role":"user","content":[{image}],"content":[]}}"#
        )),
        messages(&format!(r#"{{"role":"user","content":[{image},"x"]}}"#)),
        messages(&format!(r#"{{"role":"user","content":[{image}]}},7"#)),
        messages(&format!(r#"{{"role":7,"content":[{image}]}}"#)),
        messages(&format!(
            r#"{{"role":"user","content":[{image},{{"type":[]}}]}}"#
        )),
        format!(r#"{{"messages":[{{"role":"user","content":[{image}]}}],"messages":[]}}"#),
        format!(r#"{{"messages":[{{"role":"user","content":[{image}]}}],"system":7}}"#),
    ] {
        let refused = adapted(&odd, (None, None), Feature::Images.into(), None);
        assert_eq!(refused.expect_err(&odd).as_str(), "unreadable", "{odd}");
    }
}

#[test]
fn a_paused_turn_is_no_prefill_until_its_tools_are_lost() {
    let user = r#"{"role":"user","content":"?"}"#;
    let call = r#"{"type":"server_tool_use","id":"s","name":"web_search","input":{}}"#;
    let paused = messages(&format!(
        r#"{user},{{"role":"assistant","content":[{{"type":"text","text":"I look."}},{call}]}}"#
    ));
    let view = RequestView::parse(&Bytes::from(paused.clone())).expect("a view");
    assert_eq!(view.needs.features, Feature::ServerTools.into());
    let (seen, losses) = without(Feature::ServerTools, &paused);
    assert_eq!(
        (seen.as_str(), &*losses),
        (&*messages(user), "server_tools, prefill")
    );
    // The same words alone are one, and after a word of the user's the pause is over.
    let words = paused.replace(&format!(",{call}"), "");
    let view = RequestView::parse(&Bytes::from(words)).expect("a view");
    assert_eq!(view.needs.features, Feature::Prefill.into());
    let over = paused.replace("]}],", &format!("]}},{user}],"));
    let (seen, losses) = without(Feature::ServerTools, &over);
    assert!(
        seen.contains("[Called the tool web_search with {}]"),
        "{seen}"
    );
    assert_eq!(losses, "server_tools");
    let compacted = paused.replace(call, r#"{"type":"compaction","content":"c"}"#);
    let view = RequestView::parse(&Bytes::from(compacted)).expect("a view");
    assert!(view.needs.features.is_empty());
}

#[test]
fn a_word_with_escapes_hides_nothing_from_another_model() {
    for hidden in [
        r#"{"role":"user","content":[{"type":"im\u0061ge","source":{}}]}"#,
        r#"{"role":"\u0061ssistant","content":"{"}"#,
        r#"{"role":"user","content":"a lone \ud800"}"#,
    ] {
        let body = messages(hidden);
        let view = RequestView::parse(&Bytes::from(body.clone())).expect("a view");
        let moved = view.needs.moved(Some("m"), Some("n"));
        let target = Capabilities::everything();
        let refused = fit(&moved, 1, &target, Features::all()).expect_err(hidden);
        assert_eq!(refused.as_str(), "unreadable", "{hidden}");
        // Its own model gets it as it is.
        let fitted = fit(&view.needs, 1, &target, Features::NONE).expect("a fit");
        let seen = adapted(&body, (Some("m"), None), fitted.losses, None).expect("the same");
        assert_eq!(seen.body, body);
    }
}

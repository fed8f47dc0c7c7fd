//! A read-only view of a request body.
//!
//! The gateway passes bodies on as they came, so nothing is built from them: one pass notes the few
//! fields that steer a call and counts what its tokens are estimated from. It refuses only what is no
//! JSON object. A body that is odd in any other way is the provider's to judge; where even counting
//! fails on one, it counts as so many bytes of text.

use std::ops::Range;

use bytes::Bytes;

use crate::capability::{Needs, Trait};

pub mod adapt;
mod characters;
mod count;
mod counting;
mod pixels;
mod seen;
mod shallow;

use count::{Top, to_u64};
pub use counting::{counted, counting_body};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestView {
    /// The model, as the client wrote it.
    pub model: Option<String>,
    /// Where the model's JSON string stands in the body, quotes included.
    pub model_range: Option<Range<usize>>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// The most tokens that may be produced.
    pub max_tokens: Option<u64>,
    /// What the token estimate is made from.
    pub counts: Counts,
    /// What it needs of whoever answers it.
    pub needs: Needs,
}

/// Amounts in a request, for the token estimate. Characters are Unicode scalar values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain input of the estimate")]
pub struct Counts {
    /// Messages, the system prompt left out.
    pub messages: u64,
    /// Letters, blanks and other characters of text, system prompt and text documents included, those
    /// in `digits`, `symbols` and `cjk` left out.
    pub text: u64,
    /// ASCII digits of the text.
    pub digits: u64,
    /// ASCII punctuation and symbols of the text.
    pub symbols: u64,
    /// Characters that tokenise badly: U+2E80 and above, Chinese, Japanese and Korean for the most
    /// part.
    pub cjk: u64,
    /// Tools that are offered.
    pub tools: u64,
    /// Those that the provider defines or fetches, such as its web search or a server's over MCP: they
    /// cost what only the provider knows.
    pub provider_tools: u64,
    /// Characters of their definitions as JSON.
    pub tool_definitions: u64,
    /// Forms that the answer must have.
    pub formats: u64,
    /// Characters of these as JSON.
    pub format_schemas: u64,
    /// Characters of thinking from earlier turns.
    pub replayed_thinking: u64,
    /// Thinking is asked for with a budget.
    pub thinking: bool,
    /// How the model is to choose among them.
    pub tool_choice: ToolChoice,
    /// Tool calls in the messages that have their result there.
    pub round_trips: u64,
    /// Characters of the calls' input as JSON.
    pub tool_calls: u64,
    /// Characters of the tools' results, those in `cjk` left out.
    pub tool_results: u64,
    /// Tokens of the images whose size is known, as models before 4.7 count them: the sum of
    /// [`crate::estimate::image`].
    pub image_tokens: u64,
    /// The same as later models count them.
    pub image_tokens_newer: u64,
    /// Images whose size is not known.
    pub unknown_images: u64,
    /// Pages of documents that are not text; a document of unknown length counts as one.
    pub pages: u64,
    /// Something is marked for the prompt cache.
    pub cache_marked: bool,
}

/// How the model is to choose among the tools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the two that differ in cost")]
pub enum ToolChoice {
    /// `auto`, not said, or `none`, which costs the same.
    #[default]
    Auto,
    /// `any`, or a named tool.
    Forced,
}

/// A body that is no JSON object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadRequest {
    /// What is wrong, in words.
    pub message: String,
    /// Line of the first wrong byte, from 1; absent where none stands out.
    pub line: Option<usize>,
    /// Column of the first wrong byte, from 1.
    pub column: Option<usize>,
}

impl RequestView {
    /// Reads a body.
    ///
    /// # Errors
    ///
    /// [`BadRequest`] when it is not one JSON object.
    pub fn parse(body: &Bytes) -> Result<Self, BadRequest> {
        let counted = match Top::read(body) {
            Ok(counted) => counted,
            Err(odd) => {
                let mut shallow = Top::read_shallow(body).map_err(|_| bad_request(&odd))?;
                shallow.counts.text = to_u64(body.len());
                shallow.seen.found.traits.insert(Trait::Unread);
                shallow
            }
        };
        if !counted.is_object {
            return Err(BadRequest {
                message: "the request body must be a JSON object".to_owned(),
                line: None,
                column: None,
            });
        }
        let max_tokens = counted.max_tokens.and_then(|raw| raw.get().parse().ok());
        Ok(Self {
            model: counted
                .model
                .and_then(|raw| serde_json::from_str(raw.get()).ok()),
            model_range: counted.model.and_then(|raw| range_in(body, raw.get())),
            stream: counted.stream.is_some_and(|raw| raw.get() == "true"),
            max_tokens,
            counts: counted.counts,
            needs: Needs {
                max_tokens,
                ..counted.seen.found
            },
        })
    }
}

/// The body with another model, every other byte as it was.
///
/// `view` must be of this `body`; where it is not, or the body is no object, it comes back unchanged.
#[must_use]
pub fn splice_model(body: &Bytes, view: &RequestView, model: &str) -> Bytes {
    if view.model.as_deref() == Some(model) {
        return body.clone();
    }
    let name = serde_json::Value::from(model).to_string();
    let (range, text) = if let Some(range) = view.model_range.clone() {
        (range, name)
    } else {
        let Some(brace) = body.iter().position(|&b| b == b'{') else {
            return body.clone();
        };
        let inside = brace.saturating_add(1);
        let rest = body.get(inside..).unwrap_or_default();
        let empty = rest.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'}');
        let comma = if empty { "" } else { "," };
        (inside..inside, format!("\"model\":{name}{comma}"))
    };
    match (body.get(..range.start), body.get(range.end..)) {
        (Some(head), Some(tail)) => [head, text.as_bytes(), tail].concat().into(),
        _ => body.clone(),
    }
}

fn bad_request(error: &serde_json::Error) -> BadRequest {
    let at = |n: usize| (error.line() > 0).then_some(n);
    BadRequest {
        message: format!("the request body is not valid JSON: {error}"),
        line: at(error.line()),
        column: at(error.column()),
    }
}

/// Where `part`, a slice of `whole`, stands in it.
pub(super) fn range_in(whole: &[u8], part: &str) -> Option<Range<usize>> {
    let start = part.as_ptr().addr().checked_sub(whole.as_ptr().addr())?;
    let end = start.checked_add(part.len())?;
    (whole.get(start..end)? == part.as_bytes()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::{any, prop, proptest};

    use super::{Counts, RequestView, ToolChoice, splice_model};

    fn view(body: &'static str) -> RequestView {
        RequestView::parse(&Bytes::from_static(body.as_bytes())).expect("a view")
    }

    #[test]
    fn a_request_is_counted_without_being_built() {
        let seen = view(
            r#" {"model": "claude-\u0073onnet-5-5", "max_tokens": 1024, "stream": true,
              "system": [{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}],
              "tools": [{"name":"f","input_schema":{"type":"object"}},{"type":"web_search_20250305","name":"web_search"}],
              "tool_choice": {"type":"any"},
              "messages": [
                {"role":"user","content":"Grüße 漢字"},
                {"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"a":1}}]},
                {"role":"user","content":[
                  {"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"\"ok\"\n"}]},
                  {"source":{"data":"AAAA","media_type":"image/png","type":"base64"},"type":"image"},
                  {"type":"document","source":{"type":"text","media_type":"text/plain","data":"doc"}},
                  {"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAAAAAA"}}]}]}"#,
        );
        assert_eq!(seen.model.as_deref(), Some("claude-sonnet-5-5"));
        assert_eq!((seen.stream, seen.max_tokens), (true, Some(1024)));
        assert_eq!(
            seen.counts,
            Counts {
                messages: 3,
                text: 8 + 6 + 3,
                digits: 0,
                symbols: 1,
                cjk: 2,
                tools: 2,
                provider_tools: 1,
                tool_definitions: 45 + 50,
                formats: 0,
                format_schemas: 0,
                replayed_thinking: 0,
                thinking: false,
                tool_choice: ToolChoice::Forced,
                round_trips: 1,
                tool_calls: 7,
                tool_results: 5,
                image_tokens: 0,
                image_tokens_newer: 0,
                unknown_images: 1,
                pages: 1,
                cache_marked: true,
            }
        );
    }

    #[test]
    fn the_size_of_an_image_is_read_where_it_is_there() {
        let head = "iVBORw0KGgoAAAANSUhEUgAABwgAAASwCAYAAAA=";
        let image = |data: &str| {
            let source = format!(r#"{{"type":"base64","media_type":"image/png","data":"{data}"}}"#);
            let body = format!(
                r#"{{"messages":[{{"content":[{{"source":{source},"type":"image"}},{{"type":"image","source":{{"type":"url"}}}}]}}]}}"#
            );
            RequestView::parse(&Bytes::from(body))
                .expect("a view")
                .counts
        };
        // 1,800 by 1,200 pixels, and one that only the provider can see.
        let seen = image(head);
        assert_eq!(
            (
                seen.image_tokens,
                seen.image_tokens_newer,
                seen.unknown_images
            ),
            (1_573, 2_800, 1)
        );
        assert_eq!(image("AAAA").unknown_images, 2);
    }

    #[test]
    fn blocks_are_told_apart_whatever_the_order_of_their_keys() {
        let seen = view(
            r#"{"messages":[{"content":[
              {"content":[{"text":"four","type":"text"},
                {"source":{"url":"https://e.example/a.pdf","type":"url"},"type":"document"}],"type":"tool_result"},
              {"source":{"type":"content","content":"part"},"type":"document"},
              {"type":"document","source":{"type":"file","file_id":"f"}},
              {"type":"tool_use","input":{}},{"type":"tool_use","input":{}}]}]}"#,
        );
        let counts = seen.counts;
        assert_eq!((counts.tool_results, counts.text, counts.pages), (4, 4, 2));
        assert_eq!((counts.round_trips, counts.tool_calls), (1, 4));
    }

    #[test]
    fn letters_digits_and_symbols_are_told_apart_in_any_text() {
        let long = "x = 12;\\n".repeat(100);
        for (text, expected) in [
            ("Be brief.", (8, 0, 1, 0)),
            ("3 + 4 = 7", (4, 3, 2, 0)),
            ("Grüße, 漢字 42!", (7, 2, 2, 2)),
            ("", (0, 0, 0, 0)),
            (&*long, (400, 200, 200, 0)),
        ] {
            let body = format!(r#"{{"messages":[{{"content":"{text}"}}]}}"#);
            let counts = RequestView::parse(&Bytes::from(body))
                .expect("a view")
                .counts;
            let seen = (counts.text, counts.digits, counts.symbols, counts.cjk);
            assert_eq!(seen, expected, "{text:?}");
        }
    }

    #[test]
    fn thinking_and_tools_from_elsewhere_are_seen() {
        let seen = view(
            r#"{"thinking":{"type":"enabled","budget_tokens":1024},"mcp_servers":[{"url":"x"}],
              "messages":[{"content":[{"type":"thinking","thinking":"hmm 12 漢","signature":"AAAA"}]}]}"#,
        )
        .counts;
        assert_eq!(
            (seen.thinking, seen.provider_tools, seen.tools),
            (true, 1, 0)
        );
        assert_eq!(
            (seen.replayed_thinking, seen.text, seen.digits, seen.cjk),
            (8, 0, 0, 0)
        );
        let none = view(r#"{"thinking":{"type":"adaptive"},"mcp_servers":[]}"#).counts;
        assert_eq!((none.thinking, none.provider_tools), (false, 0));
    }

    #[test]
    fn a_form_is_counted_wherever_it_is_asked_for_and_effort_is_none() {
        for (body, expected) in [
            (r#"{"output_config":{"effort":"low"}}"#, (0, 0)),
            (
                r#"{"output_config":{"format":{"a":1},"effort":"low"}}"#,
                (1, 7),
            ),
            (r#"{"output_format":{"a":1}}"#, (1, 7)),
            (r#"{"output_config":7,"output_format":null}"#, (0, 0)),
        ] {
            let counts = view(body).counts;
            assert_eq!((counts.formats, counts.format_schemas), expected, "{body}");
        }
    }

    #[test]
    fn a_mark_for_the_cache_is_seen_wherever_it_may_stand() {
        for (body, marked) in [
            (r#"{"cache_control":{"type":"ephemeral"}}"#, true),
            (r#"{"system":[{"text":"x","cache_control":{}}]}"#, true),
            (
                r#"{"messages":[{"content":[{"type":"text","cache_control":{}}]}]}"#,
                true,
            ),
            (r#"{"tools":[{"name":"f","cache_control":{}}]}"#, true),
            (
                r#"{"cache_control":null,"messages":[{"content":"cache_control"}]}"#,
                false,
            ),
        ] {
            assert_eq!(view(body).counts.cache_marked, marked, "{body}");
        }
    }

    #[test]
    fn another_model_is_spliced_in_and_no_other_byte_moves() {
        for (body, expected) in [
            (
                r#"{"a": 1 , "model" : "x","m":{"model":"inner"}}"#,
                r#"{"a": 1 , "model" : "new\"","m":{"model":"inner"}}"#,
            ),
            (r#"{"model":null,"z":1}"#, r#"{"model":"new\"","z":1}"#),
            (r#" { "z":1}"#, r#" {"model":"new\"", "z":1}"#),
            ("{ }", r#"{"model":"new\"" }"#),
        ] {
            let seen = view(body);
            let bytes = Bytes::from_static(body.as_bytes());
            assert_eq!(splice_model(&bytes, &seen, "new\""), expected);
        }
        let body = Bytes::from_static(br#"{"model":"same"}"#);
        let seen = RequestView::parse(&body).expect("a view");
        assert_eq!(splice_model(&body, &seen, "same").as_ptr(), body.as_ptr());
    }

    #[test]
    fn only_what_is_no_json_object_is_refused() {
        for (body, line) in [
            ("{\"model\": \n \"x\", }", Some(2)),
            ("", Some(1)),
            ("{} x", Some(1)),
        ] {
            let refused =
                RequestView::parse(&Bytes::from_static(body.as_bytes())).expect_err("bad");
            assert_eq!(refused.line, line, "{refused}");
        }
        for body in ["[1,2]", "7", "\"text\"", "null"] {
            assert!(
                RequestView::parse(&Bytes::from_static(body.as_bytes())).is_err(),
                "{body}"
            );
        }
        for odd in [
            r#"{"model":7,"messages":"hello","tools":{},"system":3,"stream":"yes","max_tokens":1e3}"#,
            r#"{"messages":[1,[2],{"content":[null,true,{"source":[],"type":{},"text":{"a":[]}}]}]}"#,
        ] {
            let seen = view(odd);
            assert_eq!(
                (seen.model, seen.stream, seen.max_tokens),
                (None, false, None),
                "{odd}"
            );
        }
    }

    #[test]
    fn a_body_that_cannot_be_counted_still_passes() {
        let seen =
            view(r#"{"model":"m","stream":true,"messages":[{"content":"lone \ud800 surrogate"}]}"#);
        assert!(seen.stream);
        assert_eq!(seen.model.as_deref(), Some("m"));
        assert!(seen.counts.text > 20);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_the_depth_is_bounded(
            noise in prop::collection::vec(any::<u8>(), 0..100), depth in 0_usize..3000,
        ) {
            let length = noise.len();
            if let Ok(view) = RequestView::parse(&Bytes::from(noise)) {
                proptest::prop_assert!(view.model_range.is_none_or(|range| range.end <= length));
            }
            let nested = "{\"messages\":[{\"content\":".to_owned() + &"[{\"content\":".repeat(depth);
            proptest::prop_assert!(RequestView::parse(&Bytes::from(nested)).is_err());
        }
    }
}

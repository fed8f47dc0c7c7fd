use jiff::Timestamp;

use super::{End, Seen, StreamWatch};
use crate::transport::sse::SseFrame;

const START: &str = r#"{"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":9,"output_tokens":1}}}"#;
const TEXT: &str =
    r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}  }"#;
const DELTA: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello there, this is text"}    }"#;
const LAST: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":40,"input_tokens":null}}"#;

const STOP: &str = r#"{"type":"content_block_stop","index":0 }"#;

fn watch(events: &[(&str, &str)]) -> (StreamWatch, Vec<Seen>) {
    let mut watch = StreamWatch::new();
    let seen = events
        .iter()
        .map(|&(event, data)| watch.see(SseFrame { event, data }, Timestamp::UNIX_EPOCH))
        .collect();
    (watch, seen)
}

#[test]
fn a_whole_stream_is_complete_and_its_last_usage_counts() {
    let (watch, seen) = watch(&[
        ("message_start", START),
        ("ping", r#"{"type": "ping"}"#),
        ("content_block_start", TEXT),
        ("", DELTA),
        ("brand_new_event", "{}"),
        ("content_block_stop", STOP),
        ("message_delta", LAST),
        ("message_stop", r#"{"type":"message_stop"}"#),
    ]);
    assert_eq!(
        seen,
        [
            Seen::Start,
            Seen::Ping,
            Seen::Other,
            Seen::Content,
            Seen::Other,
            Seen::Other,
            Seen::Other,
            Seen::Stop,
        ]
    );
    assert_eq!(watch.end(), End::Complete);
    assert!(watch.judge().verdict.is_ok());
    assert_eq!(
        (watch.usage().input, watch.usage().output),
        (Some(9), Some(40))
    );
    assert_eq!(
        (watch.stop_reason(), watch.model()),
        (Some("end_turn"), Some("claude-x"))
    );
    assert_eq!((watch.billed().output, watch.is_final()), (40, true));
}

#[test]
fn an_event_under_a_false_name_is_malformed_and_one_without_a_type_is_not() {
    let all = [
        ("message_start", START),
        ("content_block_start", TEXT),
        ("content_block_delta", DELTA),
        ("content_block_stop", STOP),
        ("message_delta", LAST),
        ("message_stop", r#"{"type":"message_stop"}"#),
        ("ping", r#"{"type": "ping"}"#),
        ("brand_new_event", r#"{"type":"brand_new_event"}"#),
    ];
    for (place, (name, _)) in all.into_iter().enumerate() {
        for (other, (_, data)) in all.into_iter().enumerate() {
            let (watch, seen) = watch(&[&all[..place], &[(name, data)]].concat());
            let is_malformed = matches!(watch.end(), End::Malformed(_));
            assert_eq!(is_malformed, other != place, "{name}, {data}: {seen:?}");
        }
    }
    let typeless: Vec<_> = all
        .iter()
        .map(|(name, data)| {
            let rest = data.split_once(',').map_or("}", |(_, rest)| rest);
            (*name, format!("{{{rest}"))
        })
        .collect();
    let typeless: Vec<_> = typeless.iter().map(|(n, d)| (*n, d.as_str())).collect();
    let (watch, seen) = watch(&typeless);
    assert_eq!(watch.end(), End::Complete, "{seen:?}");
}

#[test]
fn a_stream_that_ends_without_its_stop_is_truncated_wherever_it_ends() {
    let all = [
        ("message_start", START),
        ("content_block_start", TEXT),
        ("content_block_delta", DELTA),
        ("content_block_stop", STOP),
        ("message_delta", LAST),
    ];
    for cut in 0..=all.len() {
        let (watch, _) = watch(&all[..cut]);
        assert_eq!(watch.end(), End::Truncated, "after {cut} events");
        assert_eq!(watch.judge().verdict.label, "truncated");
        assert_eq!(watch.has_content(), cut >= 3);
    }
    let (watch, _) = watch(&all[..3]);
    assert_eq!(
        watch.billed().output,
        25 / 4,
        "content that was sent is billed"
    );
    assert!(!watch.is_final());
}

#[test]
fn an_error_as_the_first_event_fails_the_stream_before_any_content() {
    let data = r#"{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"}            }"#;
    let (watch, seen) = watch(&[("error", data), ("message_stop", "{}")]);
    assert_eq!(seen[0], Seen::Error);
    assert_eq!((watch.end(), watch.has_content()), (End::Failed, false));
    assert_eq!(watch.judge().verdict.label, "overloaded");
    assert_eq!(
        watch.error().map(|e| e.message.as_str()),
        Some("Overloaded")
    );
}

#[test]
fn blocks_that_arrive_whole_are_content_and_announcements_are_not() {
    for (block, content) in [
        (r#"{"type":"text","text":""}"#, false),
        (r#"{"type":"text","text":"Hi"}"#, true),
        (r#"{"type":"thinking","thinking":"","signature":""}"#, false),
        (
            r#"{"type":"tool_use","id":"t","name":"f","input":{}}"#,
            false,
        ),
        (r#"{"type":"redacted_thinking","data":"xyz"}"#, true),
        (r#"{"type":"web_search_tool_result","content":[]}"#, true),
        (r#"{"type":"compaction","content":null}"#, false),
        (r#"{"type":"something_new"}"#, true),
        ("7", true),
    ] {
        let data = format!(r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#);
        let (watch, _) = watch(&[("message_start", START), ("content_block_start", &data)]);
        assert_eq!(watch.has_content(), content, "{block}");
    }
}

#[test]
fn an_event_that_cannot_stand_where_it_does_is_malformed() {
    let second = TEXT.replace("\"index\":0", "\"index\":1");
    let cases: [(&[(&str, &str)], &str); 10] = [
        (
            &[("message_start", START), ("ping", "{\"type\": ")],
            super::UNREADABLE,
        ),
        (
            &[("message_stop", "{}")],
            "message_stop without message_start",
        ),
        (&[("message_start", "{\"mess")], super::UNREADABLE),
        (
            &[("message_start", START), ("message_start", START)],
            "a second message_start",
        ),
        (
            &[("message_start", START), ("content_block_delta", DELTA)],
            "content of a block that is not open",
        ),
        (
            &[("content_block_start", TEXT)],
            "content before message_start",
        ),
        (
            &[("message_start", START), ("content_block_start", &second)],
            "a block out of its order",
        ),
        (
            &[
                ("message_start", START),
                ("content_block_start", TEXT),
                ("content_block_start", &second),
            ],
            "a block inside a block",
        ),
        (
            &[
                ("message_start", START),
                ("content_block_start", TEXT),
                ("message_stop", "{}"),
            ],
            "message_stop inside a block",
        ),
        (
            &[
                ("message_start", START),
                ("content_block_start", TEXT),
                (
                    "content_block_delta",
                    "{\"index\":0,\"delta\":{\"text\":\"cut",
                ),
            ],
            super::UNREADABLE,
        ),
    ];
    for (events, why) in cases {
        let (watch, seen) = watch(events);
        assert_eq!(seen.last(), Some(&Seen::Malformed(why)), "{events:?}");
        assert_eq!(watch.end(), End::Malformed(why));
        assert_eq!(watch.judge().verdict.label, "malformed");
    }
}

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::{Splice, continuation};
use crate::provider::anthropic::stream::{End, StreamWatch};
use crate::provider::anthropic::usage::Tokens;
use crate::transport::sse::SseDecoder;

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\n";
const TEXT: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}  }\n\n";
const STOP: &str =
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0 }\n\n";
const LAST: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5,\"input_tokens\":20}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn delta(text: &str) -> String {
    let data = serde_json::json!({
        "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": text },
    });
    format!("event: content_block_delta\ndata: {data}\n\n")
}

fn used(input: u64, output: u64) -> Tokens {
    Tokens {
        input,
        output,
        ..Tokens::default()
    }
}

/// The events of a stream, and how it stands at its end.
fn read(stream: &str) -> (Vec<Value>, End) {
    let (mut watch, mut events) = (StreamWatch::new(), Vec::new());
    let mut decoder = SseDecoder::new();
    let pushed = decoder.push(stream.as_bytes(), |frame| {
        watch.see(frame, Timestamp::UNIX_EPOCH);
        events.push(serde_json::from_str(frame.data).unwrap());
    });
    assert_eq!(pushed, Ok(stream.len()));
    (events, watch.end())
}

fn pass(splice: &mut Splice, events: &str) -> String {
    String::from_utf8(splice.pass(Bytes::from(events.to_owned())).to_vec()).unwrap()
}

fn said(events: &[Value]) -> String {
    events
        .iter()
        .filter_map(|event| event["delta"]["text"].as_str())
        .collect()
}

#[test]
fn a_text_that_broke_off_goes_on_in_the_same_block() {
    let mut splice = Splice::new();
    let first = [START, TEXT, &delta("Hello "), &delta("wor")].concat();
    let mut all = pass(&mut splice, &first);
    assert_eq!(all, first);
    assert_eq!(splice.continuable(), Some("Hello wor"));
    splice.next_part(used(10, 3));
    all += &pass(&mut splice, &[START, TEXT, &delta("ld"), STOP].concat());
    all += &pass(&mut splice, LAST);
    let (events, end) = read(&all);
    assert_eq!(end, End::Complete);
    assert_eq!(said(&events), "Hello world");
    let starts = events.iter().filter(|e| e["type"] == "message_start");
    assert_eq!(starts.count(), 1);
    let usage = &events[events.len() - 2]["usage"];
    assert_eq!(
        (&usage["output_tokens"], &usage["input_tokens"]),
        (&8.into(), &30.into())
    );
    assert_eq!(usage["iterations"][0]["output_tokens"], 3);
    assert_eq!(usage["iterations"][1]["output_tokens"], 5);
}

#[test]
fn a_continuation_of_another_kind_closes_the_open_block_and_takes_the_next_index() {
    let mut splice = Splice::new();
    let mut all = pass(
        &mut splice,
        &[START, TEXT, &delta("Let me look. ")].concat(),
    );
    splice.next_part(used(10, 3));
    let tool = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"tool_use\",\"id\":\"t\",\"name\":\"f\",\"input\":{}}}\n\n";
    let input = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n";
    all += &pass(&mut splice, &[START, tool, input, STOP, LAST].concat());
    let (events, end) = read(&all);
    assert_eq!(end, End::Complete);
    let places: Vec<_> = events
        .iter()
        .filter(|e| e["type"].as_str().unwrap().starts_with("content_block"))
        .map(|e| (e["type"].as_str().unwrap(), e["index"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        places,
        [
            ("content_block_start", 0),
            ("content_block_delta", 0),
            ("content_block_stop", 0),
            ("content_block_start", 1),
            ("content_block_delta", 1),
            ("content_block_stop", 1),
        ]
    );
    assert_eq!(splice.continuable(), None);
}

#[test]
fn a_break_between_two_blocks_continues_in_a_new_one() {
    let mut splice = Splice::new();
    let mut all = pass(&mut splice, &[START, TEXT, &delta("One."), STOP].concat());
    splice.next_part(used(1, 1));
    all += &pass(
        &mut splice,
        &[START, TEXT, &delta(" Two."), STOP, LAST].concat(),
    );
    let (events, end) = read(&all);
    assert_eq!((end, said(&events).as_str()), (End::Complete, "One. Two."));
}

#[test]
fn a_continuation_that_adds_nothing_closes_the_block_it_was_to_go_on_with() {
    let mut splice = Splice::new();
    let mut all = pass(&mut splice, &[START, TEXT, &delta("All said.")].concat());
    splice.next_part(used(1, 1));
    all += &pass(&mut splice, &[START, LAST].concat());
    let (events, end) = read(&all);
    assert_eq!((end, said(&events).as_str()), (End::Complete, "All said."));
    assert_eq!(events[3]["type"], "content_block_stop");
}

#[test]
fn text_that_comes_with_the_start_of_a_continued_block_is_not_lost() {
    let mut splice = Splice::new();
    let mut all = pass(&mut splice, &[START, TEXT, &delta("one ")].concat());
    splice.next_part(used(1, 1));
    let text = TEXT.replace("\"text\":\"\"", "\"text\":\"two \"");
    all += &pass(
        &mut splice,
        &[START, &text, &delta("three"), STOP, LAST].concat(),
    );
    let (events, end) = read(&all);
    assert_eq!(end, End::Complete);
    assert_eq!(said(&events), "one two three");
    assert_eq!(splice.text, "one two three");
}

#[test]
fn nothing_is_continued_behind_the_end_of_a_message() {
    let mut splice = Splice::new();
    let stop = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    pass(&mut splice, &[START, TEXT, &delta("Done."), STOP].concat());
    assert_eq!(splice.continuable(), Some("Done."));
    pass(&mut splice, stop);
    assert_eq!(splice.continuable(), None);
}

#[test]
fn what_cannot_be_followed_is_not_continued() {
    for odd in [
        TEXT.replace("\"type\":\"text\"", "\"kind\":\"text\""),
        [TEXT, &delta("x").replace("\"x\"", "7")].concat(),
    ] {
        let mut splice = Splice::new();
        pass(&mut splice, &[START, &odd, &delta("Hello")].concat());
        assert_eq!(splice.continuable(), None, "{odd}");
    }
}

#[test]
fn events_without_a_name_are_known_by_their_data() {
    let unnamed = |events: &str| -> String {
        let lines = events.lines().filter(|line| !line.starts_with("event:"));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let mut splice = Splice::new();
    let first = unnamed(&[START, TEXT, &delta("Hello ")].concat());
    let mut all = pass(&mut splice, &first);
    assert_eq!(splice.continuable(), Some("Hello "));
    splice.next_part(used(1, 1));
    let rest = unnamed(&[START, TEXT, &delta("world"), STOP, LAST].concat());
    all += &pass(&mut splice, &rest);
    let (events, end) = read(&all);
    assert_eq!(
        (end, said(&events).as_str()),
        (End::Complete, "Hello world")
    );
}

#[test]
fn it_can_break_off_more_than_once() {
    let mut splice = Splice::new();
    let mut all = pass(&mut splice, &[START, TEXT, &delta("a")].concat());
    for letter in ["b", "c"] {
        splice.next_part(used(1, 1));
        all += &pass(&mut splice, &[START, TEXT, &delta(letter)].concat());
    }
    splice.next_part(used(1, 1));
    all += &pass(
        &mut splice,
        &[START, TEXT, &delta("d"), STOP, LAST].concat(),
    );
    let (events, end) = read(&all);
    assert_eq!((end, said(&events).as_str()), (End::Complete, "abcd"));
    assert_eq!(events[events.len() - 2]["usage"]["output_tokens"], 8);
}

#[test]
fn only_text_that_is_not_summed_up_is_continued() {
    let mut nothing = Splice::new();
    pass(&mut nothing, &[START, TEXT].concat());
    assert_eq!(nothing.continuable(), None);
    let mut thinking = Splice::new();
    let block = TEXT.replace("\"type\":\"text\"", "\"type\":\"thinking\"");
    pass(&mut thinking, &[START, &block, &delta("a")].concat());
    assert_eq!(thinking.continuable(), None);
    let mut over = Splice::new();
    let last = LAST.split_inclusive("\n\n").next().unwrap();
    pass(&mut over, &[START, TEXT, &delta("a"), STOP, last].concat());
    assert_eq!(over.continuable(), None);
}

#[test]
fn a_continuation_is_the_same_request_with_one_more_message() {
    let body = Bytes::from_static(
        br#"{"model":"m", "max_tokens": 100 ,"messages":[ {"role":"user","content":"Hi"} ],"stream":true}"#,
    );
    let asked = continuation(&body, "He said \"no\"", 30).unwrap();
    let text = std::str::from_utf8(&asked).unwrap();
    assert!(text.starts_with(
        r#"{"model":"m", "max_tokens": 70 ,"messages":[ {"role":"user","content":"Hi"} ,{"#
    ));
    assert!(text.ends_with(r#"}],"stream":true}"#), "{text}");
    let value: Value = serde_json::from_slice(&asked).unwrap();
    assert_eq!(value["messages"][1]["role"], "user");
    assert!(
        value["messages"][1]["content"]
            .as_str()
            .unwrap()
            .contains("He said \"no\"")
    );
    let spent = continuation(&body, "x", 500).unwrap();
    let spent: Value = serde_json::from_slice(&spent).unwrap();
    assert_eq!(spent["max_tokens"], 1);
    assert_eq!(continuation(&Bytes::from_static(b"{}"), "x", 1), None);
}

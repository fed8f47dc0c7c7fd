use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};

use super::*;

fn bytes(body: &str) -> Option<Vec<u8>> {
    request(body.as_bytes(), None).map(|canonical| canonical.bytes)
}

#[test]
fn how_a_request_is_written_leaves_no_trace() {
    let plain = bytes(r#"{"model":"claude-haiku-5-5","a":"é/\n\"\\","b":[1,{"x":null,"y":true}]}"#);
    assert!(plain.is_some());
    for same in [
        "{ \"b\" : [ 1 , { \"y\":true, \"x\":null } ],\r\n\t\"a\":\"\\u00e9\\/\\n\\u0022\\\\\",\"model\":\"claude-haiku-5-5\"}",
        r#"{"stream":true,"metadata":{"user_id":"u"},"model":"claude-haiku-5-5","a":"é/\u000a\"\u005c","b":[1,{"x":null,"y":true}]}"#,
        r#"{"\u0073tream":false,"\u006dodel":"claude-haiku-5\u002d5","a":"é/\n\"\\","b":[1,{"x":null,"y":true}]}"#,
    ] {
        assert_eq!(bytes(same), plain, "{same}");
    }
}

#[test]
fn whatever_else_differs_is_another_request() {
    let bodies = [
        r#"{}"#,
        r#"{"model":"claude-sonnet-4-5"}"#,
        r#"{"model":"claude-sonnet-4-5-20250929"}"#,
        r#"{"model":"claude-sonnet-4-5-latest"}"#,
        r#"{"model":"anthropic.claude-sonnet-4-5-20250929-v1:0"}"#,
        r#"{"a":1}"#,
        r#"{"a":1.0}"#,
        r#"{"a":1e0}"#,
        r#"{"a":"1"}"#,
        r#"{"a":[1]}"#,
        r#"{"a":[[1]]}"#,
        r#"{"a":[1,1]}"#,
        r#"{"a":[11]}"#,
        r#"{"a":{"1":1}}"#,
        r#"{"a":null}"#,
        r#"{"a":"null"}"#,
        r#"{"a":""}"#,
        r#"{"a":[]}"#,
        r#"{"a":{}}"#,
        r#"{"a":{"b":1},"c":2}"#,
        r#"{"a":{"b":1,"c":2}}"#,
        r#"{"a":"b","c":2}"#,
        r#"{"a":"b\u0000c"}"#,
        r#"{"a":18446744073709551616}"#,
        r#"{"a":18446744073709551617}"#,
        r#"{"a":-0}"#,
        r#"{"a":0}"#,
        r#"{"inner":{"stream":true}}"#,
        r#"{"inner":{"stream":false}}"#,
        r#"{"model":"claude-haiku-5-5"}"#,
        r#"{"model":"claude-sonnet-5-5"}"#,
        r#"{"model":null}"#,
    ];
    let mut seen: Vec<Vec<u8>> = bodies.into_iter().map(|b| bytes(b).unwrap()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), bodies.len());
}

#[test]
fn what_is_ambiguous_or_no_object_has_no_name() {
    let deep = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(bytes(&deep(126)).is_some());
    assert!(bytes(&deep(100_000)).is_none());
    for body in [
        "",
        "[]",
        "7",
        "null",
        "{",
        "{}x",
        "{}{}",
        r#"{"a":1,}"#,
        r#"{"a" 1}"#,
        r#"{"a":}"#,
        r#"{a:1}"#,
        r#"{"a":01}"#,
        r#"{"a":1.}"#,
        r#"{"a":.5}"#,
        r#"{"a":+1}"#,
        r#"{"a":1e}"#,
        r#"{"a":-}"#,
        r#"{"a":nul}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[1 2]}"#,
        r#"{"a":"\x"}"#,
        r#"{"a":"\ud800"}"#,
        r#"{"a":"\ud800\u0041"}"#,
        r#"{"a":"\udc00"}"#,
        r#"{"a":"\u12"}"#,
        r#"{"a":"\u+123"}"#,
        "{\"a\":\"\u{1}\"}",
        "{\"a\":\"",
        "{\"a\":\"x",
        "{\"a\":\"\\",
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"\u0061":2}"#,
        r#"{"b":{"a":1,"c":2,"a":3}}"#,
        r#"{"stream":true,"stream":true}"#,
        r#"{"metadata":{},"x":1,"metadata":{}}"#,
        r#"{"model":"m","model":"m"}"#,
        r#"{"metadata":{"a":1,"a":1}}"#,
    ] {
        assert_eq!(bytes(body), None, "{body}");
    }
    assert!(request(b"{\"a\":\"\xff\"}", None).is_none());
}

#[test]
fn a_temperature_and_the_rungs_own_model_are_seen() {
    let seen = request(
        br#"{"temperature":0.25,"model":"x"}"#,
        Some("claude-opus-5"),
    );
    let seen = seen.unwrap();
    assert_eq!(seen.temperature, Some(0.25));
    for body in [
        r#"{"temperature":0.25}"#,
        r#"{"temperature":0.25,"model":null}"#,
        r#"{"model":"claude-opus-5","temperature":0.25}"#,
    ] {
        let same = request(body.as_bytes(), Some("claude-opus-5")).unwrap();
        assert_eq!(same.bytes, seen.bytes, "{body}");
    }
    for body in ["{}", r#"{"temperature":"0"}"#, r#"{"temperature":null}"#] {
        assert_eq!(request(body.as_bytes(), None).unwrap().temperature, None);
    }
    // A model's name too long to be written whole is still a name.
    let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(600));
    assert_ne!(bytes(&long), bytes(&long.replace("mm\"", "mn\"")));
}

fn value() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[a-c\"\\\\/\n\u{1}é漢😀]{0,6}", "[a-b\\\\\n]{500,530}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        let members = prop::collection::btree_map("[a-d\"é]{0,3}", inner.clone(), 0..5);
        prop_oneof![
            prop::collection::vec(inner, 0..5).prop_map(Value::Array),
            members.prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Value> {
    let members = prop::collection::btree_map("[a-e\"é]{0,70}|model|stream", value(), 0..6);
    members.prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>()))
}

/// Writes JSON in one of its many ways.
fn write(value: &Value, rng: &mut StdRng, out: &mut String) {
    let blank = |rng: &mut StdRng, out: &mut String| {
        out.push_str(["", "", " ", "\n", "\t\r\n "][rng.random_range(0..5)]);
    };
    blank(rng, out);
    match value {
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                write(item, rng, out);
            }
            blank(rng, out);
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.shuffle(rng);
            out.push('{');
            for (n, (key, item)) in members.into_iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                write(&Value::from(key.as_str()), rng, out);
                out.push(':');
                write(item, rng, out);
            }
            blank(rng, out);
            out.push('}');
        }
        Value::String(text) => {
            out.push('"');
            for c in text.chars() {
                let mut units = [0; 2];
                if c < ' ' || rng.random_ratio(1, 3) {
                    for unit in c.encode_utf16(&mut units) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                } else if matches!(c, '"' | '\\') {
                    out.extend(['\\', c]);
                } else {
                    out.push(c);
                }
            }
            out.push('"');
        }
        other => out.push_str(&other.to_string()),
    }
    blank(rng, out);
}

proptest! {
    #[test]
    fn every_way_to_write_a_request_is_one_request(value in object(), seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut one, mut other) = (String::new(), String::new());
        write(&value, &mut rng, &mut one);
        write(&value, &mut rng, &mut other);
        prop_assert!(bytes(&one).is_some(), "{}", one);
        prop_assert_eq!(bytes(&one), bytes(&other), "{} and {}", one, other);
    }

    #[test]
    fn two_requests_have_the_same_bytes_only_if_they_say_the_same(a in object(), b in object()) {
        let counted = |value: &Value| {
            let mut value = value.clone();
            value.as_object_mut().unwrap().remove("stream");
            value
        };
        let same = counted(&a) == counted(&b);
        prop_assert_eq!(bytes(&a.to_string()) == bytes(&b.to_string()), same);
    }

    /// Whatever is read is JSON, and whatever is JSON without a doubt is read.
    #[test]
    fn no_bytes_panic_and_none_are_read_that_are_no_json(
        text in "[{}\\[\\]\",:\\\\u0-9dD8eE+.\\-a-ftrnlsu ]{0,40}",
        cut in any::<prop::sample::Index>(),
        value in object(),
    ) {
        for body in [text.clone(), format!("{{\"a\":{text}}}"), value.to_string()] {
            let read = bytes(&body).is_some();
            if read {
                prop_assert!(serde_json::from_str::<Value>(&body).is_ok(), "{}", body);
            } else if let Ok(Value::Object(members)) = serde_json::from_str(&body) {
                // A member named twice is all that may be refused: written again, it is there once.
                prop_assert!(Value::Object(members).to_string().len() < body.len(), "{}", body);
            }
        }
        let whole = value.to_string();
        let cut = cut.index(whole.len());
        request(&whole.as_bytes()[..cut], None);
    }
}

#[test]
fn numbers_are_kept_as_they_are_written() {
    let numbers = ["0", "-0", "10", "1.50", "1e5", "1E+5", "-12.5e-3"];
    for (n, number) in numbers.into_iter().enumerate() {
        assert_eq!(
            number_at(format!("[{number}]").as_bytes(), 1),
            Some(1..1 + number.len())
        );
        let body = json!({ "n": n })
            .to_string()
            .replace(&n.to_string(), number);
        assert!(bytes(&body).is_some());
    }
}

#[test]
fn the_end_of_a_run_is_found_at_every_place() {
    for special in [b'"', b'\\', 0, 9, 0x1F] {
        for plain in [b'a', b' ', b'!', b'#', b'[', b']', 0x7F, 0x80, 0xFF] {
            for length in 0..40 {
                for at in 0..=length {
                    let mut text = vec![plain; length];
                    if let Some(byte) = text.get_mut(at) {
                        *byte = special;
                    }
                    assert_eq!(plain_run(&text), at, "{text:?}");
                    text.push(special);
                    assert_eq!(plain_run(&text), at, "{text:?}");
                }
            }
        }
    }
}

//! The request that asks how many tokens another would take.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The fields that decide how large a prompt is. The endpoint refuses those it does not know, such as
/// `max_tokens` and `stream`.
const COUNTED: [&str; 9] = [
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "context_management",
    "mcp_servers",
];

/// The body of a count for the request `body`; nothing where that is no JSON object.
#[must_use]
pub fn counting_body(body: &Bytes) -> Option<Bytes> {
    let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(body).ok()?;
    let counted: BTreeMap<_, _> = fields
        .into_iter()
        .filter(|(name, _)| COUNTED.contains(&&**name))
        .collect();
    serde_json::to_vec(&counted).ok().map(Bytes::from)
}

/// The count in an answer.
#[must_use]
pub fn counted(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Counted {
        input_tokens: u64,
    }
    let counted: Counted = serde_json::from_slice(body).ok()?;
    Some(counted.input_tokens)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{counted, counting_body};

    #[test]
    fn only_what_decides_a_prompts_size_is_sent() {
        let body = r#"{"stream":true,"model":"m","max_tokens":9,"messages":[{"a": 1.50}],"metadata":{},"system":"s","tools":[]}"#;
        let sent = counting_body(&Bytes::from_static(body.as_bytes())).expect("a body");
        let expected = r#"{"messages":[{"a": 1.50}],"model":"m","system":"s","tools":[]}"#;
        assert_eq!(sent, expected);
        for odd in ["", "[]", "7", "{"] {
            assert_eq!(
                counting_body(&Bytes::from_static(odd.as_bytes())),
                None,
                "{odd}"
            );
        }
    }

    #[test]
    fn a_count_is_a_number_and_nothing_else() {
        assert_eq!(counted(br#"{"input_tokens":14}"#), Some(14));
        for odd in [
            "",
            "{}",
            r#"{"input_tokens":"14"}"#,
            r#"{"input_tokens":-1}"#,
        ] {
            assert_eq!(counted(odd.as_bytes()), None, "{odd}");
        }
    }
}

//! A stream as a strict client reads it, with nothing of seawall's own decoders.

use serde_json::Value;

/// How a stream ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// With `message_stop`.
    Whole,
    /// With an `error` event.
    Failed {
        kind: String,
        message: String,
        reason: Option<String>,
    },
    /// With neither: the lie that must not be told.
    Cut,
}

/// One block of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) kind: String,
    /// Its text, its thoughts or its input.
    pub(crate) content: String,
}

/// What a stream said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    /// The id in `message_start`.
    pub(crate) id: Option<String>,
    /// The model in `message_start`.
    pub(crate) model: String,
    pub(crate) blocks: Vec<Block>,
    pub(crate) stop_reason: Option<String>,
    /// The usage of `message_delta`.
    pub(crate) usage: Value,
    /// The input tokens that `message_start` stated.
    pub(crate) input_tokens: u64,
    /// Pieces of content, empty ones included.
    pub(crate) deltas: usize,
    pub(crate) end: End,
}

impl Message {
    /// Whether anything of the answer itself came.
    pub(crate) const fn has_content(&self) -> bool {
        self.deltas > 0
    }

    /// The text of all text blocks.
    pub(crate) fn text(&self) -> String {
        let texts = self.blocks.iter().filter(|block| block.kind == "text");
        texts.map(|block| block.content.as_str()).collect()
    }

    /// The reason of a failed stream: what seawall says, else the provider's own word.
    pub(crate) fn reason(&self) -> Option<&str> {
        match &self.end {
            End::Failed { kind, reason, .. } => Some(reason.as_deref().unwrap_or(kind)),
            _ => None,
        }
    }
}

/// Reads a stream.
///
/// # Errors
///
/// What no client should have to put up with: bytes that are no whole events, an event that is not
/// JSON, one in a place where it can't stand, or anything after the last.
pub(crate) fn read(bytes: &[u8]) -> Result<Message, String> {
    let (message, wrong) = read_on(bytes);
    wrong.map_or(Ok(message), Err)
}

/// Reads a stream up to where no client can, and says why it can't.
pub(crate) fn read_on(bytes: &[u8]) -> (Message, Option<String>) {
    let mut reader = Reader::new();
    let wrong = reader.take_all(bytes).err();
    (reader.message, wrong)
}

struct Reader {
    message: Message,
    open: bool,
}

impl Reader {
    const fn new() -> Self {
        Self {
            message: Message {
                id: None,
                model: String::new(),
                blocks: Vec::new(),
                stop_reason: None,
                usage: Value::Null,
                input_tokens: 0,
                deltas: 0,
                end: End::Cut,
            },
            open: false,
        }
    }

    fn take_all(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut rest = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
        while !rest.is_empty() {
            let (frame, tail) = rest
                .split_once("\n\n")
                .ok_or_else(|| format!("half an event: {rest:?}"))?;
            rest = tail;
            // Comments.
            if frame.lines().all(|line| line.starts_with(':')) {
                continue;
            }
            let (event, data) = frame
                .strip_prefix("event: ")
                .and_then(|frame| frame.split_once("\ndata: "))
                .ok_or_else(|| format!("no event: {frame:?}"))?;
            let data: Value = serde_json::from_str(data).map_err(|e| format!("{e}: {frame:?}"))?;
            self.take(event, &data)?;
        }
        Ok(())
    }

    fn take(&mut self, event: &str, data: &Value) -> Result<(), String> {
        let message = &mut self.message;
        let must = |holds: bool, what: &str| match holds {
            true => Ok(()),
            false => Err(format!("{what}: {event} {data}")),
        };
        must(data["type"] == event, "an event of two names")?;
        must(message.end == End::Cut, "an event after the last")?;
        if event == "ping" {
            return Ok(());
        }
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if event == "error" {
            let error = &data["error"];
            must(error["type"].is_string(), "an error without a type")?;
            message.end = End::Failed {
                kind: word(&error["type"]),
                message: word(&error["message"]),
                reason: error["details"]["reason"].as_str().map(str::to_owned),
            };
            return Ok(());
        }
        let started = message.id.is_some();
        must(started != (event == "message_start"), "out of order")?;
        let summed_up = !message.usage.is_null();
        let next = message.blocks.len();
        let index = data["index"].as_u64();
        let of_open = self.open && index == u64::try_from(next).ok().map(|n| n - 1);
        match event {
            "message_start" => {
                let said = &data["message"];
                (message.id, message.model) = (Some(word(&said["id"])), word(&said["model"]));
                message.input_tokens = said["usage"]["input_tokens"].as_u64().ok_or("no input")?;
            }
            "content_block_start" => {
                must(!self.open && !summed_up, "out of order")?;
                must(index == u64::try_from(next).ok(), "index")?;
                self.open = true;
                message.blocks.push(Block {
                    kind: word(&data["content_block"]["type"]),
                    content: String::new(),
                });
            }
            "content_block_delta" => {
                must(of_open, "no such block is open")?;
                message.deltas += 1;
                let delta = &data["delta"];
                let block = message.blocks.last_mut().ok_or("no block")?;
                for part in ["text", "thinking", "partial_json"] {
                    block
                        .content
                        .push_str(delta[part].as_str().unwrap_or_default());
                }
            }
            "content_block_stop" => {
                must(of_open, "no such block is open")?;
                self.open = false;
            }
            "message_delta" => {
                must(!self.open && !summed_up, "out of order")?;
                must(data["usage"].is_object(), "no usage")?;
                message.usage = data["usage"].clone();
                message.stop_reason = data["delta"]["stop_reason"].as_str().map(str::to_owned);
            }
            "message_stop" => {
                must(summed_up, "a stop without a sum")?;
                message.end = End::Whole;
            }
            _ => return Err(format!("an event that the provider does not send: {event}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{End, read};

    const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":9}}}\n\n";

    #[test]
    fn a_strict_client_takes_no_lie_for_an_answer() {
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"\"}}\n\n";
        assert_eq!(read(START.as_bytes()).unwrap().end, End::Cut);
        let failed = read(format!("{START}{error}").as_bytes()).unwrap();
        assert_eq!(failed.reason(), Some("api_error"));
        for wrong in [
            format!("{START}{START}"),
            format!("{START}{error}{START}"),
            format!("{START}event: ping\ndata: {{\"type\": \"pi\n\n"),
            format!("{START}event: ping\ndata: {{\"type\": \"ping\"}}"),
            format!("{START}event: message_stop\ndata: {{\"type\":\"message_stop\"}}\n\n"),
            format!(
                "{START}event: content_block_start\ndata: {{\"type\":\"content_block_start\",\"index\":1,\"content_block\":{{\"type\":\"text\"}}}}\n\n"
            ),
        ] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

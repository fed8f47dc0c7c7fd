//! Calls for Rust: an answer as a [`Message`], whole or event by event.
//!
//! The same path as [`Seawall::forward`], with the bytes read. A stream that breaks off is an
//! [`Error::Interrupted`] that holds what had come.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use serde::Deserialize;

use super::Seawall;
use super::ask::{Ask, Reply, ReplyBody, ReplyStream, Report};
use crate::error::Error;
use crate::message::{Assembler, Message};
use crate::transport::sse::SseDecoder;
use crate::verdict::{Judged, judge_malformed, judge_stream_error, label};

/// An answer and what it took.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Answered {
    /// The answer.
    pub message: Message,
    /// What it took.
    pub report: Report,
}

impl Seawall {
    /// Answers a request for a message, streamed or not, with the whole message.
    ///
    /// Dropping the future stops the provider and gives everything back.
    ///
    /// # Errors
    ///
    /// As [`Seawall::forward`], and [`Error::Interrupted`] for a stream that broke off.
    pub async fn call(&self, ask: Ask) -> Result<Answered, Error> {
        let Reply { body, report, .. } = self.forward(ask).await?;
        let message = match body {
            ReplyBody::Stream(events) => {
                return MessageStream::new(events, report).finish().await;
            }
            ReplyBody::Whole(bytes) => Message::from_body(&bytes).or_else(|| assemble(&bytes)),
        };
        match message {
            Some(message) => Ok(Answered { message, report }),
            None => Err(Error::Unanswered {
                judged: Box::new(judge_malformed("a body that is no message")),
                report: Box::new(report),
            }),
        }
    }

    /// Answers a request whose body asks for a stream, event by event.
    ///
    /// # Errors
    ///
    /// As [`Seawall::forward`], before the first event.
    pub async fn stream(&self, ask: Ask) -> Result<MessageStream, Error> {
        let Reply { body, report, .. } = self.forward(ask).await?;
        Ok(match body {
            ReplyBody::Stream(events) => MessageStream::new(events, report),
            ReplyBody::Whole(bytes) => {
                let events = ReplyStream::held(VecDeque::from([bytes]));
                MessageStream::new(events, report)
            }
        })
    }
}

/// A fixed answer comes as a whole stream.
fn assemble(bytes: &[u8]) -> Option<Message> {
    let mut assembler = Assembler::new();
    let mut decoder = SseDecoder::new();
    decoder
        .push(bytes, |frame| assembler.push(frame.data))
        .ok()?;
    assembler.is_whole().then(|| assembler.into_message())
}

/// One event of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageEvent {
    /// Its name, such as `content_block_delta`.
    pub name: String,
    /// Its data, one JSON object.
    pub data: String,
}

impl MessageEvent {
    /// The text that it adds to the answer, if it does.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        let delta: TextDelta = serde_json::from_str(&self.data).ok()?;
        (delta.delta.kind == "text_delta").then_some(delta.delta.text)
    }
}

#[derive(Deserialize)]
struct TextDelta {
    delta: Text,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "type")]
    kind: String,
    text: String,
}

/// An answer event by event. It ends after its last event, or with the one error that ended it.
///
/// Dropping it stops the provider and gives the permit back.
pub struct MessageStream {
    events: ReplyStream,
    report: Report,
    decoder: SseDecoder,
    assembler: Assembler,
    ready: VecDeque<MessageEvent>,
    failed: Option<Box<Judged>>,
    over: bool,
}

impl MessageStream {
    fn new(events: ReplyStream, report: Report) -> Self {
        Self {
            events,
            report,
            decoder: SseDecoder::new(),
            assembler: Assembler::new(),
            ready: VecDeque::new(),
            failed: None,
            over: false,
        }
    }

    /// What the call took up to the first event.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// What the answer says so far.
    #[must_use]
    pub const fn message(&self) -> &Message {
        self.assembler.message()
    }

    /// Waits for the whole message.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] when it breaks off.
    pub async fn finish(mut self) -> Result<Answered, Error> {
        while let Some(event) = self.next().await {
            event?;
        }
        Ok(Answered {
            message: self.assembler.into_message(),
            report: self.report,
        })
    }

    fn read(&mut self, bytes: &[u8]) {
        let Self {
            decoder,
            assembler,
            ready,
            failed,
            ..
        } = self;
        let read = decoder.push(bytes, |frame| match frame.event {
            "error" => *failed = Some(Box::new(failure(frame.data))),
            name => {
                assembler.push(frame.data);
                ready.push_back(MessageEvent {
                    name: name.to_owned(),
                    data: frame.data.to_owned(),
                });
            }
        });
        if let Err(error) = read {
            *failed = Some(Box::new(judge_malformed(&error.to_string())));
        }
    }

    fn interrupted(&mut self, judged: Box<Judged>) -> Error {
        self.over = true;
        let report = Box::new(self.report.clone());
        let partial = self.assembler.message().clone();
        if partial.id.is_none() && partial.content.is_empty() {
            return Error::Unanswered { judged, report };
        }
        Error::Interrupted {
            judged,
            usage_so_far: Box::new(partial.usage.clone()),
            partial: Box::new(partial),
            report,
        }
    }
}

/// The last event of a stream that broke off. One that was written here names its verdict.
fn failure(data: &str) -> Judged {
    let mut judged = judge_stream_error(data, Timestamp::now());
    let reason = serde_json::from_str::<Failure>(data).ok();
    if let Some(reason) = reason.map(|failure| failure.error.details.reason)
        && let Some(known) = label::ALL.into_iter().find(|label| *label == reason)
    {
        judged.verdict.label = known;
    }
    judged
}

#[derive(Deserialize)]
struct Failure {
    error: Detailed,
}

#[derive(Deserialize)]
struct Detailed {
    details: Details,
}

#[derive(Deserialize)]
struct Details {
    reason: String,
}

impl Stream for MessageStream {
    type Item = Result<MessageEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.over {
                return Poll::Ready(None);
            }
            if let Some(judged) = self.failed.take() {
                let error = self.interrupted(judged);
                return Poll::Ready(Some(Err(error)));
            }
            match ready!(self.events.poll_next_unpin(cx)) {
                Some(bytes) => self.read(&bytes),
                None if self.assembler.is_whole() => self.over = true,
                // Out of reach while the stream below keeps its word.
                None => self.failed = Some(Box::new(crate::verdict::judge_truncated())),
            }
        }
    }
}

impl fmt::Debug for MessageStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageStream")
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::HeaderMap;
    use serde_json::json;

    use super::*;
    use crate::delivery::Delivery;
    use crate::sim::{Fault, FaultKind, Settings, Sim};

    async fn seawall(faults: Vec<Fault>) -> (Seawall, Arc<Sim>) {
        let sim = Sim::new(Settings {
            faults,
            ..Settings::default()
        })
        .unwrap();
        let transport = Arc::new(Sim::transport(&sim));
        let built = Seawall::builder().transport(transport).seed(1).start();
        (built.await.unwrap(), sim)
    }

    fn ask(stream: bool) -> Ask {
        let mut headers = HeaderMap::new();
        headers.insert("x-api-key", "sk-test".parse().unwrap());
        let body = json!({
            "model": "claude-sonnet-5-5", "max_tokens": 200, "stream": stream,
            "messages": [{ "role": "user", "content": "What holds the sea back?" }],
        });
        Ask::messages(headers, Bytes::from(body.to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_is_the_same_streamed_or_not() {
        let (seawall, _) = seawall(Vec::new()).await;
        let whole = seawall.call(ask(false)).await.unwrap().message;
        let streamed = seawall.call(ask(true)).await.unwrap().message;
        assert!(!whole.text().is_empty());
        assert_eq!(whole.content, streamed.content);
        let mut stream = seawall.stream(ask(true)).await.unwrap();
        let mut text = String::new();
        while let Some(event) = stream.next().await {
            text.extend(event.unwrap().text());
        }
        assert_eq!(text, stream.message().text());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_off_hands_over_what_had_come() {
        let cut = Fault {
            after_events: Some(8),
            ..Fault::new(FaultKind::CutStream)
        };
        let (seawall, sim) = seawall(vec![cut]).await;
        let error = seawall.call(ask(true)).await.unwrap_err();
        let Error::Interrupted {
            judged,
            partial,
            usage_so_far,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(judged.verdict.label, label::TRUNCATED);
        assert!(!partial.text().is_empty());
        assert!(usage_so_far.input > Some(0));
        assert_eq!((sim.stats().attempts, sim.stats().in_flight), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_complete_delivery_asks_again_unseen() {
        let cut = Fault {
            after_events: Some(8),
            ..Fault::new(FaultKind::CutStream)
        };
        let (seawall, sim) = seawall(vec![cut.on_attempts(1, 1)]).await;
        let complete = Ask {
            delivery: Some(Delivery::Complete),
            ..ask(true)
        };
        let answered = seawall.call(complete).await.unwrap();
        assert_eq!(answered.report.attempts, 2);
        assert_eq!(answered.message.stop_reason.as_deref(), Some("end_turn"));
        assert_eq!(sim.stats().attempts, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_that_breaks_off_is_resumed() {
        let cut = Fault {
            after_events: Some(8),
            ..Fault::new(FaultKind::CutStream)
        };
        let (seawall, sim) = seawall(vec![cut.on_attempts(1, 1)]).await;
        let resume = Ask {
            delivery: Some(Delivery::Resume),
            ..ask(true)
        };
        let answered = seawall.call(resume).await;
        // The continuation is another prompt, so its first attempt is cut too; with one more the
        // fault would strike for ever, and five attempts are the most.
        let stats = sim.stats();
        assert!((2..=5).contains(&stats.attempts), "{stats:?}");
        assert_eq!(stats.in_flight, 0);
        match answered {
            Ok(answered) => assert!(!answered.message.text().is_empty()),
            Err(Error::Interrupted { partial, .. }) => assert!(partial.text().len() > 20),
            Err(error) => panic!("{error:?}"),
        }
    }
}

//! The log: lines on standard error, as text or JSON.
//!
//! A call ends in one line, and a write for each would be a system call for each, with every worker
//! waiting at standard error's lock. Lines are gathered and written together: after a tenth of a second
//! at the latest, at once after a warning or an error, and when the log ends.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;
use parking_lot::{Condvar, Mutex};
use seawall::config::{Gateway, LogFormat};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

/// A line is written no later than this after it was said.
const LATEST: Duration = Duration::from_millis(100);

/// Lines are written when they fill this many bytes, by whoever said the last of them.
const MOST: usize = 64 << 10;

/// Starts the log, which runs until what is returned is dropped. A second start in one process
/// changes nothing.
pub(crate) fn start(gateway: &Gateway) -> Log {
    let lines = Log::new(io::stderr());
    // The libraries underneath speak only when something is wrong.
    let level = gateway.log_level.as_str();
    let filter = EnvFilter::new(format!("warn,seawall={level},seawall_actors={level}"));
    let log = tracing_subscriber::fmt()
        .with_timer(Clock)
        .with_writer(lines.clone())
        .with_env_filter(filter);
    let started = match gateway.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        _ => log.fmt_fields(Fields).try_init(),
    };
    if started.is_err() {
        tracing::debug!("the log had been started before");
    }
    lines
}

/// The time in front of a line: UTC, to the microsecond.
#[derive(Debug)]
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        let now = Offset::UTC.to_datetime(Timestamp::now());
        let number = |n: i8| u32::try_from(n).unwrap_or(0);
        let micros = u32::try_from(now.subsec_nanosecond() / 1_000).unwrap_or(0);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let fields = [
            (0..4, u32::try_from(now.year()).unwrap_or(0)),
            (5..7, number(now.month())),
            (8..10, number(now.day())),
            (11..13, number(now.hour())),
            (14..16, number(now.minute())),
            (17..19, number(now.second())),
            (20..26, micros),
        ];
        for (place, mut number) in fields {
            for digit in text.get_mut(place).into_iter().flatten().rev() {
                *digit = b"0123456789"[(number % 10) as usize];
                number /= 10;
            }
        }
        out.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// Lines on their way out.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    /// Nobody comes to write what is left lying.
    at_once: bool,
}

struct Shared {
    gathered: Mutex<Vec<u8>>,
    /// The first line after a write has come.
    begun: Condvar,
    out: Mutex<Box<dyn Write + Send>>,
}

impl Log {
    fn new(out: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared {
            gathered: Mutex::new(Vec::new()),
            begun: Condvar::new(),
            out: Mutex::new(Box::new(out)),
        });
        let of = Arc::downgrade(&shared);
        let writer = move || {
            while let Some(shared) = of.upgrade() {
                shared.write_when_due();
            }
        };
        let named = std::thread::Builder::new().name("log".to_owned());
        let at_once = named.spawn(writer).is_err();
        Self { shared, at_once }
    }

    /// Writes everything that was said.
    pub(crate) fn flush(&self) {
        self.shared.write();
    }
}

impl Shared {
    fn write_when_due(&self) {
        let mut gathered = self.gathered.lock();
        if gathered.is_empty() {
            // Woken for nothing now and then, to see whether the log is still there.
            self.begun.wait_for(&mut gathered, LATEST * 10);
        }
        if !gathered.is_empty() {
            self.begun.wait_for(&mut gathered, LATEST);
            drop(gathered);
            self.write();
        }
    }

    fn gather(&self, line: &[u8]) -> usize {
        let mut gathered = self.gathered.lock();
        if gathered.is_empty() {
            self.begun.notify_one();
        }
        gathered.extend_from_slice(line);
        gathered.len()
    }

    fn write(&self) {
        // Held from the taking to the end of the writing: lines stay in order.
        let mut out = self.out.lock();
        let lines = std::mem::take(&mut *self.gathered.lock());
        // There is nowhere left to say that standard error is closed.
        drop(out.write_all(&lines).and_then(|()| out.flush()));
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            log: self,
            urgent: false,
        }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> Line<'a> {
        Line {
            log: self,
            urgent: *about.level() <= Level::WARN,
        }
    }
}

/// Takes one line, in one write.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    log: &'a Log,
    urgent: bool,
}

impl Write for Line<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let gathered = self.log.shared.gather(line);
        if self.urgent || self.log.at_once || gathered >= MOST {
            self.log.flush();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes fields as tracing's own formatter does, but words and numbers, which a call's line is made
/// of, without the detour over format strings.
#[derive(Debug)]
struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = FieldWriter {
            writer,
            line: String::with_capacity(USUAL_LINE),
            is_first: true,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.hand_on();
        visitor.result
    }
}

/// The line of a call has some 450 bytes.
const USUAL_LINE: usize = 512;

struct FieldWriter<'writer> {
    writer: Writer<'writer>,
    /// What the writer has still to get.
    line: String,
    is_first: bool,
    result: fmt::Result,
}

impl FieldWriter<'_> {
    fn name(&mut self, field: &Field) -> &mut String {
        if !self.is_first {
            self.line.push(' ');
        }
        self.is_first = false;
        let name = field.name();
        self.line.push_str(name.strip_prefix("r#").unwrap_or(name));
        self.line.push('=');
        &mut self.line
    }

    fn hand_on(&mut self) {
        self.result = self.result.and_then(|()| self.writer.write_str(&self.line));
        self.line.clear();
    }
}

impl Visit for FieldWriter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            return self.record_debug(field, &format_args!("{value}"));
        }
        let is_plain = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
        if !value.bytes().all(is_plain) {
            return self.record_debug(field, &value);
        }
        let line = self.name(field);
        line.push('"');
        line.push_str(value);
        line.push('"');
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field).push_str(itoa::Buffer::new().format(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field)
            .push_str(if value { "true" } else { "false" });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        if field.name() != "message" {
            let written = write!(self.name(field), "{value:?}");
            self.result = self.result.and(written);
            return;
        }
        self.hand_on();
        // A message may carry a stranger's words: tracing's own way with escape sequences.
        let mut tracings = DefaultVisitor::new(self.writer.by_ref(), self.is_first);
        tracings.record_debug(field, value);
        let written = tracings.finish();
        self.result = self.result.and(written);
        self.is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// Each write arrives as one message.
    struct Out(mpsc::Sender<String>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(text).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const BOUND: Duration = Duration::from_secs(20);

    fn said(say: impl FnOnce()) -> (Log, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel();
        let log = Log::new(Out(sender));
        let layer = tracing_subscriber::fmt::layer()
            .without_time()
            .with_writer(log.clone())
            .fmt_fields(Fields);
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, say);
        (log, receiver)
    }

    #[test]
    fn the_time_in_front_of_a_line_is_now_to_the_microsecond() {
        let mut text = String::new();
        let before = Timestamp::now();
        Clock.format_time(&mut Writer::new(&mut text)).unwrap();
        let after = Timestamp::now();
        assert_eq!(text.len(), 27, "{text}");
        let said: Timestamp = text.parse().unwrap();
        assert!(
            said.as_microsecond() >= before.as_microsecond() && said <= after,
            "{text}"
        );
    }

    #[test]
    fn lines_come_together_in_order_and_without_being_asked_for() {
        let (_log, lines) = said(|| {
            for n in 0..3_u64 {
                tracing::info!(n, "a line");
            }
        });
        let mut all = String::new();
        while all.lines().count() < 3 {
            all += &lines.recv_timeout(BOUND).unwrap();
        }
        let order: Vec<char> = all.lines().filter_map(|line| line.chars().last()).collect();
        assert_eq!(order, ['0', '1', '2'], "{all}");
    }

    #[test]
    fn a_warning_is_written_at_once_and_what_came_before_it_too() {
        let (log, lines) = said(|| {
            tracing::info!("first");
            tracing::warn!("second");
        });
        // The flush finds nothing left: both had been written before it.
        log.flush();
        let all: String = lines.try_iter().collect();
        let (first, second) = (all.find("first"), all.find("second"));
        assert!(first < second && first.is_some(), "{all}");
    }

    #[test]
    fn a_flood_is_written_as_it_comes_and_no_line_is_torn() {
        let (log, lines) = said(|| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    let here = tracing::dispatcher::get_default(Clone::clone);
                    scope.spawn(move || {
                        tracing::dispatcher::with_default(&here, || {
                            for n in 0..2_000_u64 {
                                tracing::info!(n, word = "some words", "a line");
                            }
                        });
                    });
                }
            });
        });
        log.flush();
        let writes: Vec<String> = lines.try_iter().collect();
        let most = writes.iter().map(String::len).max();
        assert!(most < Some(2 * MOST), "{most:?}");
        let all = writes.concat();
        assert_eq!(all.lines().count(), 8_000);
        assert!(
            all.lines()
                .all(|line| line.contains("a line n=") && line.ends_with("word=\"some words\""))
        );
    }

    #[test]
    fn fields_look_as_tracing_writes_them() {
        fn say() {
            tracing::info!(
                word = "plain", quoted = "a \"b\" \\ \n ü", empty = "", yes = true, digit = 7_u64,
                number = 1_234_u64, negative = -5, some = Some(3_u64), none = None::<u64>,
                shown = %"as it is", debug = ?[1, 2], r#type = "raw", "message with \u{1b}[31m escape"
            );
        }
        let (log, ours) = said(say);
        log.flush();
        let (sender, theirs) = mpsc::channel();
        let plain = Log::new(Out(sender));
        let layer = tracing_subscriber::fmt::layer()
            .without_time()
            .with_writer(plain.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        plain.flush();
        let ours: String = ours.try_iter().collect();
        assert_eq!(ours, theirs.try_iter().collect::<String>());
        assert!(ours.contains("number=1234"), "{ours}");
    }
}

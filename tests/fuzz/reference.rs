//! A second decoder of server-sent events, as simple as the standard's words: byte by byte, nothing
//! shared with the real one.

/// What a whole byte string holds.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    /// Name and data of each event.
    pub(crate) frames: Vec<(String, String)>,
    /// Where each frame's last line ends, without the LF of a CRLF.
    pub(crate) ends: Vec<usize>,
    /// After which bytes no event is open.
    pub(crate) safe: Vec<usize>,
    /// Whether an event is open at the end.
    pub(crate) open: bool,
    /// Whether an event outgrew the bound; nothing after that is read.
    pub(crate) too_large: bool,
}

#[derive(Default)]
struct Event {
    name: Vec<u8>,
    data: Option<Vec<u8>>,
}

impl Event {
    fn held(&self) -> usize {
        self.name.len() + self.data.as_ref().map_or(0, Vec::len)
    }

    fn line(&mut self, line: &[u8]) {
        let (name, value) = match line.iter().position(|&b| b == b':') {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"event" => self.name = value.to_vec(),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                none => *none = Some(value.to_vec()),
            },
            _ => {}
        }
    }
}

pub(crate) fn read(bytes: &[u8], bound: usize) -> Reading {
    let mut reading = Reading::default();
    let (mut event, mut line) = (Event::default(), Vec::new());
    let mut first = true;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte == b'\n' && at > 0 && bytes[at - 1] == b'\r' {
            if event.held() == 0 && event.data.is_none() {
                reading.safe.push(at + 1);
            }
            continue;
        }
        if byte != b'\n' && byte != b'\r' {
            line.push(byte);
            if event.held() + line.len() > bound {
                reading.too_large = true;
                return reading;
            }
            continue;
        }
        let mut whole = std::mem::take(&mut line);
        if std::mem::take(&mut first) && whole.starts_with(b"\xEF\xBB\xBF") {
            whole.drain(..3);
        }
        if whole.is_empty() {
            let Event { name, data } = std::mem::take(&mut event);
            if let Some(data) = data {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                reading.frames.push((text(&name), text(&data)));
                reading.ends.push(at + 1);
            }
        } else {
            event.line(&whole);
        }
        if event.held() == 0 && event.data.is_none() {
            reading.safe.push(at + 1);
        }
    }
    reading.open = !line.is_empty() || event.held() > 0 || event.data.is_some();
    reading
}

//! From bytes to the events of a stream, by the rules for server-sent events; and to the JSON
//! objects that stand outside of any, as errors and the answers of some proxies do.

use std::mem;

use memchr::memchr2;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Cuts a body into the JSON texts that it carries; every byte is looked at once.
#[derive(Default)]
pub(super) struct Events {
    /// What has come of the line that has not ended.
    line: Vec<u8>,
    /// A line feed that comes next belongs to the line end before it.
    after_return: bool,
    after_first_line: bool,
    /// Something besides white space has come.
    has_content: bool,
    /// The `data` lines of the event that has not ended.
    data: Option<Vec<u8>>,
    bare: Bare,
}

impl Events {
    /// Takes the next bytes; returns the events that they complete.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        while let Some(first) = bytes.first() {
            if mem::take(&mut self.after_return) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\r', b'\n', bytes) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.line.extend_from_slice(&bytes[..end]);
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(&mut complete);
        }
        complete
    }

    /// Returns the events that the body's end completes or cuts.
    pub(super) fn finish(&mut self) -> Vec<Vec<u8>> {
        let mut complete = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&mut complete);
        }
        complete.extend(self.data.take());
        let bare = mem::take(&mut self.bare).object;
        complete.extend(Some(bare).filter(|bare| !bare.is_empty()));
        complete
    }

    /// Returns whether nothing but white space has come.
    pub(super) fn is_blank(&self) -> bool {
        !self.has_content
    }

    fn end_line(&mut self, complete: &mut Vec<Vec<u8>>) {
        let whole = mem::take(&mut self.line);
        let mut line = whole.as_slice();
        if !mem::replace(&mut self.after_first_line, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        self.has_content |= !line.trim_ascii().is_empty();
        if line.is_empty() {
            complete.extend(self.data.take());
            return;
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.unwrap_or(line.len()));
        match name {
            b"data" => {
                let value = value.strip_prefix(b":").unwrap_or(value);
                let value = value.strip_prefix(b" ").unwrap_or(value);
                match &mut self.data {
                    Some(data) => {
                        data.push(b'\n');
                        data.extend_from_slice(value);
                    }
                    none => *none = Some(value.to_owned()),
                }
            }
            b"" | b"event" | b"id" | b"retry" => {}
            _ => self.bare.push(line, complete),
        }
    }
}

/// Finds JSON objects in lines that are no fields of an event, alone or as a list's members.
#[derive(Default)]
struct Bare {
    /// What has come of an object that has not ended.
    object: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Bare {
    fn push(&mut self, line: &[u8], complete: &mut Vec<Vec<u8>>) {
        // A field of an unknown name may hold braces too.
        let opens = matches!(line.trim_ascii_start().first(), Some(b'{' | b'[' | b',' | b']'));
        if self.depth == 0 && !opens {
            return;
        }
        for &byte in line {
            if self.depth == 0 && byte != b'{' {
                continue;
            }
            self.object.push(byte);
            self.step(byte);
            if self.depth == 0 {
                complete.push(mem::take(&mut self.object));
            }
        }
        if self.depth > 0 {
            self.object.push(b'\n');
        }
    }

    fn step(&mut self, byte: u8) {
        if self.in_string {
            self.in_string = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut events = Events::default();
        let mut all: Vec<_> = chunks.into_iter().flat_map(|chunk| events.push(chunk)).collect();
        all.extend(events.finish());
        all.into_iter().map(|event| String::from_utf8(event).unwrap()).collect()
    }

    const BODIES: [(&str, &[&str]); 16] = [
        ("", &[]),
        (" \n\r\n", &[]),
        ("data: a\n\ndata: b\n\n", &["a", "b"]),
        ("data: a\r\rdata: b\r\n\r\ndata: c\n\r\ndata: d\r\n\n", &["a", "b", "c", "d"]),
        ("data:a\n\ndata:  b \n\n\n\ndata: c", &["a", " b ", "c"]),
        ("data: {\rdata\ndata:\r\ndata: }\n\n", &["{\n\n\n}"]),
        ("\u{feff}data: ü\n: data: no\nevent: x\nid: 1\nretry: 2\nmore: {}\n\n", &["ü"]),
        ("data: a\n\n\u{feff}data: b\n\n", &["a"]),
        ("Data: a\n\ndatas: b\n\n", &[]),
        ("{\"error\": {\r\n \"code\": 5}}", &["{\"error\": {\n \"code\": 5}}"]),
        (
            "[{\"a\": \"}\\\"{\"}\n,\r\n{\"b\": [[]]}\n]\n",
            &["{\"a\": \"}\\\"{\"}", "{\"b\": [[]]}"],
        ),
        ("[{\"a\": 1}, {\"b\\\\\": 2}]", &["{\"a\": 1}", "{\"b\\\\\": 2}"]),
        ("data: a\n{\"error\": 1}\n\ndata: b\n", &["{\"error\": 1}", "a", "b"]),
        ("{\"a\":\n\n1}\n{\"b\": 2}", &["{\"a\":\n1}", "{\"b\": 2}"]),
        ("data: a\n\n[{\"b\": ", &["a", "{\"b\": \n"]),
        ("<html>\n{1]\n}]}", &["{1]"]),
    ];

    #[test]
    fn a_body_is_cut_into_its_events() {
        for (body, wanted) in BODIES {
            assert_eq!(events([body.as_bytes()]), wanted, "{body:?}");
        }
    }

    #[test]
    fn an_event_is_complete_at_its_blank_line() {
        for end in ["\n\n", "\r\r", "\r\n\r", "\r\n\n", "\r\n\r\n"] {
            let mut events = Events::default();
            assert_eq!(events.push(b"data: a"), [b""; 0]);
            assert_eq!(events.push(end.as_bytes()), [b"a"], "{end:?}");
        }
        let mut events = Events::default();
        assert_eq!(events.push(b"data: a\r\n\r"), [b"a"]);
        assert_eq!(events.push(b"\ndata: b\n"), [b""; 0]);
        assert_eq!(events.push(b"\n"), [b"b"]);
    }

    #[test]
    fn white_space_is_no_content() {
        for (body, blank) in [("", true), ("\u{feff} \n\t\r\n", true), (": x\n", false)] {
            let mut events = Events::default();
            events.push(body.as_bytes());
            events.finish();
            assert_eq!(events.is_blank(), blank, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn a_body_has_the_same_events_wherever_it_is_cut(
            body in 0..BODIES.len(),
            cuts in vec(0..80_usize, 0..9),
        ) {
            let (body, wanted) = BODIES[body];
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|cut| &body.as_bytes()[cut[0]..cut[1]]);
            prop_assert_eq!(events(chunks), wanted);
        }
    }
}

//! One spelling for all JSON texts of the same value, so that equal content can be told by a hash.
//!
//! Works on text, not on a parsed tree: numbers of any size stay exact, and memory stays near the
//! size of the text. Takes only text that is known to be valid JSON.

/// How deep values may be nested; the same limit as that of `serde_json`.
const DEPTH: usize = 128;

/// Appends the canonical spelling of the JSON value `text` to `out`: no spaces, names sorted,
/// numbers and escapes written in one way.
///
/// Fails on what syntax alone does not show: halves of surrogate pairs, and nesting too deep.
pub(super) fn write_canonical(text: &str, out: &mut String) -> Result<(), String> {
    let mut writer = Writer { text, at: 0, out };
    writer.value(0)
}

struct Writer<'a> {
    text: &'a str,
    at: usize,
    out: &'a mut String,
}

/// Where one member of an object stands in the output.
struct Member {
    start: usize,
    name_end: usize,
    end: usize,
}

impl<'a> Writer<'a> {
    fn value(&mut self, depth: usize) -> Result<(), String> {
        if depth >= DEPTH {
            return Err(format!("nested deeper than {DEPTH} levels"));
        }
        match self.peek() {
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => {
                let token = self.token();
                write_number(token, self.out);
                Ok(())
            }
            _ => {
                let token = self.token();
                self.out.push_str(token);
                Ok(())
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), String> {
        self.at += 1;
        self.out.push('{');
        let mut members = Vec::new();
        while self.peek() != b'}' {
            let start = self.out.len();
            self.string()?;
            let name_end = self.out.len();
            self.out.push(':');
            self.skip(b':');
            self.value(depth + 1)?;
            members.push(Member { start, name_end, end: self.out.len() });
            self.out.push(',');
            self.skip(b',');
        }
        self.at += 1;
        self.sort(&mut members);
        self.out.push('}');
        Ok(())
    }

    /// Puts the members just written in the order of their names. A repeated name keeps its order.
    fn sort(&mut self, members: &mut [Member]) {
        let name = |member: &Member| &self.out.as_bytes()[member.start..member.name_end];
        if members.is_sorted_by_key(name) {
            return;
        }
        let start = members.first().map_or(self.out.len(), |member| member.start);
        members.sort_by(|one, other| name(one).cmp(name(other)));
        let mut sorted = String::with_capacity(self.out.len() - start);
        for member in members {
            sorted.push_str(&self.out[member.start..member.end]);
            sorted.push(',');
        }
        self.out.truncate(start);
        self.out.push_str(&sorted);
    }

    fn array(&mut self, depth: usize) -> Result<(), String> {
        self.at += 1;
        self.out.push('[');
        while self.peek() != b']' {
            self.value(depth + 1)?;
            self.out.push(',');
            self.skip(b',');
        }
        self.at += 1;
        self.out.push(']');
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        self.space();
        let rest = &self.text[self.at..];
        let bytes = rest.as_bytes();
        let mut end = 1;
        let mut escaped = false;
        loop {
            let rest = bytes.get(end..).unwrap_or_default();
            end += memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            if bytes.get(end) != Some(&b'\\') {
                break;
            }
            escaped = true;
            end += 2;
        }
        end = (end + 1).min(bytes.len());
        self.at += end;
        if escaped {
            let plain: String =
                serde_json::from_str(&rest[..end]).map_err(|error| reason(&error))?;
            let again = serde_json::to_string(&plain).map_err(|error| reason(&error))?;
            self.out.push_str(&again);
        } else {
            self.out.push_str(&rest[..end]);
        }
        Ok(())
    }

    /// Takes a number or a literal.
    fn token(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.as_bytes().iter().position(ends).unwrap_or(rest.len());
        self.at += length;
        &self.text[self.at - length..self.at]
    }

    fn space(&mut self) {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        self.at += rest.iter().take_while(|byte| blank(byte)).count();
    }

    /// Returns the next byte that is no space; closing brackets at the end of the text.
    fn peek(&mut self) -> u8 {
        self.space();
        self.text.as_bytes().get(self.at).copied().unwrap_or(b'}')
    }

    /// Passes over `byte` if it comes next.
    fn skip(&mut self, byte: u8) {
        self.space();
        if self.text.as_bytes().get(self.at) == Some(&byte) {
            self.at += 1;
        }
    }
}

/// Returns what an error of `serde_json` says, without the place, which is relative to the value.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}

/// Writes a number as its digits without zeros at either end, and a power of ten.
fn write_number(text: &str, out: &mut String) {
    let (sign, unsigned) = text.strip_prefix('-').map_or(("", text), |rest| ("-", rest));
    let (mantissa, exponent) = unsigned.split_once(['e', 'E']).unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let leading = digits.trim_start_matches('0');
    let significant = leading.trim_end_matches('0');
    if significant.is_empty() {
        out.push('0');
        return;
    }
    out.push_str(sign);
    let dropped = leading.len() - significant.len();
    let shift = i128::try_from(dropped).ok().zip(i128::try_from(fraction.len()).ok());
    let power = exponent.parse::<i128>().ok().zip(shift);
    let power = power
        .and_then(|(power, (dropped, fraction))| power.checked_add(dropped)?.checked_sub(fraction));
    match power {
        Some(power) => {
            out.push_str(significant);
            out.push('e');
            out.push_str(&power.to_string());
        }
        // Such an exponent has 39 digits; nothing reads it as a number.
        None => out.push_str(unsigned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        let mut out = String::new();
        write_canonical(text, &mut out).unwrap();
        out
    }

    #[test]
    fn one_value_has_one_spelling() {
        let cases = [
            (r#"{"b": 1, "a": [true, null]}"#, r#"{"a":[true,null],"b":1.0}"#),
            (r#"{"\u0061": "\/"}"#, r#"{"a":"/"}"#),
            ("[1, 1.0, 1e0, 10E-1]", "[1e0,1,1,1]"),
            ("[0, -0, 0.0e9]", "[0,0,0]"),
            ("[100, 0.01]", "[1e2,1E-2]"),
            (r#"{"x": {"d": 1, "c": {}}, "e": []}"#, r#"{"e":[],"x":{"c":{},"d":1}}"#),
            (
                "10000000000000000000000000000000000000001.0",
                "10000000000000000000000000000000000000001",
            ),
        ];
        for (one, other) in cases {
            assert_eq!(canonical(one), canonical(other), "{one} {other}");
        }
    }

    #[test]
    fn different_values_differ() {
        let cases = [
            ("1", "-1"),
            ("1", r#""1""#),
            ("[1,2]", "[2,1]"),
            ("[[1],2]", "[[1,2]]"),
            ("{}", "[]"),
            ("1e2", "1e3"),
            (
                "1234567890123456789012345678901234567890",
                "1234567890123456789012345678901234567891",
            ),
            (r#"{"a":1,"a":2}"#, r#"{"a":2,"a":1}"#),
        ];
        for (one, other) in cases {
            assert_ne!(canonical(one), canonical(other), "{one} {other}");
        }
    }

    #[test]
    fn what_syntax_does_not_show_is_refused() {
        let error = write_canonical(r#"{"a": "\ud800"}"#, &mut String::new()).unwrap_err();
        assert!(error.contains("hex escape"), "{error}");
        let deep = "[".repeat(200) + &"]".repeat(200);
        let error = write_canonical(&deep, &mut String::new()).unwrap_err();
        assert_eq!(error, "nested deeper than 128 levels");
    }
}

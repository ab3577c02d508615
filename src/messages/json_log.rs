//! Log lines as JSON objects, one a line: this program's own, and those of the daemons. A
//! daemon writes logfmt, JSON if the user has asked it to, and when its runtime dies a trace
//! that is neither.
//!
//! Every object begins with `time`, `level`, `source` and `msg`; other members follow in
//! their order. The names are those of logrus, so the form does not depend on whether the
//! daemon made the object or dind.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Deserializer, Value};
use time::OffsetDateTime;

use crate::messages::line::is_printable;

/// The last second of the year 9999: RFC 3339 has no later one.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// What JSON allows between its tokens: RFC 8259, 2.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Time and level for a line that has none of its own.
#[derive(Debug, Clone, Copy)]
pub struct Defaults<'a> {
    /// When the line was written or read.
    pub time: SystemTime,
    /// One of logrus' names: `error`, `warning`, `info`, `debug`, `trace`.
    pub level: &'a str,
}

/// The members that every line has.
const COMMON: [&str; 4] = ["time", "level", "source", "msg"];

/// A member of an object: its name, and its value as JSON.
type Member = (String, String);

/// A line's members, as JSON, but for the source.
struct Entry {
    time: String,
    level: String,
    message: String,
    others: Vec<Member>,
}

/// Takes a message with fields, or a line that could not be parsed, and returns the object,
/// without the line's end: the fields stand behind the message in their order. Their names
/// must differ from each other. A field with one of the four common names becomes
/// `fields.NAME`, as logrus renames what clashes. The text is not searched for secrets.
pub fn message(
    source: &str,
    text: &str,
    fields: &[(&str, Value)],
    defaults: Defaults<'_>,
) -> String {
    let field = |(name, value): &(&str, Value)| match COMMON.contains(name) {
        true => (format!("fields.{name}"), value.to_string()),
        false => ((*name).to_owned(), value.to_string()),
    };
    let entry = Entry {
        time: quoted(&timestamp(defaults.time)),
        level: quoted(defaults.level),
        message: quoted(text),
        others: fields.iter().map(field).collect(),
    };
    entry.print(source)
}

/// Takes a daemon's line and returns the object, both without a line end. Time, level, message
/// and all values are the daemon's own; bytes that are not UTF-8 become U+FFFD, as with Go's own
/// encoder. A member `source` of the daemon's becomes `fields.source`, as logrus renames members
/// that clash. A line that is neither logfmt nor JSON of logrus is a message as a whole, with the
/// time and level of `defaults`.
pub fn translated(source: &str, line: &[u8], defaults: Defaults<'_>) -> String {
    let line = String::from_utf8_lossy(line);
    match parse(&line).and_then(Entry::with_another_source) {
        Some(entry) => entry.print(source),
        None => message(source, &line, &[], defaults),
    }
}

/// Takes a line in logfmt or JSON and returns its level, and its message with the other
/// members but the source behind it, as `NAME=VALUE` with the value as JSON. `None` for a line
/// in neither form.
pub fn level_and_text(line: &str) -> Option<(String, String)> {
    let entry = parse(line)?;
    let level = unquoted(&entry.level)?;
    let mut text = unquoted(&entry.message)?;
    for (name, value) in entry.others {
        if name != "source" {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    Some((level, text))
}

/// A time in RFC 3339, in UTC, with nanoseconds, as the daemons write it. Times before 1970
/// and after 9999 become the nearest one that can be written.
fn timestamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = OffsetDateTime::UNIX_EPOCH + since.min(LAST_SECOND);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.nanosecond()
    )
}

impl Entry {
    /// The entry of these members. `None` unless their names differ, and a time, a level and
    /// a message are among them.
    fn new(mut members: Vec<Member>) -> Option<Self> {
        let mut take = |name: &str| {
            let place = members.iter().position(|(known, _)| known == name)?;
            Some(members.remove(place).1)
        };
        let (time, level, message) = (take("time")?, take("level")?, take("msg")?);
        let entry = Self {
            time,
            level,
            message,
            others: members,
        };
        entry.names_differ().then_some(entry)
    }

    /// Whether every name occurs once. RFC 8259, 4, leaves it to the parser what a name means
    /// that occurs twice.
    fn names_differ(&self) -> bool {
        let mut names = BTreeSet::from(["time", "level", "msg"]);
        self.others.iter().all(|(name, _)| names.insert(name))
    }

    /// The same entry with `fields.source` for `source`, which is the name of a member of ours.
    fn with_another_source(mut self) -> Option<Self> {
        for (name, _) in &mut self.others {
            if name == "source" {
                *name = "fields.source".to_owned();
            }
        }
        self.names_differ().then_some(self)
    }

    fn print(&self, source: &str) -> String {
        let mut text = format!(
            "{{\"time\":{},\"level\":{},\"source\":{},\"msg\":{}",
            self.time,
            self.level,
            quoted(source),
            self.message
        );
        for (name, value) in &self.others {
            text.push_str(&format!(",{}:{value}", quoted(name)));
        }
        text.push('}');
        escaped(text)
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn unquoted(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// The same JSON with escapes for all characters that are not printable ([`is_printable`]), as
/// a log may be looked at on a terminal.
fn escaped(json: String) -> String {
    if json.chars().all(is_printable) {
        return json;
    }
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            shown if is_printable(shown) => text.push(shown),
            // In a string JSON has these escaped already: this is between two tokens.
            '\0'..='\x1f' => text.push(' '),
            hidden => text.push_str(&format!("\\u{:04x}", u32::from(hidden))),
        }
    }
    text
}

fn parse(line: &str) -> Option<Entry> {
    match line.trim_start_matches(BLANKS).strip_prefix('{') {
        Some(members) => Entry::new(object(members)?).filter(|entry| {
            let known = [&entry.time, &entry.level, &entry.message];
            known.iter().all(|value| value.starts_with('"'))
        }),
        None => Entry::new(logfmt(line)?),
    }
}

/// The members of an object, from the text after its opening brace. `None` unless nothing but
/// blanks follows the closing one.
fn object(text: &str) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    let mut rest = text;
    loop {
        let (Value::String(name), _, after) = first_value(rest)? else {
            return None;
        };
        let (_, value, after) = first_value(after_token(after, ':')?)?;
        members.push((name, value.to_owned()));
        match after_token(after, ',') {
            Some(next) => rest = next,
            None => {
                let end = after_token(after, '}')?;
                return end.trim_matches(BLANKS).is_empty().then_some(members);
            }
        }
    }
}

fn after_token(text: &str, token: char) -> Option<&str> {
    text.trim_start_matches(BLANKS).strip_prefix(token)
}

/// The first value of a text, the same as it is written (a parsed number may lose digits), and
/// the text behind it.
fn first_value(text: &str) -> Option<(Value, &str, &str)> {
    let text = text.trim_start_matches(BLANKS);
    let mut values = Deserializer::from_str(text).into_iter();
    let value = values.next()?.ok()?;
    let (written, rest) = text.split_at_checked(values.byte_offset())?;
    Some((value, written, rest))
}

/// The members of a line of logrus' TextFormatter where it does not write to a terminal:
/// `name=value name="quoted as Go does"`. It leaves out an empty message, which is added.
fn logfmt(line: &str) -> Option<Vec<Member>> {
    let mut members = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let odd = |character: char| matches!(character, ' ' | '"') || character.is_control();
        if name.is_empty() || name.contains(odd) {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(text) => go_string(text)?,
            None => {
                let (value, after) = after.split_at(after.find(' ').unwrap_or(after.len()));
                if value.contains(odd) {
                    return None;
                }
                (value.to_owned(), after)
            }
        };
        members.push((name.to_owned(), quoted(&value)));
        rest = match after.strip_prefix(' ') {
            Some(next) if !next.is_empty() => next,
            None if after.is_empty() => after,
            Some(_) | None => return None,
        };
    }
    if !members.iter().any(|(name, _)| name == "msg") {
        members.push(("msg".to_owned(), quoted("")));
    }
    Some(members)
}

/// The value of a string of Go's strconv.Quote, from the text after its opening quote, and the
/// text after its closing one. `None` for one without an end, and for escapes that Quote does
/// not write.
fn go_string(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text;
    loop {
        let (plain, after) = rest.split_at(rest.find(['"', '\\'])?);
        value.push_str(plain);
        if let Some(after) = after.strip_prefix('"') {
            return Some((value, after));
        }
        let mut escape = after.chars();
        let (_backslash, kind) = (escape.next()?, escape.next()?);
        let mut digits = 0;
        value.push(match kind {
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '"' | '\\' => kind,
            'x' | 'u' | 'U' => {
                digits = match kind {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let code = escape.as_str().get(..digits)?;
                if !code.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return None;
                }
                match u32::from_str_radix(code, 16).ok()? {
                    // A byte that is not UTF-8.
                    0x80.. if kind == 'x' => char::REPLACEMENT_CHARACTER,
                    code => char::from_u32(code)?,
                }
            }
            _ => return None,
        });
        rest = escape.as_str().get(digits..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const DEFAULTS: Defaults<'_> = Defaults {
        time: UNIX_EPOCH,
        level: "error",
    };

    fn parsed(line: &str) -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn dockerd(line: &str) -> String {
        translated("dockerd", line.as_bytes(), DEFAULTS)
    }

    #[test]
    fn lines_of_logrus_keep_their_members_in_their_order() {
        for (line, object) in [
            (
                r#"time="2026-11-21T10:00:00.1+01:00" level=info msg="Starting up""#,
                r#"{"time":"2026-11-21T10:00:00.1+01:00","level":"info","source":"dockerd","msg":"Starting up"}"#,
            ),
            (
                r#"time="t" level=warning msg=short zone=b error="a \"b\" \\ \n\t\x1b\x00\u2028\U0001f600é" empty= a=1"#,
                r#"{"time":"t","level":"warning","source":"dockerd","msg":"short","zone":"b","error":"a \"b\" \\ \n\t\u001b\u0000\u2028😀é","empty":"","a":"1"}"#,
            ),
            (
                r#"time="t" level=info source=/run/containerd address="\xff""#,
                r#"{"time":"t","level":"info","source":"dockerd","msg":"","fields.source":"/run/containerd","address":"�"}"#,
            ),
            (
                r#" { "level" : "info","msg":"serving\u2028","time":"t","n":1.50,"big":18446744073709551616,"o":{"z":[1, 2],"a":null},"source":"x"} "#,
                r#"{"time":"t","level":"info","source":"dockerd","msg":"serving\u2028","n":1.50,"big":18446744073709551616,"o":{"z":[1, 2],"a":null},"fields.source":"x"}"#,
            ),
        ] {
            assert_eq!(dockerd(line), object);
        }
    }

    #[test]
    fn any_other_line_is_a_message_word_for_word() {
        for line in [
            "panic: runtime error: index out of range [1] with length 0",
            "Status: unknown flag: --no-such-flag",
            r#"time="t" level=info msg="no end"#,
            r#"time="t" level=info msg="a\q""#,
            r#"time="t" level=info msg="\u12g4""#,
            r#"time="t" level=info msg="\ud800""#,
            r#"time="t" level=info msg="a"b"#,
            r#"time="t" level=info msg=a msg=b"#,
            r#"time="t" level=info source=a fields.source=b"#,
            r#"time="t" level=info  msg=a"#,
            r#"time="t" level=info msg=a "#,
            r#"time="t" level=info msg=a"b"#,
            r#"time="t" msg=a"#,
            r#"level=info msg=a"#,
            "",
            "{",
            "{}",
            "[]",
            r#"{"time":"t","level":"info"}"#,
            r#"{"time":1,"level":"info","msg":"a"}"#,
            r#"{"time":"t","level":"info","msg":"a"},"#,
            r#"{"time":"t","level":"info","msg":"a",}"#,
            r#"{"time":"t","level":"info","msg":"a","msg":"b"}"#,
            r#"{"time":"t","level":"info","msg":"\ud800"}"#,
            r#"{"time":"t","level":"info","msg":"a" "b":1}"#,
            r#"{"time":"t","level":"info","msg":"a","b":01}"#,
        ] {
            let value = parsed(&dockerd(line));
            let wanted = json!({
                "time": "1970-01-01T00:00:00.000000000Z",
                "level": "error",
                "source": "dockerd",
                "msg": line,
            });
            assert_eq!(value, wanted, "{line}");
        }
    }

    #[test]
    fn no_character_controls_a_terminal() {
        let line = translated(
            "dockerd",
            b"\x1b[2J\x7f\xc2\x9b\xe2\x80\xae\xff\0\r",
            DEFAULTS,
        );
        assert!(line.chars().all(is_printable), "{line}");
        let value = parsed(&line);
        assert_eq!(value["msg"], "\x1b[2J\x7f\u{9b}\u{202e}\u{fffd}\0\r");
        let line = dockerd("{\"time\":\"\u{9b}\",\"level\":\"info\",\"msg\":\"\",\"a\":[1,\r2]}");
        assert_eq!(
            line,
            r#"{"time":"\u009b","level":"info","source":"dockerd","msg":"","a":[1, 2]}"#
        );
    }

    #[test]
    fn level_and_text_are_extracted() {
        let line = r#"time="t" level=fatal msg="a \"b\"" source=x c=d"#;
        for (line, shown) in [
            (line, Some(("fatal", r#"a "b" c="d""#))),
            (
                &dockerd(line),
                Some(("fatal", r#"a "b" fields.source="x" c="d""#)),
            ),
            (
                &dockerd("Usage: dockerd"),
                Some(("error", "Usage: dockerd")),
            ),
            ("Usage: dockerd", None),
        ] {
            let shown = shown.map(|(level, text)| (level.to_owned(), text.to_owned()));
            assert_eq!(level_and_text(line), shown, "{line}");
        }
    }

    #[test]
    fn a_time_has_the_form_of_rfc_3339() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_827_696, 789, "2000-02-29T12:34:56.000000789Z"),
            (i64::MAX.unsigned_abs(), 0, "9999-12-31T23:59:59.000000000Z"),
        ] {
            let time = UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            assert_eq!(timestamp(time), text);
        }
        assert_eq!(
            timestamp(UNIX_EPOCH - Duration::from_secs(1)),
            timestamp(UNIX_EPOCH)
        );
    }

    /// A string as strconv.Quote writes it, or close to it: this escapes some more characters.
    fn go_quoted(text: &str) -> String {
        let mut quoted = String::from("\"");
        for character in text.chars() {
            match character {
                '"' | '\\' => quoted.extend(['\\', character]),
                '\n' => quoted.push_str("\\n"),
                '\0'..='\x1f' | '\x7f' => {
                    quoted.push_str(&format!("\\x{:02x}", u32::from(character)));
                }
                '\u{80}'..='\u{9f}' => quoted.push_str(&format!("\\u{:04x}", u32::from(character))),
                '\u{10000}'.. => quoted.push_str(&format!("\\U{:08x}", u32::from(character))),
                plain => quoted.push(plain),
            }
        }
        quoted + "\""
    }

    proptest! {
        #[test]
        fn any_bytes_are_one_line_of_json(bytes in any::<Vec<u8>>(), prefix in "(time=\"t\" level=info msg=|\\{\"time\":\"t\",)?") {
            let line = translated("containerd", &[prefix.as_bytes(), &bytes].concat(), DEFAULTS);
            prop_assert!(line.chars().all(is_printable), "{}", line);
            let value = parsed(&line);
            prop_assert_eq!(&value["source"], "containerd");
            for name in ["time", "level", "msg"] {
                prop_assert!(value[name].is_string());
            }
        }

        #[test]
        fn every_value_comes_out_unchanged(
            message in any::<String>(),
            values in proptest::collection::btree_map("[a-z._-]{1,8}", any::<String>(), 0..5),
        ) {
            let mut line = format!("time=\"t\" level=info msg={}", go_quoted(&message));
            let mut wanted = json!({"time": "t", "level": "info", "source": "dockerd", "msg": message});
            for (name, value) in values {
                if wanted.get(&name).is_none() {
                    line.push_str(&format!(" {name}={}", go_quoted(&value)));
                    wanted[name] = value.into();
                }
            }
            let value = parsed(&dockerd(&line));
            prop_assert_eq!(value, wanted);
        }

        #[test]
        fn every_member_of_an_object_comes_out_unchanged(
            message in any::<String>(),
            values in proptest::collection::btree_map(any::<String>(), any::<i64>(), 0..5),
        ) {
            let mut wanted = json!({"time": "t", "level": "info", "msg": message});
            for (name, value) in values {
                if wanted.get(&name).is_none() && name != "source" {
                    wanted[name] = value.into();
                }
            }
            let value = parsed(&dockerd(&wanted.to_string()));
            prop_assert_eq!(&value["source"], "dockerd");
            wanted["source"] = "dockerd".into();
            prop_assert_eq!(value, wanted);
        }
    }
}

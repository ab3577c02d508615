//! This program's own log, on standard error: short lines, each with its name in front and
//! no time stamp, since every container engine adds one; or JSON objects.
//!
//! An event of `tracing` has a message and may have fields:
//! `warn!(path = %path.display(), "cannot read {}", path.display())`. The message is a whole
//! sentence, and is all that text shows. JSON shows the fields too, behind the message, with
//! numbers and booleans as such. README.md lists their names.

use std::fmt;
use std::io::{self, IsTerminal};
use std::time::SystemTime;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::messages::json_log::{self, Defaults};
use crate::messages::line::one_line;

/// The form of log lines: `DIND_LOG_FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines such as `dind: warning: MESSAGE`.
    Text,
    /// JSON objects, one a line.
    Json,
}

/// The settings of this program's own log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logs {
    /// `DIND_LOG`: the least important level that is written.
    pub level: Level,
    /// `DIND_LOG_FORMAT`: the form of its lines.
    pub format: LogFormat,
    /// Whether a terminal gets colours: not with `NO_COLOR` of <https://no-color.org>, nor
    /// with `TERM=dumb`.
    pub colours: bool,
}

/// The name of this program in its lines, and the `source` of those in JSON.
const NAME: &str = "dind";

/// Select Graphic Rendition of ECMA-48: bold and red, bold and yellow, and the default.
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const RESET: &str = "\x1b[0m";

/// The message and the fields of an event.
#[derive(Default)]
struct Fields {
    /// As it was written: [`text`] and [`json`] make it one line without secrets.
    message: String,
    /// In the order of the call, and ready to be shown: strings are one line without secrets.
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn of(event: &Event<'_>) -> Self {
        let mut fields = Self::default();
        event.record(&mut fields);
        fields
    }
}

/// What is not named here comes to `record_debug`: `%VALUE`, `?VALUE`, errors and the message.
impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.others.push((name, one_line(value).into())),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }
}

/// Takes a message of any characters and returns the line for it, without its end:
/// `dind: error: MESSAGE`, with [`one_line`] of the message. With `colours`, errors and
/// warnings have the escape sequences of theirs.
pub fn text(level: Level, text: &str, colours: bool) -> String {
    let (name, colour) = match level {
        Level::ERROR => ("error", RED),
        Level::WARN => ("warning", YELLOW),
        Level::INFO => return format!("{NAME}: {}", one_line(text)),
        Level::DEBUG => ("debug", ""),
        Level::TRACE => ("trace", ""),
    };
    match colours && !colour.is_empty() {
        true => format!("{NAME}: {colour}{name}{RESET}: {}", one_line(text)),
        false => format!("{NAME}: {name}: {}", one_line(text)),
    }
}

/// The line of an event as a JSON object, without its end, with the current time.
fn json(level: Level, Fields { message, others }: &Fields) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let time = SystemTime::now();
    let defaults = Defaults { time, level };
    json_log::message(NAME, &one_line(message), others, defaults)
}

/// The form in which tracing-subscriber is to write events.
#[derive(Clone, Copy)]
struct Line {
    format: LogFormat,
    colours: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let fields = Fields::of(event);
        match self.format {
            LogFormat::Text => writeln!(writer, "{}", text(level, &fields.message, self.colours)),
            LogFormat::Json => writeln!(writer, "{}", json(level, &fields)),
        }
    }
}

/// Makes the macros of `tracing` write lines to `writer`, which is standard error's, from here on.
/// To be called once, as a second call panics; before it, events are lost.
pub fn start<W: io::Write + Copy + Send + Sync + 'static>(logs: Logs, writer: W) {
    let stderr = io::stderr();
    tracing_subscriber::fmt()
        .with_writer(move || writer)
        .with_max_level(logs.level)
        .with_ansi(false)
        // It uses eprintln!, which panics where standard error cannot be written.
        .log_internal_errors(false)
        .event_format(Line {
            format: logs.format,
            // JSON has none.
            colours: logs.colours && logs.format == LogFormat::Text && stderr.is_terminal(),
        })
        .init();
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    /// A writer that keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const TEXT: Line = Line {
        format: LogFormat::Text,
        colours: false,
    };

    /// The text that is logged, at every level.
    fn logged(line: Line, log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .event_format(line)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let kept = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }

    #[test]
    fn a_message_is_one_line_with_any_content() {
        let value = "1\nERROR forged\r\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{2028}\0é";
        let shown = r"1\nERROR forged\r\x1b[2J\u{9b}31m\x7f\u{202e}\u{2028}\x00é";
        assert_eq!(
            logged(TEXT, || tracing::error!("cannot read {value}")),
            format!("dind: error: cannot read {shown}\n")
        );
        assert_eq!(one_line(value), shown);
    }

    #[test]
    fn a_message_has_no_password_at_any_level() {
        let proxy = "http://me:pass@proxy:3128";
        for log in [
            || tracing::debug!("HTTP_PROXY={}", "http://me:pass@proxy:3128"),
            || tracing::warn!("--log-opt=splunk-token={}", "pass"),
        ] {
            let text = logged(TEXT, log);
            assert!(text.contains("xxxxx") && !text.contains("pass"), "{text}");
        }
        assert_eq!(one_line(proxy), "http://xxxxx@proxy:3128");
    }

    #[test]
    fn on_a_terminal_errors_and_warnings_have_a_colour() {
        let colours = Line {
            colours: true,
            ..TEXT
        };
        let all = || {
            tracing::error!("a");
            tracing::warn!("a");
            tracing::info!("a");
            tracing::debug!("a");
            tracing::trace!("a");
        };
        assert_eq!(
            logged(colours, all),
            "dind: \x1b[1;31merror\x1b[0m: a\ndind: \x1b[1;33mwarning\x1b[0m: a\n\
             dind: a\ndind: debug: a\ndind: trace: a\n"
        );
        assert_eq!(
            logged(TEXT, all),
            "dind: error: a\ndind: warning: a\ndind: a\ndind: debug: a\ndind: trace: a\n"
        );
    }

    #[test]
    fn json_has_the_same_text_and_no_password() {
        let json = Line {
            format: LogFormat::Json,
            colours: true,
        };
        let text = logged(json, || {
            tracing::warn!("a\n\"{}\"\x1b", "http://me:pass@proxy");
        });
        let value: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let time = value["time"].as_str().unwrap_or_default();
        assert_eq!(
            text,
            format!(
                r#"{{"time":"{time}","level":"warning","source":"dind","msg":"a\\n\"http://xxxxx@proxy\"\\x1b"}}"#
            ) + "\n"
        );
    }

    /// The part of a JSON object after the message.
    fn json_fields(log: impl FnOnce()) -> String {
        let json = Line {
            format: LogFormat::Json,
            ..TEXT
        };
        let text = logged(json, log);
        let (_, fields) = text.split_once(r#""msg":"a""#).unwrap_or_default();
        fields.trim_end().to_owned()
    }

    #[test]
    fn fields_follow_the_message_in_json_and_are_not_in_text() {
        let error = std::fmt::Error;
        let cause: &(dyn std::error::Error + 'static) = &error;
        let remedy: Option<&str> = None;
        let log = || {
            tracing::warn!(
                path = %Path::new("/a b").display(),
                pid = -1_i32,
                bytes = u64::MAX,
                seconds = 0.25,
                strict = true,
                words = ?["x"],
                cause,
                remedy,
                level = "x",
                "a"
            );
        };
        assert_eq!(
            json_fields(log),
            r#","path":"/a b","pid":-1,"bytes":18446744073709551615,"seconds":0.25,"strict":true,"words":"[\"x\"]","cause":"an error occurred when formatting an argument","fields.level":"x"}"#
        );
        assert_eq!(logged(TEXT, log), "dind: warning: a\n");
        assert_eq!(json_fields(|| tracing::warn!("a")), "}");
        assert_eq!(
            json_fields(|| tracing::warn!(seconds = f64::NAN, "a")),
            r#","seconds":null}"#
        );
    }

    #[test]
    fn fields_are_one_line_without_secrets() {
        let address = "http://me:pass@proxy";
        let log = || {
            tracing::error!(
                address,
                shown = %address,
                debugged = ?address,
                option = "--log-opt=splunk-token=pass",
                path = %Path::new("/a\n\x1b\u{202e}").display(),
                "a"
            );
        };
        assert_eq!(
            json_fields(log),
            r#","address":"http://xxxxx@proxy","shown":"http://xxxxx@proxy","debugged":"\"http://xxxxx@proxy\"","option":"--log-opt=splunk-token=xxxxx","path":"/a\\n\\x1b\\u{202e}"}"#
        );
        assert_eq!(logged(TEXT, log), "dind: error: a\n");
    }
}

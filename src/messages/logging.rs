//! How this program speaks: short lines on standard error, each with its name in
//! front and no time stamp, since every container engine adds one; or JSON objects.

use std::fmt;
use std::io::IsTerminal;
use std::time::SystemTime;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::messages::json_log::{self, Otherwise};
use crate::messages::line::one_line;

/// How lines of a log are written: `DIND_LOG_FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// JSON objects, one a line.
    Json,
}

/// What there is to know before the first line of this program's own can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Logs {
    /// `DIND_LOG`: the last level that is written.
    pub level: Level,
    /// `DIND_LOG_FORMAT`.
    pub format: LogFormat,
    /// Whether a terminal gets colours: `NO_COLOR` of <https://no-color.org>, `TERM`.
    pub colours: bool,
}

/// What this program is called in its lines.
const NAME: &str = "dind";

/// Select Graphic Rendition of ECMA-48: bold and red, bold and yellow, neither.
const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const USUAL: &str = "\x1b[0m";

/// A line of this program's own in text: `dind: error: TEXT`.
pub fn text(level: Level, text: &str, colours: bool) -> String {
    let (name, colour) = match level {
        Level::ERROR => ("error", RED),
        Level::WARN => ("warning", YELLOW),
        Level::INFO => return format!("{NAME}: {}", one_line(text)),
        Level::DEBUG => ("debug", ""),
        Level::TRACE => ("trace", ""),
    };
    match colours && !colour.is_empty() {
        true => format!("{NAME}: {colour}{name}{USUAL}: {}", one_line(text)),
        false => format!("{NAME}: {name}: {}", one_line(text)),
    }
}

/// The same in JSON.
fn json(level: Level, text: &str) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let time = SystemTime::now();
    json_log::plain(NAME, &one_line(text), Otherwise { time, level })
}

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
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let mut message = String::new();
        context.format_fields(Writer::new(&mut message), event)?;
        match self.format {
            LogFormat::Text => writeln!(writer, "{}", text(level, &message, self.colours)),
            LogFormat::Json => writeln!(writer, "{}", json(level, &message)),
        }
    }
}

/// Sets it up. To be called once.
pub fn start(logs: Logs) {
    let stderr = std::io::stderr();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(logs.level)
        .with_ansi(false)
        // By eprintln!, which ends the program where standard error takes nothing.
        .log_internal_errors(false)
        .event_format(Line {
            format: logs.format,
            // And in JSON there are none.
            colours: logs.colours && logs.format == LogFormat::Text && stderr.is_terminal(),
        })
        .init();
}

#[cfg(test)]
mod tests {
    use std::io;
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

    /// What is logged, at every level.
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
    fn a_message_is_one_line_whatever_is_in_it() {
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
    fn on_a_terminal_what_is_amiss_has_a_colour() {
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
}

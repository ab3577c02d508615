//! How this program speaks: short lines on standard error, each with its name in
//! front and no time stamp, since every container engine adds one.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::secrets;

/// `text` as one line for people, whatever is in it: variables, flags, file names, what a
/// daemon has written. Nothing in it can end the line and begin another, drive a terminal,
/// or turn the order of what is read; no password and no key is in it.
pub fn line(text: &str) -> String {
    let text = secrets::hidden(text);
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            shown if is_shown(shown) => line.push(shown),
            '\n' | '\r' | '\t' => line.extend(character.escape_default()),
            // As tracing-subscriber has those of them that it escapes itself.
            '\0'..='\x7f' => line.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ => line.extend(character.escape_unicode()),
        }
    }
    line
}

/// Not control characters (C0, DEL and C1: ECMA-48), line and paragraph separators, and
/// those that change the direction of text (Unicode, Bidi_Control).
fn is_shown(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !(character.is_control() || turns || matches!(character, '\u{2028}' | '\u{2029}'))
}

struct Line;

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
        writer.write_str(match *event.metadata().level() {
            Level::ERROR => "dind: error: ",
            Level::WARN => "dind: warning: ",
            Level::INFO => "dind: ",
            Level::DEBUG => "dind: debug: ",
            Level::TRACE => "dind: trace: ",
        })?;
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "{}", line(&text))
    }
}

/// Sets it up. To be called once.
pub fn start() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(Level::INFO)
        .with_ansi(false)
        // By eprintln!, which ends the program where standard error takes nothing.
        .log_internal_errors(false)
        .event_format(Line)
        .init();
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;
    use proptest::prelude::*;

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

    /// What is logged, at every level.
    fn logged(log: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .event_format(Line)
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
            logged(|| tracing::error!("cannot read {value}")),
            format!("dind: error: cannot read {shown}\n")
        );
        assert_eq!(line(value), shown);
    }

    #[test]
    fn a_message_has_no_password_at_any_level() {
        let proxy = "http://me:pass@proxy:3128";
        for log in [
            || tracing::debug!("HTTP_PROXY={}", "http://me:pass@proxy:3128"),
            || tracing::warn!("--log-opt=splunk-token={}", "pass"),
        ] {
            let text = logged(log);
            assert!(text.contains("xxxxx") && !text.contains("pass"), "{text}");
        }
        assert_eq!(line(proxy), "http://xxxxx@proxy:3128");
    }

    proptest! {
        #[test]
        fn a_line_is_a_line(text in any::<String>()) {
            let shown = line(&text);
            prop_assert!(shown.chars().all(is_shown), "{:?}", shown);
            prop_assert_eq!(line(&shown), shown);
        }
    }
}

//! Any text as one line that is safe to print.

use crate::messages::secrets;

/// Takes any text, such as variables, flags, file names and a daemon's output, and returns it
/// as one line of printable characters ([`is_printable`]) without secrets ([`secrets::hide`]).
/// Every other character is escaped, so none can begin another line, control a terminal or
/// reorder what is displayed. Its own results are returned unchanged.
pub fn one_line(text: &str) -> String {
    let text = secrets::hide(text);
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            printable if is_printable(printable) => line.push(printable),
            '\n' | '\r' | '\t' => line.extend(character.escape_default()),
            // The notation of tracing-subscriber's own escapes.
            '\0'..='\x7f' => line.push_str(&format!("\\x{:02x}", u32::from(character))),
            _ => line.extend(character.escape_unicode()),
        }
    }
    line
}

/// Whether a character may stand in a line as it is. Control characters (C0, DEL and C1:
/// ECMA-48), line and paragraph separators, and those that change the direction of text
/// (Unicode, Bidi_Control) may not.
pub fn is_printable(character: char) -> bool {
    let turns = matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !(character.is_control() || turns || matches!(character, '\u{2028}' | '\u{2029}'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_line_is_a_line(text in any::<String>()) {
            let shown = one_line(&text);
            prop_assert!(shown.chars().all(is_printable), "{:?}", shown);
            prop_assert_eq!(one_line(&shown), shown);
        }
    }
}

//! One line for people out of any text.

use crate::messages::secrets;

/// `text` as one line for people, whatever is in it: variables, flags, file names, what a
/// daemon has written. Nothing in it can end the line and begin another, drive a terminal,
/// or turn the order of what is read; no password and no key is in it.
pub fn one_line(text: &str) -> String {
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
pub fn is_shown(character: char) -> bool {
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
            prop_assert!(shown.chars().all(is_shown), "{:?}", shown);
            prop_assert_eq!(one_line(&shown), shown);
        }
    }
}

//! Building and quoting of command lines.

use std::ffi::{OsStr, OsString};

use crate::messages::secrets;

/// Returns a flag that ends with `=` and its value as one argument.
pub fn with_value(flag: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(flag);
    word.push(value);
    word
}

/// Returns words as a list in a sentence: `a, b and c`.
pub fn listed<Word: AsRef<str>>(words: &[Word]) -> String {
    match words {
        [] => String::new(),
        [word] => word.as_ref().to_owned(),
        [before @ .., last] => {
            let before: Vec<&str> = before.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", before.join(", "), last.as_ref())
        }
    }
}

/// Returns `words` quoted for a POSIX shell, with passwords replaced: see
/// [`secrets`](crate::messages::secrets).
pub fn quoted(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> String {
    let words: Vec<String> = words
        .into_iter()
        .map(|word| word.as_ref().to_string_lossy().into_owned())
        .collect();
    let words = secrets::hide_in_words(words.iter().map(String::as_str));
    // A NUL byte cannot be quoted, and cannot be in an argument either.
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

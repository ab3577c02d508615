//! What stands in a log: a line is a line, and a password that is put where people put
//! them is not in it. The first byte is the length of the password that follows.

#![no_main]

use dind::messages::line::one_line;
use dind::messages::secrets;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let line = one_line(&text);
    assert!(!line.contains(char::is_control), "{line:?}");
    assert_eq!(one_line(&line), line);
    secrets::hide_in_words(text.split('\n'));
    let Some((length, rest)) = data.split_first() else {
        return;
    };
    let (password, around) = rest.split_at(usize::from(*length).min(rest.len()));
    let (password, around) = (
        String::from_utf8_lossy(password),
        String::from_utf8_lossy(around),
    );
    // What is shorter is in other words by chance.
    if password.len() < 8 || around.contains(&*password) || password.contains(['@', 'x']) {
        return;
    }
    for word in [
        format!("{around}://me:{password}@host"),
        format!("{around}token={password}"),
        format!("{around}-proxy=me:{password}@host"),
    ] {
        let shown = secrets::hide_in_word(&word);
        assert!(!shown.contains(&*password), "{shown:?}");
        let blank = |character: char| character.is_whitespace() || "\"'".contains(character);
        if !password.contains(blank) {
            let shown = secrets::hide(&format!("{around} {word}"));
            assert!(!shown.contains(&*password), "{shown:?}");
        }
    }
});

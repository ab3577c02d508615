//! The program before iptables: its arguments, one a line, and behind the first line `==` what the
//! kernel answers.

#![no_main]

use dind::shortcut::arguments::{Asked, Family, question};
use dind::shortcut::netlink::{Message, Verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let end = data.windows(4).position(|part| part == b"\n==\n");
    let (call, answer) = match end {
        Some(end) => (&data[..end], &data[end + 4..]),
        None => (data, &[][..]),
    };
    let words = || call.split(|byte| *byte == b'\n');
    for family in [Family::Ipv4, Family::Ipv6] {
        let Some(asked) = question(family, words()) else {
            continue;
        };
        let option = words().find(|word| !matches!(*word, b"--wait" | b"-t" | b"nat" | b"filter"));
        let expected = match asked.asked {
            Asked::Chain => matches!(option, Some(b"-F" | b"-X")),
            Asked::List => option == Some(b"-n"),
            Asked::Rule(_) => matches!(option, Some(b"-C" | b"-D")),
            Asked::NewChain => option == Some(b"-N"),
            Asked::NewRule { last: true, .. } => option == Some(b"-A"),
            Asked::NewRule { last: false, .. } => option == Some(b"-I"),
        };
        assert!(expected, "{asked:?}");
        assert!(words().any(|word| word == asked.chain));
        assert!(asked.chain.iter().all(u8::is_ascii_graphic));
    }
    let mut rest = answer;
    while let Some((message, after)) = Message::first(rest) {
        let _ = message.error();
        if let Some(Verdict::Jump(name) | Verdict::Extension(name)) =
            message.verdict(b"filter", b"FORWARD")
        {
            assert!(name.is_empty() || answer.windows(name.len()).any(|part| part == name));
        }
        assert!(after.len() < rest.len());
        rest = after;
    }
});

//! `DOCKER_TLS_SAN`: what is read is read again from what is shown.

#![no_main]

use dind::input::san::Name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Some(name) = Name::host(text) {
        let shown = name.to_string();
        assert_eq!(Name::parse_list(&shown), Ok(vec![name]), "{shown:?}");
    }
    match Name::parse_list(text) {
        Ok(names) => {
            assert!(!names.is_empty() && names.len() <= text.len());
            let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
            let shown = shown.join(",");
            // It goes into a certificate, as an IA5String.
            assert!(
                shown.bytes().all(|byte| byte.is_ascii_graphic()),
                "{shown:?}"
            );
            assert_eq!(Name::parse_list(&shown), Ok(names), "{shown:?}");
        }
        // It stands in one line of a log.
        Err(fault) => assert!(!fault.to_string().contains(char::is_control), "{fault:?}"),
    }
});

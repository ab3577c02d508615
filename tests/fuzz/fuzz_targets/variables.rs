//! The variables, one `NAME=VALUE` a line; most of all the words of DOCKER_DAEMON_ARGS.

#![no_main]

use std::time::Duration;

use dind::input::config::Config;
use dind_fuzz::environment;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    // Alone, with every character that a line cannot have.
    let value = text.replace('\0', "");
    let alone = [("DOCKER_DAEMON_ARGS".into(), value.clone().into())];
    let config = Config::read([], alone);
    if config.check(|_| true).is_ok() {
        let words = config.daemon_arguments.iter();
        let words: Option<Vec<&str>> = words.map(|word| word.to_str()).collect();
        let words = words.unwrap_or_else(|| panic!("words of text are text"));
        let length: usize = words.iter().map(|word| word.len()).sum();
        assert!(length <= value.len());
        // Quoted, they are the same words again, whatever is in them.
        let joined = shlex::try_join(words.iter().copied());
        let joined = joined.unwrap_or_else(|error| panic!("{error}"));
        let again = [("DOCKER_DAEMON_ARGS".into(), joined.into())];
        let again = Config::read([], again);
        assert_eq!(again.check(|_| true), Ok(()));
        assert_eq!(again.daemon_arguments, config.daemon_arguments);
    }
    let flags = [(
        "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS".into(),
        value.clone().into(),
    )];
    let config = Config::read([], flags);
    for published in &config.rootlesskit.published {
        assert!(published.port > 0 && published.inside > 0 && value.contains(&published.text));
    }
    let config = Config::read(["dind".into()], environment(data));
    let allowed = Duration::from_millis(100)..=Duration::from_secs(86_400);
    assert!(allowed.contains(&config.stop_timeout));
    assert!(allowed.contains(&config.ready_timeout));
    assert!(allowed.contains(&config.hook_timeout));
    if let Err(fault) = config.check(|_| true) {
        assert_eq!(fault.status, 2);
        assert!(!fault.to_string().contains(char::is_control), "{fault:?}");
    }
});

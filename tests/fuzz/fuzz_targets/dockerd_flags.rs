//! dockerd's flags, one word a line.

#![no_main]

use std::ffi::OsString;

use dind::input::dockerd_arguments::{DockerdArguments, DockerdOptions};
use dind_fuzz::words;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words = words(data);
    let arguments = DockerdArguments::new(&words, &[]);
    let Ok(options) = arguments.options(None) else {
        panic!("flags alone are never refused");
    };
    arguments.informational();
    arguments.config_file();
    // Every host is out of the words, and leaving none out changes nothing.
    let joined = words.join(OsString::from("\n").as_os_str());
    let joined = joined.to_string_lossy();
    for host in &options.hosts {
        assert!(joined.contains(host.as_str()), "{host:?} of {joined:?}");
    }
    assert!(arguments.words().eq(&words));
    assert_eq!(arguments.without_hosts(|_| false), words);
    // What is left out is out, and nothing else has changed by that.
    let kept = arguments.without_hosts(|_| true);
    let without = DockerdOptions {
        hosts: Vec::new(),
        ..options
    };
    let left = DockerdArguments::new(&kept, &[]).options(None);
    assert_eq!(left, Ok(without), "{kept:?}");
    if words.iter().any(|word| word == "--") {
        return;
    }
    // The last one wins, whatever came before: the first word is for a flag that is waiting
    // for its value.
    let last = ["x".into(), "--data-root=/last".into()];
    let last = DockerdArguments::new(&words, &last).options(None);
    assert!(last.is_ok_and(|last| last.data_root.as_os_str() == "/last"));
});

//! dockerd's flags, one word a line.

#![no_main]

use std::ffi::OsString;

use dind::input::dockerd_options::{DockerdOptions, without_hosts};
use dind_fuzz::words;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let arguments = words(data);
    let Ok(options) = DockerdOptions::read(&arguments, None) else {
        panic!("flags alone are never refused");
    };
    DockerdOptions::informational(&arguments);
    DockerdOptions::config_file(&arguments);
    // Every host is out of the words, and leaving none out changes nothing.
    let joined = arguments.join(OsString::from("\n").as_os_str());
    let joined = joined.to_string_lossy();
    for host in &options.hosts {
        assert!(joined.contains(host.as_str()), "{host:?} of {joined:?}");
    }
    assert_eq!(without_hosts(&arguments, |_| false), arguments);
    if arguments.iter().any(|word| word == "--") {
        return;
    }
    // What is left out is out, and nothing else has changed by that.
    let kept = without_hosts(&arguments, |_| true);
    let without = DockerdOptions {
        hosts: Vec::new(),
        ..options
    };
    assert_eq!(DockerdOptions::read(&kept, None), Ok(without), "{kept:?}");
    // The last one wins, whatever came before.
    let mut with_last = arguments;
    // The first is for a flag that is waiting for its value.
    with_last.extend(["x".into(), "--data-root=/last".into()]);
    let last = DockerdOptions::read(&with_last, None);
    assert!(last.is_ok_and(|last| last.data_root.as_os_str() == "/last"));
});

//! daemon.json.

#![no_main]

use std::ffi::OsString;
use std::path::Path;

use dind::input::dockerd_arguments::DockerdArguments;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &str| {
    let path = Path::new("/etc/docker/daemon.json");
    match DockerdArguments::default().options(Some((path, text))) {
        Err(fault) => {
            // One line, with the place, and nothing of the file in it: it may hold secrets.
            assert!(fault.message.starts_with("/etc/docker/daemon.json: "));
            assert!(fault.to_string().len() < 200, "{fault}");
            assert!(!fault.to_string().contains(char::is_control), "{fault:?}");
        }
        Ok(options) => {
            let json = text.trim_start_matches('\u{feff}');
            let json: Value = match serde_json::from_str(json) {
                Ok(value) => value,
                Err(_) if json.trim().is_empty() => Value::Null,
                Err(error) => panic!("read in spite of {error}"),
            };
            let string = |key: &str| json.get(key).and_then(Value::as_str);
            assert_eq!(
                options.data_root.as_os_str(),
                string("data-root").unwrap_or("/var/lib/docker")
            );
            assert_eq!(options.group.as_deref(), string("group"));
            assert_eq!(options.file_hosts.is_some(), json.get("hosts").is_some());
            // A flag wins over the file.
            let flag = [OsString::from("--data-root=/flag")];
            let with = DockerdArguments::new(&flag, &[]).options(Some((path, text)));
            assert!(with.is_ok_and(|with| with.data_root.as_os_str() == "/flag"));
        }
    }
});

//! Lines of the daemons as JSON: always one object in one line, with the same four members
//! first, and with the values that the daemon gave it.

#![no_main]

use std::time::UNIX_EPOCH;

use dind::messages::json_log::{Defaults, level_and_text, translated};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const DEFAULTS: Defaults<'_> = Defaults {
    time: UNIX_EPOCH,
    level: "error",
};

fn object(line: &str) -> serde_json::Map<String, Value> {
    match serde_json::from_str(line) {
        Ok(Value::Object(object)) => object,
        other => panic!("{other:?} of {line:?}"),
    }
}

fuzz_target!(|data: &[u8]| {
    let line = translated("dockerd", data, DEFAULTS);
    assert!(!line.contains(char::is_control), "{line:?}");
    let mut translation = object(&line);
    assert_eq!(translation["source"], "dockerd");
    assert!(line.starts_with("{\"time\":\""), "{line:?}");
    for name in ["time", "level", "msg"] {
        assert!(translation[name].is_string(), "{line:?}");
    }
    assert!(level_and_text(&line).is_some(), "{line:?}");

    // What is JSON already keeps its members, or is a message as a whole.
    let text = String::from_utf8_lossy(data);
    if let Ok(Value::Object(mut given)) = serde_json::from_str(&text)
        && translation["msg"] != *text
    {
        if let Some(source) = given.remove("source") {
            given.insert("fields.source".into(), source);
        }
        translation.remove("source");
        assert_eq!(translation, given);
    }
    // And what has been made JSON is read as such.
    let again = object(&translated("dind", line.as_bytes(), DEFAULTS));
    assert_eq!(again["source"], "dind");
    assert!(again["msg"] == line.as_str() || again["fields.source"] == "dockerd");
});

//! A request to the API of published ports: its head, its content, and the port that it asks for.
//! More bytes change nothing of a request that is there.

#![no_main]

use dind::api::ports::Spec;
use dind::api::request::{LARGEST, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let found = Request::parse(data);
    assert!(data.len() < LARGEST || !matches!(found, Ok(None)));
    let content = match &found {
        Ok(Some(request)) => &request.content,
        _ => data,
    };
    assert!(content.len() <= data.len());
    if let Ok(spec) = Spec::parse(content) {
        let again = Spec::parse(spec.json().to_string().as_bytes());
        assert_eq!(again.ok(), Some(spec));
    }
    if let Ok(Some(request)) = found {
        let more = [data, b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(Request::parse(&more).ok().flatten(), Some(request));
    }
});

//! dockerd's answers to the image loader: the events of a load, and refusals.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tracing::debug;

/// How long dockerd may neither read nor write. While it unpacks layers it reports its progress.
pub const STALL: Duration = Duration::from_secs(600);

/// The longest line of an answer, in bytes: more than any that dockerd writes.
const LONGEST_LINE: usize = 1 << 20;

/// dockerd's answer to a load so far: a line of JSON for each event (Docker Engine API,
/// ImageLoad).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadAnswer {
    /// The names of the images that were loaded, or the ids of those without a name.
    images: Vec<String>,
    /// The first reason for which the load failed.
    error: Option<String>,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
}

impl LoadAnswer {
    /// Takes the next bytes of the answer, however it is split. The error is a line of more than
    /// 1 MiB.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.line.extend(bytes);
        if let Some(end) = memchr::memrchr(b'\n', &self.line) {
            let rest = self.line.split_off(end.saturating_add(1));
            let lines = std::mem::replace(&mut self.line, rest);
            for line in lines.split(|byte| *byte == b'\n') {
                self.event(line);
            }
        }
        if self.line.len() > LONGEST_LINE {
            bail!("dockerd's answer has a line of more than {LONGEST_LINE} bytes");
        }
        Ok(())
    }

    /// Takes one line. Lines that are not JSON are not dockerd's, and are ignored.
    fn event(&mut self, line: &[u8]) {
        let Ok(value) = serde_json::from_slice::<Value>(line) else {
            return;
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let detail = value
            .get("errorDetail")
            .and_then(|detail| detail.get("message"));
        let error = text(detail)
            .or_else(|| text(value.get("error")))
            .or_else(|| text(value.get("message")));
        if let Some(error) = error {
            self.error.get_or_insert_with(|| error.trim().to_owned());
        }
        let stream = value
            .get("stream")
            .and_then(Value::as_str)
            .unwrap_or_default();
        for line in stream.lines() {
            let named = line.strip_prefix("Loaded image: ");
            if let Some(image) = named.or_else(|| line.strip_prefix("Loaded image ID: ")) {
                self.images.push(image.trim().to_owned());
            } else if line.starts_with("Error unpacking image") {
                // containerd's image store reports this error and continues (`LoadImage` in
                // moby's daemon/containerd/image_exporter.go).
                self.error.get_or_insert_with(|| line.to_owned());
            } else if !line.is_empty() {
                debug!("dockerd: {line}");
            }
        }
    }

    /// Takes the HTTP status of a complete answer, and returns the names of the images that were
    /// loaded, as dockerd wrote them. The error is the reason for which the load failed.
    pub fn images(mut self, status: Option<u16>) -> Result<Vec<String>> {
        // The last line may have no newline.
        let line = std::mem::take(&mut self.line);
        self.event(&line);
        if let Some(error) = self.error {
            // The path is that of a file which dockerd expects in the unpacked archive.
            if error.contains("/docker-import-") && error.ends_with("no such file or directory") {
                bail!("it contains no image, or an incomplete one ({error})");
            }
            bail!(error);
        }
        match status {
            Some(200) if self.images.is_empty() => bail!("it contains no image"),
            Some(200) => Ok(self.images),
            status => bail!(refusal(&Value::Null, status)),
        }
    }
}

/// The reason for which dockerd refused a request: its own message, or the HTTP status.
pub fn refusal(answer: &Value, status: Option<u16>) -> String {
    match answer.get("message").and_then(Value::as_str) {
        Some(message) => message.trim().to_owned(),
        None => format!(
            "dockerd answered with HTTP status {}",
            status.unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_of_a_load_are_parsed() -> Result<()> {
        // Written by 26.1 and 28.5, for valid archives and for broken ones.
        let text = "{\"status\":\"Loading layer\",\"progressDetail\":{\"current\":1,\"total\":2},\"id\":\"a\"}\r\n\
            {\"stream\":\"Loaded image: busybox:latest\\n\"}\r\n\
            {\"stream\":\"The image b:1 already exists, renaming the old one with ID x to empty string\\n\"}\r\n\
            {\"stream\":\"Loaded image ID: sha256:1\\nLoaded image ID: sha256:2\\n\"}\r\n\
            {\"errorDetail\":{\"message\":\"unexpected EOF\\n\"},\"error\":\"unexpected EOF\"}\r\n{\"mess";
        for size in 1..text.len() {
            let mut answer = LoadAnswer::default();
            for part in text.as_bytes().chunks(size) {
                answer.take(part)?;
            }
            assert_eq!(answer.line, b"{\"mess");
            assert_eq!(answer.images, ["busybox:latest", "sha256:1", "sha256:2"]);
            assert_eq!(answer.error.as_deref(), Some("unexpected EOF"));
        }
        Ok(())
    }

    #[test]
    fn the_end_of_an_answer_gives_images_or_a_reason() -> Result<()> {
        let import = "open /x/docker-import-1/repositories: no such file or directory";
        let import_line = format!(r#"{{"error":"{import}"}}"#);
        let import_reason = format!("it contains no image, or an incomplete one ({import})");
        for (text, status, expected) in [
            (r#"{"stream":"Loaded image: a:1\n"}"#, 200, Ok("a:1")),
            (r#"{"message":"not allowed"}"#, 403, Err("not allowed")),
            (
                r#"{"stream":"Loaded image: a:1\nError unpacking image a:1: no space\n"}"#,
                200,
                Err("Error unpacking image a:1: no space"),
            ),
            (import_line.as_str(), 200, Err(import_reason.as_str())),
            ("", 200, Err("it contains no image")),
            ("", 500, Err("dockerd answered with HTTP status 500")),
        ] {
            let mut answer = LoadAnswer::default();
            answer.take(text.as_bytes())?;
            let images = answer.images(Some(status));
            let found = images.map(|images| images.join(" "));
            let found = found.map_err(|error| error.to_string());
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found, expected, "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_line_without_an_end_is_an_error() {
        let mut answer = LoadAnswer::default();
        let part = [b'x'; 1 << 16];
        let taken = (0..=LONGEST_LINE / part.len()).try_for_each(|_| answer.take(&part));
        assert!(taken.is_err());
    }
}

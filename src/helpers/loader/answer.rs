//! dockerd's answers to the image loader: the lines that it writes of a load, and refusals.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;
use tracing::debug;

/// How long dockerd may take nothing and write nothing. While it unpacks layers it writes how
/// far it is.
pub const STALL: Duration = Duration::from_secs(600);

/// More than any line that dockerd writes of a load, in bytes.
const LONGEST_LINE: usize = 1 << 20;

/// What dockerd has written of a load so far: JSON, a line for each event (Docker Engine API,
/// ImageLoad).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadAnswer {
    /// The names of images that are there now, or the ids of those without.
    images: Vec<String>,
    /// Why it failed: the first reason.
    error: Option<String>,
    /// The beginning of a line that has not ended.
    line: Vec<u8>,
}

impl LoadAnswer {
    /// Takes the next bytes, in whatever parts they come. The error is that they are a line of
    /// more than 1 MiB.
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
            bail!("dockerd says more than {LONGEST_LINE} bytes in one line");
        }
        Ok(())
    }

    /// Reads one line. Those that are not JSON are not dockerd's.
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
                // Of containerd's store, which says so and goes on (`LoadImage` in moby's
                // daemon/containerd/image_exporter.go).
                self.error.get_or_insert_with(|| line.to_owned());
            } else if !line.is_empty() {
                debug!("dockerd says: {line}");
            }
        }
    }

    /// The images that were loaded, in dockerd's words, when all of the answer has come and had
    /// this HTTP status. The error is why the load failed.
    pub fn images(mut self, status: Option<u16>) -> Result<Vec<String>> {
        // The last line need not end.
        let line = std::mem::take(&mut self.line);
        self.event(&line);
        if let Some(error) = self.error {
            // The name is that of a file of an archive, unpacked by dockerd.
            if error.contains("/docker-import-") && error.ends_with("no such file or directory") {
                bail!("there is no image in it, or not all of one ({error})");
            }
            bail!(error);
        }
        match status {
            Some(200) if self.images.is_empty() => bail!("there is no image in it"),
            Some(200) => Ok(self.images),
            status => bail!(refusal(&Value::Null, status)),
        }
    }
}

/// Why dockerd does not do what it was asked for: its own message, or the HTTP status.
pub fn refusal(answer: &Value, status: Option<u16>) -> String {
    match answer.get("message").and_then(Value::as_str) {
        Some(message) => message.trim().to_owned(),
        None => format!(
            "the daemon's answer has status {}",
            status.unwrap_or_default()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dockerd_says_of_a_load_is_understood() -> Result<()> {
        // By 26.1 and 28.5, for archives of their own and for broken ones.
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
        let import_reason = format!("there is no image in it, or not all of one ({import})");
        for (text, status, expected) in [
            (r#"{"stream":"Loaded image: a:1\n"}"#, 200, Ok("a:1")),
            (r#"{"message":"not allowed"}"#, 403, Err("not allowed")),
            (
                r#"{"stream":"Loaded image: a:1\nError unpacking image a:1: no space\n"}"#,
                200,
                Err("Error unpacking image a:1: no space"),
            ),
            (import_line.as_str(), 200, Err(import_reason.as_str())),
            ("", 200, Err("there is no image in it")),
            ("", 500, Err("the daemon's answer has status 500")),
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

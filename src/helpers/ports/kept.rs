//! The list of the published ports, in a file beside the API's socket: a server that is started in the
//! place of one that was killed publishes them again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;
use serde_json::{Value, json};

use super::holder::Holder;
use crate::api::ports::Spec;
use crate::facts::processes;
use crate::sys::{read, write};

/// The name of the file.
const NAME: &str = "ports.json";

/// The most that is read of it, in bytes: every port of both protocols has room.
const LIMIT: u64 = 64 << 20;

/// What is in the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct List {
    /// The pid of the server that has written it, and when that was started.
    pub server: Option<(i32, u64)>,
    /// The ports that it has published.
    pub ports: Vec<Entry>,
}

/// A port in the list.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id, which dockerd knows.
    pub id: u64,
    /// The addresses.
    pub spec: Spec,
    /// The process that holds it.
    pub pid: i32,
    /// When that was started.
    pub started: u64,
}

/// The list.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
    directory: PathBuf,
}

impl Kept {
    /// The list in this directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            path: directory.join(NAME),
            directory: directory.to_owned(),
        }
    }

    /// Replaces the list. Where that fails, there is none afterwards, as far as that is possible:
    /// an old one has ports that are free since, and would lead to whoever has the address now.
    pub fn write<'a>(
        &self,
        ports: impl Iterator<Item = (u64, &'a Spec, &'a Holder)>,
    ) -> io::Result<()> {
        let entries = ports.map(|(id, spec, holder)| {
            json!({
                "id": id,
                "spec": spec.json(),
                "pid": holder.pid,
                "started": holder.started,
            })
        });
        let pid = Pid::this().as_raw();
        let list = json!({
            "server": { "pid": pid, "started": processes::started(pid) },
            "ports": Value::from_iter(entries),
        });
        let text = list.to_string();
        let written = read::directory(&self.directory).and_then(|directory| {
            write::replace(&directory, NAME.as_ref(), 0o600, text.as_bytes())
        });
        if written.is_err() {
            // It takes neither room nor a descriptor. The first error is the one to report.
            let _ = fs::remove_file(&self.path);
        }
        written
    }

    /// Reads the list, which is empty where there is none.
    pub fn read(&self) -> List {
        let text = read::text(&self.path, LIMIT).ok().flatten();
        text.as_deref().map(parse).unwrap_or_default()
    }
}

fn parse(text: &str) -> List {
    let list: Value = serde_json::from_str(text).unwrap_or_default();
    let process = |value: &Value| {
        let pid = value.get("pid")?.as_i64()?.try_into();
        let pid = pid.ok().filter(|pid: &i32| *pid > 0)?;
        Some((pid, value.get("started")?.as_u64()?))
    };
    let entry = |value: &Value| {
        let (pid, started) = process(value)?;
        Some(Entry {
            id: value.get("id")?.as_u64()?,
            spec: Spec::parse(value.get("spec")?.to_string().as_bytes()).ok()?,
            pid,
            started,
        })
    };
    let ports = list.get("ports").and_then(Value::as_array);
    List {
        server: list.get("server").and_then(process),
        ports: ports.into_iter().flatten().filter_map(entry).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ports::Protocol;

    #[test]
    fn what_cannot_be_understood_is_left_out() {
        let good = r#"{"id":7,"pid":8,"started":9,"spec":{"proto":"tcp6","parentIP":"::","parentPort":80,"childIP":"10.0.0.1","childPort":81}}"#;
        let expected = Entry {
            id: 7,
            spec: Spec {
                protocol: Protocol::Tcp,
                parent: ([0; 8], 80).into(),
                child: ([10, 0, 0, 1], 81).into(),
            },
            pid: 8,
            started: 9,
        };
        let other = good.replace("\"pid\":8", "\"pid\":-1");
        let server = r#"{"pid":2,"started":3}"#;
        let text = format!(r#"{{"server":{server},"ports":[{good},{{}},7,{other}]}}"#);
        let list = List {
            server: Some((2, 3)),
            ports: vec![expected],
        };
        assert_eq!(parse(&text), list);
        for text in ["", "{}", "[", "[null]", r#"{"server":7,"ports":{}}"#] {
            assert_eq!(parse(text), List::default(), "{text}");
        }
    }
}

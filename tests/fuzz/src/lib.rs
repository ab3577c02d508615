//! What several targets need: words and sections out of bytes, and facts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use dind::facts::nat::{Ipv6, Nat, Rules, Switch};
use dind::facts::rootless::{Account, Device, Rootless};

/// The lines of `data` as arguments: any bytes, but no NUL, which execve(2) cannot pass.
pub fn words(data: &[u8]) -> Vec<OsString> {
    data.split(|byte| *byte == b'\n')
        .filter(|word| !word.is_empty())
        .map(|word| word.split(|byte| *byte == 0).next().unwrap_or_default())
        .map(|word| OsStr::from_bytes(word).to_owned())
        .collect()
}

/// The lines `NAME=VALUE` of `data` as an environment.
pub fn environment(data: &[u8]) -> Vec<(OsString, OsString)> {
    words(data)
        .iter()
        .filter_map(|line| {
            let bytes = line.as_bytes();
            let equals = bytes.iter().position(|byte| *byte == b'=')?;
            let (name, value) = bytes.split_at(equals);
            let (name, value) = (OsStr::from_bytes(name), OsStr::from_bytes(&value[1..]));
            Some((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// The text after each line `== NAME`, as tests/lab.d/facts.sh prints it.
pub fn sections(text: &str) -> BTreeMap<&str, String> {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let mut current = "";
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("== ") {
            Some(name) => current = name.trim_end(),
            None => sections.entry(current).or_default().push_str(line),
        }
    }
    sections
}

/// All that root needs for an engine in a user namespace but the ids.
pub fn enough() -> Rootless {
    Rootless {
        account: Account {
            name: Some("rootless".into()),
            user: 1000,
            group: 1000,
        },
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        subuids: Vec::new(),
        subgids: Vec::new(),
        denied: Vec::new(),
        masked: None,
        has_apparmor: false,
        apparmor: None,
        settings: Vec::new(),
        tun: Device::Closed {
            mode: 0o600,
            own: true,
        },
        fuse: Device::Missing,
        cgroup: false,
        no_new_privileges: true,
        slirp4netns: Some("/usr/bin/slirp4netns".into()),
        pasta: None,
        nat: Nat {
            ipv4: Switch::Fixed,
            ipv6: Switch::Fixed,
            ipv6_route: Ipv6::None,
            rules: Rules::Unknown,
            hosts: false,
            dockerd: false,
        },
        receive_buffer: Some(6 << 20),
        map_programs: None,
        own_home: true,
        program: "/usr/local/bin/dind".into(),
    }
}

//! dockerd's arguments: the only place where they are joined and parsed as flags; and the
//! options in them and in daemon.json that a start depends on.
//!
//! dockerd reads its flags with spf13/pflag: `--flag=value`, `--flag value`,
//! `-H value`, `-Hvalue`, `-H=value`, and one-letter switches run together. The
//! names are those of moby's cmd/dockerd (`config.go`, `options.go`). Flags that
//! are not named here go to dockerd unread.

use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::messages::fault::Fault;

/// dockerd's default for `--config-file`.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/docker/daemon.json";

/// dockerd's default for `--group`.
const DEFAULT_GROUP: &str = "docker";

/// One-letter switches of dockerd: they take no value.
const SHORT_SWITCHES: &[char] = &['D', 'h', 'v'];

/// Long switches that are read here.
const SWITCHES: &[&str] = &[
    "--debug",
    "--ip-forward",
    "--ip6tables",
    "--iptables",
    "--tls",
    "--tlsverify",
];

/// Long flags that are read here and take the next word, whatever it begins with.
const VALUED: &[&str] = &[
    "--bip",
    "--bip6",
    "--bridge",
    "--config-file",
    "--containerd",
    "--data-root",
    "--default-address-pool",
    "--default-network-opt",
    "--dns",
    "--dns-opt",
    "--dns-search",
    "--exec-root",
    "--feature",
    "--firewall-backend",
    "--fixed-cidr",
    "--graph",
    "--group",
    "--host",
    "--log-level",
    "--mtu",
    "--pidfile",
    "--storage-driver",
    "--tlscacert",
    "--tlscert",
    "--tlskey",
];

/// Long switches of dockerd that stand for "print something and end".
const INFORMATIONAL: &[&str] = &["--help", "--version", "--validate"];

/// The options of dockerd that a start depends on, from its flags and daemon.json.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerdOptions {
    /// `--data-root`: images, containers, volumes.
    pub data_root: PathBuf,
    /// Whether the user chose it.
    pub data_root_set: bool,
    /// `--exec-root`: run-time state.
    pub exec_root: PathBuf,
    /// `--pidfile`.
    pub pid_file: PathBuf,
    /// `--group`: the group of the Unix socket; `None` for dockerd's default.
    pub group: Option<String>,
    /// `--host` flags, in order.
    pub hosts: Vec<String>,
    /// `hosts` of daemon.json, where it has them: dockerd then refuses `--host` flags.
    pub file_hosts: Option<Vec<String>>,
    /// The options about TLS that the user set.
    pub tls: TlsOptions,
    /// Whether the user runs containerd: `--containerd`.
    pub containerd: bool,
    /// Whether dockerd runs containerd inside of itself: the feature `embedded-containerd`.
    pub containerd_embedded: bool,
    /// The feature `containerd-snapshotter`, where it is set: whether dockerd uses containerd's
    /// image store.
    pub containerd_store: Option<bool>,
    /// Whether containers get user ids of their own: `--userns-remap`.
    pub userns_remap: bool,
    /// `--storage-driver`.
    pub storage_driver: Option<String>,
    /// Whether the user chose addresses for the default bridge or for networks.
    pub addresses_set: bool,
    /// The address that the user chose for the default bridge: `--bip`.
    pub bridge_address: Option<Ipv4Addr>,
    /// Whether the user chose an MTU.
    pub mtu_set: bool,
    /// Whether the user named resolvers for containers.
    pub dns_set: bool,
    /// Whether the user chose options for them: `--dns-opt`.
    pub dns_options_set: bool,
    /// Whether the user chose search domains for them: `--dns-search`.
    pub dns_search_set: bool,
    /// Whether the user told dockerd whether to use iptables.
    pub iptables_set: bool,
    /// Whether the user told dockerd whether to use ip6tables.
    pub ip6tables_set: bool,
    /// Whether the user told dockerd to leave iptables alone.
    pub iptables_off: bool,
    /// Whether dockerd uses nftables in the place of iptables: `--firewall-backend`.
    pub nftables: bool,
    /// Whether the user told dockerd to leave the kernel's forwarding alone: `--ip-forward`.
    pub ip_forward_off: bool,
    /// Whether the user asked for debug output, by `--debug` or `--log-level`.
    pub debug: bool,
}

/// The options about TLS that the user set: dockerd refuses an option that is both a flag and in daemon.json.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// `--tls`.
    pub tls: Switch,
    /// `--tlsverify`.
    pub verify: Switch,
    /// `--tlscacert`.
    pub ca: Origin,
    /// `--tlscert`.
    pub certificate: Origin,
    /// `--tlskey`.
    pub key: Origin,
}

impl TlsOptions {
    /// Whether the user has turned it on. `tlsverify` does that with any value
    /// (`newDaemonConfig` in cmd/dockerd).
    pub fn is_on(self) -> bool {
        self.verify.value().is_some() || self.tls.value() == Some(true)
    }
}

/// A switch, in both of its places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Switch {
    /// The last of the flags.
    pub flag: Option<bool>,
    /// Its value in daemon.json, where it has one.
    pub file: Option<bool>,
}

impl Switch {
    /// Its value, where it is set.
    pub fn value(self) -> Option<bool> {
        self.flag.or(self.file)
    }
}

/// Where an option's value is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Origin {
    /// It is not set: dockerd has a default.
    #[default]
    Default,
    /// It is a flag.
    Flag,
    /// It is in daemon.json.
    File,
}

/// A flag and its value, as pflag sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flag {
    name: String,
    value: Option<OsString>,
}

/// Words that pflag takes together: a flag with its value, one-letter switches run together,
/// or a word that is not a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    words: Vec<OsString>,
    flags: Vec<Flag>,
}

/// dockerd's arguments as the user gave them, and the flags in them as pflag sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DockerdArguments {
    groups: Vec<Group>,
}

impl DockerdArguments {
    /// Joins the words of `DOCKER_DAEMON_ARGS` and those of the command line, in this order:
    /// pflag lets the last flag win, so the command line wins. Words after `--` are not flags.
    pub fn new(variable: &[OsString], command_line: &[OsString]) -> Self {
        let joined = [variable, command_line].concat();
        let mut groups = Vec::new();
        let mut rest = joined.as_slice();
        while let Some((first, tail)) = rest.split_first() {
            let (flags, used) = if first == "--" {
                (Vec::new(), rest.len())
            } else {
                flags(first, tail.first().map(OsString::as_os_str))
            };
            let (words, after) = rest.split_at(used.min(rest.len()));
            groups.push(Group {
                words: words.to_vec(),
                flags,
            });
            rest = after;
        }
        Self { groups }
    }

    /// Every word, in order.
    pub fn words(&self) -> impl Iterator<Item = &OsString> {
        self.groups.iter().flat_map(|group| &group.words)
    }

    /// Whether they make dockerd print something and end at once.
    pub fn informational(&self) -> bool {
        self.flags().any(|flag| {
            matches!(flag.name.as_str(), "-h" | "-v") || INFORMATIONAL.contains(&flag.name.as_str())
        })
    }

    /// The path of daemon.json by these arguments, and whether they name it. A file
    /// that was not asked for may be missing.
    pub fn config_file(&self) -> (PathBuf, bool) {
        match self.last(&["--config-file"]) {
            Some(path) => (PathBuf::from(path), true),
            None => (PathBuf::from(DEFAULT_CONFIG_FILE), false),
        }
    }

    /// Reads them together with `file`, the path and the text of daemon.json, if there is
    /// one. A flag wins over the file. A file that is not a JSON object is a fault with the
    /// place in it, as dockerd would refuse it too.
    pub fn options(&self, file: Option<(&Path, &str)>) -> Result<DockerdOptions, Fault> {
        // Editors put a byte order mark there, and dockerd takes it.
        let file = file.map(|(path, text)| (path, text.trim_start_matches('\u{feff}')));
        let json = match file {
            Some((path, text)) if !text.trim().is_empty() => parse(path, text)?,
            _ => Value::Null,
        };
        let text = |names: &[&str], key: &str| -> Option<String> {
            self.last(names)
                .map(|value| value.to_string_lossy().into_owned())
                .or_else(|| json.get(key).and_then(Value::as_str).map(str::to_owned))
        };
        let path = |names: &[&str], key: &str, default: &str| {
            PathBuf::from(text(names, key).unwrap_or_else(|| default.to_owned()))
        };
        let is_set = |names: &[&str]| {
            names.iter().any(|name| {
                json.get(name).is_some() || self.last(&[format!("--{name}").as_str()]).is_some()
            })
        };
        let is_switched = |name: &str| {
            json.get(name).is_some() || self.last_switch(&[format!("--{name}").as_str()]).is_some()
        };
        let origin = |name: &str| {
            if json.get(name).is_some() {
                Origin::File
            } else if self.last(&[format!("--{name}").as_str()]).is_some() {
                Origin::Flag
            } else {
                Origin::Default
            }
        };
        let switch = |name: &str| Switch {
            flag: self.last_switch(&[format!("--{name}").as_str()]),
            file: json.get(name).map(|value| value == &Value::Bool(true)),
        };
        let is_off = |name: &str| {
            let in_file = || json.get(name)?.as_bool();
            let flag = self.last_switch(&[format!("--{name}").as_str()]);
            flag.or_else(in_file) == Some(false)
        };
        let feature = |name: &str| {
            let in_file = || json.get("features")?.get(name)?.as_bool();
            self.feature(name).or_else(in_file)
        };
        let debug_flag = self.last_switch(&["-D", "--debug"]);
        let debug_level =
            text(&["-l", "--log-level"], "log-level").is_some_and(|level| level == "debug");
        Ok(DockerdOptions {
            data_root: path(
                &["--data-root", "-g", "--graph"],
                "data-root",
                "/var/lib/docker",
            ),
            data_root_set: text(&["--data-root", "-g", "--graph"], "data-root").is_some(),
            exec_root: path(&["--exec-root"], "exec-root", "/var/run/docker"),
            pid_file: path(&["-p", "--pidfile"], "pidfile", "/var/run/docker.pid"),
            group: text(&["-G", "--group"], "group"),
            hosts: self
                .flags()
                .filter(|flag| is_host(&flag.name))
                .filter_map(|flag| flag.value.as_deref())
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
            file_hosts: json.get("hosts").map(strings),
            tls: TlsOptions {
                tls: switch("tls"),
                verify: switch("tlsverify"),
                ca: origin("tlscacert"),
                certificate: origin("tlscert"),
                key: origin("tlskey"),
            },
            containerd: text(&["--containerd"], "containerd").is_some(),
            containerd_embedded: feature("embedded-containerd") == Some(true),
            containerd_store: feature("containerd-snapshotter"),
            userns_remap: text(&["--userns-remap"], "userns-remap")
                .is_some_and(|user| !user.is_empty()),
            storage_driver: text(&["-s", "--storage-driver"], "storage-driver"),
            addresses_set: is_set(&[
                "bip",
                "bip6",
                "bridge",
                "fixed-cidr",
                "default-address-pool",
                "default-address-pools",
            ]) || self.last(&["-b"]).is_some(),
            mtu_set: is_set(&["mtu", "default-network-opt", "default-network-opts"]),
            dns_set: is_set(&["dns"]),
            dns_search_set: is_set(&["dns-search"]),
            dns_options_set: is_set(&["dns-opt", "dns-opts"]),
            bridge_address: text(&["--bip"], "bip")
                .and_then(|network| network.split('/').next()?.parse().ok()),
            iptables_set: is_switched("iptables"),
            ip6tables_set: is_switched("ip6tables"),
            iptables_off: is_off("iptables"),
            nftables: text(&["--firewall-backend"], "firewall-backend")
                .is_some_and(|backend| backend == "nftables"),
            ip_forward_off: is_off("ip-forward"),
            debug: debug_level
                || debug_flag
                    .unwrap_or_else(|| json.get("debug").and_then(Value::as_bool).unwrap_or(false)),
        })
    }

    /// Every word but the `--host` flags whose address satisfies `taken`: those sockets reach
    /// dockerd already bound.
    pub fn without_hosts(&self, taken: impl Fn(&str) -> bool) -> Vec<OsString> {
        let is_taken = |flag: &Flag| {
            let address = flag.value.as_ref().map(|value| value.to_string_lossy());
            is_host(&flag.name) && address.is_some_and(|address| taken(&address))
        };
        let mut kept = Vec::new();
        for Group { words, flags } in &self.groups {
            if flags.iter().any(is_taken) {
                // The switches that were run together with it.
                let others = flags.iter().filter(|flag| !is_taken(flag));
                kept.extend(others.map(|flag| OsString::from(&flag.name)));
            } else {
                kept.extend_from_slice(words);
            }
        }
        kept
    }

    fn flags(&self) -> impl DoubleEndedIterator<Item = &Flag> {
        self.groups.iter().flat_map(|group| &group.flags)
    }

    /// The value of the last flag of one of these names, where it has one.
    fn last(&self, names: &[&str]) -> Option<&OsStr> {
        let mut flags = self.flags().rev();
        let flag = flags.find(|flag| names.contains(&flag.name.as_str()))?;
        flag.value.as_deref()
    }

    fn last_switch(&self, names: &[&str]) -> Option<bool> {
        let mut flags = self.flags().rev();
        let flag = flags.find(|flag| names.contains(&flag.name.as_str()))?;
        Some(!flag.value.as_deref().is_some_and(is_false))
    }

    /// The value that the last `--feature` of this name gives it: `NAME` or `NAME=BOOLEAN`
    /// (`SetOpts` in moby's daemon/internal/opts).
    fn feature(&self, name: &str) -> Option<bool> {
        let flags = self.flags().rev().filter(|flag| flag.name == "--feature");
        flags
            .filter_map(|flag| flag.value.as_deref()?.to_str())
            .find_map(|value| match value.split_once('=') {
                Some((key, value)) => (key == name).then(|| !is_false(OsStr::new(value))),
                None => (value == name).then_some(true),
            })
    }
}

impl DockerdOptions {
    /// The Unix socket's group by its name or its number; `None` where only root is to
    /// use it.
    pub fn socket_group(&self) -> Option<&str> {
        let group = self.group.as_deref().unwrap_or(DEFAULT_GROUP);
        Some(group).filter(|group| !group.is_empty())
    }

    /// Whether dockerd uses a containerd of the user's, or one inside of itself, so that none may
    /// be started beside it.
    pub fn has_own_containerd(&self) -> bool {
        self.containerd || self.containerd_embedded
    }

    /// Every address that these options name, flags first.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let in_file = self.file_hosts.iter().flatten();
        self.hosts.iter().chain(in_file).map(String::as_str)
    }
}

fn strings(value: &Value) -> Vec<String> {
    let values = value.as_array().into_iter().flatten();
    values
        .filter_map(|value| value.as_str().map(str::to_owned))
        .collect()
}

/// What Go's strconv.ParseBool takes for false; what it refuses, dockerd refuses.
fn is_false(value: &OsStr) -> bool {
    ["0", "f", "F", "false", "FALSE", "False"]
        .iter()
        .any(|no| value == *no)
}

fn is_host(name: &str) -> bool {
    matches!(name, "-H" | "--host")
}

fn parse(path: &Path, text: &str) -> Result<Value, Fault> {
    match serde_json::from_str(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(
            Fault::failure(format!("{}: not a JSON object", path.display()))
                .remedy("correct the file or remove it"),
        ),
        Err(error) => {
            // serde_json ends its message with the place; here the place comes first.
            let message = error.to_string();
            let reason = message.split(" at line ").next().unwrap_or_default();
            Err(Fault::failure(format!(
                "{}: line {}, column {}: {reason}",
                path.display(),
                error.line(),
                error.column()
            ))
            .remedy("correct the file or remove it"))
        }
    }
}

/// The flags that `word` begins, several where switches are run together, and how many
/// words they take.
///
/// A long flag that is neither a known switch nor known to have a value takes the next
/// word as one unless that begins with `-`, whether dockerd knows the flag or not.
fn flags(word: &OsStr, next: Option<&OsStr>) -> (Vec<Flag>, usize) {
    let bytes = word.as_bytes();
    let named = |name: &[u8], value: Option<&OsStr>| Flag {
        name: String::from_utf8_lossy(name).into_owned(),
        value: value.map(OsStr::to_owned),
    };
    if bytes.starts_with(b"--") {
        if let Some(equals) = bytes.iter().position(|byte| *byte == b'=') {
            let (name, value) = bytes.split_at(equals);
            let value = value.get(1..).unwrap_or_default();
            return (vec![named(name, Some(OsStr::from_bytes(value)))], 1);
        }
        let is_one_of = |names: &[&str]| names.iter().any(|name| name.as_bytes() == bytes);
        let is_switch = is_one_of(INFORMATIONAL) || is_one_of(SWITCHES);
        let takes = |next: &&OsStr| is_one_of(VALUED) || !next.as_bytes().starts_with(b"-");
        return match next.filter(|next| !is_switch && takes(next)) {
            Some(value) => (vec![named(bytes, Some(value))], 2),
            None => (vec![named(bytes, None)], 1),
        };
    }
    let mut found = Vec::new();
    let mut letters = bytes.strip_prefix(b"-").unwrap_or_default();
    while let Some((&letter, rest)) = letters.split_first() {
        let name = [b'-', letter];
        let attached = rest.strip_prefix(b"=");
        if !SHORT_SWITCHES.contains(&char::from(letter)) {
            let (value, used) = match rest {
                [] => (next, 2),
                _ => (Some(OsStr::from_bytes(attached.unwrap_or(rest))), 1),
            };
            found.push(named(&name, value));
            return (found, used);
        }
        found.push(named(&name, attached.map(OsStr::from_bytes)));
        letters = if attached.is_some() { &[] } else { rest };
    }
    (found, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn arguments(text: &str) -> DockerdArguments {
        DockerdArguments::new(&words(text), &[])
    }

    fn read(text: &str, json: &str) -> Result<DockerdOptions, Fault> {
        let file = Path::new("/etc/docker/daemon.json");
        arguments(text).options(Some((file, json)))
    }

    #[test]
    fn the_variable_comes_before_the_command_line() -> Result<(), Fault> {
        let variable = words("--data-root=/variable --group");
        let arguments = DockerdArguments::new(&variable, &words("mine --data-root=/line"));
        let options = arguments.options(None)?;
        assert_eq!(options.data_root, Path::new("/line"));
        // To pflag it is one line: a flag at the end of the variable takes the next word.
        assert_eq!(options.group.as_deref(), Some("mine"));
        Ok(())
    }

    #[test]
    fn every_spelling_of_a_host_is_seen() -> Result<(), Fault> {
        let options = read(
            "-H unix:///a -Hunix:///b -H=unix:///c --host unix:///d --host=unix:///e -DH tcp://f",
            "",
        )?;
        assert_eq!(
            options.hosts,
            [
                "unix:///a",
                "unix:///b",
                "unix:///c",
                "unix:///d",
                "unix:///e",
                "tcp://f"
            ]
        );
        Ok(())
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_last_flag_over_the_first() -> Result<(), Fault> {
        let json = r#"{"data-root": "/file", "exec-root": "/run/x", "debug": true}"#;
        let options = read("--data-root /one --data-root=/two --debug=false", json)?;
        assert_eq!(options.data_root, Path::new("/two"));
        assert_eq!(options.exec_root, Path::new("/run/x"));
        assert!(!options.debug);
        Ok(())
    }

    #[test]
    fn hosts_in_the_file_are_told_from_hosts_in_flags() -> Result<(), Fault> {
        let options = read("", r#"{"hosts": ["unix:///x"]}"#)?;
        assert_eq!(options.file_hosts, Some(vec!["unix:///x".to_owned()]));
        assert!(options.hosts.is_empty());
        Ok(())
    }

    #[test]
    fn broken_json_is_refused_with_its_place() {
        let fault = read("", "{\n  \"debug\": trux\n}").err();
        let fault = fault
            .as_ref()
            .map(|fault| (fault.status, fault.message.as_str()));
        assert!(
            fault.is_some_and(|(status, message)| status == 1
                && message.contains("/etc/docker/daemon.json: line 2, column")),
            "{fault:?}"
        );
    }

    #[test]
    fn switches_are_read_as_go_reads_them() -> Result<(), Fault> {
        for (arguments, expected) in [
            ("--tls", Some(true)),
            ("--tls=1", Some(true)),
            ("--tls=0", Some(false)),
            ("--tls=False", Some(false)),
            ("--tls --tls=f", Some(false)),
            ("", None),
        ] {
            assert_eq!(read(arguments, "")?.tls.tls.flag, expected, "{arguments}");
        }
        assert!(read("-DGadm", "")?.debug);
        assert!(!read("-D=0", "")?.debug);
        // Any value of this one turns TLS on.
        assert!(read("", r#"{"tlsverify": false}"#)?.tls.is_on());
        assert!(!read("", r#"{"tls": false}"#)?.tls.is_on());
        Ok(())
    }

    #[test]
    fn a_flag_that_is_read_takes_the_next_word_whatever_that_is() -> Result<(), Fault> {
        let flags = [
            "--bip",
            "--bip6",
            "--bridge",
            "--fixed-cidr",
            "--default-address-pool",
        ];
        for flag in flags {
            let options = read(&format!("{flag} -Hunix:///a -D"), "")?;
            assert!(options.addresses_set && options.hosts.is_empty(), "{flag}");
        }
        for flag in ["--mtu", "--default-network-opt"] {
            let options = read(&format!("{flag} -Hunix:///a -D"), "")?;
            assert!(options.mtu_set && options.hosts.is_empty(), "{flag}");
        }
        Ok(())
    }

    #[test]
    fn features_are_read_from_flags_and_from_the_file() -> Result<(), Fault> {
        let on = r#"{"features": {"containerd-snapshotter": true, "embedded-containerd": true}}"#;
        for (arguments, json, store, embedded) in [
            ("", "", None, false),
            ("--feature containerd-snapshotter", "", Some(true), false),
            (
                "--feature=containerd-snapshotter=true",
                "",
                Some(true),
                false,
            ),
            ("--feature containerd-snapshotter=0", "", Some(false), false),
            (
                "--feature containerd-snapshotter --feature buildkit --feature containerd-snapshotter=f",
                "",
                Some(false),
                false,
            ),
            ("--feature embedded-containerd", "", None, true),
            ("--feature embedded-containerd=false", "", None, false),
            ("", on, Some(true), true),
            (
                "",
                r#"{"features": {"containerd-snapshotter": false}}"#,
                Some(false),
                false,
            ),
            (
                "",
                r#"{"features": {"containerd-snapshotter": "true"}}"#,
                None,
                false,
            ),
            (
                "",
                r#"{"features": ["containerd-snapshotter"]}"#,
                None,
                false,
            ),
        ] {
            let options = read(arguments, json)?;
            let found = (options.containerd_store, options.containerd_embedded);
            assert_eq!(found, (store, embedded), "{arguments} {json}");
            assert_eq!(options.has_own_containerd(), embedded);
        }
        Ok(())
    }

    #[test]
    fn the_firewall_is_read_from_flags_and_from_the_file() -> Result<(), Fault> {
        for (arguments, json, nftables, forward_off) in [
            ("", "", false, false),
            ("--firewall-backend=nftables", "", true, false),
            ("--firewall-backend iptables", "", false, false),
            ("", r#"{"firewall-backend": "nftables"}"#, true, false),
            ("--ip-forward=false", "", false, true),
            ("--ip-forward", "", false, false),
            ("", r#"{"ip-forward": false}"#, false, true),
        ] {
            let options = read(arguments, json)?;
            let found = (options.nftables, options.ip_forward_off);
            assert_eq!(found, (nftables, forward_off), "{arguments} {json}");
        }
        Ok(())
    }

    #[test]
    fn a_switch_does_not_take_the_next_word() {
        assert!(arguments("-D --version").informational());
        assert!(arguments("-Dv").informational());
        assert!(!arguments("--data-root -v2").informational());
        assert!(!arguments("-H --version -- --help").informational());
    }

    #[test]
    fn only_the_hosts_that_are_taken_are_left_out() {
        for (given, kept) in [
            (
                "-D -H unix:///a --host=tcp://b --label x -Hunix:///a -H tcp://c",
                "-D --host=tcp://b --label x -H tcp://c",
            ),
            ("-DHunix:///a -DHunix:///b", "-D -DHunix:///b"),
            ("-H unix:///a -- -H unix:///a", "-- -H unix:///a"),
        ] {
            let found = arguments(given).without_hosts(|host| host == "unix:///a");
            assert_eq!(found, words(kept));
        }
    }

    proptest! {
        #[test]
        fn never_panics(words in proptest::collection::vec("(-|--)?[a-zA-Z=-]{0,8}", 0..8), json in ".*") {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let arguments = DockerdArguments::new(&words, &[]);
            let _ = arguments.options(Some((Path::new("/x"), &json)));
            arguments.informational();
            arguments.config_file();
        }

        /// Wherever the words are divided, they are the same arguments.
        #[test]
        fn no_word_is_lost(words in proptest::collection::vec("(-|--)?[a-zA-Z=-]{0,8}", 0..8), at in 0_usize..8) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let (variable, line) = words.split_at(at.min(words.len()));
            let arguments = DockerdArguments::new(variable, line);
            prop_assert_eq!(&arguments, &DockerdArguments::new(&words, &[]));
            prop_assert_eq!(arguments.words().collect::<Vec<_>>(), words.iter().collect::<Vec<_>>());
            prop_assert_eq!(arguments.without_hosts(|_| false), words);
        }

        /// What is left says the same but for the hosts.
        #[test]
        fn nothing_but_taken_hosts_is_left_out(words in proptest::collection::vec("-H|--|--host|-DH|--tls|(-|--)?[a-zA-Z=-]{0,8}", 0..8)) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from).collect();
            let arguments = DockerdArguments::new(&words, &[]);
            let left = DockerdArguments::new(&arguments.without_hosts(|_| true), &[]);
            let expected = arguments.options(None).map(|options| DockerdOptions {
                hosts: Vec::new(),
                ..options
            });
            prop_assert_eq!(left.options(None), expected);
        }
    }
}

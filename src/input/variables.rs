//! The table of the variables that this program reads. The help is printed from it, and a test
//! compares README.md with it.
//!
//! Only this file makes a [`Variable`], and [`Values`] has values of nothing else, so a variable
//! that is not in the table cannot be read. [`super::config`] has the valid values.

use std::ffi::{OsStr, OsString};

use super::contract::Contract;

/// A variable of the environment that this program reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variable {
    name: &'static str,
    unset: Unset,
    /// One line for the help.
    meaning: &'static str,
    /// The contracts in which its value has an effect. In others a value that is not valid is
    /// none of dind's business.
    readers: &'static [Contract],
}

/// The default of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unset {
    Nothing,
    /// This value of the variable.
    Value(&'static str),
    /// A default that is not one value, in words.
    Words(&'static str),
}

use Contract::{Dind, DockerEntrypoint, DockerdEntrypoint, HackDind, Wrapdocker};
use Unset::{Nothing, Value, Words};

const ALL: &[Contract] = &[
    Dind,
    DockerdEntrypoint,
    DockerEntrypoint,
    Wrapdocker,
    HackDind,
];
/// The contracts that start a daemon.
const DAEMONS: &[Contract] = &[Dind, DockerdEntrypoint, Wrapdocker];
/// The contracts that use `DOCKER_TLS_CERTDIR` and `DOCKER_HOST`.
const TLS: &[Contract] = &[Dind, DockerdEntrypoint, DockerEntrypoint];
/// The contracts that run a docker CLI, beside a daemon or as a client.
const CLIENTS: &[Contract] = &[Dind, DockerdEntrypoint, DockerEntrypoint, Wrapdocker];

/// The variables whose names others use too, as a CI job does for its own programs, and the
/// contracts in which a value that is not valid is warned of and counts as not set. What
/// `docker:dind` does not read must not keep a daemon in its place from starting.
const COMMON_NAMES: &[(Variable, &[Contract])] = &[(PORT, &[Dind]), (LOG, DAEMONS)];

/// Makes a constant of each row, and a table of all of them.
macro_rules! table {
    (
        $(#[$about:meta])*
        $table:ident;
        $($name:ident: $unset:expr, $readers:expr, $meaning:literal;)+
    ) => {
        $(
            #[doc = concat!("`", stringify!($name), "`.")]
            pub const $name: Variable = Variable {
                name: stringify!($name),
                unset: $unset,
                meaning: $meaning,
                readers: $readers,
            };
        )+

        $(#[$about])*
        const $table: &[Variable] = &[$($name),+];
    };
}

table! {
    /// Every variable but those of [`ROOTLESSKIT`], in the order of README.md.
    TABLE;
    PORT: Nothing, &[Dind, Wrapdocker],
        "serve the API on this TCP port, too, without TLS";
    DOCKER_DAEMON_ARGS: Nothing, DAEMONS,
        "arguments for dockerd, quoted as for a shell";
    LOG: Nothing, DAEMONS,
        "file: daemons log to /var/log/docker.log; stdio: to stdout and stderr";
    DIND_LOG: Value("info"), ALL,
        "what dind logs: error, warn, info, debug, trace";
    DIND_LOG_FORMAT: Value("text"), ALL,
        "json: lines of dind, daemons and hooks as JSON";
    DOCKER_TLS_CERTDIR: Words("in the image /certs"), TLS,
        "directory of certificates; TLS on port 2376";
    DOCKER_TLS_SAN: Nothing, &[Dind, DockerdEntrypoint],
        "more names for the server's certificate: DNS:NAME,IP:ADDRESS";
    DOCKER_IPTABLES_LEGACY: Nothing, DAEMONS,
        "not empty: legacy iptables; set and empty: nft";
    DIND_IPTABLES_SHORTCUT: Value("on"), DAEMONS,
        "off: iptables itself is executed for each of dockerd's calls";
    NOTIFY_SOCKET: Nothing, DAEMONS,
        "receives READY=1 when docker is ready: podman, systemd";
    DIND_CONTRACT: Words("the program's name"), ALL,
        "one of the contracts listed below";
    DIND_ROOTLESS: Words("what is allowed"), DAEMONS,
        "1: an engine in a user namespace; 0: none";
    DIND_ROOTLESS_NETWORK: Value("auto"), DAEMONS,
        "its network, in a user namespace: veth, slirp4netns, pasta";
    DIND_READY_TIMEOUT: Value("60"), DAEMONS,
        "seconds within which the API must answer";
    DIND_STOP_TIMEOUT: Value("9"), DAEMONS,
        "seconds within which everything has ended";
    DIND_STOP_DEAF: Value("kill"), DAEMONS,
        "wait: a stop waits for containers that cannot react, too";
    DIND_HOOK_TIMEOUT: Value("60"), DAEMONS,
        "seconds that each hook in /etc/dind may take";
    DIND_TMPFS: Value("on"), &[Dind, DockerdEntrypoint, Wrapdocker, HackDind],
        "off: no tmpfs on an empty /tmp";
    DIND_DNS: Value("on"), DAEMONS,
        "off: no DNS forwarder to resolvers on loopback";
    DIND_MTU: Words("that of the default route"), DAEMONS,
        "bytes, for inner networks; or off";
    DIND_EPHEMERAL: Value("0"), DAEMONS,
        "1: the data root is emptied at the end";
    DIND_RESTART: Value("no"), DAEMONS,
        "on-failure[:N]: a daemon that fails is started again";
    DIND_IMAGES: Value("/var/lib/dind/images"), DAEMONS,
        "directory of images to load at the start";
    DIND_IMAGES_STRICT: Value("0"), DAEMONS,
        "1: an image that cannot be loaded ends the container";
    DIND_STORE: Value("/var/lib/dind/store"), DAEMONS,
        "store that an empty data root begins with";
    DIND_STORE_STRICT: Value("0"), DAEMONS,
        "1: a store that cannot be used ends the container";
    DIND_STORAGE: Value("auto"), DAEMONS,
        "what holds data: loop, tmpfs, fuse-overlayfs, vfs, none";
    DIND_STORAGE_SIZE: Words("9/10 of the free space"), DAEMONS,
        "size of the ext4 image or the tmpfs: 20G";
    DOCKER_DRIVER: Nothing, DAEMONS,
        "dockerd's storage driver";
    DOCKER_HOST: Nothing, TLS,
        "unix://PATH: listen there; another address: a client of that daemon";
    DOCKER_CONTEXT: Nothing, CLIENTS,
        "the docker CLI's context, for a client without DOCKER_HOST";
    DOCKER_TLS_VERIFY: Nothing, CLIENTS,
        "not empty: a client verifies its daemon's certificate";
    DOCKER_TLS: Nothing, &[Dind, Wrapdocker],
        "not empty: a client uses TLS";
    DOCKER_CERT_PATH: Words("as DOCKER_CONFIG"), CLIENTS,
        "directory of a client's certificates";
    DOCKER_CONFIG: Words(".docker in HOME"), CLIENTS,
        "the docker CLI's directory, with its plugins";
    HOME: Nothing, CLIENTS,
        "where .docker is, without DOCKER_CONFIG";
    XDG_RUNTIME_DIR: Words("/run/user/UID"), TLS,
        "a client looks for a rootless docker.sock there";
    PATH: Words("the usual directories"), ALL,
        "where dockerd and commands are looked for";
    NO_COLOR: Nothing, ALL,
        "not empty: no colours on a terminal";
    TERM: Nothing, ALL,
        "dumb: no colours on a terminal";
}

/// The beginning of the names in [`ROOTLESSKIT`].
const ROOTLESSKIT_PREFIX: &str = "DOCKERD_ROOTLESS_ROOTLESSKIT_";

table! {
    /// The variables for rootlesskit: of docker:dind-rootless, and of moby's
    /// contrib/dockerd-rootless.sh.
    ROOTLESSKIT;
    DOCKERD_ROOTLESS_ROOTLESSKIT_NET: Nothing, DAEMONS,
        "as DIND_ROOTLESS_NETWORK; others are warned of";
    DOCKERD_ROOTLESS_ROOTLESSKIT_MTU: Nothing, DAEMONS,
        "bytes, as DIND_MTU";
    DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS: Nothing, DAEMONS,
        "-p IP:PORT:2376/tcp: serve the API there, too";
    DOCKERD_ROOTLESS_ROOTLESSKIT_PORT_DRIVER: Words("builtin"), DAEMONS,
        "any other is warned of";
    DOCKERD_ROOTLESS_ROOTLESSKIT_DISABLE_HOST_LOOPBACK: Words("true"), DAEMONS,
        "false is warned of";
    DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SANDBOX: Words("false"), DAEMONS,
        "true is warned of";
    DOCKERD_ROOTLESS_ROOTLESSKIT_SLIRP4NETNS_SECCOMP: Words("false"), DAEMONS,
        "true is warned of";
    DOCKERD_ROOTLESS_ROOTLESSKIT_DETACH_NETNS: Words("false"), DAEMONS,
        "true is warned of";
    DOCKERD_ROOTLESS_ROOTLESSKIT_STATE_DIR: Nothing, DAEMONS,
        "is warned of";
}

impl Variable {
    /// The name of the variable in the environment.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Its name without the beginning that all of [`ROOTLESSKIT`] have.
    fn short(self) -> &'static str {
        let short = self.name.strip_prefix(ROOTLESSKIT_PREFIX);
        short.unwrap_or(self.name)
    }

    /// Whether its value has an effect in a contract.
    pub fn is_read_by(self, contract: Contract) -> bool {
        self.readers.contains(&contract)
    }

    /// Whether a value that is not valid ends a start in a contract.
    pub fn is_refused_by(self, contract: Contract) -> bool {
        let is_ignored = COMMON_NAMES
            .iter()
            .any(|(common, contracts)| *common == self && contracts.contains(&contract));
        self.is_read_by(contract) && !is_ignored
    }
}

/// Whom a variable is for that has to do with rootlesskit, is none of docker:dind-rootless', and has no
/// effect here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Nobody who is known. Its name begins as those of docker:dind-rootless do.
    Nobody,
    /// nerdctl's containerd-rootless.sh; with the one of docker:dind-rootless that has its meaning, if there
    /// is one.
    Containerd(Option<Variable>),
    /// moby's contrib/dockerd-rootless.sh, which executes the program that it names.
    Program,
    /// rootlesskit's children, which find its state by it.
    Children,
}

impl Foreign {
    /// Tells by a variable's name. `None` for all others.
    pub fn of(name: &str) -> Option<Self> {
        if let Some(short) = name.strip_prefix("CONTAINERD_ROOTLESS_ROOTLESSKIT_") {
            let same = ROOTLESSKIT.iter().find(|known| known.short() == short);
            return Some(Self::Containerd(same.copied()));
        }
        match name {
            "DOCKERD" => Some(Self::Program),
            "ROOTLESSKIT_STATE_DIR" => Some(Self::Children),
            _ => {
                let is_known = ROOTLESSKIT.iter().any(|known| known.name == name);
                (name.starts_with(ROOTLESSKIT_PREFIX) && !is_known).then_some(Self::Nobody)
            }
        }
    }
}

/// The values of variables in an environment, and of nothing else in it.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a>(&'a [(OsString, OsString)]);

impl<'a> Values<'a> {
    /// The values in `environment`, which has pairs of a name and a value.
    pub fn new(environment: &'a [(OsString, OsString)]) -> Self {
        Self(environment)
    }

    /// The value of a variable that is set and not empty.
    pub fn get(self, variable: Variable) -> Option<&'a OsStr> {
        self.0
            .iter()
            .find(|(key, value)| key == variable.name && !value.is_empty())
            .map(|(_, value)| value.as_os_str())
    }

    /// The value of a variable that is set, empty or not.
    pub fn get_even_empty(self, variable: Variable) -> Option<&'a OsStr> {
        self.0
            .iter()
            .find(|(key, _)| key == variable.name)
            .map(|(_, value)| value.as_os_str())
    }
}

/// The longest line of the help, in columns.
const COLUMNS: usize = 100;

/// The part of the help about variables, in lines of at most 100 columns.
pub fn help() -> String {
    let names = TABLE.iter().map(|variable| variable.name.len());
    let width = names.max().unwrap_or_default();
    let mut text = String::from("Variables:\n");
    let line = |name: &str, variable: &Variable| {
        let default = match variable.unset {
            Nothing => String::new(),
            Value(default) | Words(default) => format!(" [default: {default}]"),
        };
        format!("  {name:width$}  {}{default}\n", variable.meaning)
    };
    for variable in TABLE {
        text.push_str(&line(variable.name, variable));
    }
    text.push_str(&format!(
        "\nVariables for rootlesskit, each with {ROOTLESSKIT_PREFIX} before its name:\n"
    ));
    for variable in ROOTLESSKIT {
        text.push_str(&line(variable.short(), variable));
    }
    text.push_str("\nContracts, and the variables that they read:\n");
    for contract in ALL {
        let mut line = format!("  {:width$} ", contract.name());
        for word in read_by(*contract).split(' ') {
            if line.len() + 1 + word.len() > COLUMNS {
                text.push_str(&line);
                text.push('\n');
                line = format!("  {:width$} ", "");
            }
            line.push(' ');
            line.push_str(word);
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The variables that a contract reads, as a list in words.
fn read_by(contract: Contract) -> String {
    let (read, not): (Vec<&Variable>, Vec<&Variable>) = TABLE
        .iter()
        .partition(|variable| variable.is_read_by(contract));
    let list = |variables: &[&Variable]| {
        let names: Vec<&str> = variables.iter().map(|variable| variable.name).collect();
        names.join(", ")
    };
    if not.is_empty() {
        "all".to_owned()
    } else if not.len() < read.len() {
        format!("all but {}", list(&not))
    } else {
        format!("only {}", list(&read))
    }
}

/// Tests, and what the tests of other files use.
#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::input::config::{Config, IMAGES, STORE, logs};

    const README: &str = include_str!("../../README.md");

    /// Every variable with the contracts that read it, for the tests of `plan`.
    pub fn table() -> impl Iterator<Item = (&'static str, &'static [Contract])> {
        let rows = TABLE.iter().chain(ROOTLESSKIT);
        rows.map(|row| (row.name, row.readers))
    }

    /// The cells of a table in a section of README, by the head of its first column.
    fn readme(section: &str, head: &str) -> Vec<Vec<&'static str>> {
        let title = format!("\n{section}\n");
        let (_, section) = README.split_once(title.as_str()).unwrap_or_default();
        let (section, _) = section.split_once("\n## ").unwrap_or_default();
        let mut current = None;
        let mut rows = Vec::new();
        for line in section.lines() {
            let Some(row) = line.strip_prefix("| ") else {
                current = None;
                continue;
            };
            let row = row.strip_suffix('|').unwrap_or_default();
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            match current {
                None => current = Some(cells[0]),
                Some(current) if current == head && !cells[0].starts_with('-') => rows.push(cells),
                Some(_) => {}
            }
        }
        rows
    }

    #[test]
    fn readme_has_the_same_variables() {
        let rows = readme("## Variables", "variable");
        are_rows(&rows, TABLE, Variable::name);
        let rows = readme("### docker:dind-rootless", "for rootlesskit");
        are_rows(&rows, ROOTLESSKIT, Variable::short);
    }

    /// Rows of README have these variables and their defaults.
    fn are_rows(rows: &[Vec<&str>], table: &[Variable], name: fn(Variable) -> &'static str) {
        let expected: Vec<Vec<String>> = table
            .iter()
            .map(|variable| {
                let default = match variable.unset {
                    Nothing => String::new(),
                    Value(value) => format!("`{value}`"),
                    Words(words) => words.to_owned(),
                };
                vec![format!("`{}`", name(*variable)), default]
            })
            .collect();
        let found: Vec<Vec<String>> = rows
            .iter()
            .map(|cells| {
                assert_eq!(cells.len(), 3, "name, default, meaning: {cells:?}");
                assert!(!cells[2].is_empty(), "{cells:?}");
                let code = cells[1].starts_with('`') && cells[1].matches('`').count() == 2;
                let default = if code && cells[1].ends_with('`') {
                    cells[1].to_owned()
                } else {
                    cells[1].replace('`', "")
                };
                vec![cells[0].to_owned(), default]
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn readme_has_the_same_readers() {
        let found: Vec<(String, String)> = readme("## Variables", "contract")
            .iter()
            .map(|cells| (cells[0].replace('`', ""), cells[1].replace('`', "")))
            .collect();
        let expected: Vec<(String, String)> = ALL
            .iter()
            .map(|contract| (contract.name().to_owned(), read_by(*contract)))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_help_has_a_line_for_each() {
        let help = help();
        for variable in TABLE.iter().chain(ROOTLESSKIT) {
            let line = help
                .lines()
                .find(|line| line.split_whitespace().next() == Some(variable.short()));
            let line = line.unwrap_or_else(|| panic!("{} is not in\n{help}", variable.name));
            assert!(line.len() <= COLUMNS, "{line}");
            assert!(line.contains(variable.meaning), "{line}");
            if let Value(default) | Words(default) = variable.unset {
                assert!(line.ends_with(&format!("[default: {default}]")), "{line}");
            }
        }
        for contract in ALL {
            assert!(help.contains(&format!("\n  {} ", contract.name())));
        }
    }

    /// The default in the table has the same effect as a variable that is not set.
    #[test]
    fn a_default_is_what_an_unset_variable_means() {
        let mut checked = 0;
        for variable in TABLE.iter().chain(ROOTLESSKIT) {
            let Value(default) = variable.unset else {
                continue;
            };
            if *variable == DIND_IMAGES {
                // The default directory may be missing, and one that is set must not be.
                assert_eq!(default, IMAGES);
                continue;
            }
            if *variable == DIND_STORE {
                assert_eq!(default, STORE);
                continue;
            }
            let set = vec![(OsString::from(variable.name), OsString::from(default))];
            assert_eq!(logs(&set), logs(&[]), "{}", variable.name);
            let mut set = Config::read([], set);
            set.environment.clear();
            assert_eq!(set, Config::read([], []), "{}", variable.name);
            checked += 1;
        }
        assert!(checked > 8, "only {checked} defaults");
    }
}

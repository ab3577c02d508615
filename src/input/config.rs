//! The environment and the command line, read once and validated.
//!
//! No other module reads the environment. An invalid value counts as not set and is remembered.
//! [`Config::check`] makes it a [`Fault`] with status 2 once it is known who reads it, before
//! anything is changed: CI systems give the variables of a job to all of its services, whose
//! roles use few of them.

use std::ffi::{OsStr, OsString};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Level;

use crate::input::contract::Contract;
use crate::input::rootlesskit::Flags;
use crate::input::san::Name;
use crate::input::variables::{self, Values, Variable};
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::messages::logging::{LogFormat, Logs};
use crate::messages::secrets;

/// The destination of the daemons' output: `LOG`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// [`LOG_FILE`] beside a session on a terminal, where it would garble the shell's line;
    /// else standard error.
    Auto,
    /// [`LOG_FILE`] in every case.
    File,
    /// Standard output and error in every case.
    Stdio,
}

/// What holds the data: `DIND_STORAGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// The best choice for the file system of the data root.
    Auto,
    /// An ext4 image on a loop device.
    Loop,
    /// A tmpfs on the data root.
    Tmpfs,
    /// The data root, with the storage driver fuse-overlayfs.
    FuseOverlayfs,
    /// The data root, with the storage driver vfs.
    Vfs,
    /// The data root, with the storage driver that dockerd chooses.
    None,
}

impl Storage {
    const ALL: [Self; 6] = [
        Self::Auto,
        Self::Loop,
        Self::Tmpfs,
        Self::FuseOverlayfs,
        Self::Vfs,
        Self::None,
    ];

    /// The value of the variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Loop => "loop",
            Self::Tmpfs => "tmpfs",
            Self::FuseOverlayfs => "fuse-overlayfs",
            Self::Vfs => "vfs",
            Self::None => "none",
        }
    }

    /// The name of dockerd's storage driver, where the variable names one.
    pub fn driver(self) -> Option<&'static str> {
        matches!(self, Self::FuseOverlayfs | Self::Vfs).then(|| self.name())
    }
}

/// The MTU of inner networks: `DIND_MTU`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mtu {
    /// The MTU of the default route's interface.
    Auto,
    /// This many bytes, 68 or more.
    Bytes(u16),
    /// The MTU that dockerd chooses.
    Off,
}

/// What connects the network of an engine in a user namespace with that of this container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootlessNetwork {
    /// A pair of interfaces, with source NAT.
    Veth,
    /// slirp4netns(1).
    Slirp4netns,
    /// pasta(1).
    Pasta,
}

impl RootlessNetwork {
    /// All of them, those first that are preferred.
    pub const ALL: [Self; 3] = [Self::Veth, Self::Slirp4netns, Self::Pasta];

    /// The name in variables and messages, and of the program.
    pub fn name(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Slirp4netns => "slirp4netns",
            Self::Pasta => "pasta",
        }
    }
}

/// What a stop does with containers that have no handler for their stop signal:
/// `DIND_STOP_DEAF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopDeaf {
    /// It ends them as soon as the signal is sent, which they cannot learn of.
    Kill,
    /// It waits for them as for all others.
    Wait,
}

/// The smallest MTU of an IPv4 network, in bytes: RFC 791, 3.2.
const LEAST_MTU: u16 = 68;

/// The file that `LOG=file` writes; the path is wrapdocker's.
pub const LOG_FILE: &str = "/var/log/docker.log";

/// The directory of images to load where `DIND_IMAGES` is not set.
pub const IMAGES: &str = "/var/lib/dind/images";

/// The store of images and build cache where `DIND_STORE` is not set.
pub const STORE: &str = "/var/lib/dind/store";

/// The docker CLI's context that stands for `DOCKER_HOST` and the default socket.
const DEFAULT_CONTEXT: &str = "default";

/// The default socket of the docker CLI and of other clients.
pub const DOCKER_SOCKET: &str = "/var/run/docker.sock";

const DEFAULT_LOG_LEVEL: Level = Level::INFO;
/// Less than the 10 s after which `docker stop` sends SIGKILL.
const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(9);
/// As long as wrapdocker waited.
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(60);
/// As long as the API may take.
const DEFAULT_HOOK_TIMEOUT: Duration = DEFAULT_READY_TIMEOUT;
/// The directories that execvp(3) and the usual images search where `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The valid command line and environment of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// argv\[0\], the path under which the program was started.
    pub program: PathBuf,
    /// The arguments after argv\[0\].
    pub arguments: Vec<OsString>,
    /// `DIND_CONTRACT`: the contract, instead of that of the program's name.
    pub contract: Option<Contract>,
    /// `PORT`: serve the API on this TCP port, too.
    pub port: Option<NonZeroU16>,
    /// `LOG`: the destination of the daemons' output.
    pub log: Log,
    /// `DIND_LOG_FORMAT`: the form of the lines of dind, the daemons and hooks.
    pub log_format: LogFormat,
    /// `DOCKER_DAEMON_ARGS`, split into words.
    pub daemon_arguments: Vec<OsString>,
    /// `DIND_ROOTLESS`: whether the engine runs in a user namespace. `None` where that depends on
    /// what the container allows.
    pub rootless: Option<bool>,
    /// `DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS`: the flags that rootlesskit would get.
    pub rootlesskit: Flags,
    /// `DIND_ROOTLESS_NETWORK`, else `DOCKERD_ROOTLESS_ROOTLESSKIT_NET`: what connects the network of
    /// an engine in a user namespace. `None` where that depends on what there is.
    pub rootless_network: Option<RootlessNetwork>,
    /// `DOCKERD_ROOTLESS_ROOTLESSKIT_MTU`: the MTU of that network, where `DIND_MTU` is not set.
    pub rootless_mtu: Option<u16>,
    /// `DIND_TMPFS`: whether `/tmp` may get a tmpfs.
    pub tmpfs: bool,
    /// `DIND_DNS`: whether resolvers on loopback are made reachable for inner containers.
    pub dns: bool,
    /// `DIND_MTU`: the MTU of inner networks.
    pub mtu: Mtu,
    /// `DIND_HOOK_TIMEOUT`: how long a hook may take.
    pub hook_timeout: Duration,
    /// `DIND_EPHEMERAL`: whether the data root is emptied at the end.
    pub ephemeral: bool,
    /// `DIND_RESTART`: how many times in a row a failed daemon is started again.
    pub restarts: u32,
    /// `DIND_STORAGE`: what holds the data.
    pub storage: Storage,
    /// `DIND_STORAGE_SIZE`: the size of the ext4 image or the tmpfs, in bytes.
    pub storage_size: Option<u64>,
    /// `DIND_IMAGES`: the directory of images to load, instead of [`IMAGES`].
    pub images: Option<PathBuf>,
    /// `DIND_IMAGES_STRICT`: whether an archive that cannot be loaded ends the start.
    pub images_strict: bool,
    /// `DIND_STORE`: the store that an empty data root begins with, instead of [`STORE`].
    pub store: Option<PathBuf>,
    /// `DIND_STORE_STRICT`: whether a store that cannot be used ends the start.
    pub store_strict: bool,
    /// `DOCKER_DRIVER`: dockerd's own variable for its storage driver.
    pub docker_driver: Option<String>,
    /// `DIND_STOP_TIMEOUT`: how long after the beginning of a stop everything has ended.
    pub stop_timeout: Duration,
    /// `DIND_STOP_DEAF`: what a stop does with containers without a handler for their stop signal.
    pub stop_deaf: StopDeaf,
    /// `DIND_READY_TIMEOUT`: how long the API may take.
    pub ready_timeout: Duration,
    /// `DOCKER_HOST`, when it is not blank, without the blanks around it, as the docker CLI reads
    /// it (`ParseHost` in docker/cli's opts/hosts.go).
    pub docker_host: Option<String>,
    /// `DOCKER_CONTEXT`: the docker CLI's context, unless that is `default`.
    pub docker_context: Option<OsString>,
    /// `DOCKER_TLS_CERTDIR`, when it is not blank, without the blanks around it.
    pub tls_directory: Option<PathBuf>,
    /// `DOCKER_TLS_SAN`: further names for the server's certificate.
    pub tls_names: Vec<Name>,
    /// `DOCKER_CERT_PATH`: where the docker CLI has its certificates.
    pub certificate_path: Option<PathBuf>,
    /// `DOCKER_CONFIG`, else `.docker` in `HOME`: the docker CLI's own directory.
    pub docker_config: Option<PathBuf>,
    /// `HOME`: the user's home.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`: where a rootless daemon of this user has its socket.
    pub runtime_directory: Option<PathBuf>,
    /// `DOCKER_IPTABLES_LEGACY`: whether the user wants the legacy backend. As in
    /// docker-library's script, a variable that is set and empty means no.
    pub iptables_legacy: Option<bool>,
    /// `DIND_IPTABLES_SHORTCUT`: whether a program of dind's answers dockerd's calls of iptables
    /// where it can be certain.
    pub iptables_shortcut: bool,
    /// `NOTIFY_SOCKET`, from the program that started this container: sd_notify(3).
    pub notify_socket: Option<OsString>,
    /// `PATH`, or the usual value where it is not set.
    pub search_path: OsString,
    /// The whole environment, for child processes.
    pub environment: Vec<(OsString, OsString)>,
    /// The values that are not valid, in the order of the fields above.
    invalid: Vec<Invalid>,
}

/// A variable with a value that is not valid, and the fault that it is where it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The variable.
    pub variable: Variable,
    /// Names the variable, its value and what is allowed. Its status is 2.
    pub fault: Fault,
}

impl Config {
    /// Parses `arguments` (argv\[0\] first) and `environment`. An empty variable counts as not
    /// set, as in the scripts, and so does one with an invalid value: see [`Config::check`].
    pub fn read(
        arguments: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut arguments = arguments.into_iter();
        let environment: Vec<_> = environment.into_iter().collect();
        let values = Values::new(&environment);
        let mut read = Reader {
            values,
            invalid: Vec::new(),
        };
        // The log has started with the default where it is not valid.
        read.log_level();
        Self {
            program: arguments
                .next()
                .map_or_else(|| PathBuf::from("dind"), PathBuf::from),
            arguments: arguments.collect(),
            contract: read.parse(
                variables::DIND_CONTRACT,
                Contract::NAMES,
                Contract::from_name,
            ),
            port: read.parse(variables::PORT, "a TCP port, 1 to 65535", |text| {
                text.parse().ok()
            }),
            log: read
                .parse(variables::LOG, "file, stdio", |text| match text {
                    "file" => Some(Log::File),
                    "stdio" => Some(Log::Stdio),
                    _ => None,
                })
                .unwrap_or(Log::Auto),
            log_format: read.log_format(),
            daemon_arguments: read
                .parse(
                    variables::DOCKER_DAEMON_ARGS,
                    "words with balanced quotes",
                    shlex::split,
                )
                .unwrap_or_default()
                .into_iter()
                .map(OsString::from)
                .collect(),
            rootless: read.parse(variables::DIND_ROOTLESS, "1, 0", |text| match text {
                "1" => Some(true),
                "0" => Some(false),
                _ => None,
            }),
            rootlesskit: read
                .parse(
                    variables::DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS,
                    "rootlesskit's flags, such as -p 0.0.0.0:2376:2376/tcp",
                    Flags::parse,
                )
                .unwrap_or_default(),
            rootless_network: read.rootless_network(),
            rootless_mtu: values
                .get(variables::DOCKERD_ROOTLESS_ROOTLESSKIT_MTU)
                .and_then(|text| text.to_str()?.parse().ok())
                .filter(|bytes| *bytes >= LEAST_MTU),
            tmpfs: read.switch(variables::DIND_TMPFS),
            dns: read.switch(variables::DIND_DNS),
            mtu: read
                .parse(
                    variables::DIND_MTU,
                    "off, or bytes, 68 to 65535",
                    |text| match text {
                        "off" => Some(Mtu::Off),
                        _ => {
                            let bytes = text.parse().ok().filter(|bytes| *bytes >= LEAST_MTU);
                            bytes.map(Mtu::Bytes)
                        }
                    },
                )
                .unwrap_or(Mtu::Auto),
            hook_timeout: read.seconds(variables::DIND_HOOK_TIMEOUT, DEFAULT_HOOK_TIMEOUT),
            ephemeral: read.flag(variables::DIND_EPHEMERAL),
            restarts: read
                .parse(
                    variables::DIND_RESTART,
                    "no, on-failure, on-failure:N",
                    restarts,
                )
                .unwrap_or(0),
            storage: read
                .parse(
                    variables::DIND_STORAGE,
                    "auto, loop, tmpfs, fuse-overlayfs, vfs, none",
                    |text| Storage::ALL.into_iter().find(|known| known.name() == text),
                )
                .unwrap_or(Storage::Auto),
            storage_size: read.parse(variables::DIND_STORAGE_SIZE, SIZE, size),
            images: read.parse(
                variables::DIND_IMAGES,
                "an absolute path of a directory",
                |text| Some(PathBuf::from(text)).filter(|path| path.is_absolute()),
            ),
            images_strict: read.flag(variables::DIND_IMAGES_STRICT),
            store: read.parse(variables::DIND_STORE, "an absolute path", |text| {
                Some(PathBuf::from(text)).filter(|path| path.is_absolute())
            }),
            store_strict: read.flag(variables::DIND_STORE_STRICT),
            docker_driver: read.parse(variables::DOCKER_DRIVER, "a storage driver", |text| {
                Some(text.to_owned())
            }),
            stop_timeout: read.seconds(variables::DIND_STOP_TIMEOUT, DEFAULT_STOP_TIMEOUT),
            stop_deaf: read
                .parse(variables::DIND_STOP_DEAF, "kill, wait", |text| match text {
                    "kill" => Some(StopDeaf::Kill),
                    "wait" => Some(StopDeaf::Wait),
                    _ => None,
                })
                .unwrap_or(StopDeaf::Kill),
            ready_timeout: read.seconds(variables::DIND_READY_TIMEOUT, DEFAULT_READY_TIMEOUT),
            docker_host: read
                .parse(variables::DOCKER_HOST, "an address", |text| {
                    Some(text.trim().to_owned())
                })
                .filter(|host| !host.is_empty()),
            docker_context: values
                .get(variables::DOCKER_CONTEXT)
                .filter(|name| *name != DEFAULT_CONTEXT)
                .map(OsStr::to_owned),
            tls_directory: values
                .get(variables::DOCKER_TLS_CERTDIR)
                .map(trimmed)
                .filter(|directory| !directory.is_empty())
                .map(PathBuf::from),
            tls_names: read.names(),
            certificate_path: values.get(variables::DOCKER_CERT_PATH).map(PathBuf::from),
            docker_config: values
                .get(variables::DOCKER_CONFIG)
                .map(PathBuf::from)
                .or_else(|| Some(Path::new(values.get(variables::HOME)?).join(".docker"))),
            home: values.get(variables::HOME).map(PathBuf::from),
            runtime_directory: values.get(variables::XDG_RUNTIME_DIR).map(PathBuf::from),
            iptables_legacy: values
                .get_even_empty(variables::DOCKER_IPTABLES_LEGACY)
                .map(|value| !value.is_empty()),
            iptables_shortcut: read.switch(variables::DIND_IPTABLES_SHORTCUT),
            notify_socket: values.get(variables::NOTIFY_SOCKET).map(OsStr::to_owned),
            search_path: values
                .get(variables::PATH)
                .unwrap_or(OsStr::new(DEFAULT_PATH))
                .to_owned(),
            invalid: read.invalid,
            environment,
        }
    }

    /// Returns the fault of the first invalid value in a variable that `reads` selects: those
    /// that have an effect on what is about to be done.
    pub fn check(&self, reads: impl Fn(Variable) -> bool) -> Result<(), Fault> {
        let invalid = self.invalid.iter().find(|found| reads(found.variable));
        invalid.map_or(Ok(()), |found| Err(found.fault.clone()))
    }

    /// The invalid values in variables that `contract` reads and refuses.
    pub fn refused(&self, contract: Contract) -> impl Iterator<Item = &Invalid> {
        let refused = move |found: &&Invalid| found.variable.is_refused_by(contract);
        self.invalid.iter().filter(refused)
    }

    /// The warnings about invalid values in variables that `contract` reads and does not refuse.
    pub fn ignored(&self, contract: Contract) -> impl Iterator<Item = Finding> {
        let ignored = move |found: &&Invalid| {
            found.variable.is_read_by(contract) && !found.variable.is_refused_by(contract)
        };
        self.invalid.iter().filter(ignored).map(|found| {
            let seen = format!("{} and counts as not set", found.fault.message);
            Finding {
                remedy: found.fault.remedy.clone(),
                ..Finding::warning("variable-ignored", seen, "README.md#variables")
            }
        })
    }

    /// The Unix socket for a start to listen on: that of `DOCKER_HOST` where it names one, else
    /// [`DOCKER_SOCKET`]. `wrapdocker` did not read `DOCKER_HOST`.
    pub fn socket_path(&self, contract: Contract) -> PathBuf {
        let host = self.docker_host.as_deref();
        match host.and_then(|host| host.strip_prefix("unix://")) {
            Some(path) if contract != Contract::Wrapdocker && !path.is_empty() => {
                PathBuf::from(path)
            }
            _ => PathBuf::from(DOCKER_SOCKET),
        }
    }

    /// The directory for a user's sockets: `XDG_RUNTIME_DIR`, or the default of docker-library's
    /// `docker-entrypoint.sh`.
    pub fn sockets_of(&self, user: u32) -> PathBuf {
        let usual = || PathBuf::from(format!("/run/user/{user}"));
        self.runtime_directory.clone().unwrap_or_else(usual)
    }

    /// The text of a variable that is set and not empty. For variables that have no field here.
    pub fn text(&self, variable: Variable) -> Option<String> {
        let value = Values::new(&self.environment).get(variable)?;
        Some(value.to_string_lossy().into_owned())
    }

    /// Whether a variable is set and not empty. For variables that have no field here.
    pub fn is_set(&self, variable: Variable) -> bool {
        Values::new(&self.environment).get(variable).is_some()
    }

    /// The directory of the client's certificates below `DOCKER_TLS_CERTDIR`.
    pub fn client_certificates(&self) -> Option<PathBuf> {
        Some(self.tls_directory.as_deref()?.join("client"))
    }
}

/// The values that [`seconds`] allows, for errors.
const SECONDS: &str = "seconds, 0.1 to 86400";

/// Parses seconds, with or without a fraction, from 0.1 to 86400: no deadline overflows with
/// that, and no useful limit is longer. `None` for other text.
pub fn seconds(text: &str) -> Option<Duration> {
    let digits = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || byte == b'.');
    let seconds: f64 = digits.then(|| text.parse().ok())??;
    (0.1..=86_400.0)
        .contains(&seconds)
        .then(|| Duration::from_secs_f64(seconds))
}

/// Parses the values of docker's `--restart`, except for those that would outlive the container,
/// and returns how many restarts in a row they allow.
fn restarts(text: &str) -> Option<u32> {
    match text.split_once(':') {
        None if text == "no" => Some(0),
        None if text == "on-failure" => Some(u32::MAX),
        Some(("on-failure", limit)) if limit.bytes().all(|byte| byte.is_ascii_digit()) => {
            limit.parse().ok()
        }
        _ => None,
    }
}

/// The values that [`size`] allows, for errors.
const SIZE: &str = "bytes, or a number with K, M, G or T, 256M to 1024T";

/// Parses a size as truncate(1) does, with units of powers of 1024, and returns it in bytes.
fn size(text: &str) -> Option<u64> {
    const LEAST: u64 = 256 << 20;
    const MOST: u64 = 1 << 50;
    const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let with_unit = UNITS
        .iter()
        .find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
    let (digits, shift) = with_unit.unwrap_or((text, 0));
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = plain.then(|| digits.parse().ok())??;
    let bytes = number.checked_mul(1 << shift)?;
    (LEAST..=MOST).contains(&bytes).then_some(bytes)
}

/// The settings of dind's own log in `environment`. An invalid value counts as not set, so that
/// the error about it, which [`Config::check`] returns, can be logged.
pub fn logs(environment: &[(OsString, OsString)]) -> Logs {
    let values = Values::new(environment);
    let mut read = Reader {
        values,
        invalid: Vec::new(),
    };
    Logs {
        level: read.log_level(),
        format: read.log_format(),
        colours: values.get(variables::NO_COLOR).is_none()
            && values.get(variables::TERM) != Some(OsStr::new("dumb")),
    }
}

/// A value without the blanks around it, where it is UTF-8.
fn trimmed(value: &OsStr) -> OsString {
    let text = value.to_str().map(|text| text.trim().into());
    text.unwrap_or_else(|| value.to_owned())
}

/// Parses values, and collects those that are not valid.
struct Reader<'a> {
    values: Values<'a>,
    invalid: Vec<Invalid>,
}

impl Reader<'_> {
    fn parse<T>(
        &mut self,
        variable: Variable,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.values.get(variable)?;
        let parsed = value.to_str().and_then(parse);
        if parsed.is_none() {
            let fault = Fault::usage(format!(
                "{}={:?} is not valid",
                variable.name(),
                secrets::hide_in_word(&value.to_string_lossy())
            ));
            self.invalid.push(Invalid {
                variable,
                fault: fault.remedy(format!("allowed: {allowed}")),
            });
        }
        parsed
    }

    /// Parses `DOCKER_TLS_SAN`.
    fn names(&mut self) -> Vec<Name> {
        let variable = variables::DOCKER_TLS_SAN;
        let Some(names) = self.values.get(variable) else {
            return Vec::new();
        };
        Name::parse_list(&names.to_string_lossy()).unwrap_or_else(|fault| {
            let message = format!("{}: {}", variable.name(), fault.message);
            self.invalid.push(Invalid {
                variable,
                fault: Fault { message, ..fault },
            });
            Vec::new()
        })
    }

    /// Parses `DIND_ROOTLESS_NETWORK`, and what `dockerd-rootless.sh` has for it: the plan warns of
    /// drivers that are not here.
    fn rootless_network(&mut self) -> Option<RootlessNetwork> {
        let known = |text: &str| match text {
            "auto" => Some(None),
            text => {
                let mut all = RootlessNetwork::ALL.into_iter();
                all.find(|known| known.name() == text).map(Some)
            }
        };
        let variable = variables::DIND_ROOTLESS_NETWORK;
        let own = self.parse(variable, "auto, veth, slirp4netns, pasta", known);
        let others = self.values.get(variables::DOCKERD_ROOTLESS_ROOTLESSKIT_NET);
        let others = others.and_then(|text| known(text.to_str()?));
        own.or(others).flatten()
    }

    fn log_level(&mut self) -> Level {
        self.parse(
            variables::DIND_LOG,
            "error, warn, info, debug, trace",
            |text| {
                Some(match text {
                    "error" => Level::ERROR,
                    "warn" => Level::WARN,
                    "info" => Level::INFO,
                    "debug" => Level::DEBUG,
                    "trace" => Level::TRACE,
                    _ => return None,
                })
            },
        )
        .unwrap_or(DEFAULT_LOG_LEVEL)
    }

    fn log_format(&mut self) -> LogFormat {
        self.parse(
            variables::DIND_LOG_FORMAT,
            "text, json",
            |text| match text {
                "text" => Some(LogFormat::Text),
                "json" => Some(LogFormat::Json),
                _ => None,
            },
        )
        .unwrap_or(LogFormat::Text)
    }

    /// Parses `on` or `off`. The default is on.
    fn switch(&mut self, variable: Variable) -> bool {
        let on = self.parse(variable, "on, off", |text| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        });
        on.unwrap_or(true)
    }

    /// Parses `1` or `0`. The default is 0.
    fn flag(&mut self, variable: Variable) -> bool {
        let on = self.parse(variable, "1, 0", |text| match text {
            "1" => Some(true),
            "0" => Some(false),
            _ => None,
        });
        on.unwrap_or(false)
    }

    fn seconds(&mut self, variable: Variable, default: Duration) -> Duration {
        self.parse(variable, SECONDS, seconds).unwrap_or(default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(variables: &[(&str, &str)]) -> Config {
        Config::read(
            [OsString::from("dind")],
            variables
                .iter()
                .map(|(key, value)| (key.into(), value.into())),
        )
    }

    fn fault(name: &str, value: &str) -> Fault {
        let config = read(&[(name, value)]);
        let found = config.check(|variable| variable.name() == name);
        assert_eq!(config.check(|variable| variable.name() != name), Ok(()));
        let without = Config {
            environment: Vec::new(),
            invalid: Vec::new(),
            ..config
        };
        assert_eq!(without, read(&[]), "{name} counts as not set");
        found
            .err()
            .unwrap_or_else(|| panic!("{name}={value:?} was accepted"))
    }

    #[test]
    fn faults_name_the_variable_its_value_and_what_is_allowed() {
        for (name, value, allowed) in [
            ("PORT", "abc", "1 to 65535"),
            ("PORT", "0", "1 to 65535"),
            ("PORT", "70000", "1 to 65535"),
            ("PORT", "-1", "1 to 65535"),
            ("DOCKER_DAEMON_ARGS", "--label 'a", "balanced quotes"),
            ("LOG", "somewhere", "file, stdio"),
            ("DIND_LOG", "warning", "error, warn, info"),
            ("DIND_LOG", "2", "error, warn, info"),
            ("DIND_LOG_FORMAT", "JSON", "text, json"),
            ("DIND_STOP_DEAF", "yes", "kill, wait"),
            ("DIND_STOP_TIMEOUT", "soon", "seconds, 0.1 to"),
            ("DIND_STOP_TIMEOUT", "0", "seconds, 0.1 to"),
            ("DIND_READY_TIMEOUT", "1.5s", "seconds, 0.1 to"),
            (
                "DIND_READY_TIMEOUT",
                "99999999999999999999",
                "seconds, 0.1 to",
            ),
            ("DIND_CONTRACT", "dnd", "wrapdocker"),
            ("DIND_TMPFS", "maybe", "on, off"),
            ("DIND_DNS", "1", "on, off"),
            ("DIND_IPTABLES_SHORTCUT", "0", "on, off"),
            ("DIND_MTU", "67", "68 to 65535"),
            ("DIND_MTU", "65536", "68 to 65535"),
            ("DIND_MTU", "auto", "off, or bytes"),
            ("DIND_HOOK_TIMEOUT", "never", "seconds, 0.1 to"),
            ("DIND_EPHEMERAL", "yes", "1, 0"),
            ("DIND_IMAGES", "images", "an absolute path"),
            ("DIND_IMAGES_STRICT", "yes", "1, 0"),
            ("DIND_STORE", "store", "an absolute path"),
            ("DIND_STORE_STRICT", "yes", "1, 0"),
            ("DIND_RESTART", "always", "on-failure:N"),
            ("DIND_RESTART", "on-failure:", "on-failure:N"),
            ("DIND_RESTART", "on-failure:-1", "on-failure:N"),
            ("DIND_RESTART", "no:1", "on-failure:N"),
            ("DIND_STORAGE", "overlay2", "auto, loop"),
            ("DIND_STORAGE_SIZE", "20", "256M to"),
            ("DIND_STORAGE_SIZE", "20GB", "a number with"),
            ("DIND_STORAGE_SIZE", "99999999999T", "256M to"),
            ("DIND_STORAGE_SIZE", "+1G", "a number with"),
            ("DOCKER_TLS_SAN", "docker", "allowed: "),
            (
                "DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS",
                "-p 2376:2376",
                "-p 0.0.0.0:2376:2376/tcp",
            ),
        ] {
            let fault = fault(name, value);
            assert_eq!(fault.status, 2, "{name}={value}");
            for part in [name, value, allowed] {
                assert!(
                    fault.to_string().contains(part),
                    "{part:?} not in \"{fault}\""
                );
            }
        }
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let empty = [
            ("PORT", ""),
            ("LOG", ""),
            ("DIND_LOG", ""),
            ("DIND_LOG_FORMAT", ""),
            ("DOCKER_DAEMON_ARGS", ""),
            ("DIND_CONTRACT", ""),
            ("DIND_TMPFS", ""),
            ("DIND_DNS", ""),
            ("DIND_IPTABLES_SHORTCUT", ""),
            ("DIND_MTU", ""),
            ("DIND_HOOK_TIMEOUT", ""),
            ("DIND_EPHEMERAL", ""),
            ("DIND_IMAGES", ""),
            ("DIND_IMAGES_STRICT", ""),
            ("DIND_STORE", ""),
            ("DIND_STORE_STRICT", ""),
            ("DIND_RESTART", ""),
            ("DIND_STORAGE", ""),
            ("DIND_STORAGE_SIZE", ""),
            ("DOCKER_DRIVER", ""),
            ("DIND_STOP_TIMEOUT", ""),
            ("DIND_READY_TIMEOUT", ""),
            ("DOCKER_HOST", ""),
            ("DOCKER_CONTEXT", ""),
            ("DOCKER_TLS_CERTDIR", ""),
            ("XDG_RUNTIME_DIR", ""),
            ("PATH", ""),
        ];
        let with = Config {
            environment: Vec::new(),
            ..read(&empty)
        };
        assert_eq!(with, read(&[]));
    }

    /// As where a value comes from a file or a block of YAML, with the line's end.
    #[test]
    fn blanks_around_an_address_or_a_directory_are_not_part_of_it() {
        for blank in [" ", "\n", "\t "] {
            let value = |text: &str| format!("{blank}{text}{blank}");
            let config = read(&[
                ("DOCKER_HOST", &value("unix:///a b.sock")),
                ("DOCKER_TLS_CERTDIR", &value("/certs")),
            ]);
            assert_eq!(config.docker_host.as_deref(), Some("unix:///a b.sock"));
            assert_eq!(config.tls_directory.as_deref(), Some(Path::new("/certs")));
            let config = read(&[("DOCKER_HOST", blank), ("DOCKER_TLS_CERTDIR", blank)]);
            assert_eq!((config.docker_host, config.tls_directory), (None, None));
        }
    }

    /// A job's variables reach each of its services, whatever it is.
    #[test]
    fn a_value_is_refused_only_where_it_is_read() {
        let leaked = read(&[("PORT", "auto"), ("LOG", "debug"), ("DIND_MTU", "x")]);
        let names = |contract| -> (Vec<&str>, Vec<String>) {
            let refused = leaked.refused(contract).map(|found| found.variable.name());
            let ignored = leaked.ignored(contract).map(|found| found.to_string());
            (refused.collect(), ignored.collect())
        };
        let port =
            "PORT=\"auto\" is not valid and counts as not set; allowed: a TCP port, 1 to 65535"
                .to_owned();
        let log =
            "LOG=\"debug\" is not valid and counts as not set; allowed: file, stdio".to_owned();
        let none: (Vec<&str>, Vec<String>) = (vec![], vec![]);
        for (contract, expected) in [
            (Contract::Dind, (vec!["DIND_MTU"], vec![port, log.clone()])),
            (
                Contract::Wrapdocker,
                (vec!["PORT", "DIND_MTU"], vec![log.clone()]),
            ),
            (Contract::DockerdEntrypoint, (vec!["DIND_MTU"], vec![log])),
            (Contract::DockerEntrypoint, none.clone()),
            (Contract::HackDind, none),
        ] {
            assert_eq!(names(contract), expected, "{}", contract.name());
        }
    }

    #[test]
    fn the_settings_of_the_log_do_not_depend_on_other_variables() {
        let logs_of = |variables: &[(&str, &str)]| {
            let environment = variables
                .iter()
                .map(|(name, value)| (name.into(), value.into()));
            logs(&environment.collect::<Vec<_>>())
        };
        let usual = logs_of(&[]);
        assert_eq!(
            usual,
            Logs {
                level: Level::INFO,
                format: LogFormat::Text,
                colours: true
            }
        );
        let set = [
            ("DIND_LOG", "error"),
            ("DIND_LOG_FORMAT", "json"),
            ("PORT", "x"),
        ];
        assert_eq!(
            logs_of(&set),
            Logs {
                level: Level::ERROR,
                format: LogFormat::Json,
                ..usual
            }
        );
        let bad = [("DIND_LOG", "loud"), ("DIND_LOG_FORMAT", "xml")];
        assert_eq!(logs_of(&bad), usual);
        for (name, value, colours) in [
            ("NO_COLOR", "1", false),
            ("NO_COLOR", "", true),
            ("TERM", "dumb", false),
            ("TERM", "xterm", true),
        ] {
            assert_eq!(logs_of(&[(name, value)]).colours, colours, "{name}={value}");
        }
    }

    #[test]
    fn restarts_have_dockers_syntax() {
        for (text, expected) in [
            ("no", Some(0)),
            ("on-failure", Some(u32::MAX)),
            ("on-failure:3", Some(3)),
            ("on-failure:0", Some(0)),
            ("unless-stopped", None),
        ] {
            assert_eq!(restarts(text), expected, "{text}");
        }
    }

    #[test]
    fn a_size_has_a_unit_or_none() {
        for (text, bytes) in [
            ("268435456", Some(256 << 20)),
            ("262144K", Some(256 << 20)),
            ("256M", Some(256 << 20)),
            ("3G", Some(3 << 30)),
            ("1024T", Some(1 << 50)),
            ("1025T", None),
            ("255M", None),
            ("G", None),
            ("", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }

    #[test]
    fn daemon_arguments_are_split_as_a_shell_splits_words() {
        let config = read(&[(
            "DOCKER_DAEMON_ARGS",
            r#"--label "a=b c" --label='d e' $HOME"#,
        )]);
        assert_eq!(
            config.daemon_arguments,
            ["--label", "a=b c", "--label=d e", "$HOME"]
        );
    }

    proptest! {
        #[test]
        fn never_panics(name in "PORT|LOG|DIND_LOG|DIND_LOG_FORMAT|DOCKER_DAEMON_ARGS|DIND_STOP_TIMEOUT|DIND_CONTRACT", value in ".*") {
            let _ = read(&[(&name, &value)]);
        }
    }
}

//! What the daemons are started with: sockets, arguments, environment.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Action, Inputs, Listener, OnFailure, Program, Step};
use crate::config::Config;
use crate::contract::{Contract, DOCKER_SOCKET, Serve};
use crate::dockerd_options::{DockerdOptions, without_hosts};
use crate::fault::Fault;

/// As docker.service and containerd.service of the packages have them: when memory
/// runs out, a container goes before dockerd, and dockerd before containerd.
pub const DOCKERD_OOM_SCORE: i16 = -500;
const CONTAINERD_OOM_SCORE: i16 = -999;

/// The ports that docker:dind made customary.
const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// Plugins of containerd that dockerd has no use for. dockerd's own configuration
/// turns off the first. With the others containerd is up in half the time: those that
/// Kubernetes talks to, the restarter of containers that `ctr` made, and snapshotters
/// that do nothing unless they are configured. A name that a version of containerd
/// does not have is no error to it.
const DISABLED_PLUGINS: &[&str] = &[
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.restart",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.devmapper",
];

/// Variables for clients, which dockerd reads all the same and fails on
/// (cmd/dockerd/options.go), and those of the protocols that this process speaks
/// with its own children.
const KEPT_FROM_DAEMONS: &[&str] = &[
    "DOCKER_HOST",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "container",
];

/// The sockets to bind. TLS is asked for by `DOCKER_TLS_CERTDIR` and is a fault
/// until this program can make certificates.
pub fn listeners(serve: Option<&Serve>, inputs: Inputs<'_>) -> Result<Vec<Listener>, Fault> {
    let Inputs {
        contract,
        config,
        surroundings,
        options,
        facts,
    } = inputs;
    let literal = serve.is_some_and(|serve| serve.literal);
    // dockerd refuses `-H` beside `hosts` in its file, and literal words stand alone.
    if options.hosts_in_file || (literal && !options.hosts.is_empty()) {
        return Ok(Vec::new());
    }
    let mut listeners = vec![Listener::Unix {
        path: surroundings.socket.clone(),
        group: facts.socket_group,
    }];
    if literal {
        return Ok(listeners);
    }
    let port = config.port.map(u16::from);
    let wants_tls = config.tls_directory.is_some()
        && contract != Contract::Wrapdocker
        && port.is_none_or(|port| port == TLS_PORT);
    if wants_tls {
        return Err(Fault::failure(
            "DOCKER_TLS_CERTDIR asks for TLS, which is not in this version; \
             set it empty (-e DOCKER_TLS_CERTDIR=) to go without, or set PORT",
        ));
    }
    let port = port.or_else(|| serve.map(|_| PLAIN_PORT));
    listeners
        .extend(port.map(|port| Listener::Tcp(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))));
    Ok(listeners)
}

/// What the user should know of how the daemon is reached.
pub fn warnings(serve: Option<&Serve>, config: &Config, listeners: &[Listener]) -> Vec<String> {
    let mut warnings = Vec::new();
    for listener in listeners {
        if let Listener::Tcp(address) = listener {
            warnings.push(format!(
                "tcp://{address} has no TLS and no password: WHOEVER REACHES THIS PORT IS ROOT ON THE HOST; \
                 publish it on 127.0.0.1 or a private network only"
            ));
        }
    }
    let ignored = serve
        .map(|serve| serve.ignored.as_slice())
        .unwrap_or_default();
    if !ignored.is_empty() {
        warnings.push(format!(
            "PORT is set, so the daemon is served and this command is not run: {}",
            super::quoted(ignored)
        ));
    }
    let silent = listeners
        .iter()
        .all(|listener| matches!(listener, Listener::Unix { .. }));
    if let (true, Some(port)) = (silent, config.port) {
        warnings.push(format!(
            "PORT={port} is not used: the addresses come from dockerd's own arguments or its configuration file"
        ));
    }
    warnings
}

/// dockerd's arguments: this program's, then `DOCKER_DAEMON_ARGS`, then the command
/// line's. pflag lets the last one win.
pub fn dockerd_arguments(
    serve: Option<&Serve>,
    config: &Config,
    options: &DockerdOptions,
    listeners: &[Listener],
    own_containerd: bool,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if !listeners.is_empty() {
        // One of these takes every activated socket; `fd://3` would close the others.
        arguments.extend(["-H".into(), "fd://".into()]);
    }
    if own_containerd {
        arguments.push(with_value("--containerd=", containerd_socket(options)));
    }
    if !options.shutdown_timeout {
        arguments.push(
            format!(
                "--shutdown-timeout={}",
                shutdown_timeout(config.stop_timeout)
            )
            .into(),
        );
    }
    let given = serve
        .map(|serve| serve.arguments.as_slice())
        .unwrap_or_default();
    let user: Vec<OsString> = config
        .daemon_arguments
        .iter()
        .chain(given)
        .cloned()
        .collect();
    arguments.extend(without_hosts(&user, |host| {
        listeners.iter().any(|listener| serves(listener, host))
    }));
    arguments
}

/// Seconds for dockerd itself, so that it is done before its supervisor's patience
/// ends: two less, where there are two.
fn shutdown_timeout(stop_timeout: Duration) -> u64 {
    stop_timeout.as_secs().saturating_sub(2).max(1)
}

/// Whether `host`, as dockerd's `--host` has it, is what `listener` is bound to.
fn serves(listener: &Listener, host: &str) -> bool {
    match listener {
        Listener::Unix { path, .. } => {
            let wanted = host.strip_prefix("unix://").unwrap_or(host);
            let wanted = if host == "unix://" {
                DOCKER_SOCKET
            } else {
                wanted
            };
            Path::new(wanted) == path.as_path()
        }
        Listener::Tcp(address) => {
            let wanted = host.strip_prefix("tcp://").unwrap_or(host);
            wanted == address.to_string() || wanted == format!(":{}", address.port())
        }
    }
}

/// The socket that dockerd's own containerd would have.
fn containerd_socket(options: &DockerdOptions) -> PathBuf {
    options.exec_root.join("containerd/containerd.sock")
}

/// containerd as dockerd would start it (moby's libcontainerd/supervisor), and the
/// steps that write its configuration. `None` leaves it to dockerd: the user has
/// one, or the image has none under that name.
pub fn containerd(inputs: Inputs<'_>) -> Option<(Program, [Step; 2])> {
    let Inputs {
        config,
        options,
        facts,
        ..
    } = inputs;
    if options.containerd {
        return None;
    }
    let path = facts.programs.containerd.clone()?;
    let directory = options.exec_root.join("containerd");
    let file = directory.join("containerd.toml");
    let root = facts.data_root.path.join("containerd/daemon");
    let state = directory.join("daemon");
    let content = format!(
        "version = 2\n\
         root = {root}\n\
         state = {state}\n\
         disabled_plugins = {disabled}\n\
         \n\
         [grpc]\n\
         address = {address}\n",
        disabled = serde_json::Value::from(DISABLED_PLUGINS),
        root = toml_string(&root),
        state = toml_string(&state),
        address = toml_string(&containerd_socket(options)),
    );
    let why = "containerd starts beside dockerd, with the paths that dockerd would have given it";
    let steps = [
        Step {
            action: Action::Directory {
                path: directory,
                mode: 0o711,
            },
            on_failure: OnFailure::Fatal("containerd needs it; check --exec-root"),
            why: why.into(),
        },
        Step {
            action: Action::Write {
                path: file.clone(),
                content,
            },
            on_failure: OnFailure::Fatal("containerd needs it; check --exec-root"),
            why: why.into(),
        },
    ];
    let level = if options.debug { "debug" } else { "warn" };
    let program = Program {
        path,
        arguments: vec![
            "--config".into(),
            file.into_os_string(),
            "--log-level".into(),
            level.into(),
        ],
        environment: environment(config),
        oom_score_adj: CONTAINERD_OOM_SCORE,
    };
    Some((program, steps))
}

/// The daemons' environment: the container's, without what is meant for clients.
/// `container=docker` is what `hack/dind` sets: it tells them that they are nested, and
/// they then leave AppArmor profiles alone (`HostSupports` in containerd's pkg/apparmor).
pub fn environment(config: &Config) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<_> = config
        .environment
        .iter()
        .filter(|(name, _)| !KEPT_FROM_DAEMONS.iter().any(|kept| name == kept))
        .filter(|(name, _)| name != "PATH")
        .cloned()
        .collect();
    environment.push(("PATH".into(), config.search_path.clone()));
    environment.push(("container".into(), "docker".into()));
    environment
}

fn with_value(flag: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(flag);
    word.push(value);
    word
}

/// A TOML basic string: toml.io, String. JSON's escapes are a subset of TOML's.
fn toml_string(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy().into_owned()).to_string()
}

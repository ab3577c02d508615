//! The sockets, arguments and environments of dockerd and containerd.

use std::ffi::{OsStr, OsString};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use super::action::{Action, OnFailure, Step};
use super::engine::Program;
use super::inputs::{Addresses, Inputs};
use super::listener::{Listener, Protection};
use super::rootlesskit;
use super::tls::{self, TLS_PORT, Tls};
use super::words::{quoted, with_value};
use crate::input::config::{Config, DOCKER_SOCKET};
use crate::input::contract::Contract;
use crate::input::dockerd_arguments::{DockerdArguments, DockerdOptions};
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::plan::role::Serve;

/// dockerd's `oom_score_adj`. The values are those of docker.service and containerd.service in the
/// packages: when memory runs out, the kernel kills a container before dockerd, and dockerd before
/// containerd.
pub const DOCKERD_OOM_SCORE: i16 = -500;
const CONTAINERD_OOM_SCORE: i16 = -999;

/// That of this process, whose end is everybody's. The kernel chooses by the sum of it and of the
/// memory that is used (`oom_badness` in the kernel's mm/oom_kill.c), so beside the daemons a
/// process with 0 comes first, however small it is.
pub const OWN_OOM_SCORE: i16 = CONTAINERD_OOM_SCORE;

/// The TCP port without TLS that docker:dind uses; with TLS it is [`TLS_PORT`].
const PLAIN_PORT: u16 = 2375;

/// Plugins of containerd that dockerd does not use. dockerd's own configuration disables the
/// first. Without the others containerd starts in half the time: those for Kubernetes and those
/// that 2.1 cannot load without them, the restart monitor for containers that `ctr` made, and
/// snapshotters that do nothing unless they are configured. containerd accepts names of plugins
/// that it does not have.
const DISABLED_PLUGINS: &[&str] = &[
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.grpc.v1.sandbox-controllers",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.restart",
    "io.containerd.monitor.container.v1.restart",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.devmapper",
];

/// Variables for the docker CLI. dockerd also reads most of them, and fails on some
/// (cmd/dockerd/options.go in moby). They are not passed to the daemons.
pub const CLIENT_VARIABLES: &[&str] = &[
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "DOCKER_CONFIG",
];

const README_VARIABLES: &str = "README.md#variables";

/// Variables that a start sets for the daemons itself, or that are meant for PID 1 only:
/// sd_listen_fds(3), sd_notify(3).
const KEPT_FROM_DAEMONS: &[&str] = &[
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "container",
];

/// Returns the path of dockerd, which is `found`. The fault is that there is no dockerd in
/// `PATH`: status 127.
pub fn find_dockerd(config: &Config, found: Option<&Path>) -> Result<PathBuf, Fault> {
    found.map(Path::to_owned).ok_or_else(|| {
        Fault::not_found(format!(
            "no dockerd in PATH ({})",
            config.search_path.to_string_lossy()
        ))
        .remedy("use an image with a Docker engine, or add its directory to PATH")
    })
}

/// Returns the sockets to bind. `serve` is `None` beside a command. No sockets where dockerd binds
/// all of its addresses itself.
pub fn listeners(serve: Option<&Serve>, addresses: Addresses<'_>) -> Vec<Listener> {
    let mut listeners = own_listeners(serve, addresses);
    if addresses.is_rootless() {
        let is_literal = serve.is_some_and(|serve| serve.literal);
        for host in &addresses.options.hosts {
            if !listeners.iter().any(|listener| serves(listener, host)) {
                listeners.extend(bindable(host, is_literal, addresses));
            }
        }
        // The first one is asked whether dockerd is ready.
        listeners.sort_by_key(|listener| listener.unix_path().is_none());
        let published = rootlesskit::listeners(addresses.config, &listeners);
        listeners.extend(published);
    }
    listeners
}

/// Returns the socket for an address of dockerd's `--host`, which dockerd would bind in its own
/// namespaces. `None` where it is neither a path nor an IPv4 address with a port.
fn bindable(host: &str, is_literal: bool, addresses: Addresses<'_>) -> Option<Listener> {
    if let Some(path) = host.strip_prefix("unix://") {
        let usual = Path::new(DOCKER_SOCKET);
        let named = Some(Path::new(path)).filter(|path| path.is_absolute());
        return Some(Listener::Unix {
            path: named.unwrap_or(usual).to_owned(),
            group: addresses.group,
        });
    }
    let address = host.strip_prefix("tcp://").unwrap_or(host);
    let (ip, port) = address.rsplit_once(':')?;
    let ip = match ip {
        // `ParseTCPAddr` in moby's opts/hosts.go.
        "" => Ipv4Addr::LOCALHOST,
        ip => ip.parse().ok()?,
    };
    let port = port.parse().ok().filter(|port| *port > 0)?;
    Some(Listener::Tcp {
        address: SocketAddrV4::new(ip, port),
        protection: tls::protection(tls::wanted(addresses) && !is_literal, addresses),
        required: true,
        forwarded: false,
    })
}

/// Returns the sockets whose addresses follow from the contract and the variables.
fn own_listeners(serve: Option<&Serve>, addresses: Addresses<'_>) -> Vec<Listener> {
    let Addresses {
        contract,
        config,
        options,
        surroundings,
        group,
        ..
    } = addresses;
    let literal = serve.is_some_and(|serve| serve.literal);
    // dockerd refuses `-H` beside `hosts` in daemon.json, and a command line `dockerd -H …` gives
    // all addresses itself.
    if options.file_hosts.is_some() || (literal && !options.hosts.is_empty()) {
        return Vec::new();
    }
    let mut listeners = vec![Listener::Unix {
        path: surroundings.socket.clone(),
        group,
    }];
    if literal {
        return listeners;
    }
    let port = match contract {
        Contract::DockerdEntrypoint => None,
        _ => config.port.map(u16::from),
    };
    let tcp = |port, protection, required, forwarded| Listener::Tcp {
        address: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port),
        protection,
        required,
        forwarded,
    };
    let serves = serve.is_some();
    if !tls::wanted(addresses) {
        let port = port.or(serves.then_some(PLAIN_PORT));
        let protection = tls::protection(false, addresses);
        listeners.extend(port.map(|port| tcp(port, protection, serves, false)));
        return listeners;
    }
    // `PORT` may be that of a CI job, whose other variables send clients to the port with TLS. One
    // who has set it for this container does not need that port.
    let port = port.filter(|port| *port != TLS_PORT);
    let protection = tls::protection(true, addresses);
    listeners.push(tcp(TLS_PORT, protection, serves && port.is_none(), false));
    listeners.extend(port.map(|port| match tls::protection(false, addresses) {
        Protection::None => tcp(port, Protection::None, serves, true),
        // The user's own TLS.
        _ => tcp(port, protection, serves, false),
    }));
    listeners
}

/// Returns dockerd's flags and files for TLS on its TCP sockets. With `dockerd -H …` that is all the
/// user's.
pub fn tls(serve: Option<&Serve>, inputs: Inputs<'_>) -> Tls {
    let has_tcp = own_listeners(serve, inputs.addresses())
        .iter()
        .any(|listener| matches!(listener, Listener::Tcp { .. }));
    if has_tcp && tls::wanted(inputs.addresses()) {
        tls::plan(inputs)
    } else {
        Tls::default()
    }
}

/// Returns the warnings about dockerd's addresses: no TLS, no group for the Unix socket, a `PORT`
/// or a command that is ignored.
pub fn warnings(serve: Option<&Serve>, inputs: Inputs<'_>, listeners: &[Listener]) -> Vec<Finding> {
    let Inputs {
        contract,
        config,
        options,
        facts,
        ..
    } = inputs;
    let mut warnings = Vec::new();
    for listener in listeners {
        let Listener::Tcp {
            address,
            protection,
            forwarded,
            ..
        } = listener
        else {
            continue;
        };
        let lacks = match protection {
            Protection::Mutual => continue,
            Protection::Encrypted => "requires no client certificate",
            Protection::None => "has no TLS and no password",
        };
        let is_root = match inputs.rootless() {
            None => "IS ROOT ON THE HOST",
            Some(_) => "HAS ALL CONTAINERS OF THIS ENGINE",
        };
        let seen = format!("tcp://{address} {lacks}: WHOEVER REACHES THIS PORT {is_root}");
        let remedy = match forwarded {
            true => {
                "unset PORT to have the port with TLS only, or publish it on 127.0.0.1 or a private network only"
            }
            false => "publish it on 127.0.0.1 or a private network only",
        };
        warnings.push(
            Finding::warning(
                "tcp-without-tls",
                seen,
                "https://docs.docker.com/engine/security/protect-access/",
            )
            .remedy(remedy),
        );
    }
    let ignored = serve
        .map(|serve| serve.ignored.as_slice())
        .unwrap_or_default();
    if !ignored.is_empty() {
        let seen = format!(
            "PORT is set, so this container only serves the daemon, and this command does not run: {}",
            quoted(ignored)
        );
        warnings.push(Finding::warning("port-and-command", seen, README_VARIABLES));
    }
    let serves_port = listeners.iter().any(|listener| {
        matches!(listener, Listener::Tcp { address, .. } if config.port.is_some_and(|port| port.get() == address.port()))
    });
    let is_users = inputs.surroundings.user != 0;
    if let (Some(group), None, false) = (options.socket_group(), facts.socket_group, is_users) {
        let seen = format!("there is no group {group:?}, so only root can use the Unix socket");
        warnings.push(
            Finding::warning(
                "socket-group",
                seen,
                "https://docs.docker.com/engine/install/linux-postinstall/",
            )
            .remedy("add the group, or name another with --group"),
        );
    }
    if let (true, Some(port)) = (
        !serves_port && contract != Contract::DockerdEntrypoint,
        config.port,
    ) {
        let seen = format!(
            "PORT={port} is not used: the addresses come from dockerd's own arguments or its configuration file"
        );
        warnings.push(Finding::warning("port-unused", seen, README_VARIABLES));
    }
    warnings
}

/// Returns the fault that dockerd would bind addresses itself and in the namespaces of an engine in a
/// user namespace, where no client finds them.
pub fn addresses_inside(inputs: Inputs<'_>, listeners: &[Listener]) -> Option<Fault> {
    inputs.rootless()?;
    let mut addresses = inputs.options.addresses();
    let own = addresses.find(|host| !listeners.iter().any(|listener| serves(listener, host)))?;
    let message = format!(
        "dockerd would listen on {own} in the namespaces of its own, where no client finds it"
    );
    Some(Fault::usage(message).remedy(
        "leave that address out: DOCKER_HOST=unix://PATH has the Unix socket elsewhere, and PORT a TCP socket, too",
    ))
}

/// Returns dockerd's arguments: those for the listeners, the `chosen` ones, `--containerd` if
/// `own_containerd`, then the user's. Of a flag that is given twice pflag takes the last.
pub fn dockerd_arguments(
    user: &DockerdArguments,
    options: &DockerdOptions,
    listeners: &[Listener],
    chosen: Vec<OsString>,
    own_containerd: bool,
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    if !listeners.is_empty() {
        // `fd://` takes every activated socket. `fd://3` would close the others.
        arguments.extend(["-H".into(), "fd://".into()]);
    }
    arguments.extend(chosen);
    if own_containerd {
        arguments.push(with_value("--containerd=", containerd_socket(options)));
    }
    arguments
        .extend(user.without_hosts(|host| listeners.iter().any(|listener| serves(listener, host))));
    arguments
}

/// Whether `host`, a value of dockerd's `--host`, is the address of `listener`.
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
        Listener::Tcp { address, .. } => {
            let wanted = host.strip_prefix("tcp://").unwrap_or(host);
            wanted == address.to_string() || wanted == format!(":{}", address.port())
        }
    }
}

/// The socket that dockerd would give its own containerd.
fn containerd_socket(options: &DockerdOptions) -> PathBuf {
    options.exec_root.join("containerd/containerd.sock")
}

/// Returns containerd as dockerd would start it (moby's libcontainerd/supervisor), and the steps
/// that write its configuration. `None` if the user has set `--containerd`, if dockerd has one
/// inside of itself (the feature `embedded-containerd`), or if there is no `containerd` in `PATH`.
pub fn containerd(inputs: Inputs<'_>) -> Option<(Program, [Step; 2])> {
    let Inputs {
        config,
        options,
        facts,
        ..
    } = inputs;
    if options.has_own_containerd() {
        return None;
    }
    let path = facts.programs.containerd.clone()?;
    let directory = options.exec_root.join("containerd");
    let file = directory.join("containerd.toml");
    let root = facts.data_root.path.join("containerd/daemon");
    let state = directory.join("daemon");
    let content = format!(
        "version = {version}\n\
         root = {root}\n\
         state = {state}\n\
         disabled_plugins = {disabled}\n",
        version = facts.containerd_config.number(),
        disabled = serde_json::Value::from(DISABLED_PLUGINS),
        root = toml_string(&root),
        state = toml_string(&state),
    );
    let why = "containerd starts beside dockerd, with the paths that dockerd would give it";
    let steps = [
        Step {
            action: Action::Directory {
                path: directory,
                mode: 0o711,
            },
            on_failure: OnFailure::Fatal {
                lost: "containerd needs this directory",
                remedy: "check --exec-root",
            },
            why: why.into(),
        },
        Step {
            action: Action::Write {
                path: file.clone(),
                content,
            },
            on_failure: OnFailure::Fatal {
                lost: "containerd needs this file",
                remedy: "check --exec-root",
            },
            why: why.into(),
        },
    ];
    let level = if options.debug { "debug" } else { "warn" };
    let program = Program {
        path,
        arguments: vec![
            "--config".into(),
            file.into_os_string(),
            // A flag, since its place in the file differs from version to version.
            "--address".into(),
            containerd_socket(options).into_os_string(),
            "--log-level".into(),
            level.into(),
        ],
        environment: environment(config, facts.apparmor, None),
        oom_score_adj: CONTAINERD_OOM_SCORE,
    };
    Some((program, steps))
}

/// Returns the daemons' environment: that of the container without [`CLIENT_VARIABLES`] and
/// without the variables of PID 1's protocols. `first` is the directory that comes first in
/// `PATH`; `apparmor` is whether the daemons may load AppArmor profiles.
///
/// `hack/dind` sets `container=docker`. The daemons then know that they are nested and load no
/// AppArmor profiles (`HostSupports` in containerd's pkg/apparmor), so inner containers would be
/// unconfined. It is set only if the daemons cannot load profiles anyway.
pub fn environment(
    config: &Config,
    apparmor: bool,
    first: Option<&Path>,
) -> Vec<(OsString, OsString)> {
    let mut environment: Vec<_> = config
        .environment
        .iter()
        .filter(|(name, _)| {
            let mut kept = CLIENT_VARIABLES.iter().chain(KEPT_FROM_DAEMONS);
            !kept.any(|kept| name == kept)
        })
        .filter(|(name, _)| name != "PATH")
        .cloned()
        .collect();
    let mut path = OsString::new();
    if let Some(first) = first {
        path.push(first);
        path.push(":");
    }
    path.push(&config.search_path);
    environment.push(("PATH".into(), path));
    if !apparmor {
        environment.push(("container".into(), "docker".into()));
    }
    environment
}

/// Returns the environment of the command beside dockerd, in which the docker CLI finds that
/// daemon, and warnings that name the variables that were removed for it. The other client
/// variables are kept.
pub fn session_environment(
    inputs: Inputs<'_>,
    listeners: &[Listener],
) -> (Vec<(OsString, OsString)>, Vec<Finding>) {
    let bound = listeners.iter().find_map(Listener::unix_path);
    let bound = bound.map(|path| format!("unix://{}", path.display()));
    let default = format!("unix://{DOCKER_SOCKET}");
    let host = bound.or_else(|| {
        let mut addresses = inputs.options.addresses();
        let usual = inputs.options.addresses().any(|address| address == default);
        addresses.next().filter(|_| !usual).map(str::to_owned)
    });
    let host = host.filter(|host| *host != default);
    let mut environment = inputs.config.environment.clone();
    environment.retain(|(name, _)| name != "NOTIFY_SOCKET" && name != "DOCKER_HOST");
    let is_unix = host.as_deref().is_none_or(|host| host.starts_with("unix:"));
    environment.extend(host.map(|host| ("DOCKER_HOST".into(), host.into())));
    // With these variables the CLI reads its certificates even for a Unix socket, and fails if
    // there are none.
    let stops = is_unix && !inputs.facts.client.own_certificates;
    let breaks = |name: &OsStr| stops && (name == "DOCKER_TLS_VERIFY" || name == "DOCKER_TLS");
    let gone: Vec<String> = environment
        .extract_if(.., |(name, _)| breaks(name))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    let removed =
        |seen: String| Finding::warning("client-variables-removed", seen, README_VARIABLES);
    let mut warnings = Vec::new();
    if !gone.is_empty() {
        let seen = format!(
            "not passed to the command, since the docker CLI would fail without certificates: {}",
            gone.join(", ")
        );
        warnings.push(removed(seen).remedy(
            "put certificates in the directory DOCKER_CERT_PATH, or set DOCKER_HOST to use another daemon",
        ));
    }
    if inputs.config.docker_context.is_some() {
        environment.retain(|(name, _)| name != "DOCKER_CONTEXT");
        let seen = "not passed to the command, whose docker uses the daemon of this container: DOCKER_CONTEXT";
        warnings.push(removed(seen.to_owned()).remedy("set DOCKER_HOST to use another daemon"));
    }
    (environment, warnings)
}

/// A TOML basic string: toml.io, String. JSON's escapes are a subset of TOML's.
fn toml_string(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy().into_owned()).to_string()
}

//! The CLI, socket and certificates that a client of another daemon can use.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;
use ring::digest::{SHA256, digest};

use crate::input::config::{Config, DOCKER_SOCKET};
use crate::sys::search::search;

/// What a client of another daemon can use in this container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// Whether the docker CLI is in `PATH`.
    pub docker: bool,
    /// The subcommands that the CLI's plugins add, such as `compose` and `buildx`.
    pub plugins: BTreeSet<String>,
    /// Whether `/var/run/docker.sock` is a socket.
    pub socket: bool,
    /// The path of `docker.sock` in `XDG_RUNTIME_DIR`, if it is a socket: that of a rootless daemon
    /// of this user.
    pub rootless_socket: Option<PathBuf>,
    /// Whether the docker CLI has the context that `DOCKER_CONTEXT` names.
    pub context: bool,
    /// Whether `ca.pem`, `cert.pem` and `key.pem` in `DOCKER_TLS_CERTDIR/client` exist and
    /// are not empty.
    pub certificates: bool,
    /// Whether this user has no permission to search `DOCKER_TLS_CERTDIR/client`.
    pub certificates_hidden: bool,
    /// Whether the same three files are in `DOCKER_CERT_PATH` or, where that is unset, in
    /// `DOCKER_CONFIG`.
    pub own_certificates: bool,
}

impl ClientFacts {
    /// Looks for them where the environment in `config` points. A file that cannot be read
    /// counts as missing.
    pub fn read(config: &Config) -> Self {
        let is_hidden = |directory: &Path| {
            fs::metadata(directory.join("ca.pem"))
                .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
        };
        let ours = config.client_certificates();
        Self {
            docker: search("docker", &config.search_path).is_some(),
            plugins: plugins(config),
            socket: is_socket(Path::new(DOCKER_SOCKET)),
            rootless_socket: rootless_socket(config),
            context: context(config).is_some_and(|path| path.is_file()),
            certificates: ours.as_deref().is_some_and(has_all),
            certificates_hidden: ours.as_deref().is_some_and(is_hidden),
            ..Self::of_hooks(config)
        }
    }

    /// Looks only for the user's own certificates, on which it depends what hooks get of the
    /// client's variables.
    pub fn of_hooks(config: &Config) -> Self {
        let own = config.certificate_path.as_deref();
        Self {
            own_certificates: own.or(config.docker_config.as_deref()).is_some_and(has_all),
            ..Self::default()
        }
    }
}

/// Whether the three files that TLS takes are in a directory, and not empty.
fn has_all(directory: &Path) -> bool {
    ["ca.pem", "cert.pem", "key.pem"]
        .iter()
        .all(|name| fs::metadata(directory.join(name)).is_ok_and(|found| found.len() > 0))
}

/// The path of `docker.sock` in the directory for this user's sockets, if it is a socket.
pub fn rootless_socket(config: &Config) -> Option<PathBuf> {
    let path = runtime_directory(config).join("docker.sock");
    is_socket(&path).then_some(path)
}

fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

/// The directory for the sockets of this user.
fn runtime_directory(config: &Config) -> PathBuf {
    config.sockets_of(geteuid().as_raw())
}

/// The file of the docker CLI's context that `DOCKER_CONTEXT` names: its directory has the SHA-256
/// of the name (`contextdirOf` in docker/cli's cli/context/store).
fn context(config: &Config) -> Option<PathBuf> {
    let name = config.docker_context.as_ref()?;
    let contexts = config.docker_config.as_ref()?.join("contexts/meta");
    let hash = digest(&SHA256, name.as_encoded_bytes());
    let hex: String = hash
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Some(contexts.join(hex).join("meta.json"))
}

/// The docker CLI's plugins in the directories that it searches (docker/cli,
/// cli-plugins/manager): the file `docker-compose` there is the subcommand `compose`.
fn plugins(config: &Config) -> BTreeSet<String> {
    let system = [
        "/usr/local/lib/docker/cli-plugins",
        "/usr/local/libexec/docker/cli-plugins",
        "/usr/lib/docker/cli-plugins",
        "/usr/libexec/docker/cli-plugins",
    ];
    system
        .into_iter()
        .map(PathBuf::from)
        .chain(
            config
                .docker_config
                .as_ref()
                .map(|own| own.join("cli-plugins")),
        )
        .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            name.strip_prefix("docker-").map(str::to_owned)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn config(variables: &[(&str, &Path)]) -> Config {
        let variables = variables.iter();
        let variables = variables.map(|(name, value)| (OsString::from(name), (*value).into()));
        Config::read([], variables)
    }

    #[test]
    fn a_rootless_socket_and_a_context_are_found_where_the_cli_has_them() -> io::Result<()> {
        let scratch = std::env::temp_dir().join(format!("dind-client-{}", std::process::id()));
        // `docker context create remote` makes this directory.
        let context = "b71199ebd070b36beab7317920c2c2f1d777df8d05e5527d8458fda57cb17a7a";
        let meta = scratch.join("contexts/meta").join(context);
        fs::create_dir_all(&meta)?;
        fs::write(meta.join("meta.json"), "{}")?;
        let socket = scratch.join("docker.sock");
        let listener = UnixListener::bind(&socket)?;
        let found = ClientFacts::read(&config(&[
            ("XDG_RUNTIME_DIR", &scratch),
            ("DOCKER_CONFIG", &scratch),
            ("DOCKER_CONTEXT", Path::new("remote")),
        ]));
        let other = ClientFacts::read(&config(&[
            ("DOCKER_CONFIG", &scratch),
            ("DOCKER_CONTEXT", Path::new("other")),
        ]));
        drop(listener);
        fs::remove_dir_all(&scratch)?;
        assert_eq!(found.rootless_socket, Some(socket));
        assert!(found.context && !other.context);
        Ok(())
    }

    #[test]
    fn the_directory_of_a_rootless_socket_has_a_default() {
        let usual = PathBuf::from(format!("/run/user/{}", geteuid()));
        assert_eq!(runtime_directory(&config(&[])), usual);
        let own = config(&[("XDG_RUNTIME_DIR", Path::new("/own"))]);
        assert_eq!(runtime_directory(&own), Path::new("/own"));
    }
}

//! The client: the command and the environment that `docker-entrypoint.sh` of the official
//! `docker:cli` image would execute.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::outcome::Plan;
use super::words::with_value;
use crate::facts::client::ClientFacts;
use crate::input::config::{Config, DOCKER_SOCKET};
use crate::input::contract::Contract;
use crate::input::variables;
use crate::messages::finding::Finding;
use crate::messages::secrets;

/// The subcommands of the docker CLI from 20.10 to 28.5, by `docker help`. The script
/// asked `docker help WORD` itself, at every start; an end-to-end test asks it now.
const SUBCOMMANDS: &[&str] = &[
    "attach",
    "build",
    "builder",
    "checkpoint",
    "commit",
    "completion",
    "config",
    "container",
    "context",
    "cp",
    "create",
    "diff",
    "events",
    "exec",
    "export",
    "history",
    "image",
    "images",
    "import",
    "info",
    "inspect",
    "kill",
    "load",
    "login",
    "logout",
    "logs",
    "manifest",
    "network",
    "node",
    "pause",
    "plugin",
    "port",
    "ps",
    "pull",
    "push",
    "rename",
    "restart",
    "rm",
    "rmi",
    "run",
    "save",
    "search",
    "secret",
    "service",
    "stack",
    "start",
    "stats",
    "stop",
    "swarm",
    "system",
    "tag",
    "top",
    "trust",
    "unpause",
    "update",
    "version",
    "volume",
    "wait",
];

/// Returns the plan to become a client of another daemon: the command `words`, or a login shell
/// if that is empty. `bash` is whether the image has bash. The plan has no steps and no notes, so
/// that the output is the command's own.
pub fn plan(
    contract: Contract,
    words: &[OsString],
    config: &Config,
    facts: &ClientFacts,
    bash: bool,
) -> Plan {
    let command = if words.is_empty() {
        login_shell(bash)
    } else {
        command(words, facts)
    };
    let is_dockerd = command.first().is_some_and(|first| first == "dockerd");
    let mut plan = Plan::becoming(contract, command, environment(config, facts));
    plan.warnings.extend(warning(config, facts));
    plan.warnings.extend(context_warning(config, facts));
    if is_dockerd {
        let seen = "docker-entrypoint.sh does not prepare the container for dockerd";
        let finding = Finding::warning("dockerd-unprepared", seen, "README.md#contracts");
        plan.warnings
            .push(finding.remedy("start the image without --entrypoint"));
    }
    plan
}

/// Returns the command of a login shell: bash if `bash` is true, else sh.
pub fn login_shell(bash: bool) -> Vec<OsString> {
    if bash {
        vec!["bash".into(), "--login".into()]
    } else {
        vec!["sh".into(), "-l".into()]
    }
}

/// Returns `words`, with `docker` before them if the first is a flag, a subcommand or a plugin of
/// the docker CLI. `bake` gets `docker buildx`: a CLI that knows the word takes it for that
/// (`forwardBuilder` in docker/cli's cmd/docker/builder.go), and older ones do not know it.
pub fn command(words: &[OsString], facts: &ClientFacts) -> Vec<OsString> {
    let first = words.first().and_then(|first| first.to_str());
    let before: &[&str] = match first {
        _ if !facts.docker => &[],
        Some("bake") if facts.plugins.contains("buildx") => &["docker", "buildx"],
        Some(first)
            if first.starts_with('-')
                || SUBCOMMANDS.contains(&first)
                || facts.plugins.contains(first) =>
        {
            &["docker"]
        }
        Some(_) | None => &[],
    };
    before
        .iter()
        .map(OsString::from)
        .chain(words.iter().cloned())
        .collect()
}

/// Returns the environment in which the docker CLI finds its daemon: the one that `DOCKER_HOST`
/// names, else that of the context `DOCKER_CONTEXT`, else the one on the default socket, else a
/// rootless one of this user, else the one on the host `docker`, the usual name of a linked
/// container or a CI service.
///
/// The order is that of docker-library's `docker-entrypoint.sh`, which sets `DOCKER_HOST` in every
/// case, and of the CLI itself, for which `DOCKER_HOST` comes before a context
/// (`resolveContextName` in docker/cli's cli/command/cli.go).
pub fn environment(config: &Config, facts: &ClientFacts) -> Vec<(OsString, OsString)> {
    let mut environment = config.environment.clone();
    let unix = |path: &Path| with_value("unix://", path);
    let host = match (&config.docker_host, &facts.rootless_socket) {
        (Some(host), _) => host.into(),
        (None, _) if facts.context => {
            // One of blanks counts as not set here, and in the CLI comes before a context.
            environment.retain(|(key, _)| key != "DOCKER_HOST");
            return environment;
        }
        (None, _) if facts.socket => unix(Path::new(DOCKER_SOCKET)),
        (None, Some(path)) => unix(path),
        (None, None) if facts.certificates || config.is_set(variables::DOCKER_TLS_VERIFY) => {
            "tcp://docker:2376".into()
        }
        (None, None) => "tcp://docker:2375".into(),
    };
    let is_tcp = host.as_encoded_bytes().starts_with(b"tcp:");
    set(&mut environment, "DOCKER_HOST", &host);
    if let Some(directory) = config.client_certificates()
        && is_tcp
        && facts.certificates
        && !config.is_set(variables::DOCKER_TLS_VERIFY)
        && !config.is_set(variables::DOCKER_CERT_PATH)
    {
        set(&mut environment, "DOCKER_TLS_VERIFY", "1".as_ref());
        set(&mut environment, "DOCKER_CERT_PATH", directory.as_os_str());
    }
    environment
}

/// The warning that this user has no access to the certificates. `docker-entrypoint.sh` gives
/// none, and the docker CLI then only reports that it cannot connect.
fn warning(config: &Config, facts: &ClientFacts) -> Option<Finding> {
    let directory = config.client_certificates()?;
    let own = config.certificate_path.is_some();
    let is_tcp = |(name, value): &(OsString, OsString)| {
        name == "DOCKER_HOST" && value.as_encoded_bytes().starts_with(b"tcp:")
    };
    let is_needed =
        facts.certificates_hidden && !own && environment(config, facts).iter().any(is_tcp);
    is_needed.then(|| {
        let directory = directory.display();
        let seen =
            format!("this user cannot read the certificates in {directory}, so they are not used");
        Finding::warning("client-certificates", seen, "README.md#certificates")
            .remedy("give that directory mode 755, or use another --user")
    })
}

/// The warning that the docker CLI has no such context, so that another daemon is used. The CLI
/// itself would stop.
fn context_warning(config: &Config, facts: &ClientFacts) -> Option<Finding> {
    let name = config.docker_context.as_ref()?;
    let is_missed = config.docker_host.is_none() && !facts.context;
    is_missed.then(|| {
        let seen = format!(
            "DOCKER_CONTEXT={:?} counts as not set, since the docker CLI has no such context here",
            secrets::hide_in_word(&name.to_string_lossy())
        );
        Finding::warning("client-context", seen, "README.md#variables")
            .remedy("mount the directory DOCKER_CONFIG with that context, or set DOCKER_HOST")
    })
}

fn set(environment: &mut Vec<(OsString, OsString)>, name: &str, value: &OsStr) {
    environment.retain(|(key, _)| key != name);
    environment.push((name.into(), value.to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(plugins: &[&str]) -> ClientFacts {
        ClientFacts {
            docker: true,
            plugins: plugins.iter().map(|&name| name.to_owned()).collect(),
            ..ClientFacts::default()
        }
    }

    fn shown(words: &str, facts: &ClientFacts) -> String {
        let words: Vec<OsString> = words.split_whitespace().map(OsString::from).collect();
        let command = command(&words, facts);
        let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        command.join(" ")
    }

    /// `DOCKER_HOST`, `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`.
    fn variables(given: &[(&str, &str)], facts: &ClientFacts) -> [String; 3] {
        let given = given
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let config = Config::read([OsString::from("docker-entrypoint.sh")], given);
        let environment = environment(&config, facts);
        ["DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"].map(|name| {
            let mut values = environment.iter().filter(|(key, _)| key == name);
            let value = values
                .next()
                .map(|(_, value)| value.to_string_lossy().into_owned());
            assert!(values.next().is_none(), "{name} is there twice");
            value.unwrap_or_default()
        })
    }

    #[test]
    fn dockers_own_words_get_docker_before_them() {
        let facts = facts(&["compose"]);
        for (words, expected) in [
            ("ps -a", "docker ps -a"),
            ("--version", "docker --version"),
            ("compose up", "docker compose up"),
            ("buildx ls", "buildx ls"),
            ("bake", "bake"),
            ("docker ps", "docker ps"),
            ("sh -c x", "sh -c x"),
            ("/bin/ps", "/bin/ps"),
            ("", ""),
        ] {
            assert_eq!(shown(words, &facts), expected);
        }
        let facts = self::facts(&["buildx"]);
        assert_eq!(shown("buildx ls", &facts), "docker buildx ls");
        assert_eq!(shown("bake --print", &facts), "docker buildx bake --print");
        let bare = ClientFacts {
            docker: false,
            ..facts
        };
        for words in ["ps", "bake", "buildx ls"] {
            assert_eq!(shown(words, &bare), words);
        }
    }

    #[test]
    fn unreadable_certificates_cause_a_warning_if_they_are_needed() {
        let hidden = ClientFacts {
            certificates_hidden: true,
            ..facts(&[])
        };
        let socket = ClientFacts {
            socket: true,
            ..hidden.clone()
        };
        let directory = ("DOCKER_TLS_CERTDIR", "/certs");
        for (given, facts, expected) in [
            (&[directory][..], &hidden, true),
            (&[directory, ("DOCKER_HOST", "tcp://a:1")], &socket, true),
            (&[directory], &facts(&[]), false),
            (&[directory], &socket, false),
            (&[directory, ("DOCKER_CERT_PATH", "/own")], &hidden, false),
            (&[directory, ("DOCKER_HOST", "ssh://a")], &hidden, false),
            (&[], &hidden, false),
        ] {
            let variables = given
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)));
            let config = Config::read([OsString::from("docker-entrypoint.sh")], variables);
            let warning = warning(&config, facts);
            assert_eq!(warning.is_some(), expected, "{given:?}: {warning:?}");
        }
    }

    #[test]
    fn a_context_is_used_where_the_cli_has_it_and_nothing_comes_before_it() {
        let has = ClientFacts {
            context: true,
            socket: true,
            ..facts(&[])
        };
        let lacks = ClientFacts {
            context: false,
            ..has.clone()
        };
        let remote = ("DOCKER_CONTEXT", "remote");
        let usual = "unix:///var/run/docker.sock";
        for (given, facts, host, warns) in [
            (&[remote][..], &has, "", false),
            (&[remote], &lacks, usual, true),
            (&[("DOCKER_CONTEXT", "default")], &lacks, usual, false),
            (
                &[remote, ("DOCKER_HOST", "tcp://a:1")],
                &has,
                "tcp://a:1",
                false,
            ),
            (
                &[remote, ("DOCKER_HOST", "tcp://a:1")],
                &lacks,
                "tcp://a:1",
                false,
            ),
            (&[remote, ("DOCKER_HOST", " ")], &lacks, usual, true),
            (&[remote, ("DOCKER_HOST", " ")], &has, "", false),
        ] {
            assert_eq!(variables(given, facts)[0], host, "{given:?}");
            let given = given
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value)));
            let config = Config::read([OsString::from("docker-entrypoint.sh")], given);
            let warning = context_warning(&config, facts);
            assert_eq!(warning.is_some(), warns, "{warning:?}");
        }
    }

    #[test]
    fn the_daemon_is_found_as_the_script_found_it() {
        let nothing = facts(&[]);
        let socket = ClientFacts {
            socket: true,
            ..facts(&[])
        };
        let certificates = ClientFacts {
            certificates: true,
            ..facts(&[])
        };
        let rootless = ClientFacts {
            rootless_socket: Some("/run/user/1000/docker.sock".into()),
            ..certificates.clone()
        };
        let both = ClientFacts {
            socket: true,
            ..rootless.clone()
        };
        let directory = ("DOCKER_TLS_CERTDIR", "/certs");
        let elsewhere = ("DOCKER_HOST", "tcp://elsewhere:1");
        let ours = ["tcp://docker:2376", "1", "/certs/client"];
        for (given, facts, expected) in [
            (&[][..], &socket, ["unix:///var/run/docker.sock", "", ""]),
            (&[directory], &both, ["unix:///var/run/docker.sock", "", ""]),
            (
                &[directory],
                &rootless,
                ["unix:///run/user/1000/docker.sock", "", ""],
            ),
            (
                &[elsewhere, ("DOCKER_TLS_CERTDIR", "")],
                &nothing,
                ["tcp://elsewhere:1", "", ""],
            ),
            (
                &[("DOCKER_HOST", " tcp://b:1\n")],
                &nothing,
                ["tcp://b:1", "", ""],
            ),
            (&[], &nothing, ["tcp://docker:2375", "", ""]),
            (&[directory], &nothing, ["tcp://docker:2375", "", ""]),
            (&[directory], &certificates, ours),
            (
                &[("DOCKER_TLS_VERIFY", "1")],
                &nothing,
                ["tcp://docker:2376", "1", ""],
            ),
            (
                &[directory, elsewhere],
                &certificates,
                ["tcp://elsewhere:1", "1", "/certs/client"],
            ),
            (&[elsewhere], &nothing, ["tcp://elsewhere:1", "", ""]),
            (
                &[directory, elsewhere, ("DOCKER_CERT_PATH", "/mine")],
                &certificates,
                ["tcp://elsewhere:1", "", "/mine"],
            ),
            (
                &[directory, ("DOCKER_HOST", "ssh://me@there")],
                &certificates,
                ["ssh://me@there", "", ""],
            ),
            (
                &[directory, ("DOCKER_HOST", ""), ("DOCKER_CERT_PATH", "")],
                &certificates,
                ours,
            ),
        ] {
            assert_eq!(variables(given, facts), expected, "{given:?} {facts:?}");
        }
    }
}

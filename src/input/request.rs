//! What the command line asks for, without a look at the system.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use crate::input::cli;
use crate::input::config::Config;
use crate::input::contract::Contract;
use crate::input::docker_proxy::Proxy;
use crate::input::nest::Nest;
use crate::input::store::{Save, StoreRequest};
use crate::messages::fault::Fault;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Print this help text, of the program or of a subcommand.
    Help(String),
    /// Print this program's version.
    Version,
    /// Print what a start with these arguments would do, without doing it.
    Plan(Start),
    /// Find out whether the daemon of this container answers.
    Health(Health),
    /// Report what is wrong with this host or container.
    Doctor(Report),
    /// Make the next level of the nest, beside the daemon of this level.
    Nest(Nest),
    /// Look at a store, or remove generations of it.
    Store(StoreRequest),
    /// Print the seccomp profile for a container without `--privileged`.
    Seccomp,
    /// Publish a port for dockerd, and become docker-proxy.
    DockerProxy(Proxy),
    /// Start a daemon, a client or a command, as the contract and its arguments say.
    Start(Start),
}

/// The options of `dind health`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// How long to wait for a daemon that is starting, and for its answer. `None`: do not wait
    /// for a daemon that is starting.
    pub wait: Option<Duration>,
}

/// The form of doctor's report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// One line for each finding, for people.
    Text,
    /// One JSON object, for programs.
    Json,
}

/// A start: a contract and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The contract of the start.
    pub contract: Contract,
    /// The arguments, without the program's name.
    pub arguments: Vec<OsString>,
    /// The nest whose next level is made inside this container, if any.
    pub nest: Option<Nest>,
    /// The store that the command's images are published to, if any.
    pub save: Option<Save>,
}

/// What the command line in `config` asks for. The error is a usage fault.
///
/// `docker run IMAGE wrapdocker` has the name of another contract as the first argument of the
/// image's own entrypoint. It is then that contract that starts.
pub fn request(config: &Config) -> Result<Request, Fault> {
    if Proxy::is_asked(&config.program) {
        return Proxy::parse(&config.arguments).map(Request::DockerProxy);
    }
    let mut start = Start {
        contract: config
            .contract
            .unwrap_or_else(|| Contract::from_program(&config.program)),
        arguments: config.arguments.clone(),
        nest: None,
        save: None,
    };
    let ours = start.contract == Contract::Dind;
    // A health check runs with the container's environment, and so with its DIND_CONTRACT.
    let named_dind = Contract::from_program(&config.program) == Contract::Dind;
    let arguments = start.arguments.clone();
    let Some((first, rest)) = arguments.split_first() else {
        return Ok(Request::Start(start));
    };
    let first = first.to_str();
    let subcommand = first.filter(|first| match *first {
        "help" => ours,
        "plan" | "health" | "doctor" | "nest" | "store" | "seccomp" => named_dind,
        _ => false,
    });
    if subcommand.is_some()
        && let Some(help) = cli::help_asked(&arguments)
    {
        return Ok(Request::Help(help));
    }
    match subcommand {
        Some("help") => cli::help_about(rest).map(Request::Help),
        Some("plan") => {
            start.arguments.remove(0);
            let saves = matches!(rest, [first, second, ..] if first == "store" && second == "save");
            if saves
                && let StoreRequest::Save(save) =
                    StoreRequest::parse(rest.get(1..).unwrap_or_default())?
            {
                return Ok(Request::Plan(start.saving(save, config)?));
            }
            let start = start.nested(config)?;
            Ok(Request::Plan(start.named_contract()))
        }
        Some("health") => {
            let matches = cli::parse("health", rest)?;
            Ok(Request::Health(Health {
                wait: matches.get_one("wait").copied(),
            }))
        }
        Some("doctor") => {
            let matches = cli::parse("doctor", rest)?;
            Ok(Request::Doctor(if matches.get_flag("json") {
                Report::Json
            } else {
                Report::Text
            }))
        }
        Some("seccomp") => {
            cli::parse("seccomp", rest)?;
            Ok(Request::Seccomp)
        }
        Some("nest") => {
            let start = start.nested(config)?;
            Ok(match start.nest {
                Some(nest) if nest.inside => Request::Nest(nest),
                _ => Request::Start(start.named_contract()),
            })
        }
        Some("store") => Ok(match StoreRequest::parse(rest)? {
            StoreRequest::Save(save) => Request::Start(start.saving(save, config)?),
            request => Request::Store(request),
        }),
        _ => Ok(match first.filter(|_| ours && rest.is_empty()) {
            Some("--help" | "-h") => Request::Help(cli::help()),
            Some("--version" | "-V") => Request::Version,
            _ => Request::Start(start.named_contract()),
        }),
    }
}

impl Start {
    /// Replaces arguments that begin with `nest` by what they mean in this container: in the
    /// innermost level the arguments after `--`, in every other a command that makes the next
    /// level.
    fn nested(mut self, config: &Config) -> Result<Self, Fault> {
        let nest = match self.arguments.split_first() {
            Some((first, words)) if first == "nest" => Nest::parse(words)?,
            _ => return Ok(self),
        };
        if nest.levels_below() == 0 {
            self.arguments = nest.arguments;
            return Ok(self);
        }
        if let Some(port) = config.port {
            return Err(Fault::usage(format!(
                "PORT={port} needs a daemon in the foreground, and nest needs a command beside it"
            ))
            .remedy("drop one of them"));
        }
        self.contract = Contract::Dind;
        self.arguments = nest.inside(&config.program);
        self.nest = Some(nest);
        Ok(self)
    }

    /// A start whose command makes the next generation of a store.
    fn saving(mut self, save: Save, config: &Config) -> Result<Self, Fault> {
        if let Some(port) = config.port {
            return Err(Fault::usage(format!(
                "PORT={port} needs a daemon in the foreground, and store save needs a command beside it"
            ))
            .remedy("drop one of them"));
        }
        self.contract = Contract::Dind;
        self.arguments = save.arguments.clone();
        self.save = Some(save);
        Ok(self)
    }

    /// Takes a contract's name off the front of the arguments, where dind's own contract reads
    /// them, and makes it the contract of the start.
    fn named_contract(mut self) -> Self {
        if self.contract != Contract::Dind {
            return self;
        }
        let Some(first) = self.arguments.first() else {
            return self;
        };
        let named = Path::new(first)
            .file_name()
            .map(|name| name.to_string_lossy());
        match named.as_deref().and_then(Contract::from_name) {
            None | Some(Contract::Dind) => self,
            Some(contract) => {
                self.arguments.remove(0);
                self.contract = contract;
                self
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::*;
    use proptest::prelude::*;

    fn asked(words: &[&str]) -> Result<Request, Fault> {
        let words = [&["dind"], words].concat();
        request(&Config::read(words.iter().map(OsString::from), []))
    }

    fn start(words: &[&str]) -> Start {
        Start {
            contract: Contract::Dind,
            arguments: words.iter().map(OsString::from).collect(),
            nest: None,
            save: None,
        }
    }

    #[test]
    fn arguments_of_dockerd_and_of_docker_pass_through() {
        for words in [
            &[][..],
            &["-H", "x"],
            &["-Hx"],
            &["-D", "--host=unix:///x", "--"],
            &["--"],
            &["--help", "--debug"],
            &["-h", "x"],
            &["--version", "--help"],
            &["--wait", "5"],
            &["--json"],
            &["dockerd"],
            &["dockerd", "--help"],
            &["dockerd", "-H", "fd://", "--", "health"],
            &["ps", "-a"],
            &["run", "--rm", "-it", "busybox", "--help"],
            &["docker", "help"],
            &["helth"],
            &["health-check", "--help"],
            &["Health"],
            &["sh", "-c", "dind health --wait 5"],
            &["--", "health", "--help"],
            &[""],
        ] {
            assert_eq!(asked(words), Ok(Request::Start(start(words))), "{words:?}");
            let behind_plan = [&["plan"], words].concat();
            if let [word] = words
                && ["--help", "-h"].contains(word)
            {
                continue;
            }
            assert_eq!(
                asked(&behind_plan),
                Ok(Request::Plan(start(words))),
                "{behind_plan:?}"
            );
        }
        // After `plan`, the names of subcommands are commands, too.
        for words in [&["health"][..], &["doctor", "--json"], &["help", "health"]] {
            let behind_plan = [&["plan"], words].concat();
            assert_eq!(asked(&behind_plan), Ok(Request::Plan(start(words))));
        }
    }

    #[test]
    fn subcommands_have_their_arguments() {
        let health = |seconds: Option<u64>| {
            Request::Health(Health {
                wait: seconds.map(Duration::from_secs),
            })
        };
        for (words, expected) in [
            (&["health"][..], health(None)),
            (&["health", "--wait", "5"], health(Some(5))),
            (&["health", "--wait=5"], health(Some(5))),
            (&["doctor"], Request::Doctor(Report::Text)),
            (&["doctor", "--json"], Request::Doctor(Report::Json)),
            (&["--help"], Request::Help(cli::help())),
            (&["-h"], Request::Help(cli::help())),
            (&["help"], Request::Help(cli::help())),
            (&["--version"], Request::Version),
            (&["-V"], Request::Version),
        ] {
            assert_eq!(asked(words), Ok(expected), "{words:?}");
        }
        for words in [
            &["health", "--wait", "x"][..],
            &["health", "--wait"],
            &["health", "5"],
            &["doctor", "--jsn"],
            &["nest"],
            &["plan", "nest"],
            &["help", "helth"],
        ] {
            let status = asked(words).map_err(|fault| fault.status);
            assert_eq!(status, Err(2), "{words:?}");
        }
    }

    #[test]
    fn help_of_a_subcommand_is_found_under_every_name() {
        for name in ["plan", "health", "doctor", "nest", "seccomp"] {
            let Ok(Request::Help(text)) = asked(&[name, "--help"]) else {
                panic!("{name} has no help");
            };
            assert!(text.contains(&format!("dind {name}")), "{text}");
            for words in [[name, "-h"], ["help", name]] {
                assert_eq!(asked(&words), Ok(Request::Help(text.clone())), "{words:?}");
            }
        }
    }

    /// Under the names of other contracts the program has no help and no subcommands.
    #[test]
    fn other_contracts_keep_their_words() {
        for program in [
            "wrapdocker",
            "dockerd-entrypoint.sh",
            "docker-entrypoint.sh",
            "hack-dind",
        ] {
            for words in [&["help"][..], &["--help"], &["health", "--help"], &["plan"]] {
                let words = words.iter().map(OsString::from);
                let line = [OsString::from(program)].into_iter().chain(words.clone());
                let found = request(&Config::read(line, []));
                let Ok(Request::Start(start)) = found else {
                    panic!("{program}: {found:?}");
                };
                assert!(start.arguments.iter().eq(&words.collect::<Vec<_>>()));
            }
        }
    }

    proptest! {
        /// A command line that is not a subcommand, and not help or version alone, reaches a
        /// start word for word, with and without `plan`.
        #[test]
        fn other_command_lines_are_left_alone(
            lines in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..8),
                    "--?[a-z]{1,8}(=[ -~]{0,8})?".prop_map(String::into_bytes),
                    "health|doctor|plan|help|nest|dockerd|docker|--|--help|-h|-V|--wait|--json"
                        .prop_map(String::into_bytes),
                ],
                1..6,
            ),
        ) {
            let words: Vec<OsString> =
                lines.iter().map(|bytes| OsStr::from_bytes(bytes).to_owned()).collect();
            let text = words[0].to_string_lossy();
            let alone = words.len() == 1;
            prop_assume!(!["plan", "health", "doctor", "nest", "help"].contains(&&*text));
            prop_assume!(!(alone && ["--help", "-h", "--version", "-V"].contains(&&*text)));
            // A contract's name is taken off.
            prop_assume!(!text.contains("dind") && !text.ends_with("docker"));
            prop_assume!(!text.ends_with(".sh"));
            let expected = Start {
                save: None,
                contract: Contract::Dind,
                arguments: words.clone(),
                nest: None,
            };
            let asked = |before: &[&str]| {
                let line = ["dind"].iter().chain(before).map(OsString::from);
                request(&Config::read(line.chain(words.iter().cloned()), []))
            };
            prop_assert_eq!(asked(&[]), Ok(Request::Start(expected.clone())));
            prop_assert_eq!(asked(&["plan"]), Ok(Request::Plan(expected)));
        }

        #[test]
        fn arguments_after_nest_are_left_alone(
            arguments in prop::collection::vec(
                prop_oneof![
                    "[ -~]{0,8}",
                    "--|--help|-h|--level=2|--inside|--wait|nest".prop_map(String::from),
                ],
                0..6,
            ),
        ) {
            let mut words: Vec<OsString> = vec!["1".into(), "--".into()];
            words.extend(arguments.iter().map(OsString::from));
            let nest = Nest::parse(&words);
            prop_assert_eq!(nest.map(|nest| nest.arguments), Ok(words.split_off(2)));
        }
    }
}

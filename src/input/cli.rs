//! Help, version and dind's own subcommands, described and parsed with clap.
//!
//! All other arguments belong to dockerd or to the command that is run, and are not parsed here:
//! see [`super::request`].

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::input::config;
use crate::input::dockerd_arguments::DEFAULT_CONFIG_FILE;
use crate::input::variables;
use crate::messages::fault::Fault;
use crate::messages::line::one_line;

/// The most levels of a nest: more than any kernel allows, and so few that no sum of them
/// overflows.
const MAX_DEPTH: i64 = 1000;

/// The subcommands. `dind help` takes each as its argument.
const SUBCOMMANDS: [&str; 7] = [
    "plan", "health", "doctor", "nest", "store", "seccomp", "help",
];

/// The arguments that a subcommand allows, in one line for an error.
fn allowed(subcommand: &str) -> &'static str {
    match subcommand {
        "health" => "--wait SECONDS, 0.1 to 86400",
        "doctor" => "--json",
        "nest" => {
            "DEPTH, 1 to 1000, then -- and the arguments of the innermost level: \
             dind nest 3 -- docker info"
        }
        "store" => {
            "save STORE [--from-nothing] [--no-build-cache] -- COMMAND, list STORE, check STORE, \
             prune STORE [--keep N], detach [DATA_ROOT]"
        }
        "seccomp" => "no arguments",
        "help" => "plan, health, doctor, nest, store, seccomp",
        _ => "arguments as for a start",
    }
}

/// The description of the whole command line, for the help.
fn command() -> Command {
    Command::new("dind")
        .version(env!("CARGO_PKG_VERSION"))
        .about("PID 1 of a privileged container that turns it into a Docker host")
        .override_usage(
            "dind                      a daemon with -d, a shell with -it\n       \
             dind COMMAND [ARG...]     a command beside a daemon\n       \
             dind -FLAG... | dockerd [FLAG...]\n                                 \
             a daemon with these flags",
        )
        .disable_help_subcommand(true)
        .arg(
            Arg::new("arguments")
                .value_name("ARG")
                .num_args(0..)
                .action(ArgAction::Append)
                .help("A command, or dockerd's flags ('dind dockerd --help' lists them)"),
        )
        .subcommands(SUBCOMMANDS.map(subcommand))
}

/// The description of one of [`SUBCOMMANDS`]. The others are not built, since `dind health` runs
/// every few seconds.
fn subcommand(name: &str) -> Command {
    let command = match name {
        "plan" => plan(),
        "health" => health(),
        "doctor" => doctor(),
        "nest" => nest(),
        "store" => store(),
        "seccomp" => seccomp(),
        _ => help_command(),
    };
    command
        .bin_name(format!("dind {name}"))
        .no_binary_name(true)
}

fn plan() -> Command {
    Command::new("plan")
        .about("Print what a start with these arguments would do here, without doing it")
        .override_usage("dind plan [ARG...]")
        .arg(
            Arg::new("arguments")
                .value_name("ARG")
                .num_args(0..)
                .help("The arguments of the start: a command, dockerd's flags, nest DEPTH"),
        )
        .after_help(
            "The exit status is 0 even if the start would fail: the line 'would stop' then has the \
             reason.",
        )
}

fn health() -> Command {
    Command::new("health")
        .about("Exit 0 when the daemon of this container answers, else 1 with the reason")
        .arg(
            Arg::new("wait")
                .long("wait")
                .value_name("SECONDS")
                .allow_negative_numbers(true)
                .value_parser(|text: &str| config::seconds(text).ok_or("not a time"))
                .help(
                    "Wait for the daemon, its images and hooks: 0.1 to 86400, a fraction allowed",
                ),
        )
}

fn doctor() -> Command {
    Command::new("doctor")
        .about("Report what is wrong with this host or container for dind, and what to do")
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("Print one JSON object, for programs"),
        )
        .after_help("The exit status is 1 where a finding is an error, else 0.")
}

fn nest() -> Command {
    Command::new("nest")
        .about(
            "Docker in Docker, DEPTH containers deep; the innermost does what 'dind ARG...' does",
        )
        .override_usage("dind nest DEPTH [-- ARG...]")
        .arg(
            Arg::new("depth")
                .value_name("DEPTH")
                .required(true)
                .value_parser(value_parser!(u32).range(1..=MAX_DEPTH))
                .help("The number of levels, 1 to 1000, of which this container is the first"),
        )
        .arg(
            last_arguments()
                .help("The arguments of the innermost level; without any, a shell or a daemon"),
        )
        // dind passes these to the levels and to their commands.
        .arg(
            Arg::new("level")
                .long("level")
                .hide(true)
                .require_equals(true)
                .value_parser(value_parser!(u32).range(1..=MAX_DEPTH)),
        )
        .arg(
            Arg::new("inside")
                .long("inside")
                .hide(true)
                .action(ArgAction::SetTrue),
        )
        .after_help("For example: dind nest 3 -- docker info")
}

fn store() -> Command {
    Command::new("store")
        .about("Images and build cache that any number of dinds begin with: DIND_STORE")
        .override_usage(
            "dind store save STORE [--from-nothing] [--no-build-cache] -- COMMAND [ARG...]\n       \
             dind store list STORE\n       \
             dind store check STORE\n       \
             dind store prune STORE [--keep N]\n       \
             dind store detach [DATA_ROOT]",
        )
        .arg(
            Arg::new("action")
                .value_name("ACTION")
                .required(true)
                .value_parser(PossibleValuesParser::new([
                    "save", "list", "check", "prune", "detach",
                ]))
                .hide_possible_values(true)
                .help(
                    "save what COMMAND leaves; list generations; check that all is there; \
                     prune old ones;\ndetach: make a data root independent of its store",
                ),
        )
        .arg(
            Arg::new("path")
                .value_name("STORE")
                .value_parser(value_parser!(PathBuf))
                .help(
                    "The directory or the file of the store, as an absolute path; of detach, the data root\n\
                     [default: dockerd's], whose store DIND_STORE names",
                ),
        )
        .arg(
            Arg::new("from-nothing")
                .long("from-nothing")
                .action(ArgAction::SetTrue)
                .help("Begin with an empty data root, and not with the current generation"),
        )
        .arg(
            Arg::new("no-build-cache")
                .long("no-build-cache")
                .action(ArgAction::SetTrue)
                .help("Publish images alone"),
        )
        .arg(
            Arg::new("keep")
                .long("keep")
                .value_name("N")
                .value_parser(value_parser!(u64).range(1..))
                .help("How many generations stay, besides those in use [default: 2]"),
        )
        .arg(last_arguments().help("The command; nothing is published if it fails"))
}

/// What stands behind `--`.
fn last_arguments() -> Arg {
    Arg::new("arguments")
        .value_name("ARG")
        .num_args(0..)
        .last(true)
        .value_parser(value_parser!(OsString))
}

fn seccomp() -> Command {
    Command::new("seccomp")
        .about("Print the seccomp profile for a dind without --privileged")
        .override_usage("dind seccomp")
        .after_help(
            "For example:\n  docker run --rm dind seccomp > dind.json\n  \
             docker run --security-opt seccomp=dind.json ...",
        )
}

fn help_command() -> Command {
    Command::new("help")
        .about("Print this help, or that of a subcommand")
        .arg(
            Arg::new("subcommand")
                .value_name("SUBCOMMAND")
                .value_parser(PossibleValuesParser::new(SUBCOMMANDS))
                .hide_possible_values(true)
                .help("One of plan, health, doctor, nest, store, seccomp"),
        )
}

/// The text of `dind --help` and `dind help`.
pub fn help() -> String {
    command()
        .after_help(format!(
            "'dind help SUBCOMMAND' lists the options of a subcommand.\n\n{}\n\
             {DEFAULT_CONFIG_FILE} is read as dockerd reads it.",
            variables::help()
        ))
        .render_help()
        .to_string()
}

/// The text of `dind --version`.
pub fn version() -> String {
    command().render_version()
}

/// The help text that the words of a command line ask for: a subcommand with `--help` or `-h`.
/// `None` for other command lines. After `plan`, whose arguments are those of a start, the flag
/// must be alone: `dind plan dockerd --help` is a plan.
pub fn help_asked(words: &[OsString]) -> Option<String> {
    let (name, arguments) = words.split_first()?;
    let name = name.to_str().filter(|name| SUBCOMMANDS.contains(name))?;
    match arguments {
        [nest, ..] if name == "plan" && nest == "nest" => return help_asked(arguments),
        [word] if name == "plan" && (word == "--help" || word == "-h") => {}
        _ if name == "plan" => return None,
        _ => {}
    }
    // -h can only come first in a word of short flags, as no subcommand has another one.
    let asks = |word: &OsString| {
        let bytes = word.as_encoded_bytes();
        bytes.starts_with(b"-h") || bytes == b"--help"
    };
    if !arguments.iter().any(asks) {
        return None;
    }
    match subcommand(name).try_get_matches_from(arguments) {
        Err(error) if error.kind() == ErrorKind::DisplayHelp => Some(error.to_string()),
        _ => None,
    }
}

/// The text of `dind help`; `words` are the arguments after `help`.
///
/// # Errors
///
/// A usage fault where `words` are not the name of a subcommand.
pub fn help_about(words: &[OsString]) -> Result<String, Fault> {
    let matches = parse("help", words)?;
    let Some(subcommand) = matches.get_one::<String>("subcommand") else {
        return Ok(help());
    };
    let words = [OsString::from(subcommand), "--help".into()];
    Ok(help_asked(&words).unwrap_or_else(help))
}

/// Parses the arguments of the subcommand `name`, the words after it.
///
/// # Errors
///
/// A usage fault of one line, which names the invalid argument and what is allowed.
pub fn parse(name: &str, words: &[OsString]) -> Result<ArgMatches, Fault> {
    let matches = subcommand(name).try_get_matches_from(words);
    matches.map_err(|error| usage(name, &problem(&error)))
}

/// The usage fault for a problem with the arguments of a subcommand: the problem, and what is
/// allowed.
pub fn usage(subcommand: &str, problem: &str) -> Fault {
    // A question mark needs no semicolon after it.
    let mark = if problem.ends_with('?') { "" } else { ";" };
    Fault::usage(format!(
        "{subcommand}: {problem}{mark} allowed: {}",
        allowed(subcommand)
    ))
}

/// clap's error, which has several lines, as a clause for one line.
fn problem(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => one_line(text),
        Some(ContextValue::Strings(texts)) => one_line(&texts.join(" ")),
        _ => String::new(),
    };
    let argument = context(ContextKind::InvalidArg);
    let value = context(ContextKind::InvalidValue);
    // clap writes '--wait <SECONDS>' and '<DEPTH>'.
    let option = argument
        .split([' ', '='])
        .next()
        .unwrap_or_default()
        .trim_matches(|bracket| matches!(bracket, '<' | '>' | '[' | ']'));
    let problem = match error.kind() {
        ErrorKind::UnknownArgument => format!("unexpected argument '{argument}'"),
        ErrorKind::InvalidValue if !value.is_empty() => format!("unexpected argument '{value}'"),
        ErrorKind::InvalidValue | ErrorKind::NoEquals => format!("{option} needs a value"),
        ErrorKind::ValueValidation => format!("{option} \"{value}\" is not valid"),
        ErrorKind::MissingRequiredArgument => format!("{option} is missing"),
        ErrorKind::ArgumentConflict => format!("{option} is given more than once"),
        ErrorKind::TooManyValues => format!("{option} takes no value"),
        _ => {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or_default();
            one_line(first.strip_prefix("error: ").unwrap_or(first))
        }
    };
    let suggested = [ContextKind::SuggestedArg, ContextKind::SuggestedValue].map(|kind| {
        match error.get(kind) {
            // The most similar one is the last: did_you_mean in clap_builder's parser/features.
            Some(ContextValue::Strings(all)) => all.last().cloned().unwrap_or_default(),
            Some(ContextValue::String(one)) => one.clone(),
            _ => String::new(),
        }
    });
    match suggested.into_iter().find(|text| !text.is_empty()) {
        Some(text) => format!("{problem}; did you mean '{text}'?"),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn message(line: &str) -> String {
        let words = words(line);
        let subcommand = words[0].to_string_lossy();
        let fault = match &*subcommand {
            "help" => help_about(&words[1..]).err(),
            subcommand => parse(subcommand, &words[1..]).err(),
        };
        let fault = fault.unwrap_or_else(|| panic!("{line:?} was accepted"));
        assert_eq!(fault.status, 2, "{line:?}");
        fault.message
    }

    #[test]
    fn the_help_of_every_subcommand_has_its_own_arguments() {
        for (line, parts) in [
            ("plan", &["dind plan [ARG...]", "would do here"][..]),
            ("health", &["dind health", "--wait <SECONDS>", "Exit 0"]),
            ("doctor", &["dind doctor", "--json", "what is wrong"]),
            ("nest", &["dind nest DEPTH [-- ARG...]", "[ARG]..."]),
            ("seccomp", &["dind seccomp", "without --privileged"]),
            ("help", &["dind help [SUBCOMMAND]"]),
        ] {
            let asked = help_asked(&words(&format!("{line} --help")));
            let asked = asked.unwrap_or_else(|| panic!("no help for {line}"));
            for part in parts.iter().chain(&["Usage: dind ", "-h, --help"]) {
                assert!(asked.contains(part), "{part:?} is not in\n{asked}");
            }
            for hidden in ["--level", "--inside", "DIND_"] {
                assert!(!asked.contains(hidden), "{asked}");
            }
            assert_eq!(help_asked(&words(&format!("{line} -h"))), Some(asked));
        }
    }

    #[test]
    fn the_help_has_every_subcommand_and_is_narrow() {
        let texts = SUBCOMMANDS.iter().map(|name| {
            let asked = help_asked(&words(&format!("{name} --help")));
            asked.unwrap_or_else(|| panic!("no help for {name}"))
        });
        let help = help();
        for name in SUBCOMMANDS {
            let line = format!("\n  {name} ");
            assert!(help.contains(&line), "{line:?} is not in\n{help}");
        }
        for line in texts.chain([help]).collect::<Vec<_>>().join("\n").lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn help_has_that_of_a_subcommand() {
        for name in SUBCOMMANDS {
            let about = help_about(&words(name)).ok();
            assert_eq!(about, help_asked(&words(&format!("{name} --help"))));
        }
        assert_eq!(help_about(&[]).ok(), Some(help()));
    }

    #[test]
    fn help_after_plan_and_nest_may_belong_to_the_command() {
        for (line, asked) in [
            ("plan --help", true),
            ("plan nest --help", true),
            ("plan dockerd --help", false),
            ("plan --help --debug", false),
            ("plan health --help", false),
            ("nest 3 -- dockerd --help", false),
            ("nest 3 --help", true),
            ("health --wait 5 --help", true),
            ("health --wait", false),
            ("health", false),
        ] {
            assert_eq!(help_asked(&words(line)).is_some(), asked, "{line}");
        }
    }

    #[test]
    fn a_mistake_is_one_line_with_what_is_allowed() {
        let nest = "allowed: DEPTH, 1 to 1000, then -- and the arguments of the innermost level: \
                    dind nest 3 -- docker info";
        let wait = "allowed: --wait SECONDS, 0.1 to 86400";
        for (line, problem, allowed) in [
            (
                "health --wiat",
                "health: unexpected argument '--wiat'; did you mean '--wait'?",
                wait,
            ),
            (
                "health --wiat=5",
                "health: unexpected argument '--wiat'; did you mean '--wait'?",
                wait,
            ),
            ("health now", "health: unexpected argument 'now';", wait),
            ("health --wait", "health: --wait needs a value;", wait),
            (
                "health --wait x",
                "health: --wait \"x\" is not valid;",
                wait,
            ),
            (
                "health --wait=x",
                "health: --wait \"x\" is not valid;",
                wait,
            ),
            (
                "health --wait -1",
                "health: --wait \"-1\" is not valid;",
                wait,
            ),
            (
                "health --wait 0.09",
                "health: --wait \"0.09\" is not valid;",
                wait,
            ),
            (
                "health --wait 86401",
                "health: --wait \"86401\" is not valid;",
                wait,
            ),
            ("health --wait=", "health: --wait \"\" is not valid;", wait),
            (
                "health --wait 1 --wait=2",
                "health: --wait is given more than once;",
                wait,
            ),
            (
                "doctor --jsn",
                "doctor: unexpected argument '--jsn'; did you mean '--json'?",
                "allowed: --json",
            ),
            (
                "doctor --json=1",
                "doctor: --json takes no value;",
                "allowed: --json",
            ),
            (
                "doctor -x",
                "doctor: unexpected argument '-x';",
                "allowed: --json",
            ),
            (
                "seccomp docker.json",
                "seccomp: unexpected argument 'docker.json';",
                "allowed: no arguments",
            ),
            ("nest", "nest: DEPTH is missing;", nest),
            ("nest many", "nest: DEPTH \"many\" is not valid;", nest),
            ("nest 1001", "nest: DEPTH \"1001\" is not valid;", nest),
            ("nest 3 sh", "nest: unexpected argument 'sh';", nest),
            ("nest 3 --level", "nest: --level needs a value;", nest),
            (
                "help helth",
                "help: unexpected argument 'helth'; did you mean 'health'?",
                "allowed: plan, health, doctor, nest, store, seccomp",
            ),
            (
                "help run",
                "help: unexpected argument 'run';",
                "allowed: plan, health, doctor, nest, store, seccomp",
            ),
        ] {
            assert_eq!(message(line), format!("{problem} {allowed}"));
        }
    }

    #[test]
    fn the_limits_are_those_of_the_configuration() {
        for seconds in ["0.1", "86400", "1.5"] {
            let matches = parse("health", &words(&format!("--wait {seconds}")));
            let wait = matches.map(|matches| matches.get_one("wait").copied());
            assert_eq!(wait, Ok(config::seconds(seconds)));
        }
    }

    proptest! {
        /// An error is one line without control characters, whatever is in an argument.
        #[test]
        fn an_error_is_a_line(
            subcommand in "health|doctor|nest|help",
            arguments in prop::collection::vec(any::<String>(), 1..4),
        ) {
            let arguments: Vec<OsString> = arguments.into_iter().map(OsString::from).collect();
            if let Err(fault) = parse(&subcommand, &arguments) {
                prop_assert_eq!(fault.status, 2);
                prop_assert!(!fault.message.contains(char::is_control), "{:?}", fault);
                prop_assert!(fault.message.starts_with(&subcommand), "{:?}", fault);
            }
        }
    }
}

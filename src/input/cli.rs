//! Help and version of this program's own.
//!
//! Everything but these and the subcommands belongs to dockerd or to the command
//! that is run, so clap describes the arguments and never parses them.

use clap::{Arg, ArgAction, Command};

use crate::input::dockerd_options::DEFAULT_CONFIG_FILE;
use crate::input::variables;

/// The description of the command line.
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
        .subcommand(
            Command::new("plan")
                .about("Print what a start with these arguments would do here, and do nothing"),
        )
        .subcommand(
            Command::new("health")
                .about("Exit 0 when the daemon of this container answers, else 1 with the reason")
                .arg(
                    Arg::new("wait")
                        .long("wait")
                        .value_name("SECONDS")
                        .help("Wait for it"),
                ),
        )
        .subcommand(
            Command::new("doctor")
                .about("Say what is wrong with this host or this container for dind, and what to do")
                .arg(
                    Arg::new("json")
                        .long("json")
                        .num_args(0)
                        .help("As JSON, for programs"),
                ),
        )
        .subcommand(
            Command::new("nest")
                .about("Docker in Docker, DEPTH containers deep; in the innermost what 'dind ARG...' does")
                .override_usage("dind nest DEPTH [-- ARG...]"),
        )
        .subcommand(Command::new("help").about("Print this help"))
        .after_help(format!(
            "{}\n\
             {DEFAULT_CONFIG_FILE} is read as dockerd reads it.",
            variables::help()
        ))
}

/// The text of `--help`.
pub fn help() -> String {
    command().render_help().to_string()
}

/// The text of `--version`.
pub fn version() -> String {
    command().render_version()
}

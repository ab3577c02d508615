//! Help and version of this program's own.
//!
//! Everything but these and the subcommands belongs to dockerd or to the command
//! that is run, so clap describes the arguments and never parses them.

use clap::{Arg, ArgAction, Command};

use crate::input::dockerd_options::DEFAULT_CONFIG_FILE;

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
            "Environment:\n  \
             PORT                serve on this TCP port, without TLS\n  \
             LOG                 file: the daemons log to /var/log/docker.log; stdio\n  \
             DOCKER_DAEMON_ARGS  arguments for dockerd, quoted as for a shell\n  \
             DOCKER_TLS_CERTDIR  serve with TLS on port 2376, with certificates made here\n  \
             DOCKER_TLS_SAN      more names for the certificate: DNS:NAME,IP:ADDRESS\n  \
             DIND_LOG            what dind says: error, warn, info, debug, trace (info)\n  \
             DIND_LOG_FORMAT     json: its lines and the daemons' as JSON; text\n  \
             DIND_CONTRACT       the contract, whatever the program's name\n  \
             DIND_TMPFS          off: no tmpfs on an empty /tmp\n  \
             DIND_DNS            off: resolvers on loopback stay out of reach inside\n  \
             DIND_MTU            bytes, for inner networks (as the way out); off\n  \
             DIND_EPHEMERAL      1: empty the data root at the end\n  \
             DIND_STORAGE        what holds the data: auto, loop, tmpfs, vfs, ...\n  \
             DIND_STORAGE_SIZE   how much of it, as 20G\n  \
             DIND_IMAGES         the directory of images to load at the start\n  \
             DIND_IMAGES_STRICT  1: no start without one of them\n  \
             DIND_RESTART        on-failure[:N]: start a daemon that failed again\n  \
             DIND_HOOK_TIMEOUT   seconds that a hook in /etc/dind may take (60)\n  \
             DIND_READY_TIMEOUT  seconds until the API must answer (60)\n  \
             DIND_STOP_TIMEOUT   seconds until everything has ended (9)\n\n\
             {DEFAULT_CONFIG_FILE} is read as dockerd reads it."
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

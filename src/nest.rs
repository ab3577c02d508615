//! `dind nest DEPTH [-- ARG...]`: Docker in Docker, DEPTH containers deep, and in the
//! innermost what `dind ARG...` does.
//!
//! Level 1 is the container that the user started. It starts its daemon as for any
//! command, and the command is this program again: it gives the daemon an image of the
//! container's own root file system ([`image`]) and becomes a `docker run` of it, in
//! which all this begins anew one level deeper. What differs by level is decided here and
//! is pure; what will run out is in [`limits`].

mod docker;
pub mod image;
pub mod limits;
mod run;
mod tree;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use crate::facts::surroundings::Stdin;
use crate::fault::Fault;
use crate::plan::stop_budget::inner_stop_timeout;

pub use run::{check, run};

/// How deep, and where in it this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nest {
    /// The number of levels.
    pub depth: u32,
    /// The level of this container; the outermost is 1.
    pub level: u32,
    /// Whether this process is the command beside the daemon of this level, which makes
    /// the next one.
    pub inside: bool,
    /// The arguments for the innermost level.
    pub arguments: Vec<OsString>,
}

/// Larger than any kernel allows, and small enough for every sum of levels.
const MAX_DEPTH: u32 = 1000;

/// In the command lines of levels and their commands, which this program makes itself.
const LEVEL: &str = "--level=";
const INSIDE: &str = "--inside";

impl Nest {
    /// Reads the words after `nest`.
    pub fn parse(words: &[OsString]) -> Result<Self, Fault> {
        let usage = |what: &str| {
            Fault::usage(format!(
                "nest: {what}; it takes a number of levels, 1 to {MAX_DEPTH}, then, behind --, \
                 the arguments for the innermost: dind nest 3 -- docker info"
            ))
        };
        let number = |text: &str| {
            let number = text.parse().ok()?;
            (1..=MAX_DEPTH).contains(&number).then_some(number)
        };
        let (options, arguments) = match words.iter().position(|word| word == "--") {
            Some(end) => (
                words.get(..end).unwrap_or_default(),
                words.get(end + 1..).unwrap_or_default(),
            ),
            None => (words, &[][..]),
        };
        let (depth, options) = options
            .split_first()
            .ok_or_else(|| usage("the depth is missing"))?;
        let shown = depth.to_string_lossy();
        let depth = number(&shown).ok_or_else(|| usage(&format!("{shown:?} is no depth")))?;
        let mut nest = Self {
            depth,
            level: 1,
            inside: false,
            arguments: arguments.to_vec(),
        };
        for option in options {
            let option = option.to_string_lossy();
            match option.strip_prefix(LEVEL).map(number) {
                Some(Some(level)) if level <= depth => nest.level = level,
                None if option == INSIDE => nest.inside = true,
                Some(_) | None => return Err(usage(&format!("{option:?} is not valid"))),
            }
        }
        Ok(nest)
    }

    /// How many levels are to be made inside this one.
    pub fn levels_below(&self) -> u32 {
        self.depth.saturating_sub(self.level)
    }

    /// The command beside the daemon of this level, by this program's own name.
    pub fn inside(&self, program: &Path) -> Vec<OsString> {
        let mut command = vec![program.as_os_str().to_owned()];
        command.extend(self.words(self.level, &[INSIDE]));
        command
    }

    /// What `docker` is told for the next level. `-i` and `-t` as standard input is here,
    /// so that a shell there has this terminal; the values of variables stay in the
    /// environment, where `ps` does not show them.
    pub fn docker_run(&self, image: &str, stdin: Stdin, variables: &[&OsStr]) -> Vec<OsString> {
        let level = self.level.saturating_add(1);
        let mut words: Vec<OsString> = ["run", "--rm", "--privileged"].map(OsString::from).into();
        words.push(format!("--hostname=dind-{level}").into());
        words.extend(match stdin {
            Stdin::Terminal => Some("-it".into()),
            Stdin::Other => Some("-i".into()),
            Stdin::Null => None,
        });
        for variable in variables {
            words.extend(["--env".into(), (*variable).to_owned()]);
        }
        words.push(image.into());
        words.extend(self.words(level, &[]));
        words
    }

    fn words(&self, level: u32, options: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["nest".into(), self.depth.to_string().into()];
        words.push(format!("{LEVEL}{level}").into());
        words.extend(options.iter().map(OsString::from));
        if !self.arguments.is_empty() {
            words.push("--".into());
            words.extend(self.arguments.iter().cloned());
        }
        words
    }
}

/// Variables that belong to one container, or to one process in it. Every other one is the
/// user's, and reaches every level.
const OF_ONE_LEVEL: &[&str] = &[
    "PATH",
    "HOME",
    "HOSTNAME",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "DOCKER_HOST",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "container",
    STOP_TIMEOUT,
];

const STOP_TIMEOUT: &str = "DIND_STOP_TIMEOUT";

/// The environment of the `docker run` for the next level, and the names of those of its
/// variables that are to be passed on. `PATH` is the image's.
pub fn environment(
    environment: &mut Vec<(OsString, OsString)>,
    stop_timeout: Duration,
    levels_below: u32,
) -> Vec<&OsStr> {
    let inner = inner_stop_timeout(stop_timeout, levels_below);
    environment.retain(|(name, _)| name != STOP_TIMEOUT);
    environment.push((
        STOP_TIMEOUT.into(),
        format!("{:.3}", inner.as_secs_f64()).into(),
    ));
    environment
        .iter()
        .map(|(name, _)| name.as_os_str())
        .filter(|name| *name == STOP_TIMEOUT || !OF_ONE_LEVEL.iter().any(|own| name == own))
        // docker takes NAME=VALUE, and a name as empty as that is nobody's.
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn text(words: &[OsString]) -> String {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn what_the_user_says_is_read() -> Result<(), Fault> {
        let nest = Nest::parse(&words("5 -- sh -c -- x"))?;
        assert_eq!(nest.depth, 5);
        assert_eq!(nest.level, 1);
        assert_eq!(text(&nest.arguments), "sh -c -- x");
        for bad in [
            "",
            "0",
            "-1",
            "x",
            "1001",
            "3 sh",
            "3 --level=4",
            "-- 3",
            "3.5",
        ] {
            let Err(fault) = Nest::parse(&words(bad)) else {
                panic!("{bad:?} was accepted");
            };
            assert_eq!(fault.status, 2, "{bad:?}");
            assert!(fault.message.contains("dind nest 3 -- docker info"));
        }
        Ok(())
    }

    #[test]
    fn each_level_makes_the_next() -> Result<(), Fault> {
        let nest = Nest::parse(&words("3 -- docker info"))?;
        let inside = nest.inside(Path::new("dind"));
        assert_eq!(
            text(&inside),
            "dind nest 3 --level=1 --inside -- docker info"
        );
        let inside = Nest::parse(&inside[2..])?;
        assert!(inside.inside);
        let run = inside.docker_run("image", Stdin::Null, &[OsStr::new("A"), OsStr::new("B")]);
        assert_eq!(
            text(&run),
            "run --rm --privileged --hostname=dind-2 --env A --env B \
             image nest 3 --level=2 -- docker info"
        );
        let terminal = inside.docker_run("image", Stdin::Terminal, &[]);
        assert!(text(&terminal).contains(" -it "));
        let innermost = Nest::parse(&words("3 --level=3"))?;
        assert_eq!(innermost.levels_below(), 0);
        Ok(())
    }

    #[test]
    fn what_belongs_to_a_container_is_not_passed_on() {
        let mut variables: Vec<(OsString, OsString)> = ["HOME", "HTTP_PROXY", "DOCKER_HOST", "LOG"]
            .map(|name| (name.into(), "secret".into()))
            .into();
        let passed = environment(&mut variables, Duration::from_secs(9), 4);
        assert_eq!(passed, ["HTTP_PROXY", "LOG", "DIND_STOP_TIMEOUT"]);
        let inner = variables
            .iter()
            .find(|(name, _)| name == "DIND_STOP_TIMEOUT");
        assert_eq!(
            inner.map(|(_, value)| value.to_string_lossy().into_owned()),
            Some("8.250".into())
        );
    }
}

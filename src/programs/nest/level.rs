//! What differs by level: the `docker run` of the next level, and its environment. Pure.

use std::ffi::{OsStr, OsString};

use crate::facts::surroundings::Stdin;
use crate::input::nest::Nest;
use crate::plan::stop_budget::StopBudget;

/// Variables of one container, or of one process in it. All others are the user's and are passed
/// to every level.
const OF_ONE_LEVEL: &[&str] = &[
    "PATH",
    "HOME",
    "HOSTNAME",
    "PWD",
    "OLDPWD",
    "SHLVL",
    "_",
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "XDG_RUNTIME_DIR",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "container",
    STOP_TIMEOUT,
];

const STOP_TIMEOUT: &str = "DIND_STOP_TIMEOUT";

/// Sets the stop time-out of the next level, from `budget`, in the environment of its `docker
/// run`, and returns the names of the variables to pass to that level. `PATH` is the image's.
pub fn environment(environment: &mut Vec<(OsString, OsString)>, budget: StopBudget) -> Vec<&OsStr> {
    let inner = budget.inner.unwrap_or(budget.total);
    environment.retain(|(name, _)| name != STOP_TIMEOUT);
    environment.push((
        STOP_TIMEOUT.into(),
        format!("{:.3}", inner.as_secs_f64()).into(),
    ));
    environment
        .iter()
        .map(|(name, _)| name.as_os_str())
        .filter(|name| *name == STOP_TIMEOUT || !OF_ONE_LEVEL.iter().any(|own| name == own))
        // docker run refuses an empty name.
        .filter(|name| !name.is_empty())
        .collect()
}

/// The arguments of `docker` for the next level. It gets `-i` and `-t` by what standard input is
/// here, so that a shell there has this terminal. The values of variables stay in the
/// environment, where `ps` does not show them.
pub fn docker_run(nest: &Nest, image: &str, stdin: Stdin, variables: &[&OsStr]) -> Vec<OsString> {
    let level = nest.level.saturating_add(1);
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
    words.extend(nest.words(level, &[]));
    words
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::messages::fault::Fault;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn text(words: &[OsString]) -> String {
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
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
        let run = docker_run(
            &inside,
            "image",
            Stdin::Null,
            &[OsStr::new("A"), OsStr::new("B")],
        );
        assert_eq!(
            text(&run),
            "run --rm --privileged --hostname=dind-2 --env A --env B \
             image nest 3 --level=2 -- docker info"
        );
        let terminal = docker_run(&inside, "image", Stdin::Terminal, &[]);
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
        let passed = environment(
            &mut variables,
            StopBudget::new(Duration::from_secs(9), 4, false),
        );
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

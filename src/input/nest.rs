//! `dind nest`: how deep, and where in it this process is.

use std::ffi::OsString;
use std::path::Path;

use crate::messages::fault::Fault;

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
            Fault::usage(format!("nest: {what}")).remedy(format!(
                "it takes a number of levels, 1 to {MAX_DEPTH}, then, behind --, the arguments \
                 for the innermost: dind nest 3 -- docker info"
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

    /// The words that make a process of `level` of this nest, with `options` of its own.
    pub fn words(&self, level: u32, options: &[&str]) -> Vec<OsString> {
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
            assert!(fault.to_string().contains("dind nest 3 -- docker info"));
        }
        Ok(())
    }
}

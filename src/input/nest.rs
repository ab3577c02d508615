//! `dind nest`: how deep, and where in it this process is.

use std::ffi::OsString;
use std::path::Path;

use crate::input::cli;
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

/// In the command lines of levels and their commands, which this program makes itself.
const LEVEL: &str = "--level=";
const INSIDE: &str = "--inside";

impl Nest {
    /// Reads the words after `nest`.
    ///
    /// # Errors
    ///
    /// A usage fault, with what is allowed.
    pub fn parse(words: &[OsString]) -> Result<Self, Fault> {
        let matches = cli::parse("nest", words)?;
        let number = |name| matches.get_one::<u32>(name).copied();
        let depth = number("depth").unwrap_or(1);
        let level = number("level").unwrap_or(1);
        if level > depth {
            return Err(cli::usage(
                "nest",
                &format!("level {level} is deeper than {depth}"),
            ));
        }
        let arguments = matches.get_many::<OsString>("arguments");
        Ok(Self {
            depth,
            level,
            inside: matches.get_flag("inside"),
            arguments: arguments.into_iter().flatten().cloned().collect(),
        })
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

    /// What one level makes for the next is read there.
    #[test]
    fn hidden_options_are_read_back() -> Result<(), Fault> {
        let nest = Nest::parse(&words("5 --level=2 --inside -- sh -c x"))?;
        assert_eq!((nest.level, nest.inside), (2, true));
        assert_eq!(text(&nest.words(3, &[])), "nest 5 --level=3 -- sh -c x");
        let inside = nest.inside(Path::new("/dind"));
        assert_eq!(Nest::parse(&inside[2..])?, nest);
        Ok(())
    }
}

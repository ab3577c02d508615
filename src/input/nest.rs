//! The arguments of `dind nest`.

use std::ffi::OsString;
use std::path::Path;

use crate::input::cli;
use crate::messages::fault::Fault;

/// A nest, and the place of this process in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nest {
    /// The number of levels of the nest, 1 to 1000.
    pub depth: u32,
    /// The level of this container; the outermost is 1.
    pub level: u32,
    /// Whether this process is the command beside the daemon of this level, which makes the
    /// next level.
    pub inside: bool,
    /// The arguments for the innermost level.
    pub arguments: Vec<OsString>,
}

/// Options that dind passes to the levels and to their commands.
const LEVEL: &str = "--level=";
const INSIDE: &str = "--inside";

impl Nest {
    /// Parses the words after `nest`.
    ///
    /// # Errors
    ///
    /// A usage fault, which names the invalid argument and what is allowed.
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

    /// The number of levels to make inside this one.
    pub fn levels_below(&self) -> u32 {
        self.depth.saturating_sub(self.level)
    }

    /// The command line of the command beside the daemon of this level. `program` is argv\[0\].
    pub fn inside(&self, program: &Path) -> Vec<OsString> {
        let mut command = vec![program.as_os_str().to_owned()];
        command.extend(self.words(self.level, &[INSIDE]));
        command
    }

    /// The arguments that make a process one of `level` in this nest, with further `options`.
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
    fn the_users_arguments_are_parsed() -> Result<(), Fault> {
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

    /// A level parses the options that the level above it has passed.
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

//! The fields of this program's log lines and those of README.md's table are the same. Programs
//! that read the log in JSON have no other list.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MACROS: [&str; 5] = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];

/// The source files of the program, without their tests.
fn sources() -> Vec<PathBuf> {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{error}"));
        for entry in entries {
            let path = entry.unwrap_or_else(|error| panic!("{error}")).path();
            match path.extension() {
                _ if path.file_stem().is_some_and(|name| name == "tests") => {}
                None => directories.push(path),
                Some(_) => files.push(path),
            }
        }
    }
    files
}

/// The arguments of a macro call, up to the closing parenthesis, split at commas outside of
/// strings, brackets and comments.
fn arguments(call: &str) -> Vec<String> {
    let mut arguments = vec![String::new()];
    let mut depth = 0_u32;
    let mut characters = call.chars().peekable();
    while let Some(character) = characters.next() {
        let mut kept = String::from(character);
        match character {
            '"' => {
                while let Some(next) = characters.next() {
                    kept.push(next);
                    match next {
                        '\\' => kept.extend(characters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '/' if characters.peek() == Some(&'/') => {
                kept.clear();
                characters.by_ref().find(|next| *next == '\n');
            }
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        if let Some(last) = arguments.last_mut() {
            last.push_str(&kept);
        }
    }
    arguments
        .iter()
        .map(|argument| argument.trim().to_owned())
        .collect()
}

/// The names of the fields of a call, which stand before the message.
fn names(call: &str) -> BTreeSet<String> {
    let is_name = |text: &str| {
        let plain = |character: char| character.is_ascii_lowercase() || character == '_';
        !text.is_empty() && text.chars().all(plain)
    };
    let arguments = arguments(call);
    let fields = arguments
        .iter()
        .take_while(|argument| !argument.starts_with('"'));
    let names = fields.map(|field| {
        let name = field.split(" = ").next().unwrap_or_default();
        let name = name.trim_start_matches(['%', '?']);
        assert!(is_name(name), "neither a field nor a message: {call:.200}");
        name.to_owned()
    });
    names.collect()
}

/// The names of all fields, each with a file in which it is used.
fn used() -> BTreeMap<String, PathBuf> {
    let mut used = BTreeMap::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}"));
        let text = text
            .split("#[cfg(test)]\nmod tests")
            .next()
            .unwrap_or_default();
        let is_comment = |line: &&str| line.trim_start().starts_with("//");
        let lines: Vec<&str> = text.lines().filter(|line| !is_comment(line)).collect();
        let text = lines.join("\n");
        for name in MACROS {
            for (place, _) in text.match_indices(name) {
                let (before, call) = text.split_at(place);
                // The name of another macro, or this file's list.
                if before.ends_with(|before: char| before.is_alphanumeric() || before == '"') {
                    continue;
                }
                let call = call.strip_prefix(name).unwrap_or_default();
                used.extend(names(call).into_iter().map(|name| (name, path.clone())));
            }
        }
    }
    used
}

/// The names in the first column of the table in README.md, and each one's type.
fn documented() -> BTreeMap<String, String> {
    let readme = include_str!("../../README.md");
    let (_, logs) = readme.split_once("\n## Logs\n").unwrap_or_default();
    let logs = logs.split("\n## ").next().unwrap_or_default();
    let rows = logs.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.flat_map(|row| {
        let mut columns = row.split(" | ");
        let names = columns.next().unwrap_or_default().trim_end_matches('`');
        let kind = columns.next().unwrap_or_default().to_owned();
        let names: Vec<&str> = names.split("`, `").collect();
        names
            .into_iter()
            .map(move |name| (name.to_owned(), kind.clone()))
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn readme_lists_the_fields_of_the_log() {
    let (used, documented) = (used(), documented());
    assert!(used.contains_key("code"), "{used:?}");
    for (name, path) in &used {
        let path = path.display();
        assert!(documented.contains_key(name), "{name} of {path} is missing");
        let reserved = ["time", "level", "source", "msg"].contains(&name.as_str());
        assert!(!reserved, "{name} of {path} is a common member's name");
    }
    for (name, kind) in &documented {
        assert!(used.contains_key(name), "{name} is in no line");
        assert!(
            ["string", "number"].contains(&kind.as_str()),
            "{name}: {kind}"
        );
    }
}

#[test]
fn fields_stand_before_the_message() {
    for (call, expected) in [
        (r#""a {}", path = 1)"#, &[][..]),
        (
            r#"path = %f("x, y", &[1, 2]), error, "a = {b}", b = 1)"#,
            &["error", "path"],
        ),
        (
            "\n    ?code,\n    // why, \"so\"\n    %link,\n    \"a \\\" b\"\n)",
            &["code", "link"],
        ),
    ] {
        let names = names(call);
        assert!(names.iter().eq(expected), "{call}: {names:?}");
    }
}

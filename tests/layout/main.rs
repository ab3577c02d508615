//! The order of the folders of `src`: each may import those before it, and none behind it.
//! Within a folder no two files import each other.
//!
//! Imports are read as text: `crate::FOLDER::FILE` and `super::FILE`, wherever they stand but
//! in comments and tests.

#![expect(
    clippy::expect_used,
    reason = "a test that cannot go on must fail, and say where"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Lowest first, as in the map of `.github/CONTRIBUTING.md`.
const FOLDERS: [&str; 13] = [
    "messages",
    "sys",
    "shortcut",
    "input",
    "store",
    "facts",
    "plan",
    "tls",
    "api",
    "apply",
    "programs",
    "helpers",
    "supervise",
];

/// A source file and its place in the tree of modules: `plan/tls.rs` is `["plan", "tls"]`.
struct File {
    path: PathBuf,
    module: Vec<String>,
    code: String,
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file below `src` that is compiled into the program, without its tests.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    let mut directories = vec![source()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            let name = path.file_stem().expect("a name").to_string_lossy();
            if path.is_dir() {
                directories.push(path);
            } else if name != "tests" && !path.components().any(|part| part.as_os_str() == "tests")
            {
                files.push(read(path));
            }
        }
    }
    assert!(files.len() > 50, "only {} files in src", files.len());
    files
}

fn read(path: PathBuf) -> File {
    let text = fs::read_to_string(&path).expect("a source file can be read");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let inside = path.strip_prefix(source()).expect("below src");
    let mut module: Vec<String> = inside
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    module.retain(|part| part != "mod");
    File { path, module, code }
}

/// The modules that a file names, as full paths of names from the crate's root.
fn imports(file: &File) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let is_mod = file.path.file_name().is_some_and(|name| name == "mod.rs");
    let parent = match (is_mod, file.module.split_last()) {
        (false, Some((_, parent))) => parent.to_vec(),
        // `super` of a `mod.rs` is the folder that it is in; its own modules need none.
        (true, Some((_, parent))) => parent.to_vec(),
        (_, None) => Vec::new(),
    };
    for (prefix, base) in [("crate::", Vec::new()), ("super::", parent)] {
        for (place, _) in file.code.match_indices(prefix) {
            let rest = file.code.get(place + prefix.len()..).unwrap_or_default();
            for path in paths(rest) {
                found.insert([base.clone(), path].concat());
            }
        }
    }
    found
}

/// The paths that begin a text: `a::b` gives one, `a::{b, c::d}` one for each in the braces.
fn paths(text: &str) -> Vec<Vec<String>> {
    let name = |text: &str| -> String {
        let part = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
        text.chars().take_while(part).collect()
    };
    let first = name(text);
    let rest = text.get(first.len()..).unwrap_or_default();
    if first.is_empty() {
        let Some(inside) = text.strip_prefix('{') else {
            return Vec::new();
        };
        let mut depth = 0_u32;
        let end = inside.find(|character| {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => return true,
                '}' => depth -= 1,
                _ => {}
            }
            false
        });
        let inside = inside
            .get(..end.unwrap_or(inside.len()))
            .unwrap_or_default();
        return split(inside).flat_map(|part| paths(part.trim())).collect();
    }
    match rest.strip_prefix("::") {
        None => vec![vec![first]],
        Some(rest) => {
            let below = paths(rest);
            if below.is_empty() {
                return vec![vec![first]];
            }
            below
                .into_iter()
                .map(|path| [vec![first.clone()], path].concat())
                .collect()
        }
    }
}

/// The parts between the commas that are in no braces of their own.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_u32;
    text.split(move |character| {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ',' && depth == 0
    })
}

#[test]
fn every_folder_is_in_the_order() {
    let entries = fs::read_dir(source()).expect("src can be read");
    let folders: BTreeSet<String> = entries
        .map(|entry| entry.expect("src can be read"))
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(folders, FOLDERS.map(str::to_owned).into());
    let map = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/CONTRIBUTING.md");
    let map = fs::read_to_string(map).expect("CONTRIBUTING.md can be read");
    let places: Vec<usize> = FOLDERS
        .iter()
        .map(|folder| {
            let row = format!("| `src/{folder}`");
            let place = map.find(&row);
            place.unwrap_or_else(|| panic!("{row} is missing in the map of CONTRIBUTING.md"))
        })
        .collect();
    assert!(places.is_sorted(), "the map has another order: {places:?}");
}

#[test]
fn no_folder_imports_one_behind_it() {
    let rank = |name: &str| FOLDERS.iter().position(|folder| *folder == name);
    let mut checked = 0;
    for file in files() {
        let Some(own) = file.module.first().and_then(|folder| rank(folder)) else {
            continue;
        };
        for import in imports(&file) {
            let Some(other) = import.first().and_then(|folder| rank(folder)) else {
                continue;
            };
            checked += usize::from(own != other);
            assert!(
                other <= own,
                "{} imports {}, and that folder is behind its own",
                file.path.display(),
                import.join("::")
            );
        }
    }
    assert!(checked > 200, "only {checked} imports were found");
}

/// Among files, not among folders: a `mod.rs` puts together what is in its folder, and what is
/// there must not need it.
#[test]
fn no_two_files_import_each_other() {
    let files = files();
    let modules: BTreeSet<&Vec<String>> = files.iter().map(|file| &file.module).collect();
    // The longest part of a path that is a file.
    let target = |path: &[String]| -> Option<Vec<String>> {
        (1..=path.len())
            .rev()
            .map(|length| path.iter().take(length).cloned().collect::<Vec<_>>())
            .find(|path| modules.contains(path))
    };
    let mut edges: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for file in &files {
        let mut targets: BTreeSet<Vec<String>> = imports(file)
            .iter()
            .filter_map(|path| target(path))
            .filter(|other| *other != file.module)
            .collect();
        // A `mod NAME;` is an import, too.
        for line in file.code.lines() {
            let declared = line.trim_start_matches("pub ").strip_prefix("mod ");
            if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) {
                let below = [file.module.clone(), vec![name.to_owned()]].concat();
                targets.extend(target(&below).filter(|other| *other != file.module));
            }
        }
        edges.insert(file.module.clone(), targets);
    }
    let mut circles = Vec::new();
    for start in edges.keys() {
        let mut seen = BTreeSet::new();
        let mut waiting: Vec<&Vec<String>> = edges.get(start).into_iter().flatten().collect();
        while let Some(next) = waiting.pop() {
            if seen.insert(next) {
                waiting.extend(edges.get(next).into_iter().flatten());
            }
        }
        if seen.contains(start) {
            circles.push(start.join("/"));
        }
    }
    assert_eq!(circles, Vec::<String>::new(), "these import each other");
}

/// The arguments of the calls in `code` that begin with `call`, such as `context(`: the text up to
/// the parenthesis that closes it. Those in strings and characters do not count.
fn arguments<'a>(code: &'a str, call: &str) -> Vec<&'a str> {
    let begins = code.match_indices(call);
    let rests = begins.filter_map(|(place, _)| code.get(place + call.len()..));
    rests
        .map(|rest| {
            let (mut depth, mut quoted, mut escaped) = (0_u32, false, false);
            let end = rest.find(|character| {
                match character {
                    _ if escaped => {
                        escaped = false;
                        return false;
                    }
                    '\\' => escaped = true,
                    '"' => quoted = !quoted,
                    '(' if !quoted => depth += 1,
                    ')' if !quoted && depth == 0 => return true,
                    ')' if !quoted => depth -= 1,
                    _ => {}
                }
                false
            });
            rest.get(..end.expect("a closing parenthesis"))
                .unwrap_or_default()
        })
        .collect()
}

/// The cause of an error stands behind its context, and the remedy behind the cause. So a context
/// has no remedy of its own, and a chain is printed by `Fault`, which knows where the remedies go.
#[test]
fn a_remedy_stands_behind_the_cause() {
    let mut checked = 0;
    for file in files() {
        let shown = file.path.display();
        let code = file.code.as_str();
        let contexts = ["context(", "bail!("]
            .map(|call| arguments(code, call))
            .concat();
        for text in contexts {
            checked += 1;
            assert!(
                !text.contains("; "),
                "{shown}: give the remedy to `remedy` of src/messages/remedy.rs: {text}"
            );
        }
        assert!(
            !code.contains(":#}"),
            "{shown}: print an error by `Fault::from`, which puts its remedy at the end"
        );
    }
    assert!(checked > 60, "only {checked} contexts were found");
}

/// Whatever is in the place of a file, a FIFO without a writer or a file without an end, nobody
/// waits for it: `src/sys` opens and reads files for all others. What is opened with flags of its
/// own has one that does not wait.
#[test]
fn files_are_opened_where_nobody_waits_for_them() {
    let is_name =
        |before: &str| before.ends_with(|last: char| last.is_alphanumeric() || last == '_');
    let mut opened = 0;
    for file in files() {
        let shown = file.path.display();
        let code = file.code.as_str();
        // The second one is a test.
        if file.module.starts_with(&["sys".into()]) || shown.to_string().ends_with("field_names.rs")
        {
            continue;
        }
        for call in ["fs::read(", "fs::read_to_string(", "File::open("] {
            let found = code
                .match_indices(call)
                .find(|(place, _)| !is_name(code.get(..*place).unwrap_or_default()));
            assert!(found.is_none(), "{shown}: {call}…): use src/sys/read.rs");
        }
        let code: String = code.split_whitespace().collect();
        for (place, _) in code.match_indices(".open(") {
            // From the beginning of the statement.
            let before = code.get(..place).unwrap_or_default();
            let begin = before.rfind("options()").unwrap_or(0);
            let options = before.get(begin..).unwrap_or_default();
            opened += 1;
            let waits_not = ["O_NONBLOCK", "create_new(true)", ".read(true).write(true)"];
            assert!(
                waits_not.iter().any(|flag| options.contains(flag)),
                "{shown}: an open(2) that may wait for the other end of a FIFO: {options}"
            );
        }
    }
    assert!(opened > 3, "only {opened} were found");
}

#[test]
fn imports_are_found_in_every_form() {
    let file = File {
        path: source().join("plan/tls.rs"),
        module: vec!["plan".into(), "tls".into()],
        code: "use crate::a::b;\nuse super::c::{self, d};\nuse crate::{e::f, g};\ncrate::h::i();"
            .into(),
    };
    let found: Vec<String> = imports(&file).iter().map(|path| path.join("::")).collect();
    let expected = ["a::b", "e::f", "g", "h::i", "plan::c::d", "plan::c::self"];
    assert_eq!(found, expected);
}

//! `/proc/self/mountinfo`: what is parsed is what was written. A container's mount points
//! and sources have any name that somebody gave them.

#![no_main]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dind::facts::mountinfo::{Mount, MountTable};
use libfuzzer_sys::fuzz_target;

/// As `mangle()` in the kernel's fs/proc_namespace.c.
fn escaped(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    // The text that is fuzzed is what is left of invalid UTF-8, so this is text too,
    // unless an octal escape made it something else.
    let text = String::from_utf8_lossy(bytes);
    let escape = |character| match character {
        ' ' | '\t' | '\n' | '\\' | '\r' => format!("\\{:03o}", character as u32),
        other => other.to_string(),
    };
    text.chars().map(escape).collect()
}

fn written(mount: &Mount) -> String {
    format!(
        "1 0 0:1 {} {} {} {}- {} none {}\n",
        escaped(&mount.root),
        escaped(&mount.target),
        mount.options.join(","),
        if mount.shared { "shared:1 " } else { "" },
        mount.fstype,
        mount.super_options.join(","),
    )
}

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let table = MountTable::parse(&text);
    assert!(table.mounts.len() <= text.split('\n').count());
    for mount in &table.mounts {
        let bytes = |path: &Path| path.as_os_str().as_bytes().len();
        assert!(bytes(&mount.root) + bytes(&mount.target) <= text.len());
        let found = table.at(&mount.target);
        assert!(found.is_some_and(|found| found.target == mount.target));
        let is_text = [&mount.root, &mount.target].map(|path| path.to_str().is_some());
        if is_text == [true, true] {
            let again = MountTable::parse(&written(mount));
            let mount = std::slice::from_ref(mount);
            assert_eq!(again.mounts, mount, "{text:?}");
        }
    }
});

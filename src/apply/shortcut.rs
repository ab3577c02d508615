//! Puts the program that answers dockerd's calls of iptables before the real ones.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::facts::netfilter::NftPrograms;
use crate::shortcut::{PROGRAM, place};
use crate::sys::{read, write};

/// Makes the links to the real programs, and the program last: without it dockerd finds nothing in
/// the directory, and takes the real ones. Those of an earlier start are replaced.
pub fn install(programs: &NftPrograms) -> io::Result<()> {
    let place = Path::new(place::DIRECTORY);
    // A start has the umask 022.
    fs::create_dir_all(place.join("real"))?;
    for (name, to) in [
        (place::REAL_IPTABLES, programs.iptables.as_path()),
        (place::REAL_IP6TABLES, &programs.ip6tables),
        (place::VERSION, Path::new(&programs.version)),
        ("ip6tables", Path::new("iptables")),
    ] {
        let link = place.join(name);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => symlink(to, link)?,
        }
    }
    write::replace(
        &read::directory(place)?,
        "iptables".as_ref(),
        0o755,
        PROGRAM,
    )
}

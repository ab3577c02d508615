//! The host names and addresses of this container.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use crate::sys::read;

/// In bytes: larger than any real `/etc/hostname` with its comments: hostname(5).
const LIMIT: u64 = 1 << 16;

/// The addresses of the interfaces in this network namespace: getifaddrs(3). Empty where they
/// cannot be read.
pub fn addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            let v4 = address.as_sockaddr_in().map(|found| found.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|found| found.ip().into()))
        })
        .collect()
}

/// The names from gethostname(2) and `/etc/hostname`, each in full and up to its first dot.
pub fn host_names() -> BTreeSet<String> {
    host_names_with(Path::new("/etc/hostname"))
}

/// [`host_names`] with another file. A file that cannot be read adds no name.
fn host_names_with(file: &Path) -> BTreeSet<String> {
    let kernel = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    let file = read::text(file, LIMIT).ok().flatten();
    [kernel, file]
        .into_iter()
        .flatten()
        .flat_map(|name| {
            let full = name.trim().to_owned();
            let short = full.split('.').next().unwrap_or_default().to_owned();
            [full, short]
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_from_the_kernel_and_from_a_regular_file() -> std::io::Result<()> {
        let path = std::env::temp_dir().join(format!("dind-hostname-{}", std::process::id()));
        let kernel = host_names_with(&path);
        assert!(!kernel.is_empty());
        std::fs::write(&path, "builder.example.org\n")?;
        let both = host_names_with(&path);
        std::fs::remove_file(&path)?;
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
        let with_fifo = host_names_with(&path);
        std::fs::remove_file(&path)?;
        let own = ["builder", "builder.example.org"].map(str::to_owned);
        assert_eq!(both, kernel.iter().cloned().chain(own).collect());
        assert_eq!(with_fifo, kernel);
        Ok(())
    }
}

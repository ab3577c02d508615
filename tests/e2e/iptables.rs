//! The backend of iptables that the daemon uses, seen by where its chains are.

use crate::docker::{Container, Spec, dind};

/// Where dockerd's chain is: in nf_tables, in the legacy tables, or in both.
#[track_caller]
fn backends(container: &Container) -> String {
    container.sh("for backend in nft legacy; do
        for family in iptables ip6tables; do
            $family-$backend-save 2>/dev/null | grep -q '^:DOCKER' && echo $backend $family
        done
    done; true")
}

#[track_caller]
fn served(spec: Spec, note: &str) -> String {
    let container = spec.ready(&["--ip6tables=true", "--experimental"]);
    container.logged(&["dind: iptables:", note]);
    assert_eq!(container.logs().matches("dind: iptables:").count(), 1);
    backends(&container)
}

const NFT: &str = "nft iptables\nnft ip6tables";
const LEGACY: &str = "legacy iptables\nlegacy ip6tables";

/// nft where nothing speaks against it.
#[test]
fn nft_is_the_default() {
    let found = served(dind(), "nft, since the kernel has nf_tables");
    assert_eq!(found, NFT);
}

/// The variable decides, set or empty.
#[test]
fn the_variable_decides() {
    let found = served(
        dind().env("DOCKER_IPTABLES_LEGACY", "1"),
        "legacy, since DOCKER_IPTABLES_LEGACY",
    );
    assert_eq!(found, LEGACY);
    let in_use = dind().prelude("iptables-legacy -nL >/dev/null");
    let found = served(
        in_use.env("DOCKER_IPTABLES_LEGACY", ""),
        "nft, since DOCKER_IPTABLES_LEGACY is empty",
    );
    assert_eq!(found, NFT);
}

/// Legacy tables that are in use stay the only ones, of whichever family they are.
#[test]
fn legacy_tables_in_use_are_used() {
    for program in ["iptables-legacy", "ip6tables-legacy"] {
        let in_use = dind().prelude(&format!("{program} -nL >/dev/null"));
        let found = served(in_use, "legacy, since legacy tables are in use here");
        assert_eq!(found, LEGACY, "{program}");
    }
}

/// docker-library's directory of legacy programs comes before Debian's.
#[test]
fn docker_librarys_directory_is_used() {
    let directory = "/usr/local/sbin/.iptables-legacy";
    let spec = dind().prelude(&format!(
        "mkdir -p {directory}; for name in iptables ip6tables iptables-save iptables-restore; do
            ln -s /usr/sbin/xtables-legacy-multi {directory}/$name
        done"
    ));
    let container = spec.env("DOCKER_IPTABLES_LEGACY", "yes").ready(&[]);
    let path = container.sh("tr '\\0' '\\n' </proc/$(pgrep -x dockerd)/environ | grep ^PATH=");
    assert!(path.starts_with(&format!("PATH={directory}:/")), "{path}");
    assert!(backends(&container).contains("legacy iptables"));
}

/// A restart finds its links and keeps to its choice.
#[test]
fn a_restart_keeps_the_backend() {
    let container = dind().env("DOCKER_IPTABLES_LEGACY", "1").ready(&[]);
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(2);
    container.not_logged(&["dind: warning", "iptables"]);
    assert!(backends(&container).contains("legacy iptables"));
}

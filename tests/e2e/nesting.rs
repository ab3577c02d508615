//! dind in dind in dind. The image goes down as a file, since there is no registry.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::docker::{BUSYBOX, Scratch, dind, docker, lab, privileges};
use crate::pty::{self, Pty};

/// Files with the image under test and the small one.
pub struct Images {
    /// Of a mount: a directory, or a volume of the engine's.
    source: String,
    _scratch: Option<Scratch>,
}

impl Images {
    /// An engine on another machine sees no directory of this one. `tests/lab vm-test`
    /// has given its engine a volume with the files, and names it.
    pub fn new() -> Self {
        if let Ok(volume) = std::env::var("DIND_LAB_IMAGES") {
            return Self {
                source: volume,
                _scratch: None,
            };
        }
        let scratch = Scratch::new();
        let file = scratch.path.join("dind.tar");
        docker([
            "save",
            "--output",
            &file.to_string_lossy(),
            &lab("DIND_LAB_IMAGE"),
        ])
        .exited(0);
        fs::copy(lab("DIND_LAB_BUSYBOX"), scratch.path.join("busybox.tar"))
            .expect("the image of tests/lab can be copied");
        // For an engine whose root is another user, too.
        for name in ["dind.tar", "busybox.tar"] {
            fs::set_permissions(scratch.path.join(name), Permissions::from_mode(0o644))
                .expect("a mode can be set");
        }
        Self {
            source: scratch.path.to_string_lossy().into_owned(),
            _scratch: Some(scratch),
        }
    }

    /// The words for `docker run`.
    pub fn mounted(&self) -> [String; 2] {
        ["-v".into(), format!("{}:/images", self.source)]
    }
}

/// Runs a container at this level.
#[track_caller]
fn a_container_runs(pty: &mut Pty) {
    assert_eq!(
        pty.ask("docker load -qi /images/busybox.tar >/dev/null").1,
        0
    );
    let (said, status) = pty.ask(&format!(
        "docker run --rm -m 64m {BUSYBOX} echo from level $LEVEL"
    ));
    assert_eq!(status, 0, "{said}");
    let (level, _) = pty.ask("echo from level $LEVEL");
    assert_eq!(said, level);
}

/// Starts a web server in a container of this level, and gives its address. Its page is
/// the level's number.
#[track_caller]
fn web_server(pty: &mut Pty) -> String {
    let serve = "mkdir /www; echo level $LEVEL >/www/index.html; httpd -f -h /www";
    let (said, status) = pty.ask(&format!(
        "docker run -d -e LEVEL=$LEVEL --name web {BUSYBOX} sh -c '{serve}' >/dev/null"
    ));
    assert_eq!(status, 0, "{said}");
    let (address, status) =
        pty.ask("docker inspect -f '{{.NetworkSettings.Networks.bridge.IPAddress}}' web");
    assert_eq!(status, 0, "{address}");
    address
}

/// Three levels, each with a shell in which a container runs and reaches those of every
/// level above by address; then each shell's exit status is what the one above it sees.
#[test]
fn three_levels_and_the_way_back_up() {
    let images = Images::new();
    let spec = dind().flags(images.mounted()).env("LEVEL", "1");
    let mut pty = Pty::run(&spec, &[]);
    pty.expect("docker is ready after");
    let mut servers = Vec::new();
    for level in 2..=3 {
        a_container_runs(&mut pty);
        servers.push(web_server(&mut pty));
        assert_eq!(pty.ask("docker load -qi /images/dind.tar >/dev/null").1, 0);
        pty.type_line(&format!(
            "docker run -it --rm {} -v /images:/images -e LEVEL={level} {}; {}",
            privileges(),
            lab("DIND_LAB_IMAGE"),
            // On this line: what is typed after an exit may still go down there.
            pty::SHOW_STATUS
        ));
        pty.expect("docker is ready after");
        assert_eq!(pty.ask("echo $LEVEL").0, level.to_string());
    }
    a_container_runs(&mut pty);
    servers.push(web_server(&mut pty));
    for (level, address) in (1..).zip(&servers) {
        let (page, _) = pty.ask(&format!(
            "docker run --rm {BUSYBOX} sh -c \"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {address} 80 | tail -n 1\""
        ));
        assert_eq!(page, format!("level {level}"), "{servers:?}");
    }
    pty.type_line("exit 33");
    for (level, status) in [(2, 33), (1, 22)] {
        assert_eq!(pty.shown_status(), status);
        assert_eq!(pty.ask("echo $LEVEL").0, level.to_string());
        pty.type_line(&format!("exit {level}{level}"));
    }
    assert_eq!(pty.wait(), 11);
}

/// A stop reaches an engine inside, and is over in time although that one has a
/// container that does not care for it.
#[test]
fn a_stop_with_an_engine_inside_is_in_time() {
    let images = Images::new();
    let container = dind().flags(images.mounted()).ready(&[]);
    container.text(&["docker", "load", "-qi", "/images/dind.tar"]);
    container.sh(&format!(
        "docker run -d --name inner {} -v /images:/images {}",
        privileges(),
        lab("DIND_LAB_IMAGE")
    ));
    container.wait_until("docker logs inner 2>&1 | grep -q 'docker is ready after'");
    container.text(&[
        "docker",
        "exec",
        "inner",
        "docker",
        "load",
        "-qi",
        "/images/busybox.tar",
    ]);
    container.text(&[
        "docker", "exec", "inner", "docker", "run", "-d", BUSYBOX, "sleep", "100001",
    ]);
    container.docker(&["stop"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["Daemon shutdown complete"]);
}

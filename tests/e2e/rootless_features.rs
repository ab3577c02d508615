//! What else a user knows from the privileged mode, each by its name, where the engine runs in a user
//! namespace: that it works, or what is said.

use crate::docker::{Network, Scratch, Volume, docker, lab, rootless, unprivileged};

/// The data root is empty at the end, however the daemons ended.
#[test]
fn an_ephemeral_data_root_is_emptied() {
    let volume = Volume::new();
    let container = rootless()
        .env("DIND_EPHEMERAL", "1")
        .flags(volume.on("/var/lib/docker"))
        .ready(&[]);
    container.load_busybox();
    container.inner(
        &["-d", "-v", "/data", "--user=1234"],
        &[
            "sh",
            "-c",
            "umask 077; mkdir -p /tmp/a; touch /tmp/a/b; sleep 1000",
        ],
    );
    container.docker(&["stop"]).exited(0);
    container.logged(&["/var/lib/docker is empty, as DIND_EPHEMERAL asks"]);
    let mount = format!("{}:/volume", volume.name());
    let words = [
        "run",
        "--rm",
        "--entrypoint=find",
        "-v",
        &mount,
        &lab("DIND_LAB_IMAGE"),
        "/volume",
        "-mindepth",
        "1",
    ];
    assert_eq!(docker(words).text(), "");
}

/// Images are loaded, and hooks of each kind run, in the engine's place and in their order.
#[test]
fn images_and_hooks_are_there_before_docker_is_ready() {
    let images = Scratch::new();
    std::fs::copy(lab("DIND_LAB_BUSYBOX"), images.path.join("busybox.tar")).expect("an archive");
    let container = rootless()
        .flags(images.mounted_on("/var/lib/dind/images"))
        .prelude(
            "for stage in pre-start post-start pre-stop; do
                 mkdir -p /etc/dind/$stage.d
                 printf '#!/bin/sh\\necho '$stage' of $(id -u), images: $(docker images -q 2>/dev/null | wc -l) >&2\\n' \
                     >/etc/dind/$stage.d/10-hook
                 chmod +x /etc/dind/$stage.d/10-hook
             done
             sed -i 's/docker images -q/true/' /etc/dind/pre-start.d/10-hook",
        )
        .ready(&[]);
    container.docker(&["stop"]).exited(0);
    container.logged_in_order(&[
        "pre-start of 0, images: 0",
        "post-start of 0, images: 1",
        "docker is ready after",
        "pre-stop of 0, images: 1",
    ]);
}

/// Clients of other containers: with the certificates, which PID 1 has made, and by a plain port.
#[test]
fn clients_come_with_certificates_and_by_a_plain_port() {
    let (certificates, network) = (Volume::new(), Network::new());
    let daemon = rootless()
        .flags(certificates.on("/certs/client"))
        .flags(["--hostname", "the-daemon"])
        .env("PORT", "4444")
        .ready(&[]);
    network.connect(&daemon, "docker");
    daemon.logged(&[
        "tcp://0.0.0.0:4444",
        "WHOEVER REACHES THIS PORT HAS ALL CONTAINERS OF THIS ENGINE",
    ]);
    let client = || {
        unprivileged().flags([
            "--entrypoint",
            "docker-entrypoint.sh",
            "--network",
            &network.name,
        ])
    };
    let name = ["info", "--format", "{{.Name}}"];
    // The engine has a UTS namespace of its own, with the same name.
    assert_eq!(
        client()
            .flags(certificates.on("/certs/client"))
            .run(&name)
            .text(),
        "the-daemon"
    );
    let plain = client().env("DOCKER_HOST", "tcp://docker:4444").run(&name);
    assert_eq!(plain.text(), "the-daemon");
}

/// A nest has no levels without privileges.
#[test]
fn a_nest_is_refused() {
    let refused = rootless().run(&["nest", "2"]).exited(1);
    refused.says(&[
        "dind: error: the levels of a nest are privileged containers",
        "--privileged",
    ]);
    // One level is this container.
    assert_eq!(
        rootless().run(&["nest", "1", "--", "echo", "one"]).text(),
        "one"
    );
}

/// Though nobody outside sees the socket of its containerd.
#[test]
fn an_engine_without_its_containerd_is_not_healthy() {
    let container = rootless().ready(&["sleep", "infinity"]);
    container.exec(&["dind", "health"]).exited(0);
    container.sh("pkill -KILL -x containerd");
    container.wait_log("containerd was ended by SIGKILL", 1);
    container.exec(&["docker", "version"]).exited(0);
    let output = container.exec(&["dind", "health"]).exited(1);
    output.says(&["dind: error: not healthy: containerd has ended"]);
    let waits = container.exec(&["dind", "health", "--wait", "1"]).exited(1);
    waits.says(&["dind: error: not healthy: containerd has ended"]);

    let restarted = rootless()
        .env("DIND_RESTART", "on-failure")
        .ready(&["sleep", "infinity"]);
    restarted.sh("pkill -KILL -x containerd; dind health --wait 120");
    restarted.wait_log("containerd was ended by SIGKILL; restarting it", 1);
}

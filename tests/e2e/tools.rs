//! What comes with the docker CLI in the image: BuildKit's client, Compose, ssh; over the
//! socket, over TLS and over ssh.

use crate::docker::{
    BUSYBOX, Container, Network, Output, Scratch, Spec, Volume, dind, lab, unprivileged,
};
use crate::image::suite;

/// Has a project for each tool in `/work`, or where it is told. Under its usual name the file
/// for Compose would be bake's, too.
pub const PROJECT: &str = r#"
    mkdir -p "${1-/work}" && cd "${1-/work}"
    cat >Dockerfile <<'TEXT'
FROM dind-lab/busybox:latest
ARG NUMBER=0
RUN --mount=type=cache,target=/cache echo build $NUMBER >>/cache/builds; cp /cache/builds /builds
TEXT
    cat >docker-bake.hcl <<'TEXT'
target "default" {
  tags = ["baked"]
}
TEXT
    cat >services.yaml <<'TEXT'
services:
  composed:
    image: dind-lab/busybox:latest
    command: echo from a project
TEXT
"#;

/// Attached, Compose 2.40 may miss the end of a container that ends at once.
const COMPOSES: &str = r#"
    composes() {
        "$@" --file services.yaml --project-name p up --detach
        docker wait $(docker ps --all --quiet --filter label=com.docker.compose.project=p) >/dev/null
        "$@" --file services.yaml --project-name p logs | grep -o 'from a project'
        "$@" --file services.yaml --project-name p down --timeout 1
    }
"#;

/// BuildKit by docker itself: says whether what is in a cache that is mounted is there in a later
/// build; the legacy builder does not know the flag. The very next build may get an empty cache:
/// BuildKit still holds the one before (`getRefCacheDirNoCache` in its solver/llbsolver/mounts).
const BUILDS: &str = "
    export DOCKER_BUILDKIT=1
    for number in 1 2 3 4 5; do
        docker build --quiet --tag built --build-arg NUMBER=$number /work >/dev/null
        [ $(docker run --rm built cat /builds | wc -l) = 1 ] || break
    done
    [ $(docker run --rm built cat /builds | wc -l) = 2 ] && echo kept";

/// By the plugins of the docker CLI.
const PLUGINS: &str = "
    cd /work
    docker build --quiet --tag built --build-arg NUMBER=3 . >/dev/null
    docker run --rm built tail -n 1 /builds
    docker buildx build --quiet --load --tag by-buildx --build-arg NUMBER=4 . >/dev/null
    docker run --rm by-buildx tail -n 1 /builds
    docker buildx bake --load
    docker run --rm baked tail -n 1 /builds
    composes docker compose";

/// By the program that is no plugin.
const COMPOSE: &str = "
    cd /work
    composes docker-compose";

/// bookworm has Compose's first generation alone, and no client of BuildKit's but the CLI.
fn has_plugins() -> bool {
    suite() != "bookworm"
}

/// Runs all of the tools that the image has: `run` runs a script where docker has a daemon
/// with the small image.
#[track_caller]
pub fn all_work(plugins: bool, run: impl Fn(&str) -> Output) {
    let project = |script: &str| run(&format!("set -e\n{PROJECT}\n{COMPOSES}\n{script}")).text();
    assert_eq!(project(BUILDS), "kept");
    assert_eq!(project(COMPOSE), "from a project");
    if plugins {
        let said = project(PLUGINS);
        assert_eq!(said, "build 3\nbuild 4\nbuild 0\nfrom a project");
    } else {
        let absent = run("docker buildx version || docker compose version");
        assert_ne!(absent.status, 0, "bookworm has them: {absent:?}");
    }
}

#[test]
fn they_work_over_the_socket() {
    let daemon = dind().ready(&[]);
    daemon.load_busybox();
    all_work(has_plugins(), |script| daemon.exec(&["sh", "-c", script]));
}

#[test]
fn they_work_over_tls() {
    let certificates = Volume::new();
    let daemon = dind().flags(certificates.on("/certs/client")).ready(&[]);
    daemon.load_busybox();
    let client = unprivileged()
        .flags(["--entrypoint", "docker-entrypoint.sh"])
        .flags(["--link", &format!("{}:docker", daemon.name)])
        .flags(certificates.on("/certs/client"));
    all_work(has_plugins(), |script| client.run(&["sh", "-c", script]));
    let host = client.run(&["sh", "-c", "echo $DOCKER_HOST"]).text();
    assert_eq!(host, "tcp://docker:2376");
}

/// `docker` is put before its plugins' words, beside a daemon and in a client.
#[test]
fn the_plugins_are_dockers_words() {
    let scratch = Scratch::new();
    let make = unprivileged()
        .flags(["--entrypoint", "sh"])
        .flags(scratch.mounted_on("/project"));
    make.run(&["-c", PROJECT, "sh", "/project"]).exited(0);
    for spec in [unprivileged(), dind()] {
        let spec = spec
            .flags(scratch.mounted_on("/project"))
            .flags(["--workdir", "/project"]);
        words_get_docker(&spec, has_plugins());
    }
}

/// Fails the test unless the plugins' words get `docker` before them in `/project`.
#[track_caller]
pub fn words_get_docker(spec: &Spec, plugins: bool) {
    for (words, printed) in [
        (&["bake", "--print"][..], "\"baked\""),
        (&["buildx", "bake", "--print"], "\"baked\""),
        (&["buildx", "version"], "buildx"),
        (&["compose", "--file", "services.yaml", "config"], "echo"),
    ] {
        let output = spec.run(words);
        if plugins {
            assert!(output.stdout.contains(printed), "{output:?}");
            output.exited(0);
        } else {
            let missing = format!("dind: error: {}: not found in PATH", words[0]);
            output.exited(127).says(&[&missing]);
        }
    }
}

/// A host with sshd, whose docker has the daemon of `daemon`, and a user's `.ssh` for it.
struct Host {
    network: Network,
    scratch: Scratch,
    _daemon: Container,
    _host: Container,
}

impl Host {
    fn new() -> Self {
        let network = Network::new();
        let scratch = Scratch::new();
        let daemon = dind()
            .flags(scratch.mounted_on("/shared"))
            .flags(["--hostname", "behind-ssh"])
            .env("DOCKER_HOST", "unix:///shared/docker.sock")
            .ready(&[]);
        let serve = "set -e
            install -d -m 700 /shared/.ssh /root/.ssh
            mkdir -p /run/sshd
            ssh-keygen -A
            ssh-keygen -q -t ed25519 -N '' -f /shared/.ssh/id_ed25519
            cp /shared/.ssh/id_ed25519.pub /root/.ssh/authorized_keys
            echo StrictHostKeyChecking=accept-new >/shared/.ssh/config
            echo SetEnv DOCKER_HOST=unix:///shared/docker.sock >>/etc/ssh/sshd_config
            exec /usr/sbin/sshd -D -e";
        let host = unprivileged()
            .image(&lab("DIND_LAB_CLIENTS"))
            .flags(scratch.mounted_on("/shared"))
            .flags(["--network", &network.name, "--network-alias", "host"])
            .start(&["sh", "-c", serve]);
        host.wait_log("Server listening on", 1);
        Self {
            network,
            scratch,
            _daemon: daemon,
            _host: host,
        }
    }

    /// A client in the host's network, with the user's keys.
    fn client(&self) -> Spec {
        let keys = format!("{}:/root/.ssh", self.scratch.path.join(".ssh").display());
        unprivileged()
            .flags(["--network", &self.network.name, "-v", &keys])
            .env("DOCKER_HOST", "ssh://root@host")
    }
}

/// `DOCKER_HOST=ssh://…` is what makes a client of the image; beside that nothing is set.
#[test]
fn they_work_over_ssh() {
    let host = Host::new();
    let name = host.client().run(&["info", "--format", "{{.Name}}"]);
    assert_eq!(name.text(), "behind-ssh");
    let images = format!("{}:/busybox.tar:ro", lab("DIND_LAB_BUSYBOX"));
    host.client()
        .flags(["-v", &images])
        .run(&["load", "--quiet", "--input", "/busybox.tar"])
        .exited(0);
    let entrypoint = ["--entrypoint", "docker-entrypoint.sh"];
    for client in [host.client(), host.client().flags(entrypoint)] {
        let output = client.run(&["run", "--rm", BUSYBOX, "echo", "over ssh"]);
        assert_eq!(output.text(), "over ssh");
    }
    // The Compose of bookworm has an ssh client of its own, in Python, which it lacks.
    if has_plugins() {
        all_work(true, |script| host.client().run(&["sh", "-c", script]));
    }
}

/// The socket's group has docker:dind's number, so that a user of the one image may use the
/// socket of the other.
#[test]
fn the_sockets_group_is_docker_dinds() {
    let daemon = dind().ready(&[]);
    let socket = daemon.sh("stat -L -c '%g %G %a' /var/run/docker.sock");
    assert_eq!(socket, "2375 docker 660");
}

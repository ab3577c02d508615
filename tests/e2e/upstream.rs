//! The image on top of docker:dind's: what that image has is kept, and dind needs nothing of
//! Debian's. `tests/lab` pulls docker:dind, or makes a stand-in with that layout.

use crate::docker::{
    Call, Container, Image, Output, Scratch, Spec, Volume, dind, docker, lab, unique_name,
    unprivileged,
};
use crate::image;
use crate::pty::Pty;
use crate::tools;

const DATA_ROOT: &str = "/var/lib/docker";

/// The image, privileged.
fn upstream() -> Spec {
    dind().image(&lab("DIND_LAB_UPSTREAM"))
}

/// The image as a client.
fn client() -> Spec {
    unprivileged().image(&lab("DIND_LAB_UPSTREAM"))
}

/// The script runs in the place of dind. It asks `which` for paths: the shell of Debian's busybox
/// has its own programs as builtins.
fn shown(script: &str) -> String {
    client()
        .flags(["--entrypoint", "sh"])
        .run(&["-c", script])
        .text()
}

/// The tools are docker:dind's, or it would be tested with others than users have.
#[test]
fn nothing_of_debians_is_there() {
    let found = shown(
        "for name in bash apt-get perl findmnt apparmor_parser fuse-overlayfs; do
            which $name
        done
        for name in sh ps ip mount find stat cat; do
            readlink -f $(which $name) | grep -qx /bin/busybox || echo $name
        done; true",
    );
    assert_eq!(found, "");
}

/// Each of docker:dind's scripts is dind, and so are the names that it does not have.
#[test]
fn every_name_is_the_programs() {
    let names = "dind dockerd-entrypoint.sh docker-entrypoint.sh wrapdocker hack-dind";
    let found = shown(&format!(
        "for name in {names}; do readlink -f $(which $name); done"
    ));
    assert_eq!(found, ["/usr/local/bin/dind"; 5].join("\n"));
    let version = shown("dind --version");
    assert!(version.starts_with("dind "), "{version}");
}

/// Everything else is kept: engine, plugins, legacy iptables, user, volume, ports, variables.
#[test]
fn what_docker_dind_has_is_kept() {
    let found = shown(
        "for name in dockerd docker containerd containerd-shim-runc-v2 ctr runc docker-init docker-proxy modprobe; do
            which $name
        done
        ls /usr/local/libexec/docker/cli-plugins /usr/local/sbin/.iptables-legacy
        grep -c dockremap:165536:65536 /etc/subuid
        grep -c ^docker:x:2375: /etc/group
        stat -c %a /certs /certs/client",
    );
    let expected = "/usr/local/bin/dockerd
/usr/local/bin/docker
/usr/local/bin/containerd
/usr/local/bin/containerd-shim-runc-v2
/usr/local/bin/ctr
/usr/local/bin/runc
/usr/local/bin/docker-init
/usr/local/bin/docker-proxy
/usr/local/bin/modprobe
/usr/local/libexec/docker/cli-plugins:
docker-buildx
docker-compose

/usr/local/sbin/.iptables-legacy:
ip6tables
ip6tables-restore
ip6tables-save
iptables
iptables-restore
iptables-save
1
1
1777
1777";
    assert_eq!(found, expected);
    let image = lab("DIND_LAB_UPSTREAM");
    let read = |format: &str| docker(["image", "inspect", "--format", format, &image]).text();
    for (format, expected) in [
        ("{{json .Config.Volumes}}", r#"{"/var/lib/docker":{}}"#),
        (
            "{{json .Config.ExposedPorts}}",
            r#"{"2375/tcp":{},"2376/tcp":{}}"#,
        ),
        ("{{json .Config.Entrypoint}}", r#"["dind"]"#),
        ("{{len .Config.Cmd}}", "0"),
        (
            "{{json .Config.Healthcheck.Test}}",
            r#"["CMD","dind","health"]"#,
        ),
        (
            "{{index .Config.Labels \"org.opencontainers.image.title\"}}",
            "dind",
        ),
    ] {
        assert_eq!(read(format), expected, "{format}");
    }
    let environment = read("{{json .Config.Env}}");
    for name in [
        "DOCKER_TLS_CERTDIR=/certs",
        "DIND_COMMIT=",
        "DOCKER_VERSION=",
    ] {
        assert!(environment.contains(name), "{environment}");
    }
}

/// The target, as it is built with `flags` and by BuildKit or by the legacy builder.
fn build(buildkit: bool, flags: &[&str]) -> (Image, Output) {
    let context = image::context();
    let built = Image(unique_name());
    let target = ["--target", "upstream", "--tag", &built.0];
    let words = target.iter().chain(flags).map(|&word| word.to_owned());
    let words = words.chain(image::proxies());
    let words = words.chain([context.path.display().to_string()]);
    let output = if buildkit {
        let build = ["build", "--load"].map(str::to_owned);
        image::buildx(build.into_iter().chain(words).collect())
    } else {
        Call::new(["build".to_owned()].into_iter().chain(words))
            .env("DOCKER_BUILDKIT", "0")
            .finish_build()
    };
    (built, output.exited(0))
}

#[track_caller]
fn has_an_engine(image: &Image) {
    let version = dind().image(&image.0).run(&["docker", "version"]);
    version.exited(0);
}

/// BuildKit makes nothing but the target, so it may have a default: what `tests/lab` gives.
#[test]
fn buildkit_has_a_default() {
    let (image, _) = build(true, &[]);
    has_an_engine(&image);
}

/// The legacy builder makes this stage for every image, so it pulls nothing that nobody named,
/// and the stage says what to do.
#[test]
fn the_legacy_builder_is_told_the_image() {
    let (image, _) = build(false, &["--build-arg", "UPSTREAM=docker:29-dind"]);
    has_an_engine(&image);
    let (image, output) = build(false, &[]);
    assert!(output.stdout.contains("set UPSTREAM="), "{output:?}");
    dind()
        .image(&image.0)
        .run(&["true"])
        .exited(127)
        .says(&["dind: error: no dockerd in PATH"]);
}

/// A login shell, which is busybox's, with a daemon beside it.
#[test]
fn a_shell_has_a_daemon() {
    let mut pty = Pty::run(&upstream(), &[]);
    pty.expect("docker is ready after");
    assert_eq!(pty.ask("docker info >/dev/null").1, 0);
    assert_eq!(pty.ask("readlink -f /proc/$$/exe").0, "/bin/busybox");
    assert_eq!(pty.ask("echo $0").0, "sh");
    pty.type_line("exit 3");
    assert_eq!(pty.wait(), 3);
}

/// A command's output is its own, and so is its status; nothing is warned of that docker:dind
/// has to lack.
#[test]
fn a_command_has_a_daemon() {
    let script =
        "docker load -qi /busybox.tar >&2 && docker run --rm dind-lab/busybox echo inner; exit 4";
    let images = format!("{}:/busybox.tar:ro", lab("DIND_LAB_BUSYBOX"));
    let output = upstream().flags(["-v", &images]).run(&["sh", "-c", script]);
    let output = output.exited(4);
    assert_eq!(output.stdout, "inner\n");
    let warning = crate::docker::line_with(&output.stderr, &["dind: warning"]);
    assert_eq!(warning, None);
}

/// The daemon serves over TLS, and the image is a client of it, under either entrypoint.
#[test]
fn it_serves_and_is_a_client_over_tls() {
    let certificates = Volume::new();
    for entrypoint in ["dind", "dockerd-entrypoint.sh"] {
        let daemon = upstream()
            .flags(["--entrypoint", entrypoint, "--hostname", "upstream"])
            .flags(certificates.on("/certs/client"))
            .ready(&[]);
        daemon.logged(&["tcp://0.0.0.0:2376 (TLS)"]);
        daemon.exec(&["dind", "health"]).exited(0);
        let link = format!("{}:docker", daemon.name);
        for contract in ["docker-entrypoint.sh", "dockerd-entrypoint.sh"] {
            let output = client()
                .flags(["--entrypoint", contract, "--link", &link])
                .flags(certificates.on("/certs/client"))
                .run(&["info", "--format", "{{.Name}}"]);
            assert_eq!(output.text(), "upstream");
        }
        daemon.docker(&["stop"]).exited(0);
        assert_eq!(daemon.inspect("{{.State.ExitCode}}"), "0");
    }
}

/// Its own links to iptables-legacy come first in the daemons' PATH.
#[test]
fn legacy_iptables_are_its_own() {
    let container = upstream().env("DOCKER_IPTABLES_LEGACY", "1").ready(&[]);
    container.logged(&["dind: iptables: legacy, since DOCKER_IPTABLES_LEGACY is set"]);
    let path = container.sh("tr '\\0' '\\n' </proc/$(pidof dockerd)/environ | grep ^PATH=");
    assert!(
        path.starts_with("PATH=/usr/local/sbin/.iptables-legacy:/"),
        "{path}"
    );
    container.sh("iptables-legacy-save | grep -q ^:DOCKER");
    let nft = upstream().env("DOCKER_IPTABLES_LEGACY", "").ready(&[]);
    nft.sh("iptables-save | grep -q ^:DOCKER; ! iptables-legacy-save | grep -q ^:DOCKER");
}

#[test]
fn it_nests() {
    let output = upstream().run(&["nest", "2", "--", "docker", "info", "--format", "{{.Name}}"]);
    assert_eq!(output.text(), "dind-2");
}

/// A data root that is emptied at the end, and an image of ext4 as the data root: by what
/// docker:dind has of e2fsprogs.
#[test]
fn storage_is_chosen_and_emptied() {
    let volume = Volume::new();
    let daemon = upstream()
        .env("DIND_EPHEMERAL", "1")
        .flags(volume.on(DATA_ROOT))
        .ready(&[]);
    daemon.load_busybox();
    daemon.docker(&["stop"]).exited(0);
    daemon.logged(&["/var/lib/docker is empty, as DIND_EPHEMERAL asks"]);
    let left = upstream()
        .flags(["--entrypoint", "find"])
        .flags(volume.on("/volume"))
        .run(&["/volume", "-mindepth", "1"]);
    assert_eq!(left.text(), "");

    let daemon = upstream().env("DIND_STORAGE", "loop").ready(&[]);
    daemon.logged(&[
        "dind: storage: an ext4 image of",
        "DIND_STORAGE=loop is set",
    ]);
    daemon.sh("grep -q '^/dev/loop[0-9]* /var/lib/docker ext4 ' /proc/mounts");
    runs_a_container(&daemon);
}

#[track_caller]
fn runs_a_container(daemon: &Container) {
    daemon.load_busybox();
    assert_eq!(daemon.inner(&[], &["echo", "it runs"]), "it runs");
}

/// buildx, bake, Compose: over the socket, and over TLS by the image as a client.
#[test]
fn its_tools_work() {
    let certificates = Volume::new();
    let daemon = upstream()
        .flags(certificates.on("/certs/client"))
        .ready(&[]);
    daemon.load_busybox();
    tools::all_work(true, |script| daemon.exec(&["sh", "-c", script]));
    let client = client()
        .flags(["--entrypoint", "docker-entrypoint.sh"])
        .flags(["--link", &format!("{}:docker", daemon.name)])
        .flags(certificates.on("/certs/client"));
    tools::all_work(true, |script| client.run(&["sh", "-c", script]));
}

#[test]
fn its_plugins_are_dockers_words() {
    let scratch = Scratch::new();
    client()
        .flags(["--entrypoint", "sh"])
        .flags(scratch.mounted_on("/project"))
        .run(&["-c", tools::PROJECT, "sh", "/project"])
        .exited(0);
    let spec = upstream()
        .flags(scratch.mounted_on("/project"))
        .flags(["--workdir", "/project"]);
    tools::words_get_docker(&spec, true);
}

/// `dind doctor` and `dind plan` say nothing that only Debian could mend.
#[test]
fn doctor_and_hack_dind_work() {
    upstream().run(&["doctor"]).exited(0);
    upstream().run(&["plan"]).exited(0);
    let output = upstream().run(&["hack-dind", "sh", "-c", "echo pid=$$ $container"]);
    assert_eq!(output.text(), "pid=1 docker");
}

//! The image and the binary in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::docker::{
    BUSYBOX, Call, Image, Output, Scratch, dind, docker, lab, unique_name, unprivileged,
};

/// The part of the checkout that the image is made of, with an engine of one's own
/// in `own`: scripts that say so and become the real programs. They are not
/// executable, as files are that come from somewhere else.
pub fn context() -> Scratch {
    let scratch = Scratch::new();
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    // With their modes, or the builder's cache would not know them.
    let copied = Command::new("cp")
        .arg("-a")
        .args(
            [
                "Dockerfile",
                "Cargo.toml",
                "Cargo.lock",
                ".cargo",
                "build.rs",
                "src",
            ]
            .map(|name| checkout.join(name)),
        )
        .arg(&scratch.path)
        .status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "cp of the checkout"
    );
    fs::create_dir(scratch.path.join("own")).expect("a directory in /tmp");
    scratch.file(
        "own/docker",
        "#!/bin/sh\necho own docker >&2\nexec /usr/bin/docker \"$@\"\n",
    );
    scratch.file(
        "own/dockerd",
        "#!/bin/sh\necho own dockerd >&2\nexec /usr/sbin/dockerd \"$@\"\n",
    );
    scratch
}

/// Words that hand the machine's proxies to the build.
pub fn proxies() -> Vec<String> {
    [
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
    ]
    .into_iter()
    .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
    .flat_map(|name| ["--build-arg".to_owned(), name.to_owned()])
    .collect()
}

/// The Debian suite of the image under test.
#[track_caller]
pub fn suite() -> String {
    let show = ". /etc/os-release; echo $VERSION_CODENAME";
    unprivileged()
        .flags(["--entrypoint", "sh"])
        .run(&["-c", show])
        .text()
}

/// The image with an engine of one's own: it comes first in PATH, and dind starts it.
#[track_caller]
fn own_engine_comes_first(image: &Image) {
    let spec = unprivileged().image(&image.0).flags(["--privileged"]);
    let container = spec.ready(&[]);
    container.logged(&["own dockerd"]);
    let output = container.exec(&["docker", "version"]).exited(0);
    assert_eq!(output.stderr, "own docker\n");
}

/// The Dockerfile builds by either builder, and takes an engine of one's own.
#[track_caller]
fn builds_with_an_engine_of_ones_own(build: impl FnOnce(Vec<String>) -> Output) {
    let context = context();
    let image = Image(unique_name());
    let suite = format!("SUITE={}", suite());
    let words = ["--build-arg", &suite, "--build-arg", "ENGINE=own"];
    let words = words.into_iter().chain(["--tag", &image.0]);
    let words = words.map(str::to_owned).chain(proxies());
    build(words.chain([context.path.display().to_string()]).collect()).exited(0);
    own_engine_comes_first(&image);
}

#[test]
fn it_builds_with_the_legacy_builder() {
    builds_with_an_engine_of_ones_own(|words| {
        Call::new(["build".to_owned()].into_iter().chain(words))
            .env("DOCKER_BUILDKIT", "0")
            .finish_build()
    });
}

#[test]
fn it_builds_with_buildkit() {
    builds_with_an_engine_of_ones_own(|words| {
        let build = ["build", "--load"].map(str::to_owned);
        buildx(build.into_iter().chain(words).collect())
    });
}

/// buildx as a plugin of the CLI, or by itself, as `tests/lab` has it.
#[track_caller]
pub fn buildx(words: Vec<String>) -> Output {
    if docker(["buildx", "version"]).status == 0 {
        return Call::new(["buildx".to_owned()].into_iter().chain(words)).finish_build();
    }
    assert!(
        Command::new("docker-buildx")
            .arg("version")
            .output()
            .is_ok_and(|output| output.status.success()),
        "there is no buildx: run these tests by 'tests/lab test', or install Debian's docker-buildx"
    );
    Call::program("docker-buildx", words).finish_build()
}

/// What users expect next to the engine is there, and runs.
#[test]
fn the_tools_are_there() {
    let script = "
        for tool in docker dockerd containerd runc git iptables ip6tables nft docker-compose ssh \
                    apparmor_parser mkfs.ext4 mkfs.xfs mkfs.btrfs fuse-overlayfs pigz xz \
                    ps ip openssl update-ca-certificates bash; do
            command -v $tool >/dev/null || echo $tool is missing
        done
        for tool in 'docker' 'dockerd' 'containerd' 'runc' 'git' 'apparmor_parser' 'fuse-overlayfs' \
                    'pigz' 'xz' 'ps' 'bash'; do
            $tool --version >/dev/null 2>&1 || echo $tool does not run
        done
        iptables-legacy --version | grep -q legacy || echo iptables-legacy
        iptables-nft --version | grep -q nf_tables || echo iptables-nft
        mkfs.ext4 -V 2>/dev/null && mkfs.xfs -V >/dev/null && mkfs.btrfs -V >/dev/null || echo mkfs
        openssl version >/dev/null || echo openssl
        nft --version >/dev/null && ssh -V 2>/dev/null && docker-compose version >/dev/null || echo nft
        [ -s /etc/ssl/certs/ca-certificates.crt ] || echo no certificates";
    let output = unprivileged()
        .flags(["--entrypoint", "sh"])
        .run(&["-c", script]);
    assert_eq!(output.text(), "");
}

/// What the image says of itself.
#[test]
fn the_configuration_is_as_documented() {
    let read = |format: &str| {
        docker([
            "image",
            "inspect",
            "--format",
            format,
            &lab("DIND_LAB_IMAGE"),
        ])
        .text()
    };
    assert_eq!(
        read("{{json .Config.Volumes}}"),
        r#"{"/var/lib/docker":{}}"#
    );
    assert_eq!(
        read("{{json .Config.ExposedPorts}}"),
        r#"{"2375/tcp":{},"2376/tcp":{}}"#
    );
    assert_eq!(read("{{json .Config.Entrypoint}}"), r#"["dind"]"#);
    assert_eq!(
        read(r#"{{index .Config.Labels "org.opencontainers.image.title"}}"#),
        "dind"
    );
    assert_eq!(
        read(r#"{{index .Config.Labels "org.opencontainers.image.licenses"}}"#),
        "Apache-2.0"
    );
}

/// The binary is there under each of its names.
#[test]
fn the_binary_has_its_names() {
    let names = [
        "dind",
        "wrapdocker",
        "hack-dind",
        "dockerd-entrypoint.sh",
        "docker-entrypoint.sh",
    ];
    let output = unprivileged().flags(["--entrypoint", "sh"]).run(&[
        "-c",
        "for name; do realpath \"$(command -v $name)\"; done",
        "sh",
        names[0],
        names[1],
        names[2],
        names[3],
        names[4],
    ]);
    assert_eq!(output.text(), ["/usr/local/bin/dind"; 5].join("\n"));
}

/// No loader and no library is named in the binary, and it is small.
#[test]
fn the_binary_is_static_and_small() {
    let binary = fs::read(lab("DIND_LAB_BINARY")).expect("the binary that tests/lab made");
    assert!(binary.len() <= 4_000_000, "{} bytes", binary.len());
    let number = |at: usize, size: usize| {
        let mut bytes = [0_u8; 8];
        bytes[..size].copy_from_slice(&binary[at..at + size]);
        usize::try_from(u64::from_le_bytes(bytes)).expect("an offset in a file of 4 MB")
    };
    // elf(5): e_phoff, e_phentsize and e_phnum of the 64-bit header.
    assert_eq!(&binary[..6], b"\x7fELF\x02\x01", "64 bits, little-endian");
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds: Vec<usize> = (0..count)
        .map(|index| number(table + index * size, 4))
        .collect();
    const PT_LOAD: usize = 1;
    const PT_INTERP: usize = 3;
    assert!(kinds.contains(&PT_LOAD), "{kinds:?}");
    assert!(!kinds.contains(&PT_INTERP), "{kinds:?}");
}

/// The binary runs in a root file system in which nothing is but a busybox: no
/// library, no /etc/nsswitch.conf, no dockerd.
#[test]
fn the_binary_runs_in_a_bare_root_filesystem() {
    let bare = |words: &[&str]| {
        let container = dind().image(BUSYBOX).create(words);
        container.copy_in(lab("DIND_LAB_BINARY").as_ref(), "/bin/dind");
        container.docker(&["start", "--attach"])
    };
    let version = bare(&["dind", "--version"]).text();
    assert!(version.starts_with("dind "), "{version}");
    bare(&["dind", "echo", "hi"])
        .exited(127)
        .says(&["dind: error: no dockerd in PATH"]);
    let output = bare(&[
        "dind",
        "hack-dind",
        "sh",
        "-c",
        "echo pid=$$ container=$container",
    ]);
    assert_eq!(output.text(), "pid=1 container=docker");
}

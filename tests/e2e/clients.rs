//! Other clients of the API than the docker CLI, over mutual TLS.

use crate::docker::{BUSYBOX, Container, Output, Volume, dind, lab, unprivileged};

/// The Python client: prints the version, and what a container prints.
const PYTHON: &str = "
import docker, os, sys
client = docker.from_env()
print('version', client.version()['Version'])
print(client.containers.run(sys.argv[1], sys.argv[2:], remove=True).decode(), end='')
";

/// The daemon under test with the small image, and the volume with the certificates of its
/// clients.
fn daemon() -> (Volume, Container) {
    let certificates = Volume::new();
    let daemon = dind().flags(certificates.on("/certs/client")).ready(&[]);
    daemon.load_busybox();
    (certificates, daemon)
}

/// Runs a client of the clients' image next to the daemon.
fn run(certificates: &Volume, daemon: &Container, files: &str, command: &[&str]) -> Output {
    let bollard = format!("{}:/bollard-client:ro", lab("DIND_LAB_BOLLARD"));
    unprivileged()
        .image(&lab("DIND_LAB_CLIENTS"))
        .flags(["--link", &format!("{}:docker", daemon.name), "-v", &bollard])
        .flags(certificates.on("/certs/client"))
        .env("DOCKER_HOST", "tcp://docker:2376")
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", files)
        .run(command)
}

/// Both run a container, and both are refused without the daemon's certificates.
#[test]
fn python_and_rust_clients_are_served() {
    let (certificates, daemon) = daemon();
    let version = daemon.text(&["docker", "version", "--format", "{{.Server.Version}}"]);
    let python = [
        "/opt/python/bin/python",
        "-c",
        PYTHON,
        BUSYBOX,
        "echo",
        "hi",
    ];
    let bollard = ["/bollard-client", BUSYBOX, "echo", "hi"];
    let output = run(&certificates, &daemon, "/certs/client", &python);
    assert_eq!(output.text(), format!("version {version}\nhi"));
    let output = run(&certificates, &daemon, "/certs/client", &bollard);
    assert_eq!(output.text(), format!("version {version}\nstatus 0\nhi"));

    // A certificate that another authority has signed.
    let strangers = "mkdir /own; cd /own; cp /certs/client/ca.pem .
        openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout key.pem -out cert.pem 2>/dev/null
        \"$@\"";
    for client in [&python[..], &bollard[..]] {
        let command = [&["sh", "-c", strangers, "sh"], client].concat();
        let refused = run(&certificates, &daemon, "/own", &command);
        assert_ne!(refused.status, 0, "{refused:?}");
        let why = ["certificate", "Certificate", "UnknownCA", "unknown ca"];
        assert!(
            why.iter().any(|why| refused.stderr.contains(why)),
            "{refused:?}"
        );
    }
}

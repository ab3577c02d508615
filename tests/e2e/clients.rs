//! Other clients of the API than the docker CLI, over mutual TLS.

use crate::docker::{BUSYBOX, Container, Output, Volume, dind, lab, unprivileged};

/// The Python client: prints the version, and what a container prints.
const PYTHON: &str = "
import docker, os, sys
client = docker.from_env()
print('version', client.version()['Version'])
print(client.containers.run(sys.argv[1], sys.argv[2:], remove=True).decode(), end='')
";

/// The Python client with the daemon's authority and no certificate of its own: `from_env`
/// would give up before it has spoken to anybody.
const PYTHON_WITHOUT_CERTIFICATE: &str = "
import docker, os
tls = docker.tls.TLSConfig(ca_cert=os.environ['DOCKER_CERT_PATH'] + '/ca.pem', verify=True)
host = os.environ['DOCKER_HOST'].replace('tcp', 'https')
docker.DockerClient(base_url=host, version='1.40', tls=tls).ping()
print('let in')
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

/// Both run a container, and both are refused without a certificate, and with a stranger's.
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

    let without = ["/opt/python/bin/python", "-c", PYTHON_WITHOUT_CERTIFICATE];
    // bollard reads its files at the handshake, and sends no certificate where there is none.
    let bare = "mkdir /own && cp /certs/client/ca.pem /own && exec \"$@\"";
    // A certificate that another authority has signed.
    let strangers = "mkdir /own && cd /own && cp /certs/client/ca.pem . &&
        openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout key.pem -out cert.pem 2>/dev/null &&
        exec \"$@\"";
    // The alerts of TLS by the names that OpenSSL and rustls have for them. Which one is
    // sent is Go's choice: 1.19, which Docker 20.10 is built with, has one for both
    // (processCertsFromClient in its crypto/tls). The daemon's log tells them apart.
    let none = [
        "CERTIFICATE_REQUIRED",
        "BAD_CERTIFICATE",
        "CertificateRequired",
        "BadCertificate",
    ];
    let wrong = [
        "UNKNOWN_CA",
        "BAD_CERTIFICATE",
        "UnknownCA",
        "BadCertificate",
    ];
    let not_given = "client didn't provide a certificate";
    let not_known = "certificate signed by unknown authority";
    for (client, files, reasons, logged) in [
        (&without[..], bare, none, (not_given, 1)),
        (&bollard, bare, none, (not_given, 2)),
        (&python, strangers, wrong, (not_known, 1)),
        (&bollard, strangers, wrong, (not_known, 2)),
    ] {
        let command = [&["sh", "-c", files, "sh"], client].concat();
        let refused = run(&certificates, &daemon, "/own", &command);
        assert_ne!(refused.status, 0, "{refused:?}");
        assert!(
            reasons.iter().any(|reason| refused.stderr.contains(reason)),
            "{refused:?}"
        );
        let (reason, times) = logged;
        daemon.wait_log(reason, times);
    }
}

//! The daemon on TCP with mutual TLS, as `docker:dind` serves it.

use crate::docker::{BUSYBOX, Container, Network, Spec, Volume, dind, docker, lab, unprivileged};
use crate::pty::Pty;

/// A client with the daemon's certificates and nothing else set.
fn client(volume: &Volume) -> Spec {
    unprivileged()
        .flags(["--entrypoint", "docker-entrypoint.sh"])
        .flags(volume.on("/certs/client"))
}

const NAME: &[&str] = &["info", "--format", "{{.Name}}"];

/// The official recipe: a volume with the client's certificates, the alias `docker`, and
/// nothing to set; over a link and over a network of one's own.
#[test]
fn a_client_finds_the_daemon_and_its_certificates() {
    let certificates = Volume::new();
    let network = Network::new();
    let daemon = dind()
        .flags(certificates.on("/certs/client"))
        .flags(["--hostname", "the-daemon"])
        .ready(&[]);
    network.connect(&daemon, "docker");
    daemon.logged(&["dind: docker is ready", "tcp://0.0.0.0:2376 (TLS)"]);
    daemon.not_logged(&["no TLS"]);
    let link = format!("{}:docker", daemon.name);
    let ways = [
        ["--link", link.as_str()],
        ["--network", network.name.as_str()],
    ];
    for way in ways {
        let output = client(&certificates).flags(way).run(NAME);
        assert_eq!(output.text(), "the-daemon", "{way:?}");
    }
    // By address too: the certificate has those of the container.
    let address = daemon.sh("hostname -i | cut -d' ' -f1");
    let by_address = client(&certificates)
        .env("DOCKER_HOST", &format!("tcp://{address}:2376"))
        .run(NAME);
    assert_eq!(by_address.text(), "the-daemon");
    // Nobody else is let in.
    let stranger = unprivileged()
        .flags(["--entrypoint", "docker", ways[0][0], ways[0][1]])
        .flags(certificates.on("/c"))
        .run(&[
            "-H",
            "tcp://docker:2376",
            "--tls",
            "--tlscacert",
            "/c/ca.pem",
            "version",
        ])
        .exited(1);
    assert!(
        stranger.stderr.contains("certificate required")
            || stranger.stderr.contains("bad certificate"),
        "{stranger:?}"
    );
    let plain = unprivileged()
        .flags(["--entrypoint", "docker", ways[0][0], ways[0][1]])
        .run(&["-H", "tcp://docker:2376", "version"]);
    plain.exited(1);
    drop(daemon);
}

/// Every name of the container is in the certificate, the host name in full and in short,
/// and no other; a client that verifies comes by any of them.
#[test]
fn the_certificate_has_the_containers_names() {
    let certificates = Volume::new();
    let network = Network::new();
    let on_it = ["--network", network.name.as_str()];
    let daemon = dind()
        .flags(certificates.on("/certs/client"))
        .flags(on_it)
        .flags(["--hostname", "a.b.example", "--network-alias", "a"])
        .flags(["--network-alias", "a.b.example", "--network-alias", "alias"])
        .flags(["--network-alias", "in-the-file"])
        .prelude("echo in-the-file >/etc/hostname")
        .ready(&[]);
    let names = daemon.sh(
        "openssl x509 -noout -ext subjectAltName -in /certs/server/cert.pem |
         grep -o 'DNS:[^,]*' | sort | xargs",
    );
    assert_eq!(
        names,
        "DNS:a DNS:a.b.example DNS:docker DNS:in-the-file DNS:localhost"
    );
    let by = |name: &str| {
        client(&certificates)
            .flags(on_it)
            .env("DOCKER_HOST", &format!("tcp://{name}:2376"))
            .run(&["version", "--format", "{{.Server.Version}}"])
    };
    for name in ["a.b.example", "a", "in-the-file"] {
        by(name).exited(0);
    }
    by("alias")
        .exited(1)
        .says(&["alias", "certificate is valid for"]);
}

/// The client's key is there for every user of a client's container. Where one may not
/// look there, that is said, and not only that there is no daemon.
#[test]
fn a_client_need_not_be_root() {
    let certificates = Volume::new();
    let daemon = dind()
        .flags(certificates.on("/certs/client"))
        .flags(["--hostname", "for-everybody"])
        .ready(&[]);
    let link = format!("{}:docker", daemon.name);
    let user = client(&certificates).flags(["--link", &link, "--user", "1000"]);
    let name = user.run(NAME);
    assert_eq!(name.stderr, "");
    assert_eq!(name.text(), "for-everybody");
    daemon.text(&["chmod", "600", "/certs/client/key.pem"]);
    user.run(&["version"])
        .exited(1)
        .says(&["/certs/client/key.pem: permission denied"]);
    daemon.text(&["chmod", "700", "/certs/client"]);
    user.run(&["version"])
        .exited(1)
        .says(&["dind: warning: this user cannot read", "/certs/client"]);
}

/// With whatever umask the container starts, clients can read what is for them, and the
/// command has that umask.
#[test]
fn the_umask_changes_no_mode_but_the_commands() {
    let modes = "stat -c '%a %n' /own/certs /own/certs/* /own/certs/*/* /run/docker/containerd /run/dir /run/dir/*";
    let spec = |umask: &str| {
        dind()
            .env("DOCKER_TLS_CERTDIR", "/own/certs")
            .env("DOCKER_HOST", "unix:///run/dir/docker.sock")
            .prelude(&format!("umask {umask}"))
    };
    let [usual, closed] = ["022", "077"].map(|umask| spec(umask).ready(&[]));
    let found = closed.sh(modes);
    assert_eq!(found, usual.sh(modes));
    for line in [
        "755 /own/certs",
        "755 /own/certs/client",
        "644 /own/certs/client/ca.pem",
    ] {
        assert!(found.lines().any(|found| found == line), "{line}: {found}");
    }
    for daemon in ["dockerd", "containerd"] {
        let umask = closed.sh(&format!("grep Umask /proc/$(pgrep -x {daemon})/status"));
        assert_eq!(umask, "Umask:\t0022", "{daemon}");
    }
    let command = spec("077").run(&["sh", "-c", "umask"]);
    assert_eq!(command.text(), "0077");
}

/// `docker run -d -it`: somebody may attach to the shell, and linked clients are served.
#[test]
fn a_detached_shell_serves_linked_clients() {
    let certificates = Volume::new();
    let daemon = dind()
        .flags(certificates.on("/certs/client"))
        .flags(["-it", "--hostname", "a-shell"])
        .ready(&[]);
    let link = ["--link".to_owned(), format!("{}:docker", daemon.name)];
    let output = client(&certificates).flags(link).run(NAME);
    assert_eq!(output.text(), "a-shell");
}

/// The image in the place of the official one, under its entrypoint's name.
#[test]
fn the_official_entrypoint_serves() {
    for spec in [
        dind().flags(["--entrypoint", "dockerd-entrypoint.sh"]),
        dind().env("DIND_CONTRACT", "dockerd-entrypoint.sh"),
    ] {
        let daemon = spec.ready(&["--storage-driver=vfs", "--insecure-registry=10.9.8.7:5000"]);
        daemon.logged(&["tcp://0.0.0.0:2376 (TLS)"]);
        let info = daemon.text(&[
            "docker",
            "info",
            "--format",
            "{{.Driver}} {{index .RegistryConfig.IndexConfigs \"10.9.8.7:5000\"}}",
        ]);
        assert!(
            info.starts_with("vfs ") && info.contains("10.9.8.7:5000"),
            "{info}"
        );
    }
    let plain = dind()
        .flags(["--entrypoint", "dockerd-entrypoint.sh"])
        .env("DOCKER_TLS_CERTDIR", "")
        .ready(&[]);
    plain.logged(&["dind: warning: tcp://0.0.0.0:2375", "no TLS"]);
    plain.text(&["docker", "-H", "tcp://127.0.0.1:2375", "version"]);
    let literal = dind()
        .flags(["--entrypoint", "dockerd-entrypoint.sh"])
        .ready(&["dockerd"]);
    literal.not_logged(&["TLS"]);
    literal.exec(&["test", "-e", "/certs/server"]).exited(1);
}

fn serials(container: &Container) -> String {
    container.sh(
        "for file in ca/cert server/cert client/cert; do openssl x509 -noout -serial -in /certs/$file.pem; done",
    )
}

/// The certificates verify for what they are for, and a restart keeps them.
#[test]
fn certificates_verify_and_are_kept() {
    // In a network the container may get another address, which another test has let go of, and then
    // another certificate.
    let daemon = dind()
        .flags(["--network=none"])
        .env("DOCKER_TLS_SAN", "DNS:ci.example,IP:10.9.8.7")
        .ready(&[]);
    assert_eq!(
        daemon.sh("cd /certs
            openssl verify -x509_strict -CAfile server/ca.pem -purpose sslserver server/cert.pem
            openssl verify -x509_strict -CAfile client/ca.pem -purpose sslclient client/cert.pem
            stat -c '%a %n' */key.pem"),
        "server/cert.pem: OK\nclient/cert.pem: OK\n600 ca/key.pem\n644 client/key.pem\n600 server/key.pem"
    );
    let names = daemon.sh("openssl x509 -noout -ext subjectAltName -in /certs/server/cert.pem");
    for name in [
        "DNS:docker",
        "DNS:localhost",
        "DNS:ci.example",
        "IP Address:10.9.8.7",
        "IP Address:127.0.0.1",
    ] {
        assert!(names.contains(name), "{name}: {names}");
    }
    let before = serials(&daemon);
    daemon.docker(&["restart"]).exited(0);
    daemon.wait_ready_times(2);
    assert_eq!(serials(&daemon), before);
    daemon.logged(&["dind: certificates in /certs: kept"]);
    daemon.not_logged(&["PRIVATE KEY"]);
}

/// Twelve daemons that start at the same moment on one volume agree, and a client with
/// the volume's certificates can talk to each.
#[test]
fn twelve_starts_on_one_volume_agree() {
    let certificates = Volume::new();
    let daemons: Vec<Container> = (0..12)
        .map(|_| dind().flags(certificates.on("/certs")).create(&[]))
        .collect();
    let mut start = vec!["start"];
    start.extend(daemons.iter().map(|daemon| daemon.name.as_str()));
    docker(start).exited(0);
    for daemon in &daemons {
        daemon.wait_ready();
    }
    for daemon in &daemons {
        let address = daemon.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
        let output = unprivileged()
            .flags(["--entrypoint", "docker-entrypoint.sh"])
            .flags(certificates.on("/certs"))
            .env("DOCKER_HOST", &format!("tcp://{address}:2376"))
            .run(NAME);
        assert_eq!(output.text(), daemon.inspect("{{.Config.Hostname}}"));
    }
}

/// Daemons that share nothing but the clients' volume, which makes little sense: whoever is last has
/// it, and what is there fits.
#[test]
fn daemons_with_one_directory_for_clients_leave_what_fits() {
    let certificates = Volume::new();
    let daemons: Vec<Container> = (0..4)
        .map(|_| dind().flags(certificates.on("/certs/client")).create(&[]))
        .collect();
    let mut start = vec!["start"];
    start.extend(daemons.iter().map(|daemon| daemon.name.as_str()));
    docker(start).exited(0);
    for daemon in &daemons {
        daemon.wait_ready();
    }
    let accepted = daemons.iter().filter(|daemon| {
        let output = daemon.exec(&[
            "sh",
            "-ec",
            "cd /certs/client; openssl verify -CAfile ca.pem cert.pem
             cmp ca.pem /certs/ca/cert.pem
             openssl x509 -in cert.pem -noout -pubkey >/tmp/a; openssl pkey -in key.pem -pubout | cmp - /tmp/a",
        ]);
        output.status == 0
    });
    assert_eq!(accepted.count(), 1);
}

/// One's own certificates are verified and used; one that has expired is named.
#[test]
fn ones_own_certificates_are_used_or_named() {
    let own = |days: &str| {
        format!(
            "mkdir -p /certs/server; cd /certs/server
             openssl req -x509 -newkey rsa:2048 -nodes -days 10 -subj /CN=mine -keyout cakey -out ca.pem
             openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout key.pem -out csr
             echo subjectAltName=DNS:localhost >ext
             openssl x509 -req -in csr -CA ca.pem -CAkey cakey -CAcreateserial -out cert.pem {days} -extfile ext"
        )
    };
    let daemon = dind().prelude(&own("-days 5")).ready(&[]);
    daemon.logged(&["dind: certificates in /certs: your own, verified"]);
    daemon
        .exec(&["test", "-e", "/certs/client/key.pem"])
        .exited(1);
    daemon.exec(&["test", "-e", "/certs/ca"]).exited(1);
    // How to make one of the past differs: -not_after came with OpenSSL 3.4, which refuses
    // the negative -days of before. One of no days ends with the second that it begins in.
    let expired = format!("{}\nsleep 1.1", own("-days 0"));
    let output = dind().prelude(&expired).run(&[]).exited(1);
    output.says(&["dind: error:", "server/cert.pem", "expired"]);
}

/// Where nothing can be written there is no daemon, and one line says so.
#[test]
fn a_read_only_directory_is_named() {
    let output = dind().flags(["--tmpfs", "/certs:ro"]).run(&[]).exited(1);
    output.says(&["dind: error: /certs is on a file system that is mounted read-only"]);
}

/// What does not parse is bad input, before anything is done.
#[test]
fn names_that_do_not_parse_are_refused() {
    let output = dind()
        .env("DOCKER_TLS_SAN", "DNS:a,IP:nonsense")
        .run(&[])
        .exited(2);
    output.says(&["dind: error: DOCKER_TLS_SAN", "IP:nonsense", "allowed"]);
}

/// `PORT=2376` has TLS where it is asked for, and is plain where it is not.
#[test]
fn port_2376_follows_the_directory() {
    let with = dind().env("PORT", "2376").ready(&[]);
    with.logged(&["tcp://0.0.0.0:2376 (TLS)"]);
    with.sh(
        "DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/certs/client docker -H tcp://localhost:2376 version",
    );
    let without = dind()
        .env("PORT", "2376")
        .env("DOCKER_TLS_CERTDIR", "")
        .ready(&[]);
    without.sh("docker -H tcp://localhost:2376 version");
}

/// `PORT` of a job, which means another program, leaves the port with TLS to the job's clients;
/// who means dind is served there without TLS, loudly, with everything that the API has.
#[test]
fn port_is_served_beside_tls() {
    let certificates = Volume::new();
    let network = Network::new();
    let daemon = dind()
        .env("PORT", "3000")
        .flags(certificates.on("/certs/client"))
        .flags(["--hostname", "the-daemon", "--ulimit", "nofile=1024:4096"])
        .ready(&[]);
    network.connect(&daemon, "docker");
    daemon.logged(&[
        "docker is ready",
        "tcp://0.0.0.0:2376 (TLS)",
        "tcp://0.0.0.0:3000",
    ]);
    daemon.logged(&["dind: warning: tcp://0.0.0.0:3000 has no TLS", "unset PORT"]);
    daemon.not_logged(&["warning: tcp://0.0.0.0:2376"]);
    let on_it = ["--network", network.name.as_str()];
    let output = client(&certificates).flags(on_it).run(NAME);
    assert_eq!(output.text(), "the-daemon");
    let plain = "docker -H tcp://127.0.0.1:3000";
    daemon.load_busybox();
    // Both directions end on their own: the input before the output, and the other way round.
    let said = daemon.sh(&format!(
        "seq 200000 | {plain} run -i --rm {BUSYBOX} sh -c 'cat; echo the end' | tail -n 2"
    ));
    assert_eq!(said.trim(), "200000\nthe end");
    let said = daemon.sh(&format!(
        "mkfifo /open; sleep 600 >/open & {plain} run -i --rm {BUSYBOX} echo first </open; kill $!"
    ));
    assert_eq!(said.trim(), "first");
    // An archive through it is the same archive.
    daemon.sh(&format!(
        "{plain} save {BUSYBOX} | tar -tv >/through; docker save {BUSYBOX} | tar -tv | diff - /through
         docker save {BUSYBOX} | {plain} load -q"
    ));
    // Many at a time, one of them silent.
    daemon.sh(&format!("setsid {plain} events >/events & sleep 0.1"));
    daemon.sh(&format!(
        "seq 100 | xargs -P 50 -I N {plain} version >/dev/null"
    ));
    daemon.sh(&format!("{plain} run --rm {BUSYBOX} true"));
    daemon.wait_until("grep -q 'container destroy' /events");
    // The helper that serves it is started again.
    let forwarder = r#"
        socket=$(awk '$2 == "00000000:0BB8" && $4 == "0A" { print $10 }' /proc/net/tcp)
        for pid in $(pgrep -x dind); do
            [ $pid = 1 ] || ! ls -l /proc/$pid/fd | grep -qF "socket:[$socket]" || echo $pid
        done"#;
    let pid = daemon.sh(forwarder);
    // A connection takes two files, and the soft limit would be reached by 500.
    let limits = format!(
        "awk '/^Max open files/ {{ print $4, $5 }}' /proc/{}/limits",
        pid.trim()
    );
    assert_eq!(daemon.sh(&limits).trim(), "4096 4096");
    daemon.sh(&format!("kill -KILL {}", pid.trim()));
    daemon.wait_log("the port forwarder was ended by SIGKILL", 1);
    daemon.sh(&format!("{plain} version"));
    daemon.docker(&["stop"]).exited(0);
    assert_eq!(daemon.inspect("{{.State.ExitCode}}"), "0");
}

/// The variables of a CI job reach its service container and change nothing there; in a
/// shell they do not keep docker from working.
#[test]
fn a_jobs_variables_change_nothing() {
    let leaked = |spec: Spec| {
        spec.env("DOCKER_HOST", "tcp://docker:2375")
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", "/nowhere")
            .env("DOCKER_CONFIG", "/nowhere/else")
            .env("DOCKER_CONTEXT", "remote")
    };
    let summary = |container: &Container| {
        let arguments = container.sh("tr '\\0' ' ' </proc/$(pgrep -x dockerd)/cmdline");
        let environment = container.sh(
            "tr '\\0' '\\n' </proc/$(pgrep -x dockerd)/environ | grep -vE '^(HOSTNAME|NOTIFY_SOCKET|LISTEN_PID)=' | sort",
        );
        format!("{arguments}\n{environment}")
    };
    let with = leaked(dind()).ready(&[]);
    let without = dind().ready(&[]);
    assert_eq!(summary(&with), summary(&without));
    let shell = dind()
        .env("DOCKER_TLS_VERIFY", "1")
        .env("DOCKER_CERT_PATH", "/nowhere")
        .env("DOCKER_CONFIG", "/nowhere/else")
        .env("DOCKER_CONTEXT", "remote");
    let output = shell.run(&[
        "sh",
        "-c",
        "docker version >/dev/null && echo $DOCKER_CONFIG $DOCKER_CERT_PATH",
    ]);
    assert_eq!(output.text(), "/nowhere/else /nowhere");
    let mut pty = Pty::run(&shell, &[]);
    assert_eq!(pty.ask("docker version >/dev/null").1, 0);
    pty.type_line("exit");
    assert_eq!(pty.wait(), 0);
}

/// A container of a daemon with remapped users is nobody on the outside.
#[test]
fn users_can_be_remapped() {
    let daemon = dind()
        .flags([
            "-v".to_owned(),
            format!("{}:/busybox.tar:ro", lab("DIND_LAB_BUSYBOX")),
        ])
        .ready(&["--userns-remap=default"]);
    daemon.text(&["docker", "load", "-qi", "/busybox.tar"]);
    let map = daemon.text(&[
        "docker",
        "run",
        "--rm",
        BUSYBOX,
        "cat",
        "/proc/self/uid_map",
    ]);
    let map: Vec<&str> = map.split_whitespace().collect();
    assert_eq!(map, ["0", "165536", "65536"]);
}

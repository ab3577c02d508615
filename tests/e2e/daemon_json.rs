//! daemon.json and dockerd's flags, read together as dockerd reads them.

use crate::docker::{Container, Spec, dind, line_with, unprivileged};

fn with_json(json: &str) -> Spec {
    dind().prelude(&format!(
        "mkdir -p /etc/docker; echo '{json}' >/etc/docker/daemon.json"
    ))
}

#[track_caller]
fn dockerd(container: &Container) -> String {
    container.sh("tr '\\0' ' ' </proc/$(pgrep -x dockerd)/cmdline")
}

/// What the file says is where things are: nothing is made where it would be by default.
#[test]
fn the_files_paths_are_used() {
    let container = with_json(
        r#"{"data-root": "/var/lib/docker/there", "exec-root": "/run/there", "pidfile": "/run/there.pid",
            "group": "adm", "shutdown-timeout": 3, "debug": true}"#,
    )
    .ready(&[]);
    let info = container.text(&[
        "docker",
        "info",
        "--format",
        "{{.DockerRootDir}} {{.Debug}}",
    ]);
    assert_eq!(info, "/var/lib/docker/there true");
    for path in [
        "/var/lib/docker/there/containerd/daemon",
        "/run/there/containerd/containerd.sock",
        "/run/there.pid",
    ] {
        container.text(&["test", "-e", path]);
    }
    for path in [
        "/var/lib/docker/containerd",
        "/run/docker.pid",
        "/run/docker/containerd",
    ] {
        container.exec(&["test", "-e", path]).exited(1);
    }
    let socket = container.text(&["stat", "-c", "%a %U:%G", "/var/run/docker.sock"]);
    assert_eq!(socket, "660 root:adm");
    assert!(
        !dockerd(&container).contains("--shutdown-timeout"),
        "dockerd would refuse both"
    );
}

/// The flags count, in every spelling that pflag takes.
#[test]
fn flags_count_in_every_spelling() {
    for words in [
        "-D -Gadm --data-root /var/lib/docker/flag --exec-root=/run/flag -p /run/flag.pid \
         -Hunix:///run/second.sock --shutdown-timeout=3",
        "--debug -G adm --data-root=/var/lib/docker/flag --exec-root /run/flag -p/run/flag.pid \
         -H unix:///run/second.sock --shutdown-timeout 3",
        "--debug=true -G=adm --data-root /var/lib/docker/flag --exec-root=/run/flag -p=/run/flag.pid \
         -H=unix:///run/second.sock --shutdown-timeout=3",
        "-l debug --group=adm --data-root /other --data-root=/var/lib/docker/flag --exec-root /run/flag \
         --pidfile=/run/flag.pid --host=unix:///run/second.sock --shutdown-timeout 3",
        "--log-level=debug -DG adm --data-root=/var/lib/docker/flag --exec-root /run/flag \
         --pidfile /run/flag.pid --host unix:///run/second.sock --shutdown-timeout 3",
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let container = with_json(r#"{"labels": ["from=file"]}"#).ready(&words);
        let info = container.text(&[
            "docker",
            "-H",
            "unix:///run/second.sock",
            "info",
            "--format",
            "{{.DockerRootDir}} {{.Labels}}",
        ]);
        assert_eq!(info, "/var/lib/docker/flag [from=file]", "{words:?}");
        for path in [
            "/var/lib/docker/flag/containerd/daemon",
            "/run/flag/containerd/containerd.sock",
            "/run/flag.pid",
        ] {
            container.text(&["test", "-e", path]);
        }
        for path in ["/other", "/run/docker.pid", "/run/docker/containerd"] {
            container.exec(&["test", "-e", path]).exited(1);
        }
        let socket = container.text(&["stat", "-c", "%a %U:%G", "/var/run/docker.sock"]);
        assert_eq!(socket, "660 root:adm", "{words:?}");
        // Not a second one of ours: the last would win.
        let dockerd = dockerd(&container);
        let timeouts = dockerd.matches("--shutdown-timeout").count();
        assert_eq!(timeouts, 1, "{dockerd}");
        // It runs beside dockerd, and is to say as much.
        let containerd = container.sh("tr '\\0' ' ' </proc/$(pgrep -x containerd)/cmdline");
        assert!(containerd.contains("--log-level debug"), "{containerd}");
    }
}

/// `log-level` of the file is containerd's too.
#[test]
fn the_files_log_level_is_containerds_too() {
    let container = with_json(r#"{"log-level": "debug"}"#).ready(&[]);
    let containerd = container.sh("tr '\\0' ' ' </proc/$(pgrep -x containerd)/cmdline");
    assert!(containerd.contains("--log-level debug"), "{containerd}");
}

/// The file elsewhere, in both spellings; one that is not there is named.
#[test]
fn the_file_may_be_elsewhere() {
    for words in [
        &["--config-file", "/elsewhere.json"][..],
        &["--config-file=/elsewhere.json"],
    ] {
        let container = dind()
            .prelude(
                r#"mkdir -p /etc/docker
                   echo '{"labels": ["from=the default place"]}' >/etc/docker/daemon.json
                   echo '{"labels": ["from=elsewhere"]}' >/elsewhere.json"#,
            )
            .ready(words);
        assert_eq!(
            container.text(&["docker", "info", "--format", "{{.Labels}}"]),
            "[from=elsewhere]"
        );
    }
    let missing = dind().run(&["--config-file=/missing.json"]).exited(1);
    missing.says(&["dind: error:", "/missing.json"]);
    let broken = dind()
        .prelude("echo '{\"debug\": }' >/broken.json")
        .run(&["--config-file", "/broken.json"])
        .exited(1);
    broken.says(&["dind: error:", "/broken.json", "line 1"]);
}

/// With a containerd of the user's own there is no other, however it is named.
#[test]
fn containerd_may_be_ones_own() {
    let own = r#"containerd --address /run/own.sock --root /var/lib/docker/own --state /run/own >/own.log 2>&1 &
        until [ -S /run/own.sock ]; do sleep 0.1; done; mkdir -p /etc/docker"#;
    let in_file =
        format!("{own}; echo '{{\"containerd\": \"/run/own.sock\"}}' >/etc/docker/daemon.json");
    for (prelude, words) in [
        (in_file.as_str(), &[][..]),
        (own, &["--containerd", "/run/own.sock"]),
        (own, &["--containerd=/run/own.sock"]),
    ] {
        let container = dind().prelude(prelude).ready(words);
        assert_eq!(container.text(&["pgrep", "-c", "-x", "containerd"]), "1");
        container.load_busybox();
        assert_eq!(container.inner(&[], &["echo", "inside"]), "inside");
    }
}

/// TLS files of the user's own are used, from the file and from flags in either spelling:
/// nothing is fought over, nothing is made.
#[test]
fn tls_files_of_ones_own_are_used() {
    let own = r"mkdir -p /etc/docker /own; cd /own
        openssl req -x509 -newkey rsa:2048 -nodes -days 5 -subj /CN=own -addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem
        cp cert.pem ca.pem";
    let in_file = r#"
        echo '{"tlsverify": true, "tlscacert": "/own/ca.pem", "tlscert": "/own/cert.pem", "tlskey": "/own/key.pem"}' >/etc/docker/daemon.json"#;
    for (file, words) in [
        (in_file, ""),
        (
            "",
            "--tlsverify --tlscacert=/own/ca.pem --tlscert=/own/cert.pem --tlskey=/own/key.pem",
        ),
        (
            "",
            "--tlsverify=true --tlscacert /own/ca.pem --tlscert /own/cert.pem --tlskey /own/key.pem",
        ),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let container = dind().prelude(&format!("{own}{file}")).ready(&words);
        container
            .sh("DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/own docker -H tcp://localhost:2376 version");
        container
            .exec(&["docker", "-H", "tcp://localhost:2376", "version"])
            .exited(1);
        container.exec(&["test", "-e", "/certs/ca"]).exited(1);
        container.not_logged(&["no TLS"]);
    }
}

/// TLS without paths to any certificate, in the file or turned off among the flags: with a
/// certificate directory it is on all the same, and `tlsverify` decides who is let in.
#[test]
fn tls_switches_do_what_they_do_to_dockerd() {
    const TLS: &str = "docker -H tcp://localhost:2376";
    for (json, words, is_mutual) in [
        (r#"{"tls": true}"#, &[][..], true),
        (r#"{"tlsverify": true}"#, &[], true),
        (r#"{"tlsverify": false}"#, &[], false),
        ("{}", &["--tls=0"], true),
        ("{}", &["--tlsverify=false"], false),
    ] {
        let container = with_json(json).ready(words);
        container.sh(&format!(
            "DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH=/certs/client {TLS} version"
        ));
        container
            .exec(&["sh", "-c", &format!("{TLS} version")])
            .exited(1)
            .says(&["HTTP request to an HTTPS server"]);
        let stranger = format!("{TLS} --tlsverify --tlscacert /certs/server/ca.pem version");
        let stranger = container.exec(&["sh", "-c", &stranger]);
        let warning = &["dind: warning:", ":2376 requires no client certificate"];
        if is_mutual {
            // Go 1.19, which Docker 20.10 is built with, has another word before it.
            stranger
                .exited(1)
                .says(&["remote error: tls: ", "certificate"]);
            container.not_logged(warning);
        } else {
            stranger.exited(0);
            container.logged(warning);
        }
    }
}

/// Without a directory there are no certificates, and dockerd says what it says alone.
#[test]
fn tls_without_certificates_is_dockerds_error() {
    for (json, words) in [
        (r#"{"tls": true}"#, &[][..]),
        (r#"{"tlsverify": true}"#, &[]),
        (r#"{"tlsverify": false}"#, &[]),
        ("{}", &["--tlsverify=false"]),
    ] {
        let ours = with_json(json).env("DOCKER_TLS_CERTDIR", "");
        let theirs = dind().shell(&format!(
            "mkdir /etc/docker; echo '{json}' >/etc/docker/daemon.json
             exec dockerd -H tcp://127.0.0.1:2375 \"$@\""
        ));
        let [ours, theirs] = [ours, theirs].map(|spec| {
            let output = spec.run(words).exited(1);
            let words = line_with(&output.stderr, &["Could not load X509 key pair"]);
            words.map(str::to_owned)
        });
        assert!(ours.is_some() && ours == theirs, "{ours:?}, {theirs:?}");
    }
    let container = dind().env("DOCKER_TLS_CERTDIR", "").ready(&["--tls=0"]);
    container.logged(&["dind: warning: tcp://0.0.0.0:2375 has no TLS"]);
    container.text(&["docker", "-H", "tcp://localhost:2375", "version"]);
}

/// With `hosts` in the file the command's docker still finds the daemon.
#[test]
fn the_files_hosts_are_the_commands_too() {
    let output = with_json(r#"{"hosts": ["unix:///run/only.sock"]}"#)
        .run(&["docker", "info", "--format", "up"]);
    assert_eq!(output.text(), "up");
}

/// What dockerd only prints or checks, it does here, with its status.
#[test]
fn what_dockerd_prints_and_checks_it_does() {
    let dockerd = |words: &[&str]| unprivileged().flags(["--entrypoint", "dockerd"]).run(words);
    for word in ["--version", "--help"] {
        let theirs = dockerd(&[word]).text();
        assert_eq!(dind().run(&["dockerd", word]).text(), theirs);
        assert_eq!(dind().run(&["-D", word]).text(), theirs);
    }
    let wrong_file = with_json(r#"{"no-such-option": true}"#);
    if dockerd(&["--help"]).text().contains("--validate") {
        let fine = with_json(r#"{"debug": true}"#)
            .run(&["--validate"])
            .exited(0);
        assert!((fine.stdout + &fine.stderr).contains("configuration OK"));
        let wrong = wrong_file.run(&["--validate"]).exited(1);
        assert!((wrong.stdout + &wrong.stderr).contains("no-such-option"));
    } else {
        // It came with 23.0. Before that it is a wrong flag, in dockerd's own words.
        let theirs = dockerd(&["--validate"]).exited(1);
        assert!(theirs.stderr.contains("unknown flag: --validate"));
        let ours = wrong_file.run(&["--validate"]).exited(1);
        assert_eq!(ours.stderr, theirs.stderr);
    }
    wrong_file
        .env("DOCKER_DAEMON_ARGS", "--validate")
        .run(&["-D"])
        .exited(1);
}

/// What is no file, or none that anybody has written, is neither waited for nor read.
#[test]
fn a_daemon_json_is_a_file_of_some_size() {
    for (made, words) in [
        ("mkfifo", "not a regular file"),
        ("mkdir", "not a regular file"),
        ("ln -s /dev/zero", "not a regular file"),
        ("truncate -s 1T", "larger than 16777216 bytes"),
    ] {
        dind()
            .prelude(&format!(
                "mkdir -p /etc/docker; {made} /etc/docker/daemon.json"
            ))
            .run(&[])
            .exited(1)
            .says(&["dind: error: cannot read /etc/docker/daemon.json", words]);
    }
}

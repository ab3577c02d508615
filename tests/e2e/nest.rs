//! `dind nest`: as many levels as asked for, one terminal, one status.

use std::path::Path;

use crate::docker::{
    BUSYBOX, Container, Output, Scratch, all, dind, lab, line_with, nestable, unprivileged,
};
use crate::pty::{INTERRUPT, Pty, SIZE};

const DEPTH: usize = 5;

/// For what is the same at each level: `tests/lab test --all` takes the time for all of them.
fn depth() -> usize {
    if all() { DEPTH } else { 3 }
}

/// A nest with its levels, as `docker exec` in `docker exec` reaches them.
struct Levels {
    container: Container,
    /// The words before a command, by level.
    ways: Vec<Vec<String>>,
}

impl Levels {
    /// Waits until all are there, which the innermost says.
    fn of(container: Container, depth: usize, said: &str) -> Self {
        container.wait_log(said, 1);
        let mut levels = Self {
            container,
            ways: vec![Vec::new()],
        };
        while levels.ways.len() < depth {
            let above = levels.ways.len();
            let id = levels.text(above, &["docker", "ps", "-q"]);
            assert_eq!(id.lines().count(), 1, "one level in level {above}: {id}");
            let mut way = levels.ways[above - 1].clone();
            way.extend(["docker".into(), "exec".into(), id]);
            levels.ways.push(way);
        }
        levels
    }

    /// Runs a command in a level, of which the outermost is 1.
    fn exec(&self, level: usize, command: &[&str]) -> Output {
        let way = self.ways[level - 1].iter().map(String::as_str);
        let words: Vec<&str> = way.chain(command.iter().copied()).collect();
        self.container.exec(&words)
    }

    #[track_caller]
    fn text(&self, level: usize, command: &[&str]) -> String {
        self.exec(level, command).exited(0).text()
    }
}

/// Whether the engine under test has containerd's image store, which came with 24.0.
fn has_containerd_store() -> bool {
    let said = unprivileged().shell("dockerd --version").run(&[]).text();
    let major = said
        .split_whitespace()
        .find_map(|word| word.split('.').next()?.parse().ok());
    major.is_some_and(|major: u32| major >= 24)
}

/// A container that runs the nest and has the small image in its root file system, and so
/// has every level.
fn nest_with_busybox(command: &[&str]) -> Container {
    let container = nestable().create(command);
    container.copy_in(Path::new(&lab("DIND_LAB_BUSYBOX")), "/busybox.tar");
    container.docker(&["start"]).exited(0);
    container
}

/// In each level a container reaches the containers of that level and of all above by
/// address. Then the innermost command's status comes all the way up.
#[test]
fn five_levels_reach_all_above() {
    let script = "echo all levels are there; until [ -e /end ]; do sleep 0.1; done; exit 42";
    let container = nest_with_busybox(&["nest", "5", "--", "sh", "-c", script]);
    let levels = Levels::of(container, DEPTH, "all levels are there");
    let mut servers = Vec::new();
    for level in 1..=DEPTH {
        levels.text(level, &["docker", "load", "-qi", "/busybox.tar"]);
        let serve = format!("mkdir /www; echo level {level} >/www/index.html; httpd -f -h /www");
        levels.text(
            level,
            &[
                "docker", "run", "-d", "--name", "web", BUSYBOX, "sh", "-c", &serve,
            ],
        );
        let address = "{{.NetworkSettings.Networks.bridge.IPAddress}}";
        servers.push(levels.text(level, &["docker", "inspect", "-f", address, "web"]));
        let ask: Vec<String> = servers
            .iter()
            .map(|server| {
                format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {server} 80 | tail -n 1")
            })
            .collect();
        let ask = ask.join("; ");
        let pages = levels.text(level, &["docker", "run", "--rm", BUSYBOX, "sh", "-c", &ask]);
        let expected: Vec<String> = (1..=level).map(|level| format!("level {level}")).collect();
        assert_eq!(pages, expected.join("\n"), "{servers:?}");
        assert_eq!(
            levels.text(level, &["docker", "info", "--format", "{{.Driver}}"]),
            levels.text(1, &["docker", "info", "--format", "{{.Driver}}"]),
            "no overlay on overlay"
        );
    }
    levels.text(DEPTH, &["touch", "/end"]);
    assert_eq!(levels.container.wait(), 42);
}

/// A terminal goes all the way down: its keys, its size, Ctrl-C for what runs in the
/// innermost alone. `exit` falls through level by level.
#[test]
fn a_terminal_reaches_the_innermost() {
    let depth = depth();
    let mut pty = Pty::run(&nestable(), &["nest", &depth.to_string()]);
    pty.expect(&format!("level 2 of {depth}: "));
    // Progress stands on one line, which is then gone.
    pty.expect(" MB\x1b[K\r");
    pty.expect(&format!("level {depth} of {depth}: imported an image of"));
    pty.expect("docker is ready after");
    assert_eq!(pty.ask("hostname").0, format!("dind-{depth}"));
    assert_eq!(pty.ask("stty size").0, format!("{} {}", SIZE.0, SIZE.1));
    assert_eq!(pty.ask("docker info >/dev/null").1, 0);
    let (before, _) = pty.ask("pgrep -x 'dockerd|containerd' | xargs");
    pty.type_line("sleep 1000");
    pty.wait_foreground("sleep");
    pty.press(INTERRUPT);
    assert_eq!(pty.last_status(), 130, "128 + SIGINT");
    let (after, _) = pty.ask("pgrep -x 'dockerd|containerd' | xargs");
    assert_eq!(after, before);
    pty.type_line("exit 33");
    assert_eq!(pty.wait(), 33);
}

/// A stop from outside ends every level's daemon within its grace, although the innermost
/// command does not care for it. A longer grace than usual: the levels share it, and this machine
/// may be busy.
#[test]
fn a_stop_ends_all_levels_in_order() {
    let script = "trap '' TERM; echo all levels are there; while :; do sleep 0.1; done";
    let depth = depth();
    let container = nestable()
        .env("DIND_STOP_TIMEOUT", &(6 * depth).to_string())
        .start(&["nest", &depth.to_string(), "--", "sh", "-c", script]);
    container.wait_log("all levels are there", 1);
    container.docker(&["stop", "--time=33"]).exited(0);
    container.logged(&["the command did not end in time and is killed"]);
    let logs = container.logs();
    let ends = logs.matches("Daemon shutdown complete").count();
    assert_eq!(ends, depth, "{logs}");
}

/// Without a terminal a signal goes from level to level, and its status comes back.
#[test]
fn a_signal_reaches_the_innermost() {
    let container =
        nestable().start(&["nest", "3", "--", "sh", "-c", "echo there; exec sleep 1000"]);
    container.wait_log("there", 1);
    container.signal("INT");
    assert_eq!(container.wait(), 130, "128 + SIGINT");
}

/// Every level has the same files, with modes, owners, links, and times as an image has
/// them, in seconds.
#[test]
fn the_image_of_a_level_is_its_root_file_system() {
    let list = "find / -xdev -path /run -prune -o -path /certs -prune -o -path /tmp -prune \
        -o -type d -printf '%p %m %U %G\\n' -o -printf '%p %m %U %G %s %T@ %l %n\\n' \
        | grep -v -e '^/etc/\\(hosts\\|hostname\\|resolv.conf\\|mtab\\) ' -e '^/.dockerenv ' -e '^/var/log/docker.log ' \
        | sed 's/\\.[0-9]\\{10\\} / /' | sort";
    let prepare = "ln /etc/passwd /etc/passwd-too && mkfifo -m 0601 /etc/fifo \
        && mknod -m 0602 /etc/null c 1 3 && touch -d 1999-09-09 /etc/old && chmod 4711 /etc/old \
        && mkdir -p /opt/$(printf %0200d 1)/$(printf %0200d 2) && echo 7 >/opt/$(printf %0200d 1)/$(printf %0200d 2)/long";
    let container = nestable().ready(&[]);
    container.sh(prepare);
    let own = container.sh(list);
    assert!(own.contains("/etc/old 4711 0 0 0 936835200 "), "{own}");
    let inner = container.text(&["dind", "nest", "2", "--", "sh", "-c", list]);
    let missing = |from: &str, others: &str| -> Vec<String> {
        let others: std::collections::BTreeSet<&str> = others.lines().collect();
        from.lines()
            .filter(|line| !others.contains(line))
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(missing(&own, &inner), Vec::<String>::new());
    assert_eq!(missing(&inner, &own), Vec::<String>::new());
    // The second time it is there already.
    let again = container.exec(&["dind", "nest", "2", "--", "hostname"]);
    assert!(!again.stderr.contains("an image of"), "{}", again.stderr);
    assert_eq!(again.text(), "dind-2");
    assert_eq!(container.sh("docker images -q dind-nest | wc -l"), "1");
}

/// A program keeps the capabilities that its file gives: without them ping and the like do
/// not work for users.
#[test]
fn a_programs_capabilities_reach_the_next_level() {
    let container = nestable().ready(&[]);
    let scratch = Scratch::new();
    let grep = scratch.path.join("grep");
    container.copy_out("/usr/bin/grep", &grep);
    // CAP_NET_RAW (13), permitted and effective: vfs_cap_data in linux/capability.h.
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let capability: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_pax_extensions([("SCHILY.xattr.security.capability", capability.as_slice())])
        .and_then(|()| archive.append_path_with_name(&grep, "usr/bin/capable"))
        .expect("an archive in memory");
    let file = scratch.path.join("capable.tar");
    std::fs::write(&file, archive.into_inner().expect("its end")).expect("a scratch file");
    container.unpack(&file);
    let show = [
        "setpriv",
        "--reuid=1000",
        "--clear-groups",
        "--",
        "capable",
        "CapPrm",
        "/proc/self/status",
    ];
    let own = container.text(&show);
    assert_eq!(own, "CapPrm:\t0000000000002000");
    let inner = ["dind", "nest", "2", "--"].into_iter().chain(show);
    assert_eq!(container.text(&inner.collect::<Vec<_>>()), own);
}

/// containerd's image store, in the engines that have it, gets the layer in a form that it keeps
/// as it is, at every level; a plain tar is compressed with gzip. A graph driver gets a tar.
#[test]
fn an_image_store_keeps_the_layer_as_it_comes() {
    let scratch = Scratch::new();
    let features = r#"{"features": {"containerd-snapshotter": true}}"#;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(features.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, "etc/docker/daemon.json", features.as_bytes())
        .expect("an archive in memory");
    let file = scratch.path.join("daemon.tar");
    std::fs::write(&file, archive.into_inner().expect("its end")).expect("a scratch file");
    // The media types of all layers, and the type of the snapshotter: none with a graph driver.
    let show = "cd /var/lib/docker/containerd/daemon/io.containerd.content.v1.content 2>/dev/null && \
        find . -type f -size -9 -exec grep -aoh 'image.layer.v1.tar[+a-z]*' {} + | sort -u; \
        docker info --format '{{json .DriverStatus}}' | grep -o 'io.containerd.snapshotter.v1'";
    let inside = "echo all levels are there; until [ -e /end ]; do sleep 0.1; done";
    let container = nestable().create(&["nest", "3", "--", "sh", "-c", inside]);
    container.unpack(&file);
    container.docker(&["start"]).exited(0);
    let levels = Levels::of(container, 3, "all levels are there");
    let expected = if has_containerd_store() {
        "image.layer.v1.tar+zstd\nio.containerd.snapshotter.v1"
    } else {
        ""
    };
    for level in 1..=2 {
        let shown = levels.exec(level, &["sh", "-c", show]).stdout;
        assert_eq!(shown.trim_end(), expected, "level {level}");
    }
    levels.text(3, &["touch", "/end"]);
    assert_eq!(levels.container.wait(), 0);
}

/// What will run out is named before anything is begun, with a status of 1.
#[test]
fn what_will_run_out_is_named_at_once() {
    for (flags, depth, named) in [
        (&[][..], "33", "pid namespaces: the kernel nests at most 32"),
        (&["--pids-limit=150"], "5", "(pids.max): "),
        (&["--memory=200m"], "5", "memory: "),
        (
            &["--tmpfs=/var/lib/docker:size=1g"],
            "5",
            "disk space of the data root: ",
        ),
    ] {
        let said = dind()
            .flags(flags.iter().copied())
            .run(&["nest", depth])
            .exited(1)
            .says(&["dind: error: ", named, "nest at most "]);
        assert!(!said.stderr.contains("docker is ready"), "{}", said.stderr);
    }
    let plan = dind().run(&["plan", "nest", "33"]).text();
    assert!(
        line_with(&plan, &["would stop: ", "pid namespaces"]).is_some(),
        "{plan}"
    );
}

/// containerd's image store keeps what it got beside the files, so a level takes twice the room.
#[test]
fn the_archive_of_a_level_is_counted() {
    let refusal = |feature: bool| {
        let json = format!(r#"{{"features": {{"containerd-snapshotter": {feature}}}}}"#);
        let plan = dind()
            .flags(["--tmpfs=/var/lib/docker:size=1g"])
            .prelude(&format!(
                "mkdir -p /etc/docker; echo '{json}' >/etc/docker/daemon.json"
            ))
            .run(&["plan", "nest", "2"])
            .text();
        line_with(&plan, &["would stop: ", "disk space of the data root: "]).is_some()
    };
    assert!(!refusal(false));
    assert_eq!(refusal(true), has_containerd_store());
}

/// Bad words are bad input: a status of 2, and what is right.
#[test]
fn bad_words_are_refused() {
    for words in [&["nest"][..], &["nest", "many"], &["nest", "3", "sh"]] {
        dind()
            .run(words)
            .exited(2)
            .says(&["dind: error: nest: ", "dind nest 3 -- docker info"]);
    }
    dind()
        .env("PORT", "2375")
        .run(&["nest", "3"])
        .exited(2)
        .says(&["PORT=2375", "drop one of them"]);
}

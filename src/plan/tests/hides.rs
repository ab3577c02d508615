//! No mount of a start hides what the start or its daemons use.

use super::*;
use crate::facts::hooks::DIRECTORY as HOOKS;

/// What the plan makes or finds before a mount, and what is used when docker is ready.
struct Used {
    what: &'static str,
    path: PathBuf,
}

/// The paths that a mount has hidden when docker is ready, in the order of a start: the sockets are
/// bound; the steps; the ext4 image; then the daemons and the helpers. `links` are resolved.
fn hidden(plan: &Plan, engine: &Engine, resolve: &dyn Fn(&Path) -> PathBuf) -> Vec<String> {
    let mut used: Vec<Used> = Vec::new();
    let mut add = |what, path: &Path| {
        let path = resolve(path);
        used.push(Used { what, path });
    };
    for path in engine.listeners.iter().filter_map(Listener::unix_path) {
        add("socket", path);
    }
    if let Some(images) = &engine.images {
        add("images", &images.directory);
    }
    add("hooks", Path::new(HOOKS));
    let mut lost = Vec::new();
    let mut cover = |target: &Path, used: &[Used]| {
        let target = resolve(target);
        for Used { what, path } in used {
            // A directory that is made, or locked, to have that mount is its own.
            let is_mount_point = *what == "directory" && *path == target;
            if path.starts_with(&target) && !is_mount_point {
                lost.push(format!("{what} {} by {}", path.display(), target.display()));
            }
        }
    };
    for step in &plan.steps {
        let mut add = |what, path: &Path| {
            let path = resolve(path);
            used.push(Used { what, path });
        };
        match &step.action {
            Action::Directory { path, .. } | Action::Lock { path } => add("directory", path),
            Action::Write { path, .. } | Action::Symlink { link: path, .. } => add("file", path),
            Action::Mount { target, .. } => {
                cover(target, &used);
                let path = resolve(target);
                used.push(Used {
                    what: "mount",
                    path,
                });
            }
            _ => {}
        }
    }
    if let Some(file) = &engine.data_file {
        cover(&file.target, &used);
    }
    lost
}

/// The places that a user may name: defaults, and below each mount point of a plan.
const PLACES: [&str; 14] = [
    "/tmp",
    "/tmp/x",
    "/tmp/x/y",
    "/var/run",
    "/run",
    "/run/docker",
    "/run/docker/own",
    "/var/lib/docker",
    "/var/lib/docker/own",
    "/var/lib",
    "/etc/dind",
    "/etc/docker",
    "/sys/kernel/security/x",
    "/linked/x",
];

/// `/var/run` is a link in every image, and `/linked` one of the user's.
fn resolved(path: &Path) -> PathBuf {
    for (link, target) in [("/var/run", "/run"), ("/linked", "/tmp")] {
        if let Ok(rest) = path.strip_prefix(link) {
            return match rest.as_os_str().is_empty() {
                true => target.into(),
                false => Path::new(target).join(rest),
            };
        }
    }
    path.to_owned()
}

/// What the user names, each as an index in [`PLACES`]; beyond its end it is the default.
#[derive(Debug, Clone)]
struct Named {
    data_root: usize,
    exec_root: usize,
    socket: usize,
    host: usize,
    pid_file: usize,
    certificates: usize,
    images: usize,
    storage: usize,
}

fn any_named() -> impl Strategy<Value = Named> {
    // As many defaults as places.
    let place = || 0..2 * PLACES.len();
    let numbers = (
        place(),
        place(),
        place(),
        place(),
        place(),
        place(),
        place(),
        0..4_usize,
    );
    numbers.prop_map(
        |(data_root, exec_root, socket, host, pid_file, certificates, images, storage)| Named {
            data_root,
            exec_root,
            socket,
            host,
            pid_file,
            certificates,
            images,
            storage,
        },
    )
}

/// The plan of a start with these names, and of a container on which nothing is mounted but the
/// cgroup hierarchies: the data root is on the root file system.
fn planned(named: &Named, facts: &Facts, literal: bool) -> Result<Plan, Fault> {
    let place = |index: usize| PLACES.get(index).copied();
    let mut arguments = vec!["dind".to_owned()];
    if literal {
        arguments.push("dockerd".into());
    }
    let flags = [
        ("--data-root=", place(named.data_root).map(str::to_owned)),
        ("--exec-root=", place(named.exec_root).map(str::to_owned)),
        (
            "--pidfile=",
            place(named.pid_file).map(|place| format!("{place}/docker.pid")),
        ),
        (
            "--host=unix://",
            place(named.socket).map(|place| format!("{place}/docker.sock")),
        ),
    ];
    let flags = flags
        .into_iter()
        .filter_map(|(flag, value)| Some(format!("{flag}{}", value?)));
    arguments.extend(flags);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let host = place(named.host).map(|place| format!("unix://{place}/d.sock"));
    let certificates = place(named.certificates).map(|place| format!("{place}/certs"));
    let images = place(named.images).map(|place| format!("{place}/images"));
    let variables = [
        ("DOCKER_HOST", host.as_deref()),
        ("DOCKER_TLS_CERTDIR", certificates.as_deref()),
        ("DIND_IMAGES", images.as_deref()),
        (
            "DIND_STORAGE",
            ["loop", "tmpfs", "auto"].get(named.storage).copied(),
        ),
    ];
    let variables: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    let start = Start {
        arguments: &arguments,
        variables: &variables,
        ..DAEMON
    };
    let mut facts = facts.clone();
    facts
        .container
        .mounts
        .mounts
        .retain(|mount| mount.target != Path::new("/var/lib/docker"));
    facts.data_root.path = resolved(Path::new(
        place(named.data_root).unwrap_or("/var/lib/docker"),
    ));
    facts.exec_root.path = resolved(Path::new(place(named.exec_root).unwrap_or("/run/docker")));
    facts.images = true;
    let pid_file = place(named.pid_file).map(|place| format!("{place}/docker.pid"));
    let socket = place(named.socket).map(|place| format!("{place}/docker.sock"));
    let of_host = host
        .as_deref()
        .and_then(|host| host.strip_prefix("unix://"));
    let paths = [
        pid_file.as_deref(),
        socket.as_deref(),
        of_host,
        certificates.as_deref(),
        images.as_deref(),
        Some("/var/run/docker.sock"),
        Some("/var/run/docker.pid"),
    ];
    let links = paths
        .into_iter()
        .flatten()
        .map(|path| (PathBuf::from(path), resolved(path.as_ref())));
    facts.links = links.filter(|(path, real)| path != real).collect();
    start.plan(&facts)
}

#[track_caller]
fn hides_nothing(plan: &Plan) -> Result<(), String> {
    let Outcome::Supervise(engine) = &plan.outcome else {
        return Err("no daemons".into());
    };
    let lost = hidden(plan, engine, &resolved);
    match lost.is_empty() {
        true => Ok(()),
        false => Err(format!("{lost:?} in\n{plan}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// A start that would hide something is another, or none.
    #[test]
    fn no_step_hides_what_a_start_uses(
        named in any_named(), base in any_facts(), made: bool, occupied: bool, loops: bool,
        literal: bool, unsuitable: bool,
    ) {
        let mut facts = base;
        if unsuitable || named.storage < 2 {
            facts.data_root.filesystem = Filesystem::Unsuitable("overlay");
            facts.data_root.means = Some(Means { made, occupied, loop_devices: loops, ..MEANS() });
        }
        if let Ok(plan) = planned(&named, &facts, literal) {
            prop_assert_eq!(hides_nothing(&plan), Ok(()));
        }
    }
}

/// The same of the plans for real hosts.
#[test]
fn no_step_of_a_golden_plan_hides_anything() -> Result<(), Fault> {
    for facts in golden::all_facts() {
        assert_eq!(hides_nothing(&DAEMON.plan(&facts)?), Ok(()));
    }
    Ok(())
}

/// The notes of a plan, and what it mounts.
fn said(start: &Start<'_>, facts: &Facts) -> Result<(Vec<String>, Vec<PathBuf>), Fault> {
    let plan = start.plan(facts)?;
    let notes = plan
        .notes
        .iter()
        .filter(|note| note.code == "mount-left-out");
    let notes = notes.map(|note| note.seen.clone()).collect();
    let mounts = plan.changes().filter_map(|step| match &step.action {
        Action::Mount { target, .. } => Some(target.clone()),
        _ => None,
    });
    Ok((notes, mounts.collect()))
}

#[test]
fn tmp_gets_no_tmpfs_where_something_of_the_start_is_below() -> Result<(), Fault> {
    let tmp = Path::new("/tmp");
    let (notes, mounts) = said(&DAEMON, &bare_v1())?;
    assert!(notes.is_empty() && mounts.iter().any(|target| target == tmp));
    let host = [("DOCKER_HOST", "unix:///tmp/x/docker.sock")];
    let linked = [("DOCKER_HOST", "unix:///linked/docker.sock")];
    let certificates = [("DOCKER_TLS_CERTDIR", "/tmp/certs")];
    let images = [("DIND_IMAGES", "/tmp/images")];
    for (variables, arguments, data_root, used) in [
        (
            &host[..],
            &["dind"][..],
            "",
            "the socket /tmp/x/docker.sock",
        ),
        (&linked, &["dind"], "", "the socket /tmp/x/docker.sock"),
        (
            &certificates,
            &["dind"],
            "",
            "the certificates in /tmp/certs",
        ),
        (&images, &["dind"], "", "the images in /tmp/images"),
        (
            &[],
            &["dind", "--data-root=/tmp/data"],
            "/tmp/data",
            "the data root /tmp/data",
        ),
        (
            &[],
            &["dind", "--pidfile=/tmp/docker.pid"],
            "",
            "the pid file /tmp/docker.pid",
        ),
        (
            &[],
            &["dind", "dockerd", "-H", "unix:///tmp/a.sock"],
            "",
            "the socket /tmp/a.sock",
        ),
    ] {
        let mut facts = bare_v1();
        if !data_root.is_empty() {
            facts.data_root.path = data_root.into();
        }
        facts.links = vec![("/linked/docker.sock".into(), "/tmp/x/docker.sock".into())];
        let start = Start {
            arguments,
            variables,
            ..DAEMON
        };
        let (notes, mounts) = said(&start, &facts)?;
        assert_eq!(
            notes,
            [format!(
                "no tmpfs is mounted on /tmp, since it would hide {used}"
            )]
        );
        assert!(!mounts.iter().any(|target| target == tmp), "{mounts:?}");
        // Where there would be none anyway, nothing is said.
        facts.container.tmp_empty = false;
        assert_eq!(said(&start, &facts)?.0, Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn the_exec_root_gets_no_tmpfs_over_what_is_not_its() -> Result<(), Fault> {
    let mut facts = bare_v1();
    facts.exec_root.path = "/run".into();
    facts.links = vec![("/var/run/docker.sock".into(), "/run/docker.sock".into())];
    let start = Start {
        arguments: &["dind", "--exec-root=/run"],
        ..DAEMON
    };
    let (notes, mounts) = said(&start, &facts)?;
    assert_eq!(
        notes,
        ["no tmpfs is mounted on /run, since it would hide the socket /run/docker.sock"]
    );
    assert!(!mounts.iter().any(|target| target == Path::new("/run")));
    Ok(())
}

#[test]
fn a_data_root_is_not_covered_where_something_in_it_is_in_use() -> Result<(), Fault> {
    let socket = [("DOCKER_HOST", "unix:///var/lib/docker/docker.sock")];
    let with = |storage| [socket[0], ("DIND_STORAGE", storage)];
    let facts = on_overlay(MEANS());
    for storage in ["tmpfs", "loop"] {
        let variables = with(storage);
        let start = Start {
            variables: &variables,
            ..DAEMON
        };
        let fault = start.fault(&facts);
        let seen = "would hide the socket /var/lib/docker/docker.sock";
        assert!(fault.message.contains(seen), "{fault}");
        assert!(
            fault
                .remedy
                .is_some_and(|remedy| remedy.contains("DIND_STORAGE"))
        );
    }
    // By itself dind takes another way, and says why.
    let start = Start {
        variables: &socket,
        ..DAEMON
    };
    let plan = start.plan(&facts)?;
    let text = plan.to_string();
    assert!(
        text.contains("it would hide the socket /var/lib/docker/docker.sock: "),
        "{text}"
    );
    // containerd's configuration would be below the image.
    let mut facts = facts;
    facts.exec_root.path = "/var/lib/docker/exec".into();
    let text = DAEMON.plan(&facts)?.to_string();
    assert!(
        text.contains("it would hide the exec root /var/lib/docker/exec: "),
        "{text}"
    );
    // It is no reason that there are default images, or certificates that are to be made.
    let mut facts = on_overlay(MEANS());
    facts.images = true;
    let start = Start {
        variables: &[("DOCKER_TLS_CERTDIR", "/var/lib/docker/certs")],
        ..DAEMON
    };
    assert!(start.engine(&facts)?.data_file.is_some());
    Ok(())
}

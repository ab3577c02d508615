//! Images at the start: what is in a directory of archives is in the engine before docker
//! is ready, and is not loaded a second time.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::docker::{BUSYBOX, Container, Scratch, dind, lab, nestable};
use crate::pty::Pty;

/// Whether dockerd loads an archive: where a graph driver has it unpacked, and where containerd's
/// image store takes a layer in.
const LOADS: &str = "cd /var/lib/docker && ls -d tmp/docker-import-* containerd/daemon/*.content/ingest/* 2>/dev/null | grep -q .";

const IMAGES: &str = "/var/lib/dind/images";

/// The words that mount it, read-only.
fn mounted(images: &Scratch) -> [String; 2] {
    let [flag, mount] = images.mounted_on(IMAGES);
    [flag, format!("{mount}:ro")]
}

/// Writes `docker save` archives of images, NAME:1 in NAME.tar. Each is of its own content.
/// Returns the container that did, which has them in /out.
#[track_caller]
fn save(into: &Scratch, names: &[&str]) -> Container {
    let container = dind().flags(into.mounted_on("/out")).ready(&[]);
    container.sh(&format!(
        "set -e
         cd /tmp
         for name in {}; do
             head -c 100000 /dev/urandom >content
             tar -c content | docker import - $name:1
             docker save --output /out/$name.tar $name:1
         done",
        names.join(" ")
    ));
    container
}

/// An archive of Busybox, in the way that its name says.
#[track_caller]
fn busybox(directory: &Path, name: impl AsRef<OsStr>) {
    let path = directory.join(name.as_ref());
    let tar = fs::read(lab("DIND_LAB_BUSYBOX")).expect("an archive of Busybox");
    let content = match path.extension() {
        Some(extension) if extension == "zst" => {
            compress_to_vec(&tar[..], CompressionLevel::Fastest)
        }
        _ => tar,
    };
    fs::write(path, content).expect("a file can be written");
}

/// The images of the engine inside.
#[track_caller]
fn names(container: &Container) -> Vec<String> {
    let names = container.text(&["docker", "images", "--format={{.Repository}}:{{.Tag}}"]);
    let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// Starts it again, for the `times`th time in all; the lines of dind's that are new.
#[track_caller]
fn restart(container: &Container, times: usize) -> String {
    let before = container.logs().len();
    let own = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.starts_with("dind: "));
        lines.map(str::to_owned).collect()
    };
    let old = own(&container.logs()).len();
    container.docker(&["restart"]).exited(0);
    container.wait_ready_times(times);
    assert!(container.logs().len() > before);
    own(&container.logs())[old..].join("\n")
}

/// Each kind of archive is loaded before docker is ready, from a directory that cannot be
/// written to. The next start loads nothing, and later ones what has gone or is new.
#[test]
fn images_are_loaded_once() {
    let images = Scratch::new();
    save(&images, &["one", "two", "three"]).sh("gzip /out/two.tar");
    busybox(&images.path, "busybox.tar.zst");
    fs::rename(
        images.path.join("three.tar"),
        images.path.join("with a space.tar"),
    )
    .expect("a file can be renamed");
    let all = [BUSYBOX, "one:1", "three:1", "two:1"];

    let container = dind().flags(mounted(&images)).ready(&[]);
    assert_eq!(names(&container), all);
    let logs = container.logs();
    let place = |part: &str| {
        logs.find(part)
            .unwrap_or_else(|| panic!("no {part:?} in\n{logs}"))
    };
    for (name, file) in [
        (BUSYBOX, "busybox.tar.zst"),
        ("one:1", "one.tar"),
        ("two:1", "two.tar.gz"),
        ("three:1", "with a space.tar"),
    ] {
        let said = place(&format!("dind: loaded {name} from {IMAGES}/{file}: "));
        assert!(said < place("dind: docker is ready after"), "{logs}");
    }
    container.not_logged(&["images: "]);

    let said = restart(&container, 2);
    assert!(!said.contains("dind: loaded "), "{said}");
    assert!(
        said.contains(&format!(
            "dind: 4 of 4 archives in {IMAGES} are loaded already"
        )),
        "{said}"
    );
    assert_eq!(names(&container), all);

    container.text(&["docker", "rmi", "one:1"]);
    let said = restart(&container, 3);
    assert_eq!(said.matches("dind: loaded ").count(), 1, "{said}");
    assert!(said.contains("dind: loaded one:1 from"), "{said}");
    assert!(said.contains("dind: 3 of 4 archives in"), "{said}");

    // Another image under the same name, of the same size.
    let others = Scratch::new();
    save(&others, &["one"]);
    let id = |container: &Container| container.text(&["docker", "images", "--quiet", "one:1"]);
    let old = id(&container);
    let of = |directory: &Scratch| directory.path.join("one.tar");
    fs::rename(of(&others), of(&images)).expect("a file can be replaced");
    let said = restart(&container, 4);
    assert_eq!(said.matches("dind: loaded ").count(), 1, "{said}");
    assert_ne!(id(&container), old);
    assert_eq!(restart(&container, 5).matches("dind: loaded ").count(), 0);
}

/// What is broken is named, each on a line of its own, and the rest is loaded.
#[test]
fn broken_archives_are_named_and_the_others_loaded() {
    let images = Scratch::new();
    let directory = &images.path;
    save(&images, &["good"]);
    busybox(directory, "busybox.tar");
    let whole = fs::read(directory.join("busybox.tar")).expect("it was written");
    let cut = |name: &OsStr, content: &[u8]| {
        fs::write(directory.join(name), content).expect("a file can be written");
    };
    cut(OsStr::new("truncated.tar"), &whole[..whole.len() / 3]);
    let packed = compress_to_vec(&whole[..], CompressionLevel::Fastest);
    cut(OsStr::new("truncated.tar.zst"), &packed[..packed.len() / 2]);
    cut(
        OsStr::new("truncated.tar.gz"),
        b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01",
    );
    cut(OsStr::new("empty.tar"), b"");
    cut(OsStr::new("text.tar"), b"this is no archive\n");
    cut(OsStr::new("new\ndind: error: forged.tar"), b"no archive\n");
    cut(OsStr::from_bytes(b"\xff\x1b[31m.tar"), b"no archive\n");
    cut(OsStr::new("readme.txt"), b"no archive\n");
    cut(OsStr::new(".hidden.tar"), b"no archive\n");
    fs::create_dir(directory.join("directory.tar")).expect("a directory can be made");
    symlink("nowhere", directory.join("dangling.tar")).expect("a link can be made");

    let container = dind().flags(mounted(&images)).ready(&[]);
    assert_eq!(names(&container), [BUSYBOX, "good:1"]);
    let shown = [
        "truncated.tar: ",
        "truncated.tar.zst: ",
        "truncated.tar.gz: ",
        "empty.tar: ",
        "text.tar: ",
        "new\\ndind: error: forged.tar: ",
        "\u{fffd}\\x1b[31m.tar: ",
        "directory.tar: not a regular file; ",
        "dangling.tar: symbolic link to nowhere: ",
    ];
    for name in shown {
        container.logged(&[
            &format!("dind: error: cannot load {IMAGES}/{name}"),
            "; replace it or remove it",
        ]);
    }
    container.logged(&[&format!(
        "dind: error: {} of {} archives in {IMAGES} could not be loaded",
        shown.len(),
        shown.len() + 2
    )]);
    container.logged(&[
        "dind: warning: only *.tar, *.tar.gz and *.tar.zst are loaded",
        "readme.txt",
    ]);
    let logs = container.logs();
    let errors = logs
        .lines()
        .filter(|line| line.starts_with("dind: error: "));
    assert_eq!(errors.count(), shown.len() + 1);
    container.not_logged(&["hidden"]);

    let said = restart(&container, 2);
    assert!(!said.contains("dind: loaded "), "{said}");
    assert_eq!(
        said.matches("dind: error: cannot load ").count(),
        shown.len()
    );
}

#[test]
fn a_strict_start_ends_with_the_first_broken_archive() {
    let images = Scratch::new();
    busybox(&images.path, "busybox.tar");
    let strict = dind()
        .flags(mounted(&images))
        .env("DIND_IMAGES_STRICT", "1");
    strict
        .run(&["docker", "image", "inspect", BUSYBOX])
        .exited(0);
    images.file("text.tar", "this is no archive\n");
    let output = strict.run(&["echo", "the command"]).exited(1);
    assert_eq!(output.stdout, "");
    assert!(
        !output.stderr.contains("docker is ready"),
        "{}",
        output.stderr
    );
    let output = output.says(&[&format!("dind: error: cannot load {IMAGES}/text.tar: ")]);
    assert_eq!(output.stderr.matches("dind: error: cannot load").count(), 1);
}

#[test]
fn images_are_where_dind_images_says() {
    let images = Scratch::new();
    busybox(&images.path, "busybox.tar");
    let elsewhere = dind().flags(images.mounted_on("/elsewhere"));
    let show = [
        "docker",
        "image",
        "inspect",
        "--format={{index .RepoTags 0}}",
        BUSYBOX,
    ];
    let asked = elsewhere.clone().env("DIND_IMAGES", "/elsewhere");
    assert_eq!(asked.run(&show).text(), BUSYBOX);

    let missing = elsewhere.env("DIND_IMAGES", "/missing");
    let said = [
        "dind: error: cannot read DIND_IMAGES=/missing: ",
        "mount or make",
    ];
    let output = missing.run(&["echo", "works"]).says(&said);
    assert_eq!(output.text(), "works");
    let strict = missing.env("DIND_IMAGES_STRICT", "1");
    strict.run(&["echo", "works"]).exited(1).says(&said);
}

/// dockerd may bind its sockets itself, by its command line or its file.
#[test]
fn images_are_loaded_by_whatever_socket_dockerd_has() {
    let images = Scratch::new();
    busybox(&images.path, "busybox.tar");
    let with = || dind().flags(images.mounted_on(IMAGES));
    let said = format!("dind: loaded {BUSYBOX} from {IMAGES}/busybox.tar: ");
    let own = with().ready(&["dockerd", "-H", "unix:///run/own.sock"]);
    own.logged(&[&said]);
    let file = r#"mkdir -p /etc/docker; echo '{"hosts": ["tcp://127.0.0.1:4000", "unix:///run/own.sock"]}' >/etc/docker/daemon.json"#;
    with().prelude(file).ready(&[]).logged(&[&said]);
    let none = with().ready(&["dockerd", "-H", "tcp://127.0.0.1:4000", "--tls=false"]);
    none.logged(&[
        "dind: warning: the images in",
        "are not loaded, since dockerd has no Unix socket",
    ]);
    none.not_logged(&["dind: loaded"]);
}

/// The record is no reason not to start, and leads nobody elsewhere.
#[test]
fn a_record_that_cannot_be_written_is_said_and_a_link_is_not_followed() {
    let images = Scratch::new();
    busybox(&images.path, "busybox.tar");
    let with = |script: &str| dind().flags(mounted(&images)).prelude(script);
    let container = with("mkdir -p /var/lib/docker/dind-images.json").ready(&[]);
    container.logged(&[
        "dind: warning: cannot write /var/lib/docker/dind-images.json: ",
        "loads these images again",
    ]);
    assert_eq!(names(&container), [BUSYBOX]);
    let said = restart(&container, 2);
    assert!(said.contains("dind: loaded "), "{said}");

    let container =
        with("echo mine >/mine; ln -sfn /mine /var/lib/docker/dind-images.json").ready(&[]);
    container.not_logged(&["dind: warning: cannot write"]);
    assert_eq!(
        container.sh("cat /mine; stat -c %F /var/lib/docker/dind-images.json"),
        "mine\nregular file"
    );
}

/// An archive that takes long, with a file of zeros.
fn long(images: &Scratch, gigabytes: u64) {
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").expect("a path");
    header.set_mode(0o644);
    header.set_size(gigabytes << 30);
    header.set_cksum();
    let path = images.path.join("long.tar");
    fs::write(&path, header.as_bytes()).expect("a file can be written");
    let file = File::options().write(true).open(path).expect("it was made");
    file.set_len((gigabytes << 30) + 512)
        .expect("a file may have holes");
}

/// A stop does not wait for what is on its way.
#[test]
fn a_stop_in_the_middle_of_a_load_is_in_order() {
    let images = Scratch::new();
    busybox(&images.path, "a-busybox.tar");
    // dockerd writes as much as it gets to before the stop.
    long(&images, 50);
    let container = dind().flags(mounted(&images)).start(&[]);
    container.wait_log("dind: loaded ", 1);
    container.wait_until(LOADS);
    container.docker(&["stop", "--time", "60"]).exited(0);
    assert_eq!(container.inspect("{{.State.ExitCode}}"), "0");
    container.logged(&["Daemon shutdown complete"]);
    container.not_logged(&["docker is ready"]);
    container.not_logged(&["killed"]);
    // What was loaded before is known.
    fs::remove_file(images.path.join("long.tar")).expect("a file can be removed");
    container.docker(&["start"]).exited(0);
    container.wait_ready();
    container.logged(&["dind: 1 of 1 archives in", "are loaded already"]);
}

/// With `DIND_RESTART` what dockerd has taken with it is loaded by the next one, and docker is
/// not ready before that.
#[test]
fn images_outlive_a_dockerd_that_fails() {
    let images = Scratch::new();
    let packer = dind().flags(images.mounted_on("/out")).ready(&[]);
    packer.sh(
        // Random, since containerd's image store compresses it, and takes in what is left.
        "head -c 200M /dev/urandom >/tmp/content && tar -C /tmp -c content | docker import - big:1 &&
         docker save --output /out/big.tar big:1",
    );
    drop(packer);
    let container = dind()
        .flags(mounted(&images))
        .env("DIND_RESTART", "on-failure")
        .start(&[]);
    container.wait_until(&format!("{LOADS} && pkill -KILL -x dockerd"));
    container.wait_ready();
    assert_eq!(names(&container), ["big:1"]);
    container.logged(&["dind: dockerd ended while it loaded images"]);
    container.not_logged(&["cannot load"]);
}

#[test]
fn progress_is_shown_on_a_terminal() {
    let images = Scratch::new();
    long(&images, 1);
    busybox(&images.path, "small.tar");
    let mut pty = Pty::run(&dind().flags(mounted(&images)), &["sh"]);
    pty.expect("\rimages: ");
    pty.expect(" of 2, ");
    pty.expect(" of 1076 MB\x1b[K");
    // The small one does not wait for the long one, which is before it by name.
    pty.expect("loaded dind-lab/busybox");
    pty.expect("/long.tar");
    pty.expect("1 of 2 archives");
    pty.expect("dind: docker is ready after");
    // The line is taken away before another is written.
    let shown = pty.shown();
    for (at, _) in shown.match_indices(" MB\x1b[K") {
        let rest = &shown[at + " MB\x1b[K".len()..];
        assert!(
            rest.starts_with("\rimages: ") || rest.starts_with("\r\x1b[K"),
            "{rest:?}"
        );
    }
    pty.type_line("exit");
    pty.wait();
}

/// What is in the root file system is there on each level.
#[test]
fn images_are_in_every_level() {
    let show = ["docker", "image", "inspect", "--format={{.Id}}", BUSYBOX];
    let container = nestable().create(&[&["nest", "2", "--"], &show[..]].concat());
    let scratch = Scratch::new();
    let archive = scratch.path.join("root.tar");
    let file = File::create(&archive).expect("a file can be made");
    let mut root = tar::Builder::new(file);
    let inside = format!("{}/busybox.tar", IMAGES.trim_start_matches('/'));
    root.append_path_with_name(lab("DIND_LAB_BUSYBOX"), inside)
        .and_then(|()| root.finish())
        .expect("an archive can be written");
    container.unpack(&archive);
    container.docker(&["start"]).exited(0);
    assert_eq!(container.wait(), 0);
    container.logged(&["sha256:"]);
}

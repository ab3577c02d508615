//! `tests/lab bench --store-file [SUITE]`: a store in one file against a directory with the same
//! images: to save it, to begin with it, and the memory of eight engines that read all of it; and which
//! format the file could have.
//!
//! What is stored is dind's own file system, of programs and texts as in any image.

use std::fs::File;
use std::process::{Command, Stdio};

use crate::docker::{Result, docker};
use crate::harness::{Contestant, engine, median, progress, rounds, spread, variable};

/// What is saved, by the name of the store.
const STORES: [(&str, &str); 2] = [
    ("directory", "/stores/main"),
    ("file", "/stores/main.erofs"),
];

/// How many engines read all of a store at the same time.
const ENGINES: usize = 8;

/// Formats with the programs that make them: `$1` is the image, `$2` the directory.
const FORMATS: &[(&str, &str, &str)] = &[
    ("erofs", "erofs", "mkfs.erofs --quiet $1 $2"),
    ("erofs, lz4", "erofs", "mkfs.erofs --quiet -zlz4 $1 $2"),
    (
        "erofs, lz4, 64 KiB",
        "erofs",
        "mkfs.erofs --quiet -zlz4 -C65536 $1 $2",
    ),
    (
        "squashfs",
        "squashfs",
        "mksquashfs $2 $1 -noI -noD -noF -noX -quiet -no-progress",
    ),
    (
        "squashfs, lz4",
        "squashfs",
        "mksquashfs $2 $1 -comp lz4 -quiet -no-progress",
    ),
    (
        "squashfs, zstd 3",
        "squashfs",
        "mksquashfs $2 $1 -comp zstd -Xcompression-level 3 -quiet -no-progress",
    ),
    (
        "ext4",
        "ext4",
        "truncate -s 4G $1 && mkfs.ext4 -q -F -O ^has_journal -m0 -d $2 $1",
    ),
];

/// Makes an image of `/v/tree`, and prints: ms to make it, MB on the disk, us to mount it, ms to read it
/// when nothing of it is in memory, ms to read it again, and how many files differ in what stat(2) says,
/// with the times' nanoseconds.
const TRY: &str = r#"
set -e
now() { date +%s%N; }
seen() { (cd "$1"; find . -mindepth 1 ! -type d -printf '%p %y %m %U:%G %n %s %T@ %l\n' | sort); }
image=/v/image
rm -f $image
began=$(now); set -- $image /v/tree; eval "$MAKE" >/dev/null; sync -f /v; made=$(now)
dd if=$image of=$image oflag=nocache conv=notrunc,fdatasync count=0 2>/dev/null
loop=$(losetup -r -f --show $image); mkdir -p /v/mounted
mounting=$(now); mount -t "$TYPE" -o ro $loop /v/mounted; mounted=$(now)
tar -C /v/mounted -c . | cat >/dev/null; cold=$(now)
tar -C /v/mounted -c . | cat >/dev/null; warm=$(now)
different=$(diff <(seen /v/tree) <(seen /v/mounted) | grep -c '^<' || true)
umount /v/mounted; losetup -d $loop
echo $(((made - began) / 1000000)) $(($(stat -c %b $image) / 2048)) $(((mounted - mounting) / 1000)) \
    $(((cold - mounted) / 1000000)) $(((warm - cold) / 1000000)) $different
"#;

/// A volume that is removed at the end.
struct Volume(String);

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = docker(&["volume", "rm", &self.0]);
    }
}

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    let volume = Volume(format!("dind-bench-files-{}", std::process::id()));
    println!("{}", engine(&image)?);
    formats(&volume)?;
    let saved = save(&image, &volume)?;
    let rounds = rounds()?;
    let mut figures = [const { Vec::new() }; STORES.len()];
    for round in 0..=rounds {
        for ((name, path), figures) in STORES.iter().zip(&mut figures) {
            progress(round, rounds, name);
            let figure = begin(&image, &volume, path)?;
            if round > 0 {
                figures.push(figure);
            }
        }
    }
    eprintln!();
    println!("{rounds} interleaved runs: median (min to max)");
    println!(
        "{:<12} {:>8} {:>8} {:>24} {:>24} {:>14} {:>14}",
        "store",
        "save, s",
        "MB",
        "ready, s",
        "first docker run, s",
        "1 engine, MB",
        "8 engines, MB"
    );
    for (((name, path), figures), (seconds, megabytes)) in STORES.iter().zip(&figures).zip(saved) {
        let ready: Vec<f64> = figures.iter().map(|(ready, _)| *ready).collect();
        let run: Vec<f64> = figures.iter().map(|(_, run)| *run).collect();
        let one = memory(&image, &volume, path, 1)?;
        let all = memory(&image, &volume, path, ENGINES)?;
        println!(
            "{name:<12} {seconds:>8.2} {megabytes:>8} {:>24} {:>24} {one:>14.0} {all:>14.0}",
            spread(&ready),
            spread(&run)
        );
    }
    Ok(())
}

/// Runs a script in a container with the volume, as PID 1, and returns what it prints.
fn sh(image: &str, volume: &Volume, environment: &[String], script: &str) -> Result<String> {
    let volume = format!("--volume={}:/v", volume.0);
    let mut words = vec!["run", "--rm", "--privileged", &volume, "--entrypoint=bash"];
    words.extend(environment.iter().map(String::as_str));
    words.extend([image, "-c", script]);
    docker(&words)
}

fn formats(volume: &Volume) -> Result<()> {
    let image = variable("DIND_LAB_FORMATS")?;
    sh(
        &image,
        volume,
        &[],
        "mkdir /v/tree && cp -a /usr /etc /v/tree && truncate -s 256M /v/tree/hole",
    )?;
    println!(
        "{:<20} {:>9} {:>6} {:>10} {:>10} {:>10} {:>10}",
        "format", "make, ms", "MB", "mount, us", "read, ms", "again, ms", "different"
    );
    for (name, kind, make) in FORMATS {
        let environment = [format!("--env=TYPE={kind}"), format!("--env=MAKE={make}")];
        let mut columns = vec![Vec::new(); 6];
        for _ in 0..3 {
            let printed = sh(&image, volume, &environment, TRY)?;
            for (column, word) in columns.iter_mut().zip(printed.split_whitespace()) {
                column.push(word.parse::<f64>()?);
            }
        }
        let shown: Vec<String> = columns
            .into_iter()
            .map(|column| median(column).to_string())
            .collect();
        let [make, size, mount, cold, warm, different] = shown.as_slice() else {
            return Err(format!("{name}: no figures").into());
        };
        println!(
            "{name:<20} {make:>9} {size:>6} {mount:>10} {cold:>10} {warm:>10} {different:>10}"
        );
    }
    sh(&image, volume, &[], "rm -r /v/*").map(drop)
}

/// Makes the stores, and returns how long each took, and its size in MB.
fn save(image: &str, volume: &Volume) -> Result<Vec<(f64, String)>> {
    let script = "docker load --quiet >/dev/null
        tar -c --one-file-system --exclude='./tmp/*' -C / . | docker import - own";
    let mut saved = Vec::new();
    for (name, path) in STORES {
        eprintln!("saving the {name}");
        let began = std::time::Instant::now();
        let output = Command::new("docker")
            .args([
                "run",
                "--rm",
                "--interactive",
                "--privileged",
                "--entrypoint=dind",
            ])
            .arg(format!("--volume={}:/stores", volume.0))
            .args(["--env=DOCKER_TLS_CERTDIR=", image, "store", "save", path])
            .args(["--", "sh", "-ec", script])
            .stdin(File::open(variable("DIND_LAB_BUSYBOX")?)?)
            .stdout(Stdio::null())
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        let seconds = began.elapsed().as_secs_f64();
        let place = path.replacen("/stores", "/v", 1);
        let size = sh(image, volume, &[], &format!("du -sm {place} | cut -f 1"))?;
        saved.push((seconds, size.trim().to_owned()));
    }
    Ok(saved)
}

fn contestant(image: &str, volume: &Volume, path: &str) -> Contestant {
    let mut contestant = Contestant::new(path, image, &["dind"])
        .env("DOCKER_TLS_CERTDIR=")
        .env(&format!("DIND_STORE={path}"));
    let option = format!("--volume={}:/stores:ro", volume.0);
    contestant.options.push(option);
    contestant
}

/// When an engine is ready, and how long its first container takes, in seconds.
fn begin(image: &str, volume: &Volume, path: &str) -> Result<(f64, f64)> {
    let started = contestant(image, volume, path).start(&[])?;
    let script = "begin=$(date +%s%N); docker run --rm own true; echo $(($(date +%s%N) - begin))";
    let run: f64 = started.run.sh(script)?.trim().parse()?;
    Ok((started.ready.as_secs_f64(), run / 1e9))
}

/// The file pages that the kernel has for this many engines that have read all layers, in MB: what is
/// in their cgroups, where each page counts for who read it first.
fn memory(image: &str, volume: &Volume, path: &str, engines: usize) -> Result<f64> {
    struct Engines(Vec<String>);
    impl Drop for Engines {
        fn drop(&mut self) {
            for name in &self.0 {
                let _ = docker(&["rm", "--force", "--volumes", name]);
            }
        }
    }
    let mounted = format!("--volume={}:/stores:ro", volume.0);
    let store = format!("--env=DIND_STORE={path}");
    let started = Engines(
        (0..engines)
            .map(|number| format!("dind-bench-memory-{}-{number}", std::process::id()))
            .collect(),
    );
    for name in &started.0 {
        docker(&[
            "run",
            "--detach",
            "--privileged",
            "--name",
            name,
            &mounted,
            &store,
            "--entrypoint=dind",
            "--env=DOCKER_TLS_CERTDIR=",
            image,
        ])?;
    }
    // Nothing of the store is in memory, whoever has read it before.
    let forget = "find /stores -type f -exec sh -c 'for f; do dd if=$f iflag=nocache count=0; done 2>/dev/null' sh {} +";
    let mut sum = 0.0;
    for (place, name) in started.0.iter().enumerate() {
        let ready = "timeout 60 sh -c 'until docker version; do sleep 0.1; done' >/dev/null 2>&1";
        docker(&["exec", name, "sh", "-c", ready])?;
        if place == 0 {
            docker(&["exec", name, "sh", "-c", forget])?;
        }
        let read = "tar -C /run/dind-store/layers -c . | cat >/dev/null";
        docker(&["exec", name, "sh", "-c", read])?;
    }
    for name in &started.0 {
        let count = "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null | awk '$1 == \"file\" || $1 == \"total_cache\" { print $2; exit }'";
        let bytes: f64 = docker(&["exec", name, "sh", "-c", count])?.trim().parse()?;
        sum += bytes / 1e6;
    }
    Ok(sum)
}

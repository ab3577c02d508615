//! `tests/lab bench --store [SUITE]`: an engine that begins with a store, against one that begins
//! empty, one that has loaded the same images, and one whose data root has always been its own.
//!
//! The store has 10 images with 100 layers, the first image on top of dind's own files, and 200 steps
//! of builds. The layers are of random bytes, which nothing compresses. Of two other stores with as
//! many layers, one has ten times the bytes of the other. All contestants of a round are measured one
//! after the other.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::docker::{Result, docker};
use crate::harness::{
    Contestant, Started, engine, median, progress, ratio, rounds, spread, variable,
};

const IMAGES: usize = 10;

/// The layers of an image on top of its base, each by a step of its own. As many steps are built
/// that no image has any more.
const LAYERS: usize = 10;

/// The image that is run and built: one on top of busybox.
const IMAGE: usize = IMAGES;

/// The size of a layer, in kB.
const LAYER_KB: usize = 8_000;

const STORE: &str = "/stores/main";

/// How many engines share the page cache.
const FLEET: usize = 8;

/// A volume with a store.
struct Stored {
    volume: String,
    layer_kb: usize,
}

impl Stored {
    /// Makes a store whose layers have this size. The first image has dind's own files, or not
    /// more than the others.
    fn new(image: &str, name: &str, layer_kb: usize, own: bool, more: &[&str]) -> Result<Self> {
        eprintln!("making a store with layers of {layer_kb} kB");
        let stored = Self {
            volume: format!("dind-bench-{name}-{}", std::process::id()),
            layer_kb,
        };
        let base = match own {
            true => "tar -c --one-file-system --exclude=./tmp -C / . | docker import - own",
            false => "docker tag dind-lab/busybox own",
        };
        let images: Vec<String> = (1..=IMAGES)
            .map(|number| format!("{} >/dev/null", stored.build(number)))
            .collect();
        let steps: Vec<String> = (1..=IMAGES).map(steps_alone).collect();
        let script = format!(
            "docker load --quiet >/dev/null
             {base} >/dev/null
             {}
             {}
             docker image prune --force >/dev/null
             if [ -d /archives ]; then
                 docker save -o /archives/all.tar dind-lab/busybox $(for i in $(seq {IMAGES}); do echo image:$i; done)
             fi",
            images.join("\n"),
            steps.join("\n")
        );
        stored.dind(image, more, &save(&["sh", "-ec", &script]))?;
        Ok(stored)
    }

    /// Runs dind with the store writable and busybox's archive as its standard input, and
    /// returns how long that took, in seconds.
    fn dind(&self, image: &str, options: &[&str], words: &[&str]) -> Result<f64> {
        self.run(image, options, "dind", words)
    }

    fn run(&self, image: &str, options: &[&str], program: &str, words: &[&str]) -> Result<f64> {
        let stores = format!("--volume={}:/stores", self.volume);
        let began = Instant::now();
        let output = Command::new("docker")
            .args(["run", "--rm", "--interactive", "--privileged", &stores])
            .args(["--env=DOCKER_TLS_CERTDIR=", "--entrypoint", program])
            .args(options)
            .arg(image)
            .args(words)
            .stdin(File::open(variable("DIND_LAB_BUSYBOX")?)?)
            .stdout(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{program} {}: {}\n{said}", words.join(" "), output.status).into());
        }
        Ok(began.elapsed().as_secs_f64())
    }

    /// The options that let an engine begin with it.
    fn options(&self) -> [String; 2] {
        [
            format!("--volume={}:/stores:ro", self.volume),
            format!("--env=DIND_STORE={STORE}"),
        ]
    }

    /// A volume with a data root that has what the store has, and does not depend on it.
    fn detached(&self, image: &str) -> Result<OwnVolume> {
        const COPY: &str = "cd /stores/main/$(readlink /stores/main/current)/data
            cp -a . /data
            cd /data
            find . -type l -lname '/run/dind-store/layers/*' | while read -r link; do
                layer=$(basename \"$(readlink \"$link\")\")
                rm \"$link\"
                cp -a \"/stores/main/layers/$layer\" \"$link\"
            done";
        let volume = OwnVolume(format!("dind-bench-data-{}", std::process::id()));
        let mounted = format!("--volume={}:/data", volume.0);
        self.run(image, &[&mounted], "sh", &["-ec", COPY])?;
        Ok(volume)
    }

    /// Has the kernel forget what it has of the layers' files, so that whoever reads them first
    /// is charged for it: `iflag=nocache` and `count=0` of dd are POSIX_FADV_DONTNEED.
    fn forget_pages(&self, image: &str) -> Result<()> {
        let script = "sync; find /stores/main/layers -type f \
             -exec dd status=none count=0 iflag=nocache if={} \\;";
        self.run(image, &[], "sh", &["-ec", script]).map(drop)
    }

    /// A script that builds an image, from the cache where its steps are there.
    fn build(&self, number: usize) -> String {
        let base = if number == 1 {
            "own"
        } else {
            "dind-lab/busybox"
        };
        let size = self.layer_kb;
        let steps: String = (1..=LAYERS)
            .map(|step| format!("\\nRUN head -c {size}k /dev/urandom >/{number}-{step}"))
            .collect();
        build(base, &steps, &format!("image:{number}"))
    }
}

impl Drop for Stored {
    fn drop(&mut self) {
        let _ = docker(&["volume", "rm", &self.volume]);
    }
}

/// A volume that goes with this value.
struct OwnVolume(String);

impl Drop for OwnVolume {
    fn drop(&mut self) {
        let _ = docker(&["volume", "rm", &self.0]);
    }
}

fn build(base: &str, steps: &str, tag: &str) -> String {
    format!("printf 'FROM {base}{steps}' | DOCKER_BUILDKIT=1 docker build --quiet --tag {tag} -")
}

/// A script that builds steps, and leaves them in the cache without an image.
fn steps_alone(number: usize) -> String {
    let steps: String = (1..=LAYERS)
        .map(|step| format!("\\nRUN echo {number} >/step-{step}"))
        .collect();
    let build = build("dind-lab/busybox", &steps, "steps");
    format!("{build} >/dev/null; docker rmi steps >/dev/null")
}

fn save<'a>(command: &[&'a str]) -> Vec<&'a str> {
    let words = ["store", "save", STORE, "--"];
    words.into_iter().chain(command.iter().copied()).collect()
}

/// What is measured of an engine, a value a round, in seconds but for the memory.
#[derive(Default)]
struct Figures {
    ready: Vec<f64>,
    /// Until the images are there: nothing but the start where there is a store.
    images: Vec<f64>,
    first_run: Vec<f64>,
    build: Vec<f64>,
    /// Of PID 1, in MB.
    memory: Vec<f64>,
    /// Of PID 1.
    processor: Vec<f64>,
}

pub fn bench(_suite: &str) -> Result<()> {
    let image = variable("DIND_LAB_IMAGE")?;
    let archives = OwnVolume(format!("dind-bench-archives-{}", std::process::id()));
    let mounted = format!("--volume={}:/archives", archives.0);
    let size = match std::env::var("DIND_LAB_LAYER_KB") {
        Ok(size) => size
            .parse()
            .map_err(|error| format!("DIND_LAB_LAYER_KB={size}: {error}"))?,
        Err(_) => LAYER_KB,
    };
    let stored = Stored::new(&image, "stores", size, true, &[&mounted])?;
    let small = Stored::new(&image, "small", size * 3 / 4, false, &[])?;
    let large = Stored::new(&image, "large", size * 15 / 2, false, &[])?;
    let data = stored.detached(&image)?;
    let contestant = |name: &str, options: &[String]| {
        let mut new = Contestant::new(name, &image, &["dind"]).env("DOCKER_TLS_CERTDIR=");
        new.options.extend_from_slice(options);
        new
    };
    let empty = contestant("empty", &[format!("{mounted}:ro")]);
    let own = contestant("own", &[format!("--volume={}:/var/lib/docker", data.0)]);
    let from = |stored: &Stored, name| contestant(name, &stored.options());
    let filled = from(&stored, "store");
    let [less, more] = [from(&small, "small"), from(&large, "large")];
    let rounds = rounds()?;
    let mut all: [Figures; 5] = Default::default();
    let [mut saved, mut alone] = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        let mut figures: [Figures; 5] = Default::default();
        let [store, loaded, native, least, most] = &mut figures;
        progress(round, rounds, "from the store");
        stored.measure(&filled, "", store)?;
        progress(round, rounds, "docker load");
        stored.measure(&empty, "docker load -qi /archives/all.tar", loaded)?;
        progress(round, rounds, "a data root of its own");
        stored.measure(&own, "", native)?;
        progress(round, rounds, "a small store");
        small.measure(&less, "", least)?;
        progress(round, rounds, "a large store");
        large.measure(&more, "", most)?;
        progress(round, rounds, "store save");
        let saving = stored.dind(&image, &[], &save(&["true"]))?;
        let running = stored.dind(&image, &[], &["true"])?;
        stored.dind(&image, &[], &["store", "prune", STORE, "--keep", "1"])?;
        if round > 0 {
            for (all, one) in all.iter_mut().zip(figures) {
                all.add(one);
            }
            saved.push(saving);
            alone.push(running);
        }
    }
    progress(rounds, rounds, "the page cache");
    let shared = [1, FLEET].map(|engines| stored.page_cache(&filled, &image, engines));
    eprintln!();
    println!("{}, {rounds} interleaved runs", engine(&image)?);
    for stored in [&stored, &small, &large] {
        print!("{}", stored.list(&image)?);
    }
    report(&all, &saved, &alone);
    let [one, fleet] = shared;
    let (one, fleet) = (one?, fleet?);
    println!("page cache of all layers, in MB: 1 engine {one:.0}, {FLEET} engines {fleet:.0}");
    Ok(())
}

fn report(all: &[Figures; 5], saved: &[f64], alone: &[f64]) {
    let [store, loaded, native, small, large] = all;
    println!("median (min to max), in s");
    let line = |what: &str, values: &[f64]| println!("{what:<44} {:>24}", spread(values));
    line("ready, empty data root", &loaded.ready);
    line("ready, store", &store.ready);
    line("ready, data root of its own with as much", &native.ready);
    line("ready, store with fewer bytes", &small.ready);
    line("ready, store with more bytes", &large.ready);
    line("ready and docker load", &loaded.images);
    line("first docker run, stored image", &store.first_run);
    line("first docker run, loaded image", &loaded.first_run);
    line("first docker run, data root of its own", &native.first_run);
    line("build of stored steps", &store.build);
    line("build of steps of its own", &native.build);
    line("memory of PID 1, MB, without a store", &loaded.memory);
    line("memory of PID 1, MB, with a store", &store.memory);
    line("processor time of PID 1, without", &loaded.processor);
    line("processor time of PID 1, with", &store.processor);
    line("true", alone);
    line("store save -- true", saved);
    println!("medians of the ratios of each round");
    // dockerd reads what it has, wherever that came from.
    for (what, ours, theirs) in [
        ("ready, own data root against an empty one", native, loaded),
        ("ready, store against own data root", store, native),
    ] {
        println!("{what:<44} {:>8.3}", ratio(&ours.ready, &theirs.ready));
    }
    for (what, ours, theirs, limit) in [
        (
            "ready, against an empty data root",
            &store.ready,
            &loaded.ready,
            1.15,
        ),
        (
            "ready, against docker load of its images",
            &store.images,
            &loaded.images,
            0.02,
        ),
        (
            "ready with ten times the bytes",
            &large.ready,
            &small.ready,
            1.1,
        ),
        (
            "first docker run, against a loaded image",
            &store.first_run,
            &loaded.first_run,
            1.1,
        ),
        (
            "build of stored steps, against own ones",
            &store.build,
            &native.build,
            1.1,
        ),
        // What two starts without a store differ by.
        ("memory of PID 1", &store.memory, &loaded.memory, 1.05),
        (
            "processor time of PID 1 until ready",
            &store.processor,
            &loaded.processor,
            1.05,
        ),
    ] {
        verdict(what, ratio(ours, theirs), limit);
    }
    let more = saved.iter().zip(alone).map(|(saved, alone)| saved - alone);
    verdict("store save of no work, more seconds", median(more), 2.0);
}

fn verdict(what: &str, value: f64, limit: f64) {
    let verdict = if value <= limit { "reached" } else { "MISSED" };
    println!("{what:<44} {value:>8.3}  must reach {limit:>5.2}  {verdict}");
}

impl Figures {
    fn add(&mut self, one: Self) {
        self.ready.extend(one.ready);
        self.images.extend(one.images);
        self.first_run.extend(one.first_run);
        self.build.extend(one.build);
        self.memory.extend(one.memory);
        self.processor.extend(one.processor);
    }
}

impl Stored {
    /// Starts an engine, which then has all images or gets them by `load`, uses one, and ends in
    /// order. Where there is a cache, its first build is one.
    fn measure(&self, contestant: &Contestant, load: &str, figures: &mut Figures) -> Result<()> {
        let started = contestant.start(&[])?;
        let run = &started.run;
        let ready = started.ready.as_secs_f64();
        figures.ready.push(ready);
        let processor = run.processor()?.saturating_sub(started.before);
        figures.processor.push(processor.as_secs_f64());
        figures.memory.push(run.resident()?);
        let loading = match load {
            "" => 0.0,
            load => timed(&started, load)?,
        };
        figures.images.push(ready + loading);
        complete(&started)?;
        let first = format!("docker run --rm image:{IMAGE} true");
        figures.first_run.push(timed(&started, &first)?);
        if load.is_empty() {
            // Not its id: in containerd's store that has the time of each build in it.
            let layers =
                format!("docker image inspect --format '{{{{.RootFS.Layers}}}}' image:{IMAGE}");
            let before = run.sh(&layers)?;
            figures.build.push(timed(&started, &self.build(IMAGE))?);
            if run.sh(&layers)? != before {
                return Err("a stored step was built again".into());
            }
        }
        run.stop().map(drop)
    }

    /// The generations of the store.
    fn list(&self, image: &str) -> Result<String> {
        let [mounted, _] = self.options();
        let words = ["--entrypoint=dind", image, "store", "list", STORE];
        docker(&[&["run", "--rm", &mounted], &words[..]].concat())
    }

    /// How much of the page cache that many engines are charged for which all read all layers, in
    /// MB, one after the other.
    fn page_cache(&self, contestant: &Contestant, image: &str, engines: usize) -> Result<f64> {
        const CACHE: &str = "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat \
             2>/dev/null | awk '$1 == \"file\" || $1 == \"total_cache\" { print $2; exit }'";
        let read = format!(
            "for i in $(seq {IMAGES}); do docker run --rm image:$i sh -c \"cat /$i-* >/dev/null\"; done"
        );
        self.forget_pages(image)?;
        let fleet: Vec<Beside> = (0..engines)
            .map(|number| Beside::start(contestant, number))
            .collect::<Result<_>>()?;
        let mut bytes = 0.0;
        for one in &fleet {
            one.sh(&read)?;
        }
        for one in &fleet {
            bytes += one.sh(CACHE)?.trim().parse::<f64>()?;
        }
        Ok(bytes / 1e6)
    }
}

/// One of several engines at once.
struct Beside(String);

impl Beside {
    fn start(contestant: &Contestant, number: usize) -> Result<Self> {
        let name = format!("dind-bench-{}-{number}", std::process::id());
        let mut words = vec!["run", "--detach", "--privileged", "--name", &name];
        words.extend(contestant.options.iter().map(String::as_str));
        words.extend(["--entrypoint=dind", &contestant.image]);
        docker(&words)?;
        let started = Self(name);
        docker(&["exec", &started.0, "dind", "health", "--wait", "60"])?;
        Ok(started)
    }

    fn sh(&self, script: &str) -> Result<String> {
        docker(&["exec", &self.0, "sh", "-ec", script])
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = docker(&["rm", "-f", "-v", &self.0]);
    }
}

/// How long a script runs, by the clock of the container, in seconds.
fn timed(started: &Started, script: &str) -> Result<f64> {
    let script = format!(
        "set -e; begin=$(date +%s%N); {script} >/dev/null; echo $(($(date +%s%N) - begin))"
    );
    let nanoseconds: f64 = started.run.sh(&script)?.trim().parse()?;
    Ok(nanoseconds / 1e9)
}

fn complete(started: &Started) -> Result<()> {
    let there = started.run.sh("docker images -q image | wc -l")?;
    match there.trim().parse() {
        Ok(IMAGES) => Ok(()),
        _ => Err(format!("{} images are there, not {IMAGES}", there.trim()).into()),
    }
}

//! The data root: its lock, what an earlier start left behind, and what takes its place
//! where overlay2 cannot be on it.

use std::ffi::OsString;

use nix::mount::MsFlags;

use super::action::{Action, OnFailure, Step};
use super::engine::{DataFile, Emptied, NewDataFile};
use super::inputs::Inputs;
use crate::facts::Facts;
use crate::facts::storage::{DataRoot, Filesystem, LOOP_CONTROL, Means, is_on_volume};
use crate::input::config::{Config, Storage};
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;

/// What dockerd gives its data root: the owner, and search for the group of a
/// remapped root (`setupDaemonRoot` in moby's daemon_unix.go).
const DATA_ROOT_MODE: u32 = 0o710;

const MIB: u64 = 1 << 20;

/// An ext4 file smaller than this holds none of Docker's.
const LEAST_DATA_FILE: u64 = 256 * MIB;

/// How much of what is free an ext4 file may take, in tenths. When what it is on is full, its
/// file system breaks; when itself is full, only a write fails.
const TENTHS: u64 = 9;

const LINK: &str = "https://docs.docker.com/engine/storage/drivers/select-storage-driver/";

/// What holds the data.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    /// The file system of the data root, with the driver that dockerd chooses or is told.
    DataRoot,
    /// The same, with this driver.
    Driver(&'static str),
    /// An ext4 file.
    DataFile(DataFile),
    /// A tmpfs of so many bytes, or of the kernel's choice.
    Tmpfs(Option<u64>),
}

/// The choice.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    holder: Holder,
    /// It and its reason, where there was something to choose.
    note: Option<String>,
    /// What the user should know of it.
    warning: Option<Finding>,
    /// How many times an image of Docker's is stored that a container is made of.
    copies: u64,
}

/// What the choice comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoragePlan {
    /// The choice and its reason, for the log: a finding of severity note.
    pub note: Option<Finding>,
    /// What is done to the container.
    pub steps: Vec<Step>,
    /// What is mounted on the data root before the daemons start.
    pub data_file: Option<DataFile>,
    /// For dockerd.
    pub arguments: Vec<OsString>,
    /// What is emptied at the end.
    pub emptied: Option<Emptied>,
}

/// Makes the plan. A fault is a choice of the user's that cannot be.
pub fn plan(inputs: Inputs<'_>) -> Result<StoragePlan, Fault> {
    let Inputs { config, facts, .. } = inputs;
    let root = &facts.data_root;
    let Choice { holder, note, .. } = choose(inputs)?;
    let mut steps = steps(facts);
    let (mut data_file, mut arguments) = (None, Vec::new());
    match holder {
        Holder::DataRoot => {}
        Holder::Driver(driver) => arguments.push(format!("--storage-driver={driver}").into()),
        Holder::DataFile(chosen) => data_file = Some(chosen),
        Holder::Tmpfs(size) => steps.push(tmpfs(root, size)),
    }
    let emptied = config.ephemeral.then(|| Emptied {
        path: root.path.clone(),
        mounts: facts.container.mounts.below(&root.path),
        data_file: data_file
            .as_ref()
            .map(|data_file: &DataFile| data_file.path.clone()),
    });
    Ok(StoragePlan {
        note: note.map(|seen| Finding::note("storage-chosen", seen, LINK)),
        steps,
        data_file,
        arguments,
        emptied,
    })
}

/// What there is to know of where the data is: one warning for two causes with one cure.
pub fn warning(inputs: Inputs<'_>) -> Option<Finding> {
    match choose(inputs) {
        Ok(choice) => choice.warning,
        Err(fault) => Some(Finding::fault("storage", fault, LINK)),
    }
}

/// How many times an image of Docker's is stored that a container is made of. vfs copies it
/// for the container, and for the one that dockerd makes before that (`-init`).
pub fn copies(inputs: Inputs<'_>) -> u64 {
    choose(inputs).map_or(1, |choice| choice.copies)
}

fn steps(facts: &Facts) -> Vec<Step> {
    let root = &facts.data_root;
    let mut steps = Vec::new();
    // Of a directory that is there only what would lock out or let in is changed.
    let wrong_mode = root
        .mode
        .is_none_or(|mode| mode & 0o022 != 0 || mode & 0o700 != 0o700);
    if wrong_mode {
        steps.push(Step {
            action: Action::Directory {
                path: root.path.clone(),
                mode: DATA_ROOT_MODE,
            },
            on_failure: OnFailure::Fatal(
                "dockerd needs its data root; mount a writable volume there",
            ),
            why: "dockerd's data root".into(),
        });
    }
    steps.push(Step {
        action: Action::Lock {
            path: root.path.clone(),
        },
        on_failure: OnFailure::Fatal(
            "the data root is in use, and two daemons would destroy it: stop the other container, \
             or give this one a volume of its own",
        ),
        why: "dockerd does not notice another one on its data root".into(),
    });
    steps.extend(facts.stale.iter().map(|path| {
        Step {
        action: Action::Remove { path: path.clone() },
        on_failure: OnFailure::Warn,
        why: "left behind by an earlier start, it would keep the daemon from starting: moby#40292"
            .into(),
    }
    }));
    steps
}

fn tmpfs(root: &DataRoot, size: Option<u64>) -> Step {
    let size = size.map_or_else(String::new, |size| format!(",size={size}"));
    Step {
        action: Action::Mount {
            source: "tmpfs".into(),
            target: root.path.clone(),
            fstype: "tmpfs".into(),
            flags: MsFlags::empty(),
            data: format!("mode={DATA_ROOT_MODE:04o}{size}"),
        },
        on_failure: OnFailure::Fatal("DIND_STORAGE=tmpfs needs it; start with --privileged"),
        why: "DIND_STORAGE=tmpfs: the data is in memory, and ends with this start".into(),
    }
}

fn choose(inputs: Inputs<'_>) -> Result<Choice, Fault> {
    let Inputs { config, facts, .. } = inputs;
    let root = &facts.data_root;
    let driver = driver(inputs);
    let Some(means) = &root.means else {
        return Ok(as_it_is(facts, None));
    };
    let asked = match config.storage {
        Storage::Auto => return Ok(automatic(inputs, means, driver)),
        Storage::None => return Ok(as_it_is(facts, unsuitable(root))),
        asked => asked,
    };
    if let Some(driver) = driver.filter(|driver| !is_overlay(driver) || asked.driver().is_some()) {
        return Err(Fault::usage(format!(
            "DIND_STORAGE={} and the storage driver {driver:?} exclude each other",
            asked.name()
        ))
        .remedy("leave one out"));
    }
    let why = format!("DIND_STORAGE={}", asked.name());
    if let Some(driver) = asked.driver() {
        return Ok(Choice {
            holder: Holder::Driver(driver),
            note: Some(format!("storage: {driver}, since {why} asks for it")),
            warning: volume_warning(facts),
            copies: if asked == Storage::Vfs { 3 } else { 1 },
        });
    }
    if means.occupied {
        return Err(Fault::failure(format!(
            "{why} would hide what is in {} already",
            root.path.display()
        ))
        .remedy("empty it, or leave DIND_STORAGE out"));
    }
    if asked == Storage::Tmpfs {
        return Ok(Choice {
            holder: Holder::Tmpfs(config.storage_size),
            note: Some(format!(
                "storage: a tmpfs on {}, since {why} asks for it",
                root.path.display()
            )),
            warning: None,
            copies: 1,
        });
    }
    match data_file(config, root, means, true) {
        Ok(data_file) => Ok(with_data_file(
            facts,
            data_file,
            &format!("{why} asks for it"),
        )),
        Err(obstacle) => {
            let remedy = format!("leave it out, or give {} a volume", root.path.display());
            Err(Fault::failure(format!("{why} is not possible: {obstacle}")).remedy(remedy))
        }
    }
}

/// Where the user has not chosen.
fn automatic(inputs: Inputs<'_>, means: &Means, driver: Option<&str>) -> Choice {
    let Inputs { config, facts, .. } = inputs;
    let root = &facts.data_root;
    let path = root.path.display();
    if means.made
        && !means.occupied
        && let Ok(data_file) = data_file(config, root, means, true)
    {
        return with_data_file(facts, data_file, "an earlier start has made it");
    }
    let Filesystem::Unsuitable(name) = root.filesystem else {
        return as_it_is(facts, None);
    };
    let since = format!("{path} is on {name}, which overlay2 cannot use");
    let remedy = format!("give it a volume: docker run -v NAME:{path}");
    let warning = |words: String| Finding::warning("data-root-filesystem", words, LINK);
    if driver.is_some_and(|driver| !is_overlay(driver)) {
        return as_it_is(facts, None);
    }
    if means.occupied {
        let words = format!("{since}, and it has data: dockerd goes on with the driver of that");
        let holder = match driver {
            None if means.vfs => Holder::Driver("vfs"),
            None | Some(_) => Holder::DataRoot,
        };
        return Choice {
            holder,
            ..as_it_is(facts, Some(warning(words).remedy(remedy)))
        };
    }
    if name == "zfs" && means.zfs {
        return Choice {
            note: Some(format!(
                "storage: dockerd's zfs driver, since {path} is on zfs"
            )),
            ..as_it_is(facts, None)
        };
    }
    let obstacle = match data_file(config, root, means, false) {
        Ok(data_file) => return with_data_file(facts, data_file, &since),
        Err(obstacle) => obstacle,
    };
    if driver.is_some() {
        let words = format!("{since}, and {obstacle}: dockerd will refuse that driver");
        return as_it_is(facts, Some(warning(words).remedy(remedy)));
    }
    if means.fuse_overlayfs {
        let words =
            format!("{since}, and {obstacle}: fuse-overlayfs takes its place, and is slower");
        return Choice {
            note: Some(format!(
                "storage: fuse-overlayfs, since {since}, and {obstacle}"
            )),
            ..as_it_is(facts, Some(warning(words).remedy(remedy)))
        };
    }
    let words = format!(
        "{since}, and {obstacle}: WITH VFS EVERY IMAGE AND EVERY CONTAINER IS A FULL COPY, slow and large"
    );
    Choice {
        note: Some(format!("storage: vfs, since {since}, and {obstacle}")),
        // Where there is a fuse-overlayfs dockerd would take it, though it has no device.
        holder: Holder::Driver("vfs"),
        copies: 3,
        ..as_it_is(facts, Some(warning(words).remedy(remedy)))
    }
}

/// The driver that the user has told dockerd: the variable wins over flag and file
/// (`NewDaemon` in moby's daemon/daemon.go).
fn driver<'a>(inputs: Inputs<'a>) -> Option<&'a str> {
    let variable = inputs.config.docker_driver.as_deref();
    variable.or(inputs.options.storage_driver.as_deref())
}

/// Whether a driver is the one that works on ext4, under one of its names.
fn is_overlay(driver: &str) -> bool {
    matches!(driver, "overlay2" | "overlayfs")
}

fn as_it_is(facts: &Facts, warning: Option<Finding>) -> Choice {
    Choice {
        holder: Holder::DataRoot,
        note: None,
        copies: if warning.is_some() { 3 } else { 1 },
        warning: warning.or_else(|| volume_warning(facts)),
    }
}

fn with_data_file(facts: &Facts, data_file: DataFile, since: &str) -> Choice {
    let shown = data_file.path.display();
    let what = match &data_file.new {
        Some(new) => format!("an ext4 image of {} MiB at {shown}", new.size / MIB),
        None => format!("the ext4 image at {shown}"),
    };
    Choice {
        note: Some(format!("storage: {what}, since {since}")),
        holder: Holder::DataFile(data_file),
        warning: volume_warning(facts),
        copies: 1,
    }
}

/// The ext4 file, or what stands in its way.
fn data_file(
    config: &Config,
    root: &DataRoot,
    means: &Means,
    required: bool,
) -> Result<DataFile, String> {
    if !means.loop_devices {
        return Err(format!("{LOOP_CONTROL} cannot be opened"));
    }
    let new = if means.made {
        None
    } else {
        let mkfs = means.mkfs.clone().ok_or("there is no mkfs.ext4 in PATH")?;
        let size = config
            .storage_size
            .unwrap_or((means.free / 10 * TENTHS) & !(MIB - 1));
        if size < LEAST_DATA_FILE {
            return Err(format!("only {} MiB are free for an image", size / MIB));
        }
        Some(NewDataFile { size, mkfs })
    };
    Ok(DataFile {
        path: means.data_file.clone(),
        target: root.path.clone(),
        new,
        required,
    })
}

fn unsuitable(root: &DataRoot) -> Option<Finding> {
    let Filesystem::Unsuitable(name) = root.filesystem else {
        return None;
    };
    let path = root.path.display();
    let seen = format!(
        "{path} is on {name}, which overlay2 cannot use, so dockerd takes a slower storage driver"
    );
    let finding = Finding::warning("data-root-filesystem", seen, LINK);
    Some(finding.remedy(format!("give it a volume: docker run -v NAME:{path}")))
}

fn volume_warning(facts: &Facts) -> Option<Finding> {
    let path = facts.data_root.path.display();
    let seen = format!("{path} is not a mount of its own, so its data ends with this container");
    let remedy = format!("give it a volume: docker run -v NAME:{path}");
    (!is_on_volume(&facts.data_root.path, &facts.container.mounts))
        .then(|| Finding::warning("data-root-volume", seen, LINK).remedy(remedy))
}

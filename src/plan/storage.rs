//! The data root: its lock, the stale files of an earlier start, and what is used instead of its
//! file system where that cannot hold overlay2.

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

/// The mode that dockerd gives its data root: full access for root, and search permission for
/// the group of a remapped root (`setupDaemonRoot` in moby's daemon_unix.go).
const DATA_ROOT_MODE: u32 = 0o710;

const MIB: u64 = 1 << 20;

/// The least size of an ext4 image, in bytes: a smaller one is too small for Docker images.
const LEAST_DATA_FILE: u64 = 256 * MIB;

/// The part of the free space that an ext4 image may take, in tenths. If the file system below
/// the image is full, the one in it breaks; if the image itself is full, only a write fails.
const TENTHS: u64 = 9;

const LINK: &str = "https://docs.docker.com/engine/storage/drivers/select-storage-driver/";

/// Where the data of dockerd is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    /// On the file system of the data root, with the driver that dockerd or the user chooses.
    DataRoot,
    /// On the file system of the data root, with this storage driver.
    Driver(&'static str),
    /// In an ext4 image.
    DataFile(DataFile),
    /// On a tmpfs of this size in bytes; `None` for the kernel's default: tmpfs(5).
    Tmpfs(Option<u64>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Choice {
    holder: Holder,
    /// The choice and its reason; `None` if dockerd chooses.
    note: Option<String>,
    warning: Option<Finding>,
    /// See [`copies`].
    copies: u64,
}

/// The part of a plan that is about the data root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoragePlan {
    /// The choice and its reason, for the log: a finding of severity note. `None` if dockerd
    /// chooses.
    pub note: Option<Finding>,
    /// The steps: the directory, its lock, stale files, a tmpfs.
    pub steps: Vec<Step>,
    /// The ext4 image that is mounted on the data root before the daemons start.
    pub data_file: Option<DataFile>,
    /// The arguments for dockerd that select the storage driver.
    pub arguments: Vec<OsString>,
    /// The data root that the sweeper empties at the end: `DIND_EPHEMERAL`.
    pub emptied: Option<Emptied>,
}

/// Returns the plan for the data root. A fault is a `DIND_STORAGE` that is not possible here.
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

/// Returns the warning about the data root, for two causes with the same remedy: its file system
/// cannot hold overlay2, or it is not on a volume.
pub fn warning(inputs: Inputs<'_>) -> Option<Finding> {
    match choose(inputs) {
        Ok(choice) => choice.warning,
        Err(fault) => Some(Finding::fault("storage", fault, LINK)),
    }
}

/// Returns how many copies of a Docker image are stored when one container is created from it.
/// vfs copies the image for the container's layer and for the layer `-init` below it, which makes
/// 3; other drivers share the image.
pub fn copies(inputs: Inputs<'_>) -> u64 {
    choose(inputs).map_or(1, |choice| choice.copies)
}

fn steps(facts: &Facts) -> Vec<Step> {
    let root = &facts.data_root;
    let mut steps = Vec::new();
    // The mode of an existing directory is changed only if root lacks access or others can write.
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
            "the data root is in use, and two daemons would destroy it; stop the other container, \
             or use another volume",
        ),
        why: "dockerd does not detect another dockerd on its data root".into(),
    });
    steps.extend(facts.stale.iter().map(|path| {
        Step {
        action: Action::Remove { path: path.clone() },
        on_failure: OnFailure::Warn,
        why: "stale file of an earlier start, which would keep the daemon from starting: moby#40292"
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
        on_failure: OnFailure::Fatal(
            "DIND_STORAGE=tmpfs needs a tmpfs on the data root; start the container with \
             --privileged",
        ),
        why: "DIND_STORAGE=tmpfs: the data is in memory and is lost when the container stops"
            .into(),
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
        .remedy("set only one of them"));
    }
    let why = format!("DIND_STORAGE={}", asked.name());
    if let Some(driver) = asked.driver() {
        return Ok(Choice {
            holder: Holder::Driver(driver),
            note: Some(format!("storage: {driver}, since {why} is set")),
            warning: volume_warning(facts),
            copies: if asked == Storage::Vfs { 3 } else { 1 },
        });
    }
    if means.occupied {
        return Err(Fault::failure(format!(
            "{why} would hide the data in {}",
            root.path.display()
        ))
        .remedy("empty that directory, or unset DIND_STORAGE"));
    }
    if asked == Storage::Tmpfs {
        return Ok(Choice {
            holder: Holder::Tmpfs(config.storage_size),
            note: Some(format!(
                "storage: a tmpfs on {}, since {why} is set",
                root.path.display()
            )),
            warning: None,
            copies: 1,
        });
    }
    match data_file(config, root, means, true) {
        Ok(data_file) => Ok(with_data_file(facts, data_file, &format!("{why} is set"))),
        Err(obstacle) => {
            let path = root.path.display();
            let remedy = format!("unset DIND_STORAGE, or mount a volume on {path}");
            Err(Fault::failure(format!("{why} is not possible: {obstacle}")).remedy(remedy))
        }
    }
}

/// The choice for `DIND_STORAGE=auto`, the default.
fn automatic(inputs: Inputs<'_>, means: &Means, driver: Option<&str>) -> Choice {
    let Inputs { config, facts, .. } = inputs;
    let root = &facts.data_root;
    let path = root.path.display();
    if means.made
        && !means.occupied
        && let Ok(data_file) = data_file(config, root, means, true)
    {
        return with_data_file(facts, data_file, "an earlier start made it");
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
        let words =
            format!("{since}, and it has data: dockerd keeps the storage driver of that data");
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
            format!("{since}, and {obstacle}: dockerd uses fuse-overlayfs, which is slower");
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
        // dockerd would choose fuse-overlayfs if the program is there, even without /dev/fuse.
        holder: Holder::Driver("vfs"),
        copies: 3,
        ..as_it_is(facts, Some(warning(words).remedy(remedy)))
    }
}

/// The storage driver that the user has chosen for dockerd: `DOCKER_DRIVER` wins over the flag
/// and daemon.json (`NewDaemon` in moby's daemon/daemon.go).
fn driver<'a>(inputs: Inputs<'a>) -> Option<&'a str> {
    let variable = inputs.config.docker_driver.as_deref();
    variable.or(inputs.options.storage_driver.as_deref())
}

/// Whether a driver is overlay2 or, with containerd's image store, its snapshotter overlayfs.
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

/// The ext4 image, or the reason why there can be none.
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
            return Err(format!(
                "only {} MiB are left for an ext4 image",
                size / MIB
            ));
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
        "{path} is on {name}, which overlay2 cannot use, so dockerd uses a slower storage driver"
    );
    let finding = Finding::warning("data-root-filesystem", seen, LINK);
    Some(finding.remedy(format!("give it a volume: docker run -v NAME:{path}")))
}

fn volume_warning(facts: &Facts) -> Option<Finding> {
    let path = facts.data_root.path.display();
    let seen = format!("{path} is not a mount point, so its data is lost with this container");
    let remedy = format!("give it a volume: docker run -v NAME:{path}");
    (!is_on_volume(&facts.data_root.path, &facts.container.mounts))
        .then(|| Finding::warning("data-root-volume", seen, LINK).remedy(remedy))
}

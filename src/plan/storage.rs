//! The data root: its lock, the stale files of an earlier start, and what is used instead of its
//! file system where that cannot hold overlay2.

use std::ffi::OsString;

use nix::mount::MsFlags;

use super::action::{Action, OnFailure, Step};
use super::engine::{DataFile, Emptied, NewDataFile};
use super::growth::Growth;
use super::in_use::{self, InUse, What};
use super::inputs::Inputs;
use super::store::{self, Store};
use crate::facts::Facts;
use crate::facts::engine::ImageStores;
use crate::facts::storage::{DataRoot, Filesystem, LOOP_CONTROL, Means, is_on_volume};
use crate::facts::store::StoreFacts;
use crate::input::config::Storage;
use crate::input::dockerd_arguments::DockerdOptions;
use crate::messages::fault::Fault;
use crate::messages::finding::Finding;
use crate::store::manifest::Layout;

/// The mode that dockerd gives its data root: full access for root, and search permission for
/// the group of a remapped root (`setupDaemonRoot` in moby's daemon_unix.go).
const DATA_ROOT_MODE: u32 = 0o710;

const MIB: u64 = 1 << 20;

/// The least size of an ext4 image, in bytes: a smaller one is too small for Docker images.
const LEAST_DATA_FILE: u64 = 256 * MIB;

/// The size with which an ext4 image begins that grows. `docker commit` of an idle engine is as
/// large, since a tar has no holes.
const FIRST_SIZE: u64 = 184 * MIB;

/// What the full size of such an image is a multiple of: ext4 adds no group of blocks that has
/// hardly room for its own tables.
const GROWING_UNIT: u64 = 32 * MIB;

/// The part of the free space that an ext4 image may take, in tenths. If the file system below
/// the image is full, the one in it breaks; if the image itself is full, only a write fails.
const TENTHS: u64 = 9;

const LINK: &str = "https://docs.docker.com/engine/storage/drivers/select-storage-driver/";

/// The drivers with which each image and each container is a full copy: a graph driver and a
/// snapshotter.
const FULL_COPY: [&str; 2] = ["vfs", "native"];

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
    /// Whether dockerd does not get `DOCKER_DRIVER`, since it could run no container with it.
    drops_variable: bool,
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
    /// Whether dockerd does not get `DOCKER_DRIVER`.
    pub drops_variable: bool,
    /// The data root that the sweeper empties at the end: `DIND_EPHEMERAL`.
    pub emptied: Option<Emptied>,
}

/// Returns the plan for the data root. A fault is a `DIND_STORAGE` that is not possible here, a
/// storage driver with which no container could run, or an ext4 image with data that cannot be used.
pub fn plan(inputs: Inputs<'_>) -> Result<StoragePlan, Fault> {
    let Inputs { config, facts, .. } = inputs;
    let root = &facts.data_root;
    let choice = choose(inputs, known_stores(inputs))?;
    let mut steps = steps(facts);
    let (mut data_file, mut arguments) = (None, Vec::new());
    match choice.holder {
        Holder::DataRoot => {}
        Holder::Driver(driver) => arguments.push(driver_flag(driver)),
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
        note: choice
            .note
            .map(|seen| Finding::note("storage-chosen", seen, LINK)),
        steps,
        data_file,
        arguments,
        drops_variable: choice.drops_variable,
        emptied,
    })
}

fn driver_flag(driver: &str) -> OsString {
    format!("--storage-driver={driver}").into()
}

/// Whether the plan for the data root, or a warning about it, depends on which image stores
/// dockerd has, and these have not been read.
pub fn stores_question(inputs: Inputs<'_>) -> bool {
    let [first, second, third] = ImageStores::ALL.map(|stores| choose(inputs, stores));
    let differ = first != second || second != third;
    let contents = &inputs.facts.data_root.contents;
    let has_images = contents.graph_images.is_some() || contents.containerd_images.is_some();
    let may_hide = || has_images && store(inputs).is_none();
    let is_unknown = inputs.facts.image_stores.is_none();
    // What is saved is taken from where they have it, and what is stored is put there.
    let manifest = inputs.facts.store.as_ref().and_then(StoreFacts::manifest);
    let may_be_of_another = || {
        let is_containerds = manifest.is_some_and(|stored| stored.layout == Layout::Containerd);
        is_containerds && inputs.options.containerd_store.is_none()
    };
    is_unknown && (differ || inputs.save.is_some() || may_hide() || may_be_of_another())
}

/// Where they have not been read, the plan does not depend on them: [`stores_question`].
fn known_stores(inputs: Inputs<'_>) -> ImageStores {
    let stores = inputs.facts.image_stores;
    stores.unwrap_or(ImageStores::ContainerdOnRequest)
}

/// Returns the image store that dockerd will use. `None` where that depends on which it has, and
/// these have not been read.
pub fn store(inputs: Inputs<'_>) -> Option<Store> {
    let of = |stores| {
        let driver = match choose(inputs, stores).map(|choice| choice.holder) {
            Ok(Holder::Driver(driver)) => Some(driver),
            _ => driver(inputs),
        };
        store::store(inputs, stores, driver)
    };
    match inputs.facts.image_stores {
        Some(stores) => Some(of(stores)),
        None => {
            let [first, second, third] = ImageStores::ALL.map(of);
            (first == second && second == third).then_some(first)
        }
    }
}

/// Returns the storage driver that dockerd gets; `None` where it chooses.
pub fn named(inputs: Inputs<'_>) -> Option<String> {
    let choice = choose(inputs, known_stores(inputs)).ok()?;
    let own = || {
        let variable = inputs.config.docker_driver.as_deref();
        let variable = variable.filter(|_| !choice.drops_variable);
        variable.or(inputs.options.storage_driver.as_deref())
    };
    match choice.holder {
        Holder::Driver(driver) => Some(driver.to_owned()),
        _ => own().map(str::to_owned),
    }
}

/// Whether the data of dockerd is to be elsewhere than on the file system of the data root: in an ext4
/// image, or on a tmpfs.
pub fn is_elsewhere(inputs: Inputs<'_>) -> bool {
    choose(inputs, known_stores(inputs))
        .is_ok_and(|choice| matches!(choice.holder, Holder::DataFile(_) | Holder::Tmpfs(_)))
}

/// Returns the warnings about the data root. One is about its place, with two causes and the same
/// remedy: its file system cannot hold overlay2, or it is not on a volume.
pub fn warnings(inputs: Inputs<'_>) -> Vec<Finding> {
    let (place, drops_variable) = match choose(inputs, known_stores(inputs)) {
        Ok(choice) => (choice.warning, choice.drops_variable),
        Err(fault) => (Some(Finding::fault("storage", fault, LINK)), false),
    };
    let variable = inputs.config.docker_driver.as_deref();
    let dropped = variable.filter(|_| drops_variable).map(|driver| {
        let seen = format!(
            "DOCKER_DRIVER={driver} names a graph driver, and dockerd uses containerd's image store, which has none of that name; dockerd does not get the variable"
        );
        Finding::warning("docker-driver", seen, LINK).remedy("unset it")
    });
    let found = [place, dropped, hidden_images(inputs)];
    found.into_iter().flatten().collect()
}

/// The warning that the data root has images which dockerd does not show, since they are in its
/// other store. None where the store is not known.
fn hidden_images(inputs: Inputs<'_>) -> Option<Finding> {
    const STORES: &str = "https://docs.docker.com/engine/storage/containerd/";
    let contents = &inputs.facts.data_root.contents;
    let (used, hidden, remedy) = match store(inputs)? {
        Store::Containerd => (
            "containerd's image store",
            format!("the graph driver {}", contents.graph_images.as_deref()?),
            "turn the feature containerd-snapshotter off to use them",
        ),
        Store::GraphDriver => (
            "graph drivers",
            format!(
                "containerd's image store (snapshotter {})",
                contents.containerd_images.as_deref()?
            ),
            "turn the feature containerd-snapshotter on to use them (24.0 or later)",
        ),
    };
    let path = inputs.facts.data_root.path.display();
    let seen = format!(
        "{path} has images and containers of {hidden}, and this dockerd uses {used}, so it does not show them"
    );
    Some(
        Finding::warning("images-hidden", seen, STORES)
            .remedy(format!("{remedy}, or use another volume")),
    )
}

/// Returns how many copies of a Docker image are stored when one container is created from it.
/// vfs and native copy the image for the container's layer and for the layer `-init` below it,
/// which makes 3; other drivers share the image.
pub fn copies(inputs: Inputs<'_>) -> u64 {
    choose(inputs, known_stores(inputs)).map_or(1, |choice| choice.copies)
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
            on_failure: OnFailure::Fatal {
                lost: "dockerd needs its data root",
                remedy: "mount a writable volume there",
            },
            why: "dockerd's data root".into(),
        });
    }
    steps.push(Step {
        action: Action::Lock {
            path: root.path.clone(),
        },
        on_failure: OnFailure::Fatal {
            lost: "the data root is in use, and two daemons would destroy it",
            remedy: "stop the other container, or use another volume",
        },
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
        on_failure: OnFailure::Fatal {
            lost: "DIND_STORAGE=tmpfs needs a tmpfs on the data root",
            remedy: "start the container with --privileged",
        },
        why: "DIND_STORAGE=tmpfs: the data is in memory and is lost when the container stops"
            .into(),
    }
}

fn choose(inputs: Inputs<'_>, stores: ImageStores) -> Result<Choice, Fault> {
    let Inputs {
        config,
        options,
        facts,
        ..
    } = inputs;
    let named = driver(inputs);
    let store = store::store(inputs, stores, named);
    // dockerd starts with a driver that containerd's image store does not have, and then every
    // container fails (28.5: "snapshotter not loaded: overlay2").
    let lacks = |driver: &str| store == Store::Containerd && !may_be_snapshotter(driver, options);
    let variable = config.docker_driver.as_deref();
    let drops_variable = variable.is_some_and(lacks);
    let driver = variable
        .filter(|_| !drops_variable)
        .or(options.storage_driver.as_deref());
    if let Some(driver) = driver.filter(|driver| lacks(driver)) {
        return Err(Fault::usage(format!(
            "the storage driver {driver:?} is a graph driver, and the feature containerd-snapshotter makes dockerd use containerd's image store, so no container could run"
        ))
        .remedy("name the snapshotter overlayfs or native, or remove one of the two settings"));
    }
    let choice = match &facts.data_root.means {
        None => as_it_is(facts, None),
        Some(means) => {
            let place = Place {
                inputs,
                means,
                store,
                driver,
            };
            match config.storage {
                Storage::Auto => place.automatic()?,
                Storage::None => as_it_is(facts, place.unsuitable()),
                asked => place.asked(asked, named)?,
            }
        }
    };
    Ok(Choice {
        drops_variable,
        ..choice
    })
}

/// Whether a containerd may have a snapshotter of that name. None has overlay2 or vfs built in, and
/// fuse-overlayfs is a program of its own, which only a containerd of the user's can be told of.
fn may_be_snapshotter(driver: &str, options: &DockerdOptions) -> bool {
    match driver {
        "fuse-overlayfs" => options.containerd,
        driver => !store::is_graph_driver_only(driver),
    }
}

/// A data root for which there is a choice.
#[derive(Clone, Copy)]
struct Place<'a> {
    inputs: Inputs<'a>,
    means: &'a Means,
    /// The image store that dockerd uses unless its storage driver is named.
    store: Store,
    /// The storage driver that the user named, and that dockerd gets.
    driver: Option<&'a str>,
}

impl Place<'_> {
    /// The choice for a `DIND_STORAGE` that names what holds the data. `named` is the user's
    /// storage driver, whether or not dockerd gets it.
    fn asked(self, asked: Storage, named: Option<&str>) -> Result<Choice, Fault> {
        let Inputs { config, facts, .. } = self.inputs;
        let root = &facts.data_root;
        let why = format!("DIND_STORAGE={}", asked.name());
        if let Some(driver) = named.filter(|driver| !is_overlay(driver) || asked.driver().is_some())
        {
            return Err(Fault::usage(format!(
                "{why} and the storage driver {driver:?} exclude each other"
            ))
            .remedy("set only one of them"));
        }
        if let Some(driver) = asked.driver() {
            let driver = match asked {
                Storage::Vfs => self.full_copies(),
                _ if self.has_fuse_overlayfs() => driver,
                _ => {
                    return Err(Fault::usage(format!(
                        "{why} is not possible: the feature containerd-snapshotter makes dockerd use containerd's image store, which has no such snapshotter"
                    ))
                    .remedy("turn that feature off, or set DIND_STORAGE=vfs"));
                }
            };
            let instead = match driver {
                "native" => ", and that is its name in containerd's image store",
                _ => "",
            };
            return Ok(Choice {
                note: Some(format!("storage: {driver}, since {why} is set{instead}")),
                warning: volume_warning(facts),
                ..with_driver(driver)
            });
        }
        if self.means.occupied {
            return Err(Fault::failure(format!(
                "{why} would hide the data in {}",
                root.path.display()
            ))
            .remedy("empty that directory, or unset DIND_STORAGE"));
        }
        if asked == Storage::Tmpfs {
            if let Some(hidden) = self.hidden() {
                let remedy = "put it elsewhere, or unset DIND_STORAGE";
                let message = format!("{why} would hide {hidden}");
                return Err(Fault::failure(message).remedy(remedy));
            }
            return Ok(Choice {
                holder: Holder::Tmpfs(config.storage_size),
                note: Some(format!(
                    "storage: a tmpfs on {}, since {why} is set",
                    root.path.display()
                )),
                ..as_it_is(facts, None).without_warning()
            });
        }
        match self.data_file(true) {
            Ok(data_file) => Ok(with_data_file(facts, data_file, &format!("{why} is set"))),
            Err(obstacle) => {
                let path = root.path.display();
                let remedy = format!("unset DIND_STORAGE, or mount a volume on {path}");
                Err(Fault::failure(format!("{why} is not possible: {obstacle}")).remedy(remedy))
            }
        }
    }

    /// The choice for `DIND_STORAGE=auto`, the default. The fault is that no container could run,
    /// or that the data of an earlier start would be lost from sight.
    fn automatic(self) -> Result<Choice, Fault> {
        let Self {
            inputs,
            means,
            store,
            driver,
        } = self;
        let Inputs { options, facts, .. } = inputs;
        let root = &facts.data_root;
        let path = root.path.display();
        if means.made && !means.occupied {
            // dockerd's own data beside the image would keep every later start from mounting it.
            let data_file = self.data_file(true).map_err(|obstacle| {
                Fault::failure(format!(
                    "{} has the data of an earlier start and cannot be used: {obstacle}",
                    means.data_file.display()
                ))
                .remedy("start the container with --privileged, or move it away to begin anew")
            })?;
            return Ok(with_data_file(facts, data_file, "an earlier start made it"));
        }
        let Filesystem::Unsuitable(name) = root.filesystem else {
            return Ok(as_it_is(facts, None));
        };
        if driver.is_some_and(|driver| !is_overlay(driver)) {
            return Ok(as_it_is(facts, None));
        }
        let since = format!("{path} is on {name}, which overlay2 cannot use");
        let remedy = format!("give it a volume: docker run -v NAME:{path}");
        let warning = |words: String| {
            Finding::warning("data-root-filesystem", words, LINK).remedy(remedy.clone())
        };
        let dockerd_refuses = |why: &str| match (driver, store) {
            // dockerd starts, and every container fails.
            (Some(driver), Store::Containerd) => Err(Fault::failure(format!(
                "{since}, and {why}, so no container could run with the storage driver {driver}"
            ))
            .remedy(format!("{remedy}, or do not name that driver"))),
            (_, _) => Ok(()),
        };
        if means.occupied {
            dockerd_refuses("it has data")?;
            let driver = match (driver, store) {
                (Some(_), _) => None,
                (None, Store::GraphDriver) => means.vfs.then_some("vfs"),
                (None, Store::Containerd) => Some(self.full_copies()),
            };
            let words = match driver {
                Some("native") => format!("{since}, and it has data: {}", full_copy("native")),
                _ => format!(
                    "{since}, and it has data: dockerd keeps the storage driver of that data"
                ),
            };
            return Ok(Choice {
                holder: driver.map_or(Holder::DataRoot, Holder::Driver),
                ..as_it_is(facts, Some(warning(words)))
            });
        }
        let may_be_graph_driver = options.containerd_store != Some(true);
        if name == "zfs" && means.zfs && driver.is_none() && may_be_graph_driver {
            return Ok(Choice {
                note: Some(format!(
                    "storage: dockerd's zfs driver, since {path} is on zfs"
                )),
                warning: volume_warning(facts),
                ..with_driver("zfs")
            });
        }
        let obstacle = match self.data_file(driver.is_some()) {
            Ok(data_file) => return Ok(with_data_file(facts, data_file, &since)),
            Err(obstacle) => obstacle,
        };
        dockerd_refuses(&obstacle)?;
        if driver.is_some() {
            let words = format!("{since}, and {obstacle}: dockerd will refuse that driver");
            return Ok(as_it_is(facts, Some(warning(words))));
        }
        let (driver, words) = match self.has_fuse_overlayfs() && self.may_open_fuse() {
            true => (
                "fuse-overlayfs",
                "dockerd uses fuse-overlayfs, which is slower".to_owned(),
            ),
            false => (self.full_copies(), full_copy(self.full_copies())),
        };
        Ok(Choice {
            note: Some(format!("storage: {driver}, since {since}, and {obstacle}")),
            warning: Some(warning(format!("{since}, and {obstacle}: {words}"))),
            // dockerd would choose fuse-overlayfs if the program is there, even without /dev/fuse,
            // and the snapshotter overlayfs on every file system.
            ..with_driver(driver)
        })
    }

    /// The driver with which each image and each container is a full copy, on any file system.
    /// Where vfs has data, it stays vfs: dockerd then uses graph drivers, since one is named.
    fn full_copies(self) -> &'static str {
        let feature = self.inputs.options.containerd_store;
        let contents = &self.inputs.facts.data_root.contents;
        let keeps_vfs = feature.is_none() && self.means.vfs && contents.containerd_images.is_none();
        match self.store {
            Store::Containerd if !keeps_vfs => "native",
            Store::Containerd | Store::GraphDriver => "vfs",
        }
    }

    /// What a mount on the data root would hide. What comes to be there later is on that mount.
    fn hidden(self) -> Option<InUse> {
        let root = &self.inputs.facts.data_root.path;
        let is_before = |what| {
            matches!(
                what,
                What::Socket | What::Images | What::Hooks | What::Configuration
            )
        };
        in_use::hidden_by(root, self.inputs, is_before)
    }

    /// Whether dockerd can use fuse-overlayfs, as a graph driver or as a snapshotter.
    fn has_fuse_overlayfs(self) -> bool {
        let options = self.inputs.options;
        let is_free = self.store == Store::GraphDriver || options.containerd_store.is_none();
        is_free || may_be_snapshotter("fuse-overlayfs", options)
    }

    /// Whether fuse-overlayfs is there, and its device for the user who runs it.
    fn may_open_fuse(self) -> bool {
        let is_open = match self.inputs.rootless() {
            None => true,
            Some((found, _)) => found.fuse.is_for(self.inputs.surroundings.user),
        };
        self.means.fuse_overlayfs && is_open
    }

    /// The ext4 image, or the reason why there can be none.
    fn data_file(self, required: bool) -> Result<DataFile, String> {
        let Inputs {
            config,
            options,
            facts,
            ..
        } = self.inputs;
        let means = self.means;
        // It is mounted after the steps, of which one writes containerd's configuration there.
        let root = &facts.data_root.path;
        let exec_root = in_use::hidden_by(root, self.inputs, |what| what == What::ExecRoot);
        if let Some(hidden) = self.hidden().or(exec_root) {
            return Err(format!("it would hide {hidden}"));
        }
        if self.inputs.rootless().is_some() {
            return Err("a user namespace has no loop devices".to_owned());
        }
        if !means.loop_devices {
            return Err(format!("{LOOP_CONTROL} cannot be opened"));
        }
        let room = means.free.saturating_add(means.taken);
        let unit = if means.grows { GROWING_UNIT } else { MIB };
        let most = config.storage_size.unwrap_or(room / 10 * TENTHS) / unit * unit;
        let new = if means.made {
            None
        } else {
            let mkfs = means.mkfs.clone().ok_or("there is no mkfs.ext4 in PATH")?;
            if most < LEAST_DATA_FILE {
                return Err(format!(
                    "only {} MiB are left for an ext4 image",
                    most / MIB
                ));
            }
            Some(NewDataFile {
                size: if means.grows { FIRST_SIZE } else { most },
                grows_to: means.grows.then_some(most),
                mkfs,
            })
        };
        // Graph drivers serve every dockerd unless the feature is on.
        let otherwise = match (options.containerd_store, means.fuse_overlayfs) {
            (Some(true), _) => self.full_copies(),
            (_, true) => "fuse-overlayfs",
            (_, false) => "vfs",
        };
        Ok(DataFile {
            path: means.data_file.clone(),
            target: facts.data_root.path.clone(),
            new,
            growth: means.grows.then_some(Growth { most }),
            required,
            otherwise: (!required).then(|| driver_flag(otherwise)),
        })
    }

    /// The warning for `DIND_STORAGE=none`: what follows from the file system of the data root.
    fn unsuitable(self) -> Option<Finding> {
        let root = &self.inputs.facts.data_root;
        let Filesystem::Unsuitable(name) = root.filesystem else {
            return None;
        };
        let follows = match (self.store, self.driver) {
            (Store::GraphDriver, _) => "so dockerd uses a slower storage driver",
            (Store::Containerd, driver) if driver.is_none_or(is_overlay) => {
                "and containerd's image store takes overlayfs all the same: NO CONTAINER CAN RUN"
            }
            (Store::Containerd, _) => return None,
        };
        let path = root.path.display();
        let seen = format!("{path} is on {name}, which overlay2 cannot use, {follows}");
        let finding = Finding::warning("data-root-filesystem", seen, LINK);
        Some(finding.remedy(format!("give it a volume: docker run -v NAME:{path}")))
    }
}

/// What follows from a driver that copies.
fn full_copy(driver: &str) -> String {
    format!(
        "WITH {} EVERY IMAGE AND EVERY CONTAINER IS A FULL COPY, slow and large",
        driver.to_uppercase()
    )
}

/// The storage driver that the user has named for dockerd: `DOCKER_DRIVER` wins over the flag
/// and daemon.json (`NewDaemon` in moby's daemon/daemon.go).
fn driver<'a>(inputs: Inputs<'a>) -> Option<&'a str> {
    let variable = inputs.config.docker_driver.as_deref();
    variable.or(inputs.options.storage_driver.as_deref())
}

/// Whether a driver is overlay2 or, with containerd's image store, its snapshotter overlayfs.
fn is_overlay(driver: &str) -> bool {
    matches!(driver, "overlay2" | "overlayfs")
}

impl Choice {
    fn without_warning(self) -> Self {
        Self {
            warning: None,
            ..self
        }
    }
}

fn as_it_is(facts: &Facts, warning: Option<Finding>) -> Choice {
    Choice {
        holder: Holder::DataRoot,
        note: None,
        copies: if warning.is_some() { 3 } else { 1 },
        warning: warning.or_else(|| volume_warning(facts)),
        drops_variable: false,
    }
}

fn with_driver(driver: &'static str) -> Choice {
    Choice {
        holder: Holder::Driver(driver),
        note: None,
        warning: None,
        copies: if FULL_COPY.contains(&driver) { 3 } else { 1 },
        drops_variable: false,
    }
}

fn with_data_file(facts: &Facts, data_file: DataFile, since: &str) -> Choice {
    let shown = data_file.path.display();
    let what = match &data_file.new {
        Some(NewDataFile {
            size,
            grows_to: Some(most),
            ..
        }) => format!(
            "an ext4 image of {} MiB at {shown}, which grows to {} MiB",
            size / MIB,
            most / MIB
        ),
        Some(new) => format!("an ext4 image of {} MiB at {shown}", new.size / MIB),
        None => format!("the ext4 image at {shown}"),
    };
    Choice {
        note: Some(format!("storage: {what}, since {since}")),
        holder: Holder::DataFile(data_file),
        ..as_it_is(facts, None)
    }
}

fn volume_warning(facts: &Facts) -> Option<Finding> {
    let path = facts.data_root.path.display();
    let seen = format!("{path} is not a mount point, so its data is lost with this container");
    let remedy = format!("give it a volume: docker run -v NAME:{path}");
    (!is_on_volume(&facts.data_root.path, &facts.container.mounts))
        .then(|| Finding::warning("data-root-volume", seen, LINK).remedy(remedy))
}

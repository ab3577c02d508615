//! Which of its two image stores dockerd will use: that of graph drivers, or containerd's. Each
//! has storage drivers of its own: the first graph drivers such as overlay2, the second
//! snapshotters such as overlayfs.

use super::inputs::Inputs;
use crate::facts::engine::ImageStores;

/// An image store of dockerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// The older one, where a graph driver holds images and containers.
    GraphDriver,
    /// containerd's, where a snapshotter holds images and containers, and compressed layers are
    /// kept beside.
    Containerd,
}

/// Returns the store that a dockerd with these `stores` will use if `driver` is its storage
/// driver (`determineImageStoreChoice` in moby's daemon/image_store_choice.go; `UsesSnapshotter` in
/// daemon/daemon.go before 29.0).
pub fn store(inputs: Inputs<'_>, stores: ImageStores, driver: Option<&str>) -> Store {
    let contents = &inputs.facts.data_root.contents;
    match (stores, inputs.options.containerd_store) {
        (ImageStores::GraphDrivers, _)
        | (_, Some(false))
        | (ImageStores::ContainerdOnRequest, None) => Store::GraphDriver,
        (_, Some(true)) => Store::Containerd,
        (ImageStores::ContainerdByDefault, None) => {
            match contents.graph_driver || driver.is_some_and(is_graph_driver) {
                true => Store::GraphDriver,
                false => Store::Containerd,
            }
        }
    }
}

/// The graph drivers of dockerd 29: daemon/graphdriver/register in moby. btrfs and zfs are also
/// names of snapshotters.
fn is_graph_driver(driver: &str) -> bool {
    is_graph_driver_only(driver) || matches!(driver, "fuse-overlayfs" | "btrfs" | "zfs")
}

/// Whether no snapshotter has this driver's name.
pub fn is_graph_driver_only(driver: &str) -> bool {
    matches!(driver, "overlay2" | "vfs")
}

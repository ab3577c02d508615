//! Where a save has its data root, and what it is refused for.

use super::*;
use crate::facts::store::{Found, StoreFacts};
use crate::input::store::Save;
use crate::plan::engine::{Pack, Saving};
use crate::plan::saving;
use crate::store::disk::Form;
use crate::store::manifest::Ids;

const MKFS: &str = "/usr/bin/mkfs.erofs";

fn save(path: &str) -> Save {
    Save {
        path: path.into(),
        from_nothing: false,
        build_cache: true,
        arguments: vec!["true".into()],
    }
}

/// The plan of a save to `path` with these flags of dockerd's.
fn planned(path: &str, found: Found, mkfs: Option<&str>, flags: &[&str]) -> Result<Saving, Fault> {
    planned_by(&DAEMON, path, found, mkfs, flags)
}

fn planned_by(
    start: &Start<'_>,
    path: &str,
    found: Found,
    mkfs: Option<&str>,
    flags: &[&str],
) -> Result<Saving, Fault> {
    planned_at(start, path, Path::to_owned, found, mkfs, flags)
}

/// `real` gives the path of the data root with links resolved.
fn planned_at(
    start: &Start<'_>,
    path: &str,
    real: impl Fn(&Path) -> PathBuf,
    found: Found,
    mkfs: Option<&str>,
    flags: &[&str],
) -> Result<Saving, Fault> {
    let save = save(path);
    let form = Form::of(&save.path);
    let flags: Vec<OsString> = flags.iter().map(Into::into).collect();
    let arguments = DockerdArguments::new(&[], &flags);
    let options = arguments.options(None)?;
    let arguments = saving::arguments(&save, form, &arguments, &options)?;
    let options = arguments.options(None)?;
    let (config, request) = start.read()?;
    let surroundings = start.surroundings(&config, &request, true, SocketState::Free);
    let facts = Facts {
        store: Some(StoreFacts {
            path: path.into(),
            real: path.into(),
            form,
            found,
            mkfs: mkfs.map(Into::into),
        }),
        data_root: DataRoot {
            path: real(&options.data_root),
            ..bare_v1().data_root
        },
        ..bare_v1()
    };
    let inputs = Inputs {
        save: Some(&save),
        contract: request.contract,
        config: &config,
        surroundings: &surroundings,
        options: &options,
        facts: &facts,
    };
    let listeners = [Listener::Unix {
        path: "/var/run/docker.sock".into(),
        group: None,
    }];
    saving::plan(&save, inputs, &listeners, Path::new("/usr/bin/dockerd"))
}

#[test]
fn a_directory_has_the_data_root_and_a_file_has_it_in_the_engines() -> Result<(), Fault> {
    let directory = planned("/stores/main", Found::Nothing, None, &[])?;
    assert_eq!(directory.target(), Path::new("/stores/main"));
    assert_eq!(directory.data_root, Path::new("/stores/main/saving"));
    assert_eq!(directory.pack, None);
    let file = planned("/out/main.erofs", Found::Nothing, Some(MKFS), &[])?;
    assert_eq!(file.target(), Path::new("/out/main.erofs"));
    assert_eq!(file.store, Path::new("/var/lib/docker/dind-saving"));
    assert_eq!(file.data_root, file.store.join("saving"));
    let path = "/out/main.erofs".into();
    let mkfs = MKFS.into();
    assert_eq!(file.pack, Some(Pack { path, mkfs }));
    Ok(())
}

/// What is saved has the ids of the engine that has made it.
#[test]
fn in_a_user_namespace_a_directory_is_saved_and_no_file() -> Result<(), Fault> {
    let start = Start {
        rootless: true,
        ..DAEMON
    };
    let saving = planned_by(&start, "/stores/main", Found::Nothing, None, &[])?;
    let map = || "0 1000 1, 1 100000 65536".to_owned();
    let (users, groups) = (map(), map());
    assert_eq!(saving.ids, Ids::Mapped { users, groups });
    let said = planned_by(&start, "/out/main.erofs", Found::Nothing, Some(MKFS), &[]);
    let said = said.map_err(|fault| fault.to_string());
    assert_eq!(said.map(|saving| saving.store), Err("nothing can be saved to /out/main.erofs: one file is mounted by a loop device, and the engine is in a user namespace, which has none; save it to a directory".into()));
    assert_eq!(
        planned("/stores/main", Found::Nothing, None, &[])?.ids,
        Ids::Own
    );
    Ok(())
}

#[test]
fn what_a_save_is_refused_for_is_named() {
    let damage = || Found::Damage("it is not a store".into());
    for (path, found, mkfs, flags, expected) in [
        (
            "/out/main.erofs",
            Found::Nothing,
            None,
            &[][..],
            "nothing can be saved to /out/main.erofs: there is no mkfs.erofs in PATH; install erofs-utils, or save to a directory",
        ),
        (
            "/out/main.erofs",
            damage(),
            Some(MKFS),
            &[],
            "nothing can be saved to /out/main.erofs: it is not a store; name another file, or remove this one",
        ),
        (
            "/stores/main",
            damage(),
            None,
            &[],
            "nothing can be saved to /stores/main: it is not a store; name another directory",
        ),
        (
            "/stores/main",
            Found::Nothing,
            None,
            &["--data-root=/data"],
            "store save has a data root of its own, and dockerd is given /data; remove data-root from its flags and from daemon.json",
        ),
    ] {
        let said = planned(path, found, mkfs, flags).map_err(|fault| fault.to_string());
        assert_eq!(said.map(|saving| saving.store), Err(expected.to_owned()));
    }
}

/// Whoever may write to a store may make it one at any time, and all that root does to the data root
/// would be done there.
#[test]
fn a_data_root_that_is_a_link_is_refused() {
    let elsewhere = |_: &Path| PathBuf::from("/usr/local/sbin");
    let said = planned_at(
        &DAEMON,
        "/stores/main",
        elsewhere,
        Found::Nothing,
        None,
        &[],
    );
    let said = said.map_err(|fault| fault.to_string());
    assert_eq!(said.map(|saving| saving.store), Err("nothing can be saved to /stores/main: /stores/main/saving is a symbolic link; remove it, or name another directory".into()));
}

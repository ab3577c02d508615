//! The manifest of a generation: what it was made by, and which layers it needs.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

/// The version of the format, in every manifest.
const FORMAT: u64 = 1;

/// How the engine that made a generation keeps images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// The graph driver overlay2: `overlay2` and `image/overlay2`.
    Overlay2,
    /// containerd's image store with its snapshotter overlayfs.
    Containerd,
}

impl Layout {
    /// Its name in a manifest and in messages: that of `docker info`, "Storage Driver".
    pub fn name(self) -> &'static str {
        match self {
            Self::Overlay2 => "overlay2",
            Self::Containerd => "overlayfs",
        }
    }

    fn of(name: &str) -> Option<Self> {
        [Self::Overlay2, Self::Containerd]
            .into_iter()
            .find(|layout| layout.name() == name)
    }
}

/// A version of dockerd, to be compared with another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    numbers: [u32; 3],
}

impl Version {
    /// Reads `28.5.2`, `26.1.5+dfsg1` and `29.0.0-rc.1`; a release and its candidates are equal.
    /// `None` where it does not begin with two numbers.
    pub fn of(text: &str) -> Option<Self> {
        let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
        let mut parts = text.get(..end.unwrap_or(text.len()))?.split('.');
        let mut next = || parts.next()?.parse::<u32>().ok();
        let (major, minor) = (next()?, next()?);
        Some(Self {
            numbers: [major, minor, next().unwrap_or(0)],
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(formatter, "{major}.{minor}.{patch}")
    }
}

/// The ids of an engine's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ids {
    /// Those of its container.
    Own,
    /// Those of a user namespace: the lines of its two maps, with commas between them. See
    /// user_namespaces(7).
    Mapped {
        /// `uid_map`.
        users: String,
        /// `gid_map`.
        groups: String,
    },
}

impl std::fmt::Display for Ids {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Own => write!(formatter, "an engine with privileges"),
            Self::Mapped { users, groups } => write!(
                formatter,
                "an engine in a user namespace (uid_map {users}; gid_map {groups})"
            ),
        }
    }
}

/// What a generation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The store's own name, made at random with its first generation.
    pub store: String,
    /// Its number in that store, from 1 on.
    pub generation: u64,
    /// When it was published: seconds since 1970.
    pub created: u64,
    /// The engine that made it.
    pub engine: Version,
    /// How that engine keeps images.
    pub layout: Layout,
    /// The build of its dockerd: see [`super::build::of`].
    pub build: String,
    /// The architecture, by Rust's name for it: `x86_64`.
    pub machine: String,
    /// The ids of that engine. Files have others outside, and overlayfs has its marks in attributes of
    /// another name: no engine with other ids can use them.
    pub ids: Ids,
    /// How many images it has.
    pub images: u64,
    /// How many steps of builds it has.
    pub steps: u64,
    /// Its layers by their names in the store's directory for them, with their sizes in bytes.
    pub layers: BTreeMap<String, u64>,
}

impl Manifest {
    /// Reads the text of a `manifest.json`. The error says what is missing or wrong in it.
    pub fn parse(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("it is not JSON")?;
        let object = value.as_object().context("it is not a JSON object")?;
        let format = number(object, "format")?;
        ensure!(
            format == FORMAT,
            "its format is {format} and not {FORMAT}, so another version of dind has made it"
        );
        let layers = object.get("layers").and_then(Value::as_object);
        let layers = layers
            .context("it has no layers")?
            .iter()
            .map(|(layer, bytes)| {
                ensure!(is_layer(layer), "a layer has the name {layer:?}");
                let bytes = bytes
                    .as_u64()
                    .with_context(|| format!("layer {layer} has no size"))?;
                Ok((layer.clone(), bytes))
            });
        let manifest = Self {
            store: string(object, "store")?.to_owned(),
            generation: number(object, "generation")?,
            created: number(object, "created")?,
            engine: Version::of(string(object, "engine")?).context("its engine has no version")?,
            layout: Layout::of(string(object, "driver")?).context("its driver is not known")?,
            build: string(object, "build")?.to_owned(),
            machine: string(object, "machine")?.to_owned(),
            ids: match object.contains_key("uid_map") {
                false => Ids::Own,
                true => Ids::Mapped {
                    users: string(object, "uid_map")?.to_owned(),
                    groups: string(object, "gid_map")?.to_owned(),
                },
            },
            images: number(object, "images")?,
            steps: number(object, "steps")?,
            layers: layers.collect::<Result<_>>()?,
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric();
        let named = !manifest.store.is_empty() && manifest.store.bytes().all(is_name);
        ensure!(named, "its store has no name");
        Ok(manifest)
    }

    /// The text of its `manifest.json`, which [`Self::parse`] reads.
    pub fn print(&self) -> String {
        let mut value = json!({
            "format": FORMAT,
            "store": self.store,
            "generation": self.generation,
            "created": self.created,
            "engine": self.engine.to_string(),
            "driver": self.layout.name(),
            "build": self.build,
            "machine": self.machine,
            "images": self.images,
            "steps": self.steps,
            "layers": self.layers,
        });
        if let (Ids::Mapped { users, groups }, Some(object)) = (&self.ids, value.as_object_mut()) {
            object.insert("uid_map".to_owned(), json!(users));
            object.insert("gid_map".to_owned(), json!(groups));
        }
        format!("{}\n", pretty(&value))
    }

    /// The size of its layers in bytes.
    pub fn bytes(&self) -> u64 {
        self.layers
            .values()
            .fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// JSON with a line for each member, which people read, too.
pub fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// A size in bytes for people, as docker prints it.
pub fn shown(bytes: u64) -> String {
    const MB: f64 = 1e6;
    let megabytes = bytes as f64 / MB;
    match megabytes >= 1000.0 {
        true => format!("{:.1} GB", megabytes / 1000.0),
        false => format!("{megabytes:.1} MB"),
    }
}

/// Whether it is the name of a layer: the generation that brought it, a hyphen, and its number in
/// that generation. Nothing else can be one, so that a name leads out of no directory.
pub fn is_layer(name: &str) -> bool {
    let is_number = |part: &str| {
        (1..=19).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    name.split_once('-')
        .is_some_and(|(generation, number)| is_number(generation) && is_number(number))
}

fn number(object: &Map<String, Value>, name: &str) -> Result<u64> {
    let number = object.get(name).and_then(Value::as_u64);
    number.with_context(|| format!("its {name} is not a number"))
}

fn string<'a>(object: &'a Map<String, Value>, name: &str) -> Result<&'a str> {
    let string = object.get(name).and_then(Value::as_str);
    string.with_context(|| format!("its {name} is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn manifests() -> impl Strategy<Value = Manifest> {
        let names = proptest::collection::btree_map("[0-9]{1,3}-[0-9]{1,3}", any::<u64>(), 0..20);
        let layouts = prop_oneof![Just(Layout::Overlay2), Just(Layout::Containerd)];
        let ids = prop_oneof![
            Just(Ids::Own),
            ("[0-9 ,]{0,9}", "[0-9 ,]{0,9}")
                .prop_map(|(users, groups)| Ids::Mapped { users, groups }),
        ];
        let counts = (any::<[u64; 4]>(), ids);
        ("[a-z0-9]{1,32}", counts, any::<[u32; 3]>(), layouts, names).prop_map(
            |(store, counts, numbers, layout, layers)| {
                let ([generation, created, images, steps], ids) = counts;
                Manifest {
                    store,
                    generation,
                    created,
                    engine: Version { numbers },
                    layout,
                    build: "ab".to_owned(),
                    machine: "x86_64".to_owned(),
                    ids,
                    images,
                    steps,
                    layers,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(manifest in manifests()) {
            prop_assert_eq!(Manifest::parse(&manifest.print()).ok(), Some(manifest));
        }
    }

    #[test]
    fn no_layer_leads_out_of_the_store() {
        for name in ["1-1", "12-345"] {
            assert!(is_layer(name), "{name}");
        }
        for name in [
            "", "1", "1-", "-1", "../1-1", "1-1/..", "..", "1-1-1", "1-a", "1-1\n",
        ] {
            assert!(!is_layer(name), "{name}");
        }
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let version = |text| Version::of(text).map(|version| version.numbers);
        assert_eq!(version("26.1.5+dfsg1"), Some([26, 1, 5]));
        assert_eq!(version("29.0.0-rc.1"), Some([29, 0, 0]));
        assert_eq!(version("20.10"), Some([20, 10, 0]));
        assert_eq!(version("dev"), None);
        assert!(Version::of("9.0.0") < Version::of("10.0.0"));
    }

    #[test]
    fn what_is_wrong_in_a_manifest_is_named() {
        let good = json!({
            "format": 1, "store": "a1", "generation": 1, "created": 0, "engine": "26.1.5",
            "driver": "overlay2", "build": "ab", "machine": "x86_64", "images": 0, "steps": 0,
            "layers": {},
        });
        assert!(Manifest::parse(&good.to_string()).is_ok());
        for (name, value, expected) in [
            ("format", json!(2), "another version of dind"),
            ("store", json!("../x"), "no name"),
            ("layers", json!({"../x": 1}), "a layer has the name"),
            ("layers", json!({"1-1": -1}), "has no size"),
            ("layers", json!(null), "no layers"),
            ("driver", json!("vfs"), "driver is not known"),
            ("engine", json!("dev"), "no version"),
            ("generation", json!(-1), "its generation is not a number"),
            ("uid_map", json!("0 1000 1"), "its gid_map is not text"),
        ] {
            let mut bad = good.clone();
            bad[name] = value;
            let parsed = Manifest::parse(&bad.to_string());
            let error = parsed.map_or_else(|error| error.to_string(), |_| String::new());
            assert!(error.contains(expected), "{name}: {error}");
        }
        assert!(Manifest::parse("[]").is_err());
        assert!(Manifest::parse("{").is_err());
    }
}

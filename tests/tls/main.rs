//! The TLS files, made and judged by `dind` and held against what OpenSSL says: it makes
//! the keys and certificates of users here, and judges those of this program.

#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests: they start programs, and a failure is to end them"
)]

mod kept;
mod links;
mod made;
mod together;
mod users;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use dind::input::san::Name;
use dind::messages::fault::Fault;
use dind::tls::{self, Summary};

/// Every file that this program makes.
const ALL: [&str; 8] = [
    "ca/key.pem",
    "ca/cert.pem",
    "server/key.pem",
    "server/cert.pem",
    "server/ca.pem",
    "client/key.pem",
    "client/cert.pem",
    "client/ca.pem",
];

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Set in a process that a test has started from its own program.
const INSIDE: &str = "DIND_TEST_INSIDE";

/// A directory for certificates that goes with this value.
struct Certificates(PathBuf);

impl Certificates {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("certificates-{}-{number}", std::process::id());
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        // A test that fails leaves it there, and numbers of processes come again.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// With everything made for `names`.
    fn made(names: &str) -> Self {
        let certificates = Self::new();
        certificates.prepare(names).unwrap();
        certificates
    }

    fn prepare(&self, names: &str) -> Result<Summary, String> {
        self.prepare_in(names, Duration::ZERO)
    }

    /// As if so much later.
    fn prepare_in(&self, names: &str, later: Duration) -> Result<Summary, String> {
        tls::prepare(&self.0, &list(names), SystemTime::now() + later)
            .map_err(|error| Fault::from(error).to_string())
    }

    /// The error of a start that must fail.
    fn refused(&self) -> String {
        match self.prepare("DNS:docker") {
            Ok(summary) => panic!("{summary}: {:?}", summary.warnings),
            Err(error) => error,
        }
    }

    /// Runs a script in the directory; its output.
    fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(output.status.success(), "{script}\n{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn try_sh(&self, script: &str) -> Output {
        let script = format!(
            "command -v openssl >/dev/null || {{ echo 'these tests need openssl: install it' >&2; exit 1; }}
            exec 2>&1
            {FUNCTIONS}
            {script}"
        );
        Command::new("sh")
            .args(["-euc", &script])
            .current_dir(&self.0)
            .output()
            .expect("a shell is needed")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
    }

    /// Every file below the directory with its content.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let found = self.sh("find . ! -type d ! -xtype d | sed 's,^./,,'");
        let read = |name: &str| (name.to_owned(), self.read(name));
        found.lines().map(read).collect()
    }

    /// The subject alternative names of the server's certificate, as OpenSSL prints them.
    fn names(&self) -> BTreeSet<String> {
        let text = self.sh("openssl x509 -in server/cert.pem -noout -ext subjectAltName | sed 1d");
        let split = text.split(',').map(|name| name.trim().to_owned());
        split.collect()
    }

    fn serial(&self, directory: &str) -> String {
        self.sh(&format!(
            "openssl x509 -in {directory}/cert.pem -noout -serial"
        ))
    }

    /// Holds everything against OpenSSL: chains, purposes, keys.
    fn verify(&self) {
        self.verify_with("-x509_strict");
    }

    fn verify_with(&self, option: &str) {
        for (directory, purpose) in [("server", "sslserver"), ("client", "sslclient")] {
            self.sh(&format!(
                "openssl verify {option} -CAfile {directory}/ca.pem -purpose {purpose} {directory}/cert.pem
                openssl verify {option} -CAfile ca/cert.pem -purpose {purpose} {directory}/cert.pem
                cmp ca/cert.pem {directory}/ca.pem
                belongs {directory}"
            ));
        }
        self.sh("belongs ca");
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// What scripts may call.
const FUNCTIONS: &str = r#"
# belongs DIRECTORY: the certificate there is for the key there.
belongs() {
    openssl x509 -in "$1/cert.pem" -noout -pubkey >public.a
    openssl pkey -in "$1/key.pem" -pubout >public.b
    cmp public.a public.b
    rm public.a public.b
}
# ec FILE [CURVE]
ec() { openssl genpkey -algorithm EC -pkeyopt "ec_paramgen_curve:${2-P-256}" -out "$1"; }
# authority NAME SUBJECT [OPTION...]: NAME.key and NAME.pem
authority() {
    name=$1 subject=$2
    shift 2
    [ -e "$name.key" ] || ec "$name.key"
    openssl req -x509 -new -key "$name.key" -out "$name.pem" -days 1000 -subj "$subject" "$@"
}
# odd EXTENSIONS: ca.key and ca.pem, a version 3 authority with these and no others
odd() {
    printf '[req]\ndistinguished_name=d\nprompt=no\nx509_extensions=x\n[d]\nCN=odd\n[x]\n' >config
    printf "$1" >>config
    ec ca.key
    openssl req -x509 -new -key ca.key -out ca.pem -days 1000 -config config
    rm config
}
# intermediate DAYS [EXTENSION]: mid.key and mid.pem, signed by ca
intermediate() {
    ec mid.key
    openssl req -new -key mid.key -subj /CN=mid -out request
    printf '%s\n' basicConstraints=critical,CA:TRUE "${2-}" >extensions
    openssl x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -days "$1" \
        -out mid.pem -extfile extensions
}
# leaf AUTHORITY KEY CERTIFICATE [OPTION...], with the extensions of $extensions
extensions='extendedKeyUsage=serverAuth'
leaf() {
    issuer=$1 key=$2 certificate=$3
    shift 3
    openssl req -new -key "$key" -subj /CN=leaf -out request
    echo "$extensions" >extensions
    openssl x509 -req -in request -CA "$issuer.pem" -CAkey "$issuer.key" -CAcreateserial \
        -days 500 -out "$certificate" -extfile extensions "$@"
}
"#;

/// Extensions of authorities whose certificates no client of Docker's takes.
const MAY_NOT_SIGN: [&str; 4] = [
    r"subjectKeyIdentifier=hash\n",
    r"basicConstraints=critical,CA:FALSE\n",
    r"basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature\n",
    r"keyUsage=critical,keyCertSign\n",
];

fn list(names: &str) -> BTreeSet<Name> {
    Name::parse_list(names).unwrap().into_iter().collect()
}

/// Runs `body` in a process of its own with the arguments of `through` in front of the
/// program. `test` is the path of the test, by which the harness finds it again.
fn inside(test: &str, through: &[&str], body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = again(test, through, "yes").output().unwrap();
    let text = format!("{output:?}");
    assert!(output.status.success(), "{text}");
    // A name that matches no test would succeed too.
    assert!(text.contains("1 passed"), "{test} did not run:\n{text}");
}

/// This program once more, to run one test with [`INSIDE`] set to `value`.
fn again(test: &str, through: &[&str], value: &str) -> Command {
    let program = std::env::current_exe().unwrap();
    let mut command = match through {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, value);
    command
}

//! What is kept, and for how long.

use super::*;

const NAMES: &str = "DNS:docker,IP:10.0.0.1";

#[test]
fn nothing_is_made_again_without_a_reason() {
    let certificates = Certificates::made(NAMES);
    let before = certificates.files();
    for names in [NAMES, "DNS:docker", ""] {
        let names = if names.is_empty() {
            BTreeSet::new()
        } else {
            list(names)
        };
        let summary = tls::prepare(&certificates.0, &names, SystemTime::now()).unwrap();
        assert!(summary.to_string().ends_with(": kept"), "{summary}");
    }
    assert_eq!(certificates.files(), before);
    // A key that was put there by hand is shared with the clients all the same.
    certificates.sh("chmod 600 client/key.pem");
    let summary = certificates.prepare(NAMES).unwrap();
    assert!(summary.to_string().ends_with(": kept"), "{summary}");
    assert_eq!(certificates.mode("client/key.pem"), 0o644);
}

#[test]
fn all_are_renewed_when_less_than_30_days_are_left() {
    let certificates = Certificates::made(NAMES);
    let before = certificates.files();
    certificates
        .prepare_in(NAMES, 825 * DAY - 31 * DAY)
        .unwrap();
    assert_eq!(certificates.files(), before);
    certificates
        .prepare_in(NAMES, 825 * DAY - 30 * DAY)
        .unwrap();
    for (file, content) in &before {
        let is_key = file.ends_with("key.pem");
        assert_eq!(certificates.read(file) == *content, is_key, "{file}");
    }
    // And when this machine's clock was wrong, too.
    certificates.prepare(NAMES).unwrap();
    certificates.verify();
}

#[test]
fn names_that_are_missing_are_added() {
    let certificates = Certificates::made("DNS:docker,IP:10.0.0.1");
    let (server, client) = (certificates.serial("server"), certificates.serial("client"));
    let ca = certificates.read("ca/cert.pem");
    certificates.prepare("DNS:docker,IP:10.0.0.2").unwrap();
    certificates.verify();
    let names = ["DNS:docker", "IP Address:10.0.0.1", "IP Address:10.0.0.2"];
    assert_eq!(certificates.names(), names.map(str::to_owned).into());
    assert_ne!(certificates.serial("server"), server);
    assert_eq!(certificates.serial("client"), client);
    assert_eq!(certificates.read("ca/cert.pem"), ca);
    // Whoever had the first address finds it in there.
    let server = certificates.serial("server");
    certificates.prepare("IP:10.0.0.1").unwrap();
    assert_eq!(certificates.serial("server"), server);

    // Not for ever.
    let many: Vec<String> = (0..64).map(|n| format!("DNS:n{n}")).collect();
    certificates.prepare(&many.join(",")).unwrap();
    assert_eq!(certificates.names(), many.into_iter().collect());
}

/// A volume of docker:dind, as its script leaves it. Its keys and authority go on.
#[test]
fn what_docker_librarys_script_has_made_goes_on() {
    let certificates = Certificates::new();
    certificates.sh(
        "mkdir ca server client
        for side in ca server client; do openssl genrsa -out $side/key.pem 4096; done
        chmod 644 client/key.pem
        openssl req -new -key ca/key.pem -out ca/cert.pem -subj '/CN=docker:dind CA' -x509 \
            -days 825 -addext keyUsage=critical,digitalSignature,keyCertSign
        sign() {
            openssl req -new -key $1/key.pem -out $1/csr.pem -subj \"/CN=docker:dind $1\"
            openssl x509 -req -in $1/csr.pem -CA ca/cert.pem -CAkey ca/key.pem \
                -CAcreateserial -out $1/cert.pem -days 825 -extfile $1/openssl.cnf \
                -extensions x509_exts
            cp ca/cert.pem $1/ca.pem
        }
        printf '[ x509_exts ]\nextendedKeyUsage = serverAuth\nsubjectAltName = DNS:docker,IP:10.0.0.1\n' >server/openssl.cnf
        printf '[ x509_exts ]\nextendedKeyUsage = clientAuth\n' >client/openssl.cnf
        sign server; sign client",
    );
    let before = certificates.files();
    assert!(before.contains_key("ca/cert.srl"), "{:?}", before.keys());
    certificates.prepare("DNS:docker,IP:10.0.0.1").unwrap();
    assert_eq!(certificates.files(), before);

    certificates.prepare("DNS:docker,IP:10.0.0.2").unwrap();
    certificates.verify();
    for (file, content) in before {
        let is_kept = file != "server/cert.pem";
        assert_eq!(certificates.read(&file) == content, is_kept, "{file}");
    }
}

#[test]
fn a_directory_that_is_read_only_does_while_its_certificates_do() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "needs root for a mount namespace; run it as root"
    );
    let test = "kept::a_directory_that_is_read_only_does_while_its_certificates_do";
    inside(
        test,
        &["unshare", "--mount", "--propagation", "private", "--"],
        || {
            let certificates = Certificates::made("DNS:docker,IP:10.0.0.1");
            let read_only = "mount --bind . .; mount -o remount,bind,ro .";
            certificates.sh(read_only);
            let before = certificates.files();
            let kept = |names, later: Duration| {
                let summary = certificates.prepare_in(names, later).unwrap();
                assert!(summary.to_string().ends_with(": kept"), "{summary}");
                summary.warnings.join("\n")
            };
            assert_eq!(kept("DNS:docker", Duration::ZERO), "");
            let warning = kept("DNS:docker,IP:10.0.0.2", Duration::ZERO);
            assert!(
                warning.contains("is not valid for IP:10.0.0.2"),
                "{warning}"
            );
            assert!(warning.contains("Read-only file system"), "{warning}");
            let warning = kept("DNS:docker", 800 * DAY);
            assert!(
                warning.contains("server/cert.pem expires in 24 days"),
                "{warning}"
            );
            let error = certificates
                .prepare_in("DNS:docker", 826 * DAY)
                .unwrap_err();
            assert!(
                error.contains("ca/cert.pem") && error.contains("Read-only"),
                "{error}"
            );
            assert_eq!(certificates.files(), before);

            let nothing = Certificates::new();
            nothing.sh(read_only);
            let error = nothing.refused();
            assert!(
                error.contains("/ca: ") && error.contains("mount it writable"),
                "{error}"
            );
            // The user's own, as Kubernetes mounts them.
            let users = Certificates::made("DNS:docker");
            users.sh(&format!("rm -r ca client; {AS_A_SECRET}; {read_only}"));
            let before = users.files();
            let summary = users.prepare("DNS:another").unwrap();
            assert!(
                summary.to_string().ends_with(": your own, verified"),
                "{summary}"
            );
            assert_eq!(summary.warnings, Vec::<String>::new());
            assert_eq!(users.files(), before);

            for certificates in [&certificates, &nothing, &users] {
                certificates.sh("cd /; umount -l \"$OLDPWD\"");
            }
        },
    );
}

/// As Kubernetes mounts secrets: links to links.
const AS_A_SECRET: &str = "for side in *; do
        mkdir $side/..1; mv $side/*.pem $side/..1; ln -s ..1 $side/..data
        for file in $side/..1/*; do ln -s ..data/${file##*/} $side/${file##*/}; done
    done";

#[test]
fn links_are_read() {
    let certificates = Certificates::made(NAMES);
    certificates.sh(AS_A_SECRET);
    let before = certificates.files();
    certificates.prepare(NAMES).unwrap();
    assert_eq!(certificates.files(), before);
}

#[test]
fn an_authority_without_its_key_signs_nothing() {
    let certificates = Certificates::made(NAMES);
    for (missing, remove) in [
        ("server/cert.pem", "rm ca/key.pem server/cert.pem"),
        ("server/ca.pem", ": >server/ca.pem"),
        ("server/ca.pem", "rm -r server client"),
    ] {
        certificates.sh(remove);
        let before = certificates.files();
        let error = certificates.refused();
        assert!(error.contains(missing), "{error}");
        assert!(error.contains("ca/cert.pem has no ca/key.pem"), "{error}");
        assert_eq!(certificates.files(), before);
    }
}

/// What is printed for debugging included.
#[test]
fn keys_reach_no_log() {
    let certificates = Certificates::made(NAMES);
    let files = tls::files::Files::read(&certificates.0).unwrap();
    let now = SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let decision = tls::decide::decide(&files, &list("DNS:new"), now, tls::decide::LEAST);
    let summary = certificates.prepare("DNS:new");
    let told = format!("{decision:?} {summary:?} {}", summary.as_ref().unwrap());
    let secret = certificates.sh("openssl pkey -in server/key.pem -text -noout | sed -n '/priv:/,/pub:/p' | sed '1d;$d' | tr -d ': \n'");
    assert_eq!(secret.len(), 64, "{secret}");
    let bytes: Vec<String> = secret
        .as_bytes()
        .chunks(2)
        .map(|pair| {
            u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16)
                .unwrap()
                .to_string()
        })
        .collect();
    let in_decimal = bytes.join(", ");
    let body = String::from_utf8(certificates.read("server/key.pem")).unwrap();
    for secret in body
        .lines()
        .filter(|line| !line.starts_with("---"))
        .chain([&*secret, &*in_decimal])
    {
        assert!(!told.contains(secret), "{told}");
    }
}

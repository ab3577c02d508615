//! What is made, and out of what.

use super::*;

#[test]
fn everything_is_made_as_docker_librarys_script_made_it() {
    let certificates = Certificates::new();
    let summary = certificates
        .prepare("DNS:docker,IP:10.1.2.3,IP:fe80::1,email:me@example.com,URI:https://a/")
        .unwrap();
    assert_eq!(summary.warnings, Vec::<String>::new());
    let found: BTreeSet<String> = certificates.files().into_keys().collect();
    assert_eq!(found, ALL.map(str::to_owned).into());
    certificates.verify();

    for file in ALL {
        let mode = match file {
            "ca/key.pem" | "server/key.pem" => 0o600,
            _ => 0o644,
        };
        assert_eq!(certificates.mode(file), mode, "{file}");
    }
    for directory in ["ca", "server", "client"] {
        assert_eq!(certificates.mode(directory), 0o755, "{directory}");
        let show = |what: &str| {
            certificates.sh(&format!(
                "openssl x509 -in {directory}/cert.pem -noout {what}"
            ))
        };
        let role = directory.replace("ca", "CA");
        assert_eq!(
            show("-nameopt RFC2253 -subject"),
            format!("subject=CN=docker:dind {role}")
        );
        assert_eq!(show("-nameopt RFC2253 -issuer"), "issuer=CN=docker:dind CA");
        let text = show("-text");
        assert!(text.contains("ASN1 OID: prime256v1"), "{text}");
        const SIGNS: &str = "Key Usage: critical\n                Digital Signature\n";
        let usages: &[&str] = match directory {
            "ca" => &[
                "Key Usage: critical\n                Digital Signature, Certificate Sign\n",
                "Basic Constraints: critical\n                CA:TRUE\n",
            ],
            "server" => &[SIGNS, " TLS Web Server Authentication\n"],
            _ => &[SIGNS, " TLS Web Client Authentication\n"],
        };
        for usage in usages {
            assert!(text.contains(usage), "{directory}: {usage:?} in {text}");
        }
        // 825 days from an hour ago on.
        let date = |which: &str| {
            let shown = show(which);
            let date = shown.split_once('=').unwrap().1;
            let seconds = certificates.sh(&format!("date -d '{date}' +%s"));
            seconds.parse::<u64>().unwrap()
        };
        assert_eq!(date("-enddate") - date("-startdate"), 825 * 24 * 3600);
        show("-checkend $((824 * 24 * 3600))");
        let serial = certificates.serial(directory);
        assert_eq!(serial.len(), "serial=".len() + 32, "{serial}");
    }
    let names = [
        "DNS:docker",
        "IP Address:10.1.2.3",
        "IP Address:FE80:0:0:0:0:0:0:1",
        "email:me@example.com",
        "URI:https://a/",
    ];
    assert_eq!(certificates.names(), names.map(str::to_owned).into());
}

#[test]
fn keys_of_every_kind_are_kept_and_used() {
    let kinds = [
        ("PKCS#1", "openssl genrsa -traditional -out $key 2048"),
        ("PKCS#8 RSA", "openssl genrsa -out $key 2048"),
        ("RSA-3072", "openssl genrsa -out $key 3072"),
        (
            "SEC1",
            "openssl ecparam -name prime256v1 -genkey -noout -out $key",
        ),
        (
            "SEC1 behind its parameters",
            "openssl ecparam -name prime256v1 -genkey -out $key; grep -q 'EC PARAMETERS' $key",
        ),
        ("PKCS#8 EC", "ec $key"),
        ("P-384", "ec $key P-384"),
        (
            "SEC1 P-384",
            "openssl ecparam -name secp384r1 -genkey -noout -out $key",
        ),
        ("Ed25519", "openssl genpkey -algorithm ED25519 -out $key"),
        (
            "text in front",
            "ec k; { openssl pkey -in k -text -noout; cat k; } >$key; rm k",
        ),
    ];
    for (kind, command) in kinds {
        let certificates = Certificates::new();
        certificates.sh(&format!(
            "mkdir ca server client
            for key in ca/key.pem server/key.pem client/key.pem; do {command}; chmod 640 $key; done"
        ));
        let before = certificates.files();
        certificates
            .prepare("DNS:docker")
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        for (file, content) in before {
            assert_eq!(certificates.read(&file), content, "{kind}: {file}");
        }
        certificates.verify();
        assert_eq!(certificates.mode("server/key.pem"), 0o640, "{kind}");
        assert_eq!(certificates.mode("client/key.pem"), 0o644, "{kind}");
        let summary = certificates.prepare("DNS:docker").unwrap();
        assert!(summary.to_string().ends_with(": kept"), "{kind}: {summary}");
    }
}

/// Neither is overwritten, and nothing of a key is told.
#[test]
fn a_key_that_cannot_be_read_is_an_error_that_names_it() {
    let kinds = [
        (
            "encrypted",
            "ec k; openssl pkey -in k -aes128 -passout pass:x -out $key; rm k",
        ),
        ("garbage", "echo garbage >$key"),
        ("half", "ec k; head -n 2 k >$key; rm k"),
        (
            "a certificate",
            "authority x /CN=x; mv x.pem $key; rm x.key",
        ),
        ("too short", "openssl genrsa -out $key 1024"),
        ("not one of ours", "ec $key P-521"),
        ("too large", "head -c 2000000 /dev/zero >$key"),
        ("a directory", "mkdir $key"),
        ("a pipe", "mkfifo $key"),
        (
            "a length that cannot be",
            "{ echo -----BEGIN EC PRIVATE KEY-----; \
            printf '\\060\\016\\002\\001\\001\\004\\000\\060\\210\\377\\377\\377\\377\\377\\377\\377\\360' | base64; \
            echo -----END EC PRIVATE KEY-----; } >$key",
        ),
    ];
    for directory in ["ca", "server", "client"] {
        for (kind, command) in kinds {
            let certificates = Certificates::new();
            let key = format!("{directory}/key.pem");
            certificates.sh(&format!("mkdir {directory}; key={key}; {command}"));
            let error = certificates.refused();
            assert!(error.contains(&key), "{kind}: {error}");
            assert!(error.contains("remove it"), "{kind}: {error}");
            if certificates.path(&key).is_file() {
                let content = certificates.read(&key);
                let content = String::from_utf8_lossy(&content);
                let mut body = content.lines().filter(|line| !line.starts_with("---"));
                assert!(body.all(|line| !error.contains(line)), "{kind}: {error}");
            }
            let found = certificates.sh("find . ! -type d; find . -name key.pem -type d");
            assert_eq!(found, format!("./{key}"), "{kind}");
        }
    }
}

#[test]
fn an_authority_of_any_name_signs() {
    let subjects = [
        "authority x '/DC=com/DC=example/OU=a/OU=b/CN=x' $may_sign",
        "authority x '/CN=x+UID=5' -multivalue-rdn $may_sign",
        "authority x '/C=DE/O=Über/CN=Ä' -utf8 $may_sign",
        // T61String, with a byte that is no UTF-8; and no subject key identifier.
        "printf '[req]\ndistinguished_name=d\nprompt=no\nstring_mask=MASK:4\nx509_extensions=x\n[d]\nCN=h\\303\\251\n[x]\nsubjectKeyIdentifier=none\nbasicConstraints=critical,CA:TRUE\n' >config
        ec x.key; openssl req -x509 -new -key x.key -out x.pem -days 1000 -utf8 -config config
        openssl x509 -in x.pem -noout -subject -nameopt show_type | grep -aq T61STRING",
    ];
    for subject in subjects {
        let certificates = Certificates::new();
        certificates.sh(&format!(
            "may_sign='-addext keyUsage=critical,keyCertSign'; {subject}; mkdir ca; mv x.key ca/key.pem; mv x.pem ca/cert.pem; rm -f config"
        ));
        let before = certificates.files();
        certificates
            .prepare("DNS:docker")
            .unwrap_or_else(|error| panic!("{subject}: {error}"));
        for (file, content) in before {
            assert_eq!(certificates.read(&file), content, "{subject}: {file}");
        }
        let option = if subject.contains("T61") {
            ""
        } else {
            "-x509_strict"
        };
        certificates.verify_with(option);
    }
}

/// No client would take what it signs, and it may be the user's: so it is not replaced.
#[test]
fn an_authority_that_may_not_sign_is_an_error() {
    let limited =
        r"basicConstraints=critical,CA:TRUE\nnameConstraints=critical,permitted;DNS:example.com\n";
    for extensions in MAY_NOT_SIGN.into_iter().chain([limited]) {
        let certificates = Certificates::new();
        certificates.sh(&format!(
            "mkdir ca; odd '{extensions}'; mv ca.key ca/key.pem; mv ca.pem ca/cert.pem"
        ));
        let unchanged = || {
            let before = certificates.files();
            let error = certificates.refused();
            assert!(
                error.contains("ca/cert.pem cannot be used: ")
                    && error.ends_with("; remove it, and a new one is made"),
                "{error}"
            );
            assert!(
                error.contains("a certificate that it signs is not valid"),
                "{error}"
            );
            assert_eq!(certificates.files(), before, "{extensions}");
        };
        unchanged();
        // What something else has signed with it is no better.
        certificates.sh(
            "cp ca/key.pem ca.key; cp ca/cert.pem ca.pem; mkdir -p server; ec server/key.pem
            extensions=subjectAltName=DNS:docker; leaf ca server/key.pem server/cert.pem
            mv ca.pem server",
        );
        let refuses = "! openssl verify -x509_strict -CAfile server/ca.pem -verify_hostname docker server/cert.pem";
        certificates.sh(refuses);
        unchanged();
    }
}

/// What a client that went by the old authority has is replaced as a whole.
#[test]
fn another_authority_signs_everything_anew() {
    let others = ["/CN=x", "/CN=docker:dind CA"].map(|subject| {
        format!(
            "authority x '{subject}' -addext keyUsage=critical,keyCertSign
            mv x.key ca/key.pem; mv x.pem ca/cert.pem"
        )
    });
    for change in others
        .into_iter()
        .chain(["rm -r ca server/cert.pem".into()])
    {
        let certificates = Certificates::made("DNS:docker");
        let before = certificates.files();
        certificates.sh(&change);
        certificates.prepare("DNS:docker").unwrap();
        certificates.verify();
        for (file, content) in before {
            let is_kept = ["server/key.pem", "client/key.pem"].contains(&file.as_str());
            assert_eq!(
                certificates.read(&file) == content,
                is_kept,
                "{change}: {file}"
            );
        }
    }
}

#[test]
fn what_is_broken_is_made_again() {
    let damages = [
        "rm $file",
        ": >$file",
        "echo garbage >$file",
        "head -n 3 $file >x; mv x $file",
        "authority x /CN=x; mv x.pem $file; rm x.key",
        // A length of nearly 2^64, and a time that ends behind the year 9999.
        "{ echo -----BEGIN CERTIFICATE-----; \
            printf '\\060\\026\\060\\024\\240\\003\\002\\001\\002\\002\\001\\001\\060\\210\\377\\377\\377\\377\\377\\377\\377\\364\\000\\000' | base64; \
            echo -----END CERTIFICATE-----; } >$file",
    ];
    for damage in damages {
        for file in [
            "ca/cert.pem",
            "server/cert.pem",
            "client/cert.pem",
            "server/ca.pem",
            "client/ca.pem",
        ] {
            let certificates = Certificates::made("DNS:docker");
            certificates.sh(&format!("file={file}; {damage}"));
            let summary = certificates.prepare("DNS:docker");
            assert!(summary.is_ok(), "{file}: {damage}: {summary:?}");
            certificates.verify();
            let summary = certificates.prepare("DNS:docker").unwrap();
            assert!(summary.to_string().ends_with(": kept"), "{file}: {summary}");
        }
    }
}

/// What a killed start has left is no obstacle, and where it is a link, nothing is written
/// to what that leads to.
#[test]
fn nothing_is_written_through_a_link() {
    let certificates = Certificates::new();
    certificates.sh(
        "mkdir ca server; echo precious >precious; chmod 600 precious
        ln -s ../precious ca/.dind-key.pem; echo half >server/.dind-key.pem",
    );
    certificates.prepare("DNS:docker").unwrap();
    certificates.verify();
    assert_eq!(certificates.read("precious"), b"precious\n");
    assert_eq!(certificates.sh("find . -name '.*' ! -name ."), "");

    certificates.sh("mv client/key.pem key; chmod 600 key; ln -s ../key client/key.pem");
    certificates.prepare("DNS:another").unwrap();
    certificates.verify();
    assert_eq!(certificates.mode("key"), 0o600);
}

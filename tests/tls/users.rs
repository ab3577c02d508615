//! The user's own files: verified, and left as they are.

use super::*;

/// The result of a start with a directory whose `server` a script has filled.
fn start(script: &str, later: Duration) -> Result<Summary, String> {
    let certificates = Certificates::new();
    certificates.sh(&format!(
        "mkdir server; {script}; mv -f ca.pem cert.pem key.pem server/"
    ));
    let before = certificates.files();
    let summary = certificates.prepare_in("DNS:docker", later);
    assert_eq!(certificates.files(), before);
    assert!(!certificates.path("ca").exists());
    assert!(!certificates.path("client").exists());
    summary
}

#[test]
fn what_verifies_is_used() {
    let good = "authority ca /CN=ca; ec key.pem; leaf ca key.pem cert.pem";
    let cases = [
        good.to_owned(),
        format!("{good}; extensions=subjectAltName=DNS:x; leaf ca key.pem cert.pem"),
        // FALSE written out, which is not DER.
        format!("{good}; extensions=basicConstraints=DER:30:03:01:01:00; leaf ca key.pem cert.pem"),
        "openssl genrsa -traditional -out key.pem 2048; openssl genrsa -out ca.key 2048
        authority ca /CN=ca; leaf ca key.pem cert.pem"
            .to_owned(),
        // With an intermediate, and with one that has nothing to do with it.
        "authority ca /CN=ca; intermediate 500; ec key.pem; leaf mid key.pem end.pem
        authority other /CN=other -days 1
        cat end.pem mid.pem other.pem >cert.pem"
            .to_owned(),
        // Several authorities, one of which has expired.
        format!("{good}; authority old /CN=old -days 1; cat old.pem ca.pem >x; mv x ca.pem"),
        // One certificate for everything.
        "authority ca /CN=self; cp ca.pem cert.pem; mv ca.key key.pem".to_owned(),
        // With limits that it keeps.
        r"odd 'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=keyCertSign\nnameConstraints=critical,permitted;DNS:example.com\n'
        extensions='subjectAltName=DNS:a.example.com'; ec key.pem; leaf ca key.pem cert.pem"
            .to_owned(),
        // For any purpose, or for this one among others, from top to bottom.
        r"odd 'basicConstraints=critical,CA:TRUE\nextendedKeyUsage=anyExtendedKeyUsage\n'
        extensions=extendedKeyUsage=clientAuth,serverAuth; ec key.pem; leaf ca key.pem cert.pem"
            .to_owned(),
        // Version 1 has no extensions to say that it may sign.
        r"ec ca.key; openssl req -new -key ca.key -subj /CN=v1 -out request
        if openssl req -help 2>&1 | grep -q x509v1; then
            printf '[req]\ndistinguished_name=d\n[d]\n' >none
            openssl req -x509v1 -config none -in request -key ca.key -days 500 -out ca.pem
        else
            openssl x509 -req -in request -signkey ca.key -days 500 -out ca.pem
        fi
        openssl x509 -in ca.pem -noout -text | grep 'Version: 1'
        ec key.pem; leaf ca key.pem cert.pem"
            .to_owned(),
        // Text in front, and what is no certificate.
        format!(
            "{good}; for file in ca cert; do
                {{ openssl x509 -in $file.pem -text; cat key.pem; }} >x; mv x $file.pem
            done"
        ),
    ];
    for script in cases {
        let summary = start(&script, 10 * DAY).unwrap_or_else(|error| panic!("{script}: {error}"));
        assert!(
            summary.to_string().ends_with(": your own, verified"),
            "{summary}"
        );
        assert_eq!(summary.warnings, Vec::<String>::new(), "{script}");
    }
}

#[test]
fn what_does_not_verify_is_an_error_that_names_the_file() {
    let good = "authority ca /CN=ca; ec key.pem; leaf ca key.pem cert.pem";
    let cases = [
        (
            format!("{good}; leaf ca key.pem cert.pem -days 1"),
            "server/cert.pem does not verify against server/ca.pem: it expired ",
        ),
        (
            format!("{good}; openssl req -x509 -new -key ca.key -out ca.pem -days 1 -subj /CN=ca"),
            "server/ca.pem: it expired ",
        ),
        (
            format!(
                "{good}; openssl req -x509 -new -key ca.key -out ca.pem -days 1 -subj /CN=ca
                authority other /CN=other; cat other.pem >>ca.pem"
            ),
            "server/ca.pem: the authority that signed it is not valid now",
        ),
        (
            format!("{good}; authority other /CN=other; mv other.pem ca.pem"),
            "server/ca.pem: it was signed by another authority",
        ),
        (
            format!("{good}; authority other /CN=ca; mv other.pem ca.pem"),
            "server/ca.pem: its signature is not by the authority",
        ),
        (
            format!("{good}; ec key.pem"),
            "server/key.pem is not the key of server/cert.pem",
        ),
        (
            "authority ca /CN=ca; intermediate 1; ec key.pem; leaf mid key.pem end.pem
            cat end.pem mid.pem >cert.pem"
                .to_owned(),
            "server/ca.pem: an intermediate has expired",
        ),
        (
            format!("{good}; extensions=extendedKeyUsage=clientAuth; leaf ca key.pem cert.pem"),
            "server/ca.pem: its extendedKeyUsage has no serverAuth",
        ),
        (
            "authority ca /CN=self -addext extendedKeyUsage=clientAuth; cp ca.pem cert.pem; mv ca.key key.pem"
                .to_owned(),
            "server/ca.pem: its extendedKeyUsage has no serverAuth",
        ),
        (
            r"odd 'basicConstraints=critical,CA:TRUE\nextendedKeyUsage=clientAuth\n'
            ec key.pem; leaf ca key.pem cert.pem"
                .to_owned(),
            "server/ca.pem: the extendedKeyUsage of the authority that signed it has no serverAuth",
        ),
        (
            chain_over("extendedKeyUsage=clientAuth"),
            "server/ca.pem: the extendedKeyUsage of an intermediate has no serverAuth",
        ),
        (
            limited("permitted;DNS:example.com", "DNS:example.com,DNS:anexample.com"),
            "server/ca.pem: the nameConstraints of an issuer forbid DNS:anexample.com",
        ),
        (
            limited("excluded;DNS:a.example.com", "DNS:example.com,DNS:x.A.example.com"),
            "forbid DNS:x.A.example.com",
        ),
        (
            limited("permitted;IP:10.0.0.0/255.0.0.0", "IP:10.9.8.7,IP:11.9.8.7"),
            "forbid IP:11.9.8.7",
        ),
        (
            limited("excluded;IP:fe80:0:0:0:0:0:0:0/ffff:0:0:0:0:0:0:0", "IP:fe80::1,DNS:x"),
            "forbid IP:fe80::1",
        ),
        (
            format!(
                "extensions=subjectAltName=DNS:docker; {}",
                chain_over("nameConstraints=critical,permitted;DNS:example.com")
            ),
            "forbid DNS:docker",
        ),
        (format!("{good}; cp key.pem cert.pem"), "server/cert.pem"),
        (format!("{good}; echo garbage >ca.pem"), "server/ca.pem"),
        (
            format!("{good}; head -c 300 cert.pem >x; mv x cert.pem"),
            "server/cert.pem cannot be used: it ends in the middle, before the line END CERTIFICATE",
        ),
        (
            format!("{good}; sed -i '2s/^.../.../' ca.pem"),
            "server/ca.pem cannot be used: what is between BEGIN and END is not base64",
        ),
        (
            format!("{good}; sed -i 1s/-----$/--/ ca.pem"),
            "server/ca.pem cannot be used: a line BEGIN is malformed",
        ),
    ];
    let odd = MAY_NOT_SIGN.map(|extensions| {
        (
            format!("odd '{extensions}'; ec key.pem; leaf ca key.pem cert.pem"),
            "server/ca.pem: the authority that signed it may not sign",
        )
    });
    for (script, reason) in cases.into_iter().chain(odd) {
        match start(&script, 10 * DAY) {
            Ok(summary) => panic!("{script}: {summary}: {:?}", summary.warnings),
            Err(error) => {
                assert!(error.contains(reason), "{script}: {error}");
                in_words(&error);
            }
        }
    }
}

/// Fails the test where a message has a value in the form in which Rust prints it for programmers:
/// a name with capitals in it, or a list of bytes.
#[track_caller]
fn in_words(message: &str) {
    let said = message.split([' ', '(', ')', ':', ',', ';']);
    let is_debug = |word: &&str| {
        let humps = word.chars().zip(word.chars().skip(1));
        let humps = humps.filter(|(a, b)| a.is_ascii_lowercase() && b.is_ascii_uppercase());
        word.starts_with(|first: char| first.is_ascii_uppercase()) && humps.count() > 0
            || word.starts_with(['[', '{'])
    };
    let found: Vec<&str> = said.filter(is_debug).collect();
    assert_eq!(found, Vec::<&str>::new(), "{message}");
}

/// A leaf under an intermediate that has these extensions, too.
fn chain_over(extension: &str) -> String {
    format!(
        "authority ca /CN=ca; ec key.pem; intermediate 500 '{extension}'
        leaf mid key.pem end.pem; cat end.pem mid.pem >cert.pem"
    )
}

/// A leaf with these names under an authority with these name constraints.
fn limited(limit: &str, names: &str) -> String {
    format!(
        r"odd 'basicConstraints=critical,CA:TRUE\nnameConstraints={limit}\n'
        extensions=subjectAltName={names}; ec key.pem; leaf ca key.pem cert.pem"
    )
}

/// webpki knows less than dockerd's Go does.
#[test]
fn what_cannot_be_judged_is_left_to_dockerd_with_a_warning() {
    let good = "authority ca /CN=ca; ec key.pem; leaf ca key.pem cert.pem";
    let cases = [
        (
            format!(
                // OpenSSL 3.2 makes no other than version 3 unless it is told to.
                "{good}; openssl req -new -key key.pem -subj /CN=v1 -out request
                if openssl req -help 2>&1 | grep -q x509v1; then
                    printf '[req]\ndistinguished_name=d\n[d]\n' >none
                    openssl req -x509v1 -config none -in request -CA ca.pem -CAkey ca.key -days 500 -out cert.pem
                else
                    openssl x509 -req -in request -CA ca.pem -CAkey ca.key -days 500 -out cert.pem
                fi
                openssl x509 -in cert.pem -noout -text | grep 'Version: 1'"
            ),
            "server/cert.pem cannot be verified here",
        ),
        (
            format!("{good}; leaf ca key.pem cert.pem -sha1"),
            "server/cert.pem cannot be verified here",
        ),
        (
            "ec ca.key P-521; authority ca /CN=ca; ec key.pem; leaf ca key.pem cert.pem".to_owned(),
            "server/cert.pem cannot be verified here",
        ),
        (
            "authority ca /CN=ca; ec key.pem P-521; leaf ca key.pem cert.pem".to_owned(),
            "server/key.pem cannot be verified here (its private key is not",
        ),
        (
            format!("{good}; extensions=extendedKeyUsage=anyExtendedKeyUsage; leaf ca key.pem cert.pem"),
            "server/cert.pem cannot be verified here",
        ),
        (
            chain_over("extendedKeyUsage=anyExtendedKeyUsage"),
            "server/cert.pem cannot be verified here",
        ),
        // Mail addresses and the subject's own name keep nobody from a server.
        (
            limited("permitted;email:example.com", "email:a@b,DNS:x"),
            "server/cert.pem cannot be verified here",
        ),
    ];
    for (script, reason) in cases {
        let summary =
            start(&script, Duration::ZERO).unwrap_or_else(|error| panic!("{script}: {error}"));
        let warnings = summary.warnings.join("\n");
        assert!(warnings.contains(reason), "{script}: {warnings:?}");
        in_words(&warnings);
    }
}

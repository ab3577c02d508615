//! Symbolic links in the directory, which clients can write to: read through, as secrets of
//! Kubernetes must be, and never written through.

use super::*;

#[test]
fn nothing_is_written_through_a_linked_directory() {
    for directory in ["ca", "server", "client"] {
        let certificates = Certificates::new();
        certificates.sh(&format!(
            "mkdir certs elsewhere; ln -s ../elsewhere certs/{directory}"
        ));
        let top = certificates.path("certs");
        let error = tls::prepare(&top, &list("DNS:docker"), SystemTime::now());
        let error = format!("{:#}", error.expect_err("a link is written through"));
        assert!(
            error.contains(&format!("certs/{directory}")) && error.contains("a symbolic link"),
            "{error}"
        );
        assert_eq!(certificates.sh("ls elsewhere"), "", "{directory}");
    }
}

#[test]
fn a_link_in_the_place_of_a_file_is_replaced() {
    let certificates = Certificates::new();
    certificates.sh("mkdir -p client
        echo mine >target; chmod 0600 target
        for file in ca.pem cert.pem; do ln -s ../target client/.dind-$file; done
        ln -s ../target client/.dind-key.pem
        ln -s ../missing client/key.pem
        ln -s ../missing client/cert.pem");
    certificates.prepare("DNS:docker").unwrap();
    certificates.verify();
    assert_eq!(certificates.read("target"), b"mine\n");
    assert_eq!(certificates.mode("target"), 0o600);
    assert!(!certificates.path("missing").exists());
    assert_eq!(certificates.sh("find . -type l"), "");
}

/// The mode of the client's key is opened to everybody, and only that of the client's.
#[test]
fn no_other_file_gets_the_mode_of_the_clients_key() {
    for link in [
        "ln -sf ../own.pem client/key.pem",
        "ln -f own.pem client/key.pem",
        "mkdir x; mv client/* x; rmdir client; cp own.pem x/key.pem; chmod 0600 x/key.pem; ln -s x client",
    ] {
        let certificates = Certificates::made("DNS:docker");
        certificates.sh(&format!(
            "cp client/key.pem own.pem; chmod 0600 own.pem; {link}"
        ));
        let summary = certificates.prepare("DNS:docker").unwrap();
        assert!(summary.to_string().ends_with(": kept"), "{link}: {summary}");
        assert_eq!(certificates.mode("own.pem"), 0o600, "{link}");
        assert_eq!(certificates.mode("client/key.pem"), 0o600, "{link}");
    }
    let certificates = Certificates::made("DNS:docker");
    certificates.sh("chmod 0600 client/key.pem");
    certificates.prepare("DNS:docker").unwrap();
    assert_eq!(certificates.mode("client/key.pem"), 0o644);
}

/// What a volume of a Kubernetes secret looks like: `..data` is exchanged at once.
#[test]
fn what_is_complete_is_read_through_links() {
    const SECRET: &str = "mkdir ..1; ln -s ..1 ..data
        for directory in ca server client; do
            mv $directory ..1/
            ln -s ..data/$directory $directory
        done";
    let certificates = Certificates::made("DNS:docker");
    certificates.sh(SECRET);
    let summary = certificates.prepare("DNS:docker").unwrap();
    assert!(summary.to_string().ends_with(": kept"), "{summary}");
    // What would have to be written is a warning as long as the rest is good.
    let summary = certificates.prepare("DNS:docker,DNS:other").unwrap();
    assert!(summary.to_string().ends_with(": kept"), "{summary}");
    let warnings = summary.warnings.join("\n");
    assert!(warnings.contains("a symbolic link"), "{warnings}");

    let users = Certificates::new();
    users.sh("authority ca /CN=ca; ec key.pem; leaf ca key.pem cert.pem
        mkdir -p ..1 server; mv ca.pem cert.pem key.pem ..1/; ln -s ..1 ..data
        for file in ca cert key; do ln -s ../..data/$file.pem server/$file.pem; done");
    let summary = users.prepare("DNS:docker").unwrap();
    assert!(
        summary.to_string().ends_with(": your own, verified"),
        "{summary}"
    );
}

//! Private keys. The input is DER under each of PEM's labels, and PEM itself.

#![no_main]

use dind::tls::key;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let pems = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"]
        .map(|label| pem::encode(&pem::Pem::new(label, data)).into_bytes());
    for text in pems.iter().map(Vec::as_slice).chain([data]) {
        match key::read(text) {
            Ok(read) => {
                let again = key::read(read.serialize_pem().as_bytes());
                let again = again.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(key::public(&again), key::public(&read));
            }
            // It says nothing that depends on the key.
            Err(error) => assert!(
                [
                    "it contains no unencrypted private key",
                    "its private key has an unknown form",
                    "its elliptic curve key does not name its curve",
                    "its private key is not RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519",
                ]
                .contains(&format!("{error:#}").as_str()),
                "{error:#}"
            ),
        }
    }
});

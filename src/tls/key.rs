//! Private keys, in every form that OpenSSL writes.

use anyhow::{Result, anyhow, bail};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use yasna::models::ObjectIdentifier;

/// rsaEncryption: RFC 8017, A.1.
const RSA: &[u64] = &[1, 2, 840, 113549, 1, 1, 1];
/// id-ecPublicKey: RFC 5480, 2.1.1.
const ELLIPTIC_CURVE: &[u64] = &[1, 2, 840, 10045, 2, 1];

/// Makes a key: ECDSA on P-256, in a millisecond where RSA takes a second.
pub fn make() -> Result<KeyPair> {
    Ok(KeyPair::generate()?)
}

/// Reads a key from PEM: PKCS#8, PKCS#1 or SEC1; RSA of 2048 to 4096 bits, P-256, P-384,
/// Ed25519. The error never has any of the key in it.
pub fn read(pem: &[u8]) -> Result<KeyPair> {
    let key = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| anyhow!("no private key in it that is not encrypted"))?;
    let pkcs8 = match key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Pkcs1(key) => from_pkcs1(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => from_sec1(key.secret_sec1_der())?,
        _ => bail!("a private key of an unknown form"),
    };
    KeyPair::try_from(pkcs8).map_err(|_| {
        anyhow!("a private key other than RSA of 2048 to 4096 bits, P-256, P-384 and Ed25519")
    })
}

/// The SubjectPublicKeyInfo that a certificate for this key has.
pub fn public(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

/// PrivateKeyInfo around an RSAPrivateKey: RFC 5208, 5.
fn from_pkcs1(key: &[u8]) -> Vec<u8> {
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            writer.next().write_sequence(|writer| {
                writer.next().write_oid(&ObjectIdentifier::from_slice(RSA));
                writer.next().write_null();
            });
            writer.next().write_bytes(key);
        });
    })
}

/// PrivateKeyInfo around an ECPrivateKey, which must name its curve: RFC 5915, 3.
fn from_sec1(key: &[u8]) -> Result<Vec<u8>> {
    let curve = super::der::parse(key, |reader| {
        reader.read_sequence(|reader| {
            reader.next().read_u8()?;
            reader.next().read_bytes()?;
            let curve = reader.read_optional(|reader| {
                reader.read_tagged(yasna::Tag::context(0), |reader| reader.read_oid())
            })?;
            reader.read_optional(|reader| reader.read_der())?;
            Ok(curve)
        })
    });
    let Ok(Some(curve)) = curve else {
        bail!("an elliptic curve key that does not name its curve");
    };
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            writer.next().write_sequence(|writer| {
                writer
                    .next()
                    .write_oid(&ObjectIdentifier::from_slice(ELLIPTIC_CURVE));
                writer.next().write_oid(&curve);
            });
            writer.next().write_bytes(key);
        });
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What RFC 5915 puts into a PKCS#8 of an elliptic curve's key.
    fn sec1(key: &KeyPair) -> Vec<u8> {
        let inner = super::super::der::parse(key.serialized_der(), |reader| {
            reader.read_sequence(|reader| {
                reader.next().read_u8()?;
                reader.next().read_der()?;
                reader.next().read_bytes()
            })
        });
        inner.unwrap_or_default()
    }

    proptest! {
        #[test]
        fn never_panics(der in any::<Vec<u8>>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let _ = read(&der);
            for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
                let random = pem::encode(&pem::Pem::new(label, der.clone()));
                let _ = read(random.as_bytes());
                let Ok(key) = make() else { panic!("no key") };
                for mut real in [key.serialize_der(), sec1(&key)] {
                    for (place, byte) in &changes {
                        let place = place.index(real.len());
                        real[place] = *byte;
                    }
                    let changed = pem::encode(&pem::Pem::new(label, real));
                    let _ = read(changed.as_bytes());
                }
            }
        }
    }
}

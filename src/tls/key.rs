//! Private keys, in every form that OpenSSL writes.

use anyhow::{Result, anyhow, bail};
use der::asn1::{AnyRef, ContextSpecific, OctetStringRef};
use der::{Decode, Encode, Reader, Tag, TagNumber, Tagged};
use rcgen::{KeyPair, PublicKeyData};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

/// rsaEncryption, 1.2.840.113549.1.1.1, as it is encoded: RFC 8017, A.1.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
/// id-ecPublicKey, 1.2.840.10045.2.1, as it is encoded: RFC 5480, 2.1.1.
const ELLIPTIC_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];

/// Generates a key for ECDSA on P-256, which takes a millisecond where RSA takes a second.
pub fn make() -> Result<KeyPair> {
    Ok(KeyPair::generate()?)
}

/// Parses a private key in PEM: PKCS#8, PKCS#1 or SEC1; RSA of 2048 to 4096 bits, P-256, P-384,
/// Ed25519. The error never contains a part of the key.
pub fn read(pem: &[u8]) -> Result<KeyPair> {
    let key = PrivateKeyDer::from_pem_slice(pem)
        .map_err(|_| anyhow!("it contains no unencrypted private key"))?;
    let pkcs8 = match key {
        PrivateKeyDer::Pkcs8(key) => key.secret_pkcs8_der().to_vec(),
        PrivateKeyDer::Pkcs1(key) => from_pkcs1(key.secret_pkcs1_der())?,
        PrivateKeyDer::Sec1(key) => from_sec1(key.secret_sec1_der())?,
        _ => bail!("its private key has an unknown form"),
    };
    KeyPair::try_from(pkcs8).map_err(|_| {
        anyhow!("its private key is not RSA of 2048 to 4096 bits, P-256, P-384 or Ed25519")
    })
}

/// The SubjectPublicKeyInfo of a certificate for this key, in DER.
pub fn public(key: &KeyPair) -> Vec<u8> {
    key.subject_public_key_info()
}

/// PrivateKeyInfo around an RSAPrivateKey: RFC 5208, 5.
fn from_pkcs1(key: &[u8]) -> der::Result<Vec<u8>> {
    pkcs8(RSA, AnyRef::NULL, key)
}

/// PrivateKeyInfo around an ECPrivateKey, which must name its curve: RFC 5915, 3.
fn from_sec1(key: &[u8]) -> Result<Vec<u8>> {
    let curve = AnyRef::from_der(key).and_then(|key| {
        key.sequence(|reader| {
            reader.decode::<u8>()?;
            reader.decode::<&OctetStringRef>()?;
            let curve = ContextSpecific::<AnyRef<'_>>::decode_explicit(reader, TagNumber(0))?;
            reader.decode::<Option<AnyRef<'_>>>()?;
            Ok(curve.map(|curve| curve.value))
        })
    });
    match curve {
        Ok(Some(curve)) if curve.tag() == Tag::ObjectIdentifier => {
            Ok(pkcs8(ELLIPTIC_CURVE, curve, key)?)
        }
        _ => bail!("its elliptic curve key does not name its curve"),
    }
}

fn pkcs8(algorithm: &[u8], parameters: AnyRef<'_>, key: &[u8]) -> der::Result<Vec<u8>> {
    let algorithm = [AnyRef::new(Tag::ObjectIdentifier, algorithm)?, parameters].to_der()?;
    let version_0 = AnyRef::new(Tag::Integer, &[0])?;
    let key = AnyRef::new(Tag::OctetString, key)?;
    [version_0, AnyRef::from_der(&algorithm)?, key].to_der()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The ECPrivateKey (RFC 5915) in the PKCS#8 form of a key.
    fn sec1(key: &KeyPair) -> Vec<u8> {
        let inner = AnyRef::from_der(key.serialized_der()).and_then(|key| {
            key.sequence(|reader| {
                reader.decode::<u8>()?;
                reader.decode::<AnyRef<'_>>()?;
                Ok::<_, der::Error>(reader.decode::<&OctetStringRef>()?.as_bytes().to_vec())
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

//! Reads what is decided by from a certificate: RFC 5280, 4.1.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use yasna::models::{GeneralizedTime, UTCTime};
use yasna::tags::TAG_GENERALIZEDTIME;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, Tag};

use super::der;
use super::purpose::Purpose;
use crate::input::san::Name;

const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];

/// Purposes of an extended key usage: RFC 5280, 4.2.1.12.
const ANY: &[u64] = &[2, 5, 29, 37, 0];
const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

/// keyCertSign in the first byte of a key usage: RFC 5280, 4.2.1.3.
const KEY_CERT_SIGN: u8 = 0x80 >> 5;

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// All of it.
    pub der: CertificateDer<'static>,
    /// The subject's distinguished name, as it is encoded.
    pub subject: Vec<u8>,
    /// Seconds since 1970 from which it is valid.
    pub not_before: i64,
    /// Seconds since 1970 until which it is valid.
    pub not_after: i64,
    /// The SubjectPublicKeyInfo, as it is encoded.
    pub public_key: Vec<u8>,
    /// What it is good for; kinds that [`Name`] has not are left out.
    pub names: BTreeSet<Name>,
    /// The identifier of its key.
    pub key_identifier: Option<Vec<u8>>,
    is_ca: bool,
    is_key_for_certificates: bool,
    /// The extended key usage: object identifiers; `None` where it says nothing.
    usages: Option<Vec<Vec<u64>>>,
    limits: Limits,
}

/// Name constraints (RFC 5280, 4.2.1.10) of the kinds that servers are reached by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Limits {
    permitted: Vec<Subtree>,
    excluded: Vec<Subtree>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subtree {
    /// A domain with what is below it; with a dot in front only that.
    Domain(String),
    /// An address and its mask, in as many bytes as the address has.
    Network(Vec<u8>, Vec<u8>),
}

impl Subtree {
    /// Whether `name` is in it; `None` where it is of another kind.
    fn contains(&self, name: &Name) -> Option<bool> {
        match (self, name) {
            (Self::Domain(domain), Name::Dns(name)) => {
                let [domain, name] = [domain, name].map(|name| name.to_ascii_lowercase());
                let name = name.trim_end_matches('.');
                let below = name.strip_suffix(&domain);
                let at_a_dot = |rest: &str| rest.ends_with('.') || domain.starts_with('.');
                Some(
                    below
                        .is_some_and(|rest| domain.is_empty() || at_a_dot(rest) || rest.is_empty()),
                )
            }
            (Self::Network(network, mask), Name::Ip(address)) => {
                let bytes = match address {
                    IpAddr::V4(address) => address.octets().to_vec(),
                    IpAddr::V6(address) => address.octets().to_vec(),
                };
                let mut bits = bytes.iter().zip(network).zip(mask);
                Some(
                    bytes.len() == network.len()
                        && bits.all(|((byte, network), mask)| byte & mask == network & mask),
                )
            }
            _ => None,
        }
    }
}

impl Certificate {
    /// The certificates of a PEM file in their order, at least one. What else is in the
    /// file is not read.
    pub fn read_all(pem: &[u8]) -> Result<Vec<Self>> {
        let found: Vec<Self> = CertificateDer::pem_slice_iter(pem)
            .map(|der| Self::read(der.map_err(|error| anyhow!("{error:?}"))?))
            .collect::<Result<_>>()?;
        if found.is_empty() {
            return Err(anyhow!("no certificate in it"));
        }
        Ok(found)
    }

    /// The first certificate of a PEM file.
    pub fn read_first(pem: &[u8]) -> Result<Self> {
        let mut found = Self::read_all(pem)?.into_iter();
        found.next().context("no certificate in it")
    }

    /// Whether it may be an authority's, by its basic constraints and key usage. Go's and
    /// so Docker's rule, for clients and for dockerd: what has extensions needs the first,
    /// and the second only limits.
    pub fn may_sign(&self) -> bool {
        self.is_ca && self.is_key_for_certificates
    }

    /// Whether its extended key usage, if it has one, is for `purpose`. Go's rule is that
    /// of every certificate in a chain, the authority's too (`checkChainForKeyUsage` in
    /// crypto/x509).
    pub fn is_for(&self, purpose: Purpose) -> bool {
        let wanted = match purpose {
            Purpose::Server => SERVER_AUTH,
            Purpose::Client => CLIENT_AUTH,
        };
        self.usages
            .as_ref()
            .is_none_or(|usages| usages.iter().any(|usage| usage == wanted || usage == ANY))
    }

    /// The first of `names` that its name constraints forbid whatever it signs. Clients
    /// reject the certificate then, by whichever of its names they have come.
    pub fn forbidden<'a>(&self, names: &'a BTreeSet<Name>) -> Option<&'a Name> {
        names.iter().find(|name| {
            let verdicts = |subtrees: &[Subtree]| -> Vec<bool> {
                let verdicts = subtrees.iter().filter_map(|tree| tree.contains(name));
                verdicts.collect()
            };
            let permitted = verdicts(&self.limits.permitted);
            verdicts(&self.limits.excluded).contains(&true)
                || (!permitted.is_empty() && !permitted.contains(&true))
        })
    }

    fn read(der: CertificateDer<'static>) -> Result<Self> {
        let mut certificate = der::parse(&der, certificate).context("not a certificate")?;
        certificate.der = der;
        Ok(certificate)
    }
}

fn certificate(reader: BERReader<'_, '_>) -> ASN1Result<Certificate> {
    reader.read_sequence(|reader| {
        let certificate = reader.next().read_sequence(|reader| {
            let version = reader.read_optional(|reader| {
                reader.read_tagged(Tag::context(0), |reader| reader.read_u8())
            })?;
            reader.next().read_bigint_bytes()?;
            reader.next().read_der()?;
            // The issuer.
            reader.next().read_der()?;
            let (not_before, not_after) = reader
                .next()
                .read_sequence(|reader| Ok((time(reader.next())?, time(reader.next())?)))?;
            let subject = reader.next().read_der()?;
            let public_key = reader.next().read_der()?;
            for unique_identifier in [1, 2] {
                reader.read_optional(|reader| {
                    reader.read_tagged_implicit(Tag::context(unique_identifier), |reader| {
                        reader.read_bitvec_bytes()
                    })
                })?;
            }
            let mut certificate = Certificate {
                der: CertificateDer::from(Vec::new()),
                subject,
                not_before,
                not_after,
                public_key,
                names: BTreeSet::new(),
                key_identifier: None,
                // Versions before 3, which is written as 2, have no way to say it.
                is_ca: version.unwrap_or(0) < 2,
                is_key_for_certificates: true,
                usages: None,
                limits: Limits::default(),
            };
            reader.read_optional(|reader| {
                reader.read_tagged(Tag::context(3), |reader| {
                    reader.read_sequence_of(|reader| extension(reader, &mut certificate))
                })
            })?;
            Ok(certificate)
        })?;
        // The algorithm and the value of the signature.
        reader.next().read_der()?;
        reader.next().read_bitvec_bytes()?;
        Ok(certificate)
    })
}

/// Seconds since 1970. Only the forms of RFC 5280, 4.1.2.5, which end in `Z`: yasna panics
/// at a time that its offset puts behind the year 9999.
fn time(reader: BERReader<'_, '_>) -> ASN1Result<i64> {
    let tag = reader.lookahead_tag()?;
    let text = reader.read_tagged_implicit(tag, |reader| reader.read_bytes())?;
    let seconds = if !text.ends_with(b"Z") {
        None
    } else if tag == TAG_GENERALIZEDTIME {
        GeneralizedTime::parse(&text).map(|time| time.datetime().unix_timestamp())
    } else {
        UTCTime::parse(&text).map(|time| time.datetime().unix_timestamp())
    };
    seconds.ok_or(ASN1Error::new(ASN1ErrorKind::Invalid))
}

fn extension(reader: BERReader<'_, '_>, certificate: &mut Certificate) -> ASN1Result<()> {
    reader.read_sequence(|reader| {
        let identifier = reader.next().read_oid()?;
        reader.read_default(false, |reader| reader.read_bool())?;
        let value = reader.next().read_bytes()?;
        match identifier.components().as_slice() {
            SUBJECT_ALT_NAME => certificate.names = inner(&value, names)?,
            SUBJECT_KEY_IDENTIFIER => {
                let identifier = inner(&value, |reader| reader.read_bytes())?;
                certificate.key_identifier = Some(identifier);
            }
            BASIC_CONSTRAINTS => certificate.is_ca = inner(&value, is_ca)?,
            KEY_USAGE => {
                let (usage, _) = inner(&value, |reader| reader.read_bitvec_bytes())?;
                let first = usage.first().copied().unwrap_or(0);
                certificate.is_key_for_certificates = first & KEY_CERT_SIGN != 0;
            }
            EXTENDED_KEY_USAGE => certificate.usages = Some(inner(&value, usages)?),
            NAME_CONSTRAINTS => certificate.limits = inner(&value, limits)?,
            _ => {}
        }
        Ok(())
    })
}

/// What an extension's value encodes.
fn inner<T>(value: &[u8], read: impl FnOnce(BERReader<'_, '_>) -> ASN1Result<T>) -> ASN1Result<T> {
    der::parse(value, read).map_err(|_| ASN1Error::new(ASN1ErrorKind::Invalid))
}

/// BasicConstraints: RFC 5280, 4.2.1.9. Some write out that it is none, which is not DER.
fn is_ca(reader: BERReader<'_, '_>) -> ASN1Result<bool> {
    reader.read_sequence(|reader| {
        let is_ca = reader.read_optional(|reader| reader.read_bool())?;
        reader.read_optional(|reader| reader.read_der())?;
        Ok(is_ca.unwrap_or(false))
    })
}

/// ExtKeyUsageSyntax: RFC 5280, 4.2.1.12.
fn usages(reader: BERReader<'_, '_>) -> ASN1Result<Vec<Vec<u64>>> {
    reader.collect_sequence_of(|reader| Ok(reader.read_oid()?.components().clone()))
}

/// NameConstraints: RFC 5280, 4.2.1.10.
fn limits(reader: BERReader<'_, '_>) -> ASN1Result<Limits> {
    reader.read_sequence(|reader| {
        let mut of_kind = |kind| {
            let read = |reader: BERReader<'_, '_>| {
                reader.read_tagged_implicit(Tag::context(kind), |reader| {
                    reader.collect_sequence_of(subtree)
                })
            };
            let found = reader.read_optional(read)?.unwrap_or_default();
            Ok(found.into_iter().flatten().collect())
        };
        Ok(Limits {
            permitted: of_kind(0)?,
            excluded: of_kind(1)?,
        })
    })
}

/// GeneralSubtree: RFC 5280, 4.2.1.10, which allows no other minimum and maximum than
/// those that are left out.
fn subtree(reader: BERReader<'_, '_>) -> ASN1Result<Option<Subtree>> {
    reader.read_sequence(|reader| {
        let base = reader.next();
        let tag = base.lookahead_tag()?;
        let found = match tag.tag_number {
            2 => {
                let domain = base.read_tagged_implicit(tag, |reader| reader.read_ia5_string())?;
                Some(Subtree::Domain(domain))
            }
            7 => {
                let bytes = base.read_tagged_implicit(tag, |reader| reader.read_bytes())?;
                let (address, mask) = bytes.split_at(bytes.len() / 2);
                Some(Subtree::Network(address.to_vec(), mask.to_vec()))
            }
            _ => {
                base.read_der()?;
                None
            }
        };
        while reader.read_optional(|reader| reader.read_der())?.is_some() {}
        Ok(found)
    })
}

/// GeneralNames: RFC 5280, 4.2.1.6.
fn names(reader: BERReader<'_, '_>) -> ASN1Result<BTreeSet<Name>> {
    let names = reader.collect_sequence_of(|reader| {
        let tag = reader.lookahead_tag()?;
        let text = |reader: BERReader<'_, '_>| {
            reader.read_tagged_implicit(tag, |reader| reader.read_ia5_string())
        };
        Ok(match tag.tag_number {
            1 => Some(Name::Email(text(reader)?)),
            2 => Some(Name::Dns(text(reader)?)),
            6 => Some(Name::Uri(text(reader)?)),
            7 => address(&reader.read_tagged_implicit(tag, |reader| reader.read_bytes())?),
            _ => {
                reader.read_der()?;
                None
            }
        })
    })?;
    Ok(names.into_iter().flatten().collect())
}

fn address(bytes: &[u8]) -> Option<Name> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).ok().map(Name::Ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A certificate with every field that is read.
    fn real() -> Vec<u8> {
        let key = crate::tls::key::make().map_err(|error| panic!("{error}"));
        let made = key.and_then(|key| {
            let now = std::time::Duration::from_secs(2_000_000_000);
            crate::tls::issue::authority(key, now)
        });
        made.map(|authority| authority.certificate.der.to_vec())
            .unwrap_or_default()
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<Vec<u8>>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
            let _ = Certificate::read_all(&text);
            let mut der = real();
            prop_assert!(Certificate::read(der.clone().into()).is_ok());
            for (place, byte) in changes {
                let place = place.index(der.len());
                der[place] = byte;
            }
            let _ = Certificate::read(der.into());
        }
    }

    #[test]
    fn a_time_is_read_in_the_forms_of_rfc_5280_only() {
        let read = |tag: u8, text: &str| {
            let mut der = vec![tag, u8::try_from(text.len()).unwrap_or_default()];
            der.extend(text.as_bytes());
            der::parse(&der, time).ok()
        };
        const UTC: u8 = 23;
        const GENERALIZED: u8 = 24;
        assert_eq!(read(UTC, "700101000010Z"), Some(10));
        assert_eq!(read(UTC, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(read(GENERALIZED, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(read(GENERALIZED, "99991231235959Z"), Some(253_402_300_799));
        for wrong in [
            "",
            "Z",
            "99991231235959-0100",
            "20500101000000",
            "20501301000000Z",
        ] {
            assert_eq!(read(GENERALIZED, wrong), None, "{wrong}");
            assert_eq!(read(UTC, wrong), None, "{wrong}");
        }
    }
}

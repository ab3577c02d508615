//! Parses the fields of a certificate on which decisions depend: RFC 5280, 4.1.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow};
use der::asn1::{AnyRef, BitStringRef, Ia5StringRef, OctetStringRef};
use der::{Decode, Reader, SliceReader, Tag, TagMode, TagNumber, Tagged};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use time::{Date, Month, PrimitiveDateTime, Time};

use super::purpose::Purpose;
use crate::input::san::Name;

/// Extensions below id-ce, 2.5.29: RFC 5280, 4.2. Identifiers are compared in their encoded form,
/// since private ones may have more and larger arcs than [`der`] accepts.
const SUBJECT_KEY_IDENTIFIER: &[u8] = &[0x55, 29, 14];
const KEY_USAGE: &[u8] = &[0x55, 29, 15];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 29, 17];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 29, 19];
const NAME_CONSTRAINTS: &[u8] = &[0x55, 29, 30];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 29, 37];

/// Purposes of an extended key usage, anyExtendedKeyUsage below id-ce and those of id-kp,
/// 1.3.6.1.5.5.7.3: RFC 5280, 4.2.1.12.
const ANY: &[u8] = &[0x55, 29, 37, 0];
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// keyCertSign in the first byte of a key usage: RFC 5280, 4.2.1.3.
const KEY_CERT_SIGN: u8 = 0x80 >> 5;

/// A parsed X.509 certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The whole certificate, in DER.
    pub der: CertificateDer<'static>,
    /// The subject's distinguished name, in DER.
    pub subject: Vec<u8>,
    /// Seconds since 1970 from which it is valid.
    pub not_before: i64,
    /// Seconds since 1970 until which it is valid.
    pub not_after: i64,
    /// The SubjectPublicKeyInfo, in DER.
    pub public_key: Vec<u8>,
    /// The subject alternative names of the kinds that [`Name`] has.
    pub names: BTreeSet<Name>,
    /// The subject key identifier, if the certificate has one.
    pub key_identifier: Option<Vec<u8>>,
    is_ca: bool,
    is_key_for_certificates: bool,
    /// The extended key usage: encoded object identifiers; `None` without that extension.
    usages: Option<Vec<Vec<u8>>>,
    limits: Limits,
}

/// Name constraints (RFC 5280, 4.2.1.10) on the kinds of names by which servers are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Limits {
    permitted: Vec<Subtree>,
    excluded: Vec<Subtree>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subtree {
    /// A domain and the names below it; with a dot in front, only the names below it.
    Domain(String),
    /// An address and its mask, each of 4 bytes for IPv4 and of 16 for IPv6.
    Network(Vec<u8>, Vec<u8>),
}

impl Subtree {
    /// Whether `name` is in the subtree; `None` where it is of another kind.
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
    /// Parses the certificates of a PEM file, in their order, at least one. Other content of the
    /// file is ignored. The error is that there is none, or that one is malformed.
    pub fn read_all(pem: &[u8]) -> Result<Vec<Self>> {
        let found: Vec<Self> = CertificateDer::pem_slice_iter(pem)
            .map(|der| Self::read(der.map_err(|error| anyhow!(words(&error)))?))
            .collect::<Result<_>>()?;
        if found.is_empty() {
            return Err(anyhow!("it contains no certificate"));
        }
        Ok(found)
    }

    /// Parses the certificates of a PEM file and returns the first. The errors are those of
    /// [`Certificate::read_all`].
    pub fn read_first(pem: &[u8]) -> Result<Self> {
        let mut found = Self::read_all(pem)?.into_iter();
        found.next().context("it contains no certificate")
    }

    /// Whether it may be an authority's, by its basic constraints and key usage. This is the rule
    /// of Go, and so of dockerd and of Docker's clients: a certificate of version 3 needs CA:TRUE,
    /// and a key usage only restricts it.
    pub fn may_sign(&self) -> bool {
        self.is_ca && self.is_key_for_certificates
    }

    /// Whether its extended key usage, if it has one, includes `purpose`. Go requires that of
    /// every certificate in a chain, including the authority's (`checkChainForKeyUsage` in
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

    /// The first of `names` that its name constraints forbid in certificates below it. Clients
    /// then reject such a certificate, whichever of its names they connect to.
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
        let mut certificate = certificate(&der).context("not a certificate")?;
        certificate.der = der;
        Ok(certificate)
    }
}

/// What is wrong with a PEM file, in words: those of the crate have bytes in decimal.
fn words(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "it ends in the middle, before the line END CERTIFICATE"
        }
        pem::Error::IllegalSectionStart { .. } => "a line BEGIN is malformed",
        pem::Error::Base64Decode(_) => "what is between BEGIN and END is not base64",
        pem::Error::SectionTooLarge => "it is larger than any certificate",
        _ => "it is no PEM file",
    }
}

/// Certificate: RFC 5280, 4.1. Fields on which no decision depends are skipped.
fn certificate(der: &[u8]) -> der::Result<Certificate> {
    AnyRef::from_der(der)?.sequence(|reader| {
        let certificate = reader.sequence(fields)?;
        // The algorithm and the value of the signature.
        reader.tlv_bytes()?;
        reader.decode::<BitStringRef<'_>>()?;
        Ok(certificate)
    })
}

/// TBSCertificate: RFC 5280, 4.1.
fn fields(reader: &mut SliceReader<'_>) -> der::Result<Certificate> {
    let version = reader.context_specific::<u8>(TagNumber(0), TagMode::Explicit)?;
    for _unread in ["serialNumber", "signature", "issuer"] {
        reader.tlv_bytes()?;
    }
    let (not_before, not_after) =
        reader.sequence(|reader| Ok::<_, der::Error>((time(reader)?, time(reader)?)))?;
    let mut certificate = Certificate {
        der: CertificateDer::from(Vec::new()),
        subject: reader.tlv_bytes()?.to_vec(),
        not_before,
        not_after,
        public_key: reader.tlv_bytes()?.to_vec(),
        names: BTreeSet::new(),
        key_identifier: None,
        // Version 3 is encoded as 2. Earlier versions have no basic constraints.
        is_ca: version.unwrap_or(0) < 2,
        is_key_for_certificates: true,
        usages: None,
        limits: Limits::default(),
    };
    for unique_identifier in [1, 2] {
        let number = TagNumber(unique_identifier);
        reader.context_specific::<BitStringRef<'_>>(number, TagMode::Implicit)?;
    }
    let extensions: Option<Vec<AnyRef<'_>>> =
        reader.context_specific(TagNumber(3), TagMode::Explicit)?;
    for one in extensions.unwrap_or_default() {
        one.sequence(|reader| extension(reader, &mut certificate))?;
    }
    Ok(certificate)
}

/// A time in seconds since 1970. The types of [`der`] are of no use here: their times begin in
/// 1970, and UTCTime begins in 1950.
fn time(reader: &mut SliceReader<'_>) -> der::Result<i64> {
    let time: AnyRef<'_> = reader.decode()?;
    seconds(time).ok_or_else(|| time.tag().value_error().into())
}

/// Parses the forms of RFC 5280, 4.1.2.5, and times without seconds, which X.509 once allowed
/// and Go accepts.
fn seconds(time: AnyRef<'_>) -> Option<i64> {
    let digits = time.value().strip_suffix(b"Z")?;
    let mut pairs = digits.chunks(2).map(|pair| match pair {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => Some((tens - b'0') * 10 + (ones - b'0')),
        _ => None,
    });
    let century = match time.tag() {
        Tag::UtcTime if digits < b"50".as_slice() => 20,
        Tag::UtcTime => 19,
        Tag::GeneralizedTime => pairs.next()??,
        _ => return None,
    };
    let year = i32::from(century) * 100 + i32::from(pairs.next()??);
    let month = Month::try_from(pairs.next()??).ok()?;
    let date = Date::from_calendar_date(year, month, pairs.next()??).ok()?;
    let (hour, minute) = (pairs.next()??, pairs.next()??);
    let time = Time::from_hms(hour, minute, pairs.next().unwrap_or(Some(0))?).ok()?;
    let is_all = pairs.next().is_none();
    is_all.then(|| {
        PrimitiveDateTime::new(date, time)
            .assume_utc()
            .unix_timestamp()
    })
}

fn extension(reader: &mut SliceReader<'_>, certificate: &mut Certificate) -> der::Result<()> {
    let identifier: AnyRef<'_> = reader.decode()?;
    // Whether it is critical.
    reader.decode::<Option<bool>>()?;
    let value = reader.decode::<&OctetStringRef>()?.as_bytes();
    match identifier.value() {
        SUBJECT_ALT_NAME => certificate.names = names(value)?,
        SUBJECT_KEY_IDENTIFIER => {
            let identifier = <&OctetStringRef>::from_der(value)?;
            certificate.key_identifier = Some(identifier.as_bytes().to_vec());
        }
        BASIC_CONSTRAINTS => certificate.is_ca = AnyRef::from_der(value)?.sequence(is_ca)?,
        KEY_USAGE => {
            let usage = BitStringRef::from_der(value)?;
            let first = usage.raw_bytes().first().copied().unwrap_or(0);
            certificate.is_key_for_certificates = first & KEY_CERT_SIGN != 0;
        }
        EXTENDED_KEY_USAGE => {
            let usages = Vec::<AnyRef<'_>>::from_der(value)?;
            let usages = usages.iter().map(|usage| usage.value().to_vec());
            certificate.usages = Some(usages.collect());
        }
        NAME_CONSTRAINTS => certificate.limits = AnyRef::from_der(value)?.sequence(limits)?,
        _ => {}
    }
    Ok(())
}

/// BasicConstraints: RFC 5280, 4.2.1.9. Some issuers encode the default FALSE, which is not DER.
fn is_ca(reader: &mut SliceReader<'_>) -> der::Result<bool> {
    let is_ca: Option<bool> = reader.decode()?;
    reader.decode::<Option<AnyRef<'_>>>()?;
    Ok(is_ca.unwrap_or(false))
}

/// NameConstraints: RFC 5280, 4.2.1.10.
fn limits(reader: &mut SliceReader<'_>) -> der::Result<Limits> {
    let mut of_kind = |kind| {
        let found: Option<Vec<AnyRef<'_>>> =
            reader.context_specific(TagNumber(kind), TagMode::Implicit)?;
        let found = found.unwrap_or_default().into_iter();
        let read = found.filter_map(|tree| tree.sequence(subtree).transpose());
        read.collect::<der::Result<_>>()
    };
    Ok(Limits {
        permitted: of_kind(0)?,
        excluded: of_kind(1)?,
    })
}

/// GeneralSubtree: RFC 5280, 4.2.1.10, which allows the default minimum and no maximum, so they
/// are not read.
fn subtree(reader: &mut SliceReader<'_>) -> der::Result<Option<Subtree>> {
    let base: AnyRef<'_> = reader.decode()?;
    while reader.decode::<Option<AnyRef<'_>>>()?.is_some() {}
    Ok(match base.tag().number().value() {
        2 => Some(Subtree::Domain(text(base)?)),
        7 => {
            let bytes = base.value();
            let (address, mask) = bytes.split_at(bytes.len() / 2);
            Some(Subtree::Network(address.to_vec(), mask.to_vec()))
        }
        _ => None,
    })
}

/// GeneralNames: RFC 5280, 4.2.1.6.
fn names(value: &[u8]) -> der::Result<BTreeSet<Name>> {
    let mut names = BTreeSet::new();
    for name in Vec::<AnyRef<'_>>::from_der(value)? {
        names.extend(match name.tag().number().value() {
            1 => Some(Name::Email(text(name)?)),
            2 => Some(Name::Dns(text(name)?)),
            6 => Some(Name::Uri(text(name)?)),
            7 => address(name.value()),
            _ => None,
        });
    }
    Ok(names)
}

fn text(name: AnyRef<'_>) -> der::Result<String> {
    Ok(Ia5StringRef::new(name.value())?.as_str().to_owned())
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

    /// A certificate with every field that is parsed.
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

        #[test]
        fn never_panics_over_a_length(der in prop::collection::vec(any::<u8>(), 0..40), length in any::<u64>()) {
            let long = [&[0x30, 0x88][..], &length.to_be_bytes(), &der].concat();
            for depth in 0..4 {
                let mut nested = long.clone();
                for _ in 0..depth {
                    nested = element(0x30, &nested);
                }
                prop_assert!(Certificate::read(nested.into()).is_err());
                prop_assert!(with(37, &long).is_err());
            }
        }
    }

    /// An element of DER with content of less than 2^16 bytes.
    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        match u16::try_from(content.len())
            .unwrap_or_default()
            .to_be_bytes()
        {
            [0, short @ 0..0x80] => [&[tag, short], content].concat(),
            [0, long] => [&[tag, 0x81, long], content].concat(),
            [high, low] => [&[tag, 0x82, high, low], content].concat(),
        }
    }

    /// A certificate with one extension below id-ce, which has this value.
    fn with(extension: u64, value: &[u8]) -> Result<Certificate> {
        let mut params = rcgen::CertificateParams::default();
        params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
            &[2, 5, 29, extension],
            value.to_vec(),
        )];
        let made = params.self_signed(&crate::tls::key::make()?)?;
        Certificate::read(made.der().clone())
    }

    #[test]
    fn an_impossible_length_is_an_error() {
        let long = [0x30, 10, 0x30, 0x88, 255, 255, 255, 255, 255, 255, 255, 248];
        assert!(Certificate::read(long.to_vec().into()).is_err());
        let nested: Vec<u8> = (0..60).rev().flat_map(|n| [0x30, n * 2]).collect();
        assert!(Certificate::read(nested.into()).is_err());
        let mut after = real();
        after.push(0);
        assert!(Certificate::read(after.into()).is_err());
    }

    #[test]
    fn the_right_to_sign_is_parsed_in_every_encoding() {
        let may_sign = |extension, value: &[u8]| {
            let read = with(extension, value).map(|found| found.may_sign());
            read.ok()
        };
        const CONSTRAINTS: u64 = 19;
        assert_eq!(may_sign(CONSTRAINTS, &[0x30, 3, 1, 1, 0xff]), Some(true));
        let with_length = [0x30, 6, 1, 1, 0xff, 2, 1, 0];
        assert_eq!(may_sign(CONSTRAINTS, &with_length), Some(true));
        assert_eq!(may_sign(CONSTRAINTS, &[0x30, 0]), Some(false));
        // An encoded FALSE, which is not DER.
        assert_eq!(may_sign(CONSTRAINTS, &[0x30, 3, 1, 1, 0]), Some(false));
        assert_eq!(may_sign(CONSTRAINTS, &[0x30, 3, 1, 1, 7]), None);
        assert_eq!(may_sign(CONSTRAINTS, &[0x30, 3, 1, 1, 0xff, 0]), None);

        // keyCertSign alone; beside another usage, in two bytes; other usages only.
        let for_certificates = |value: &[u8]| {
            let read = with(15, value).map(|found| found.is_key_for_certificates);
            read.ok()
        };
        assert_eq!(for_certificates(&[3, 2, 2, 0x04]), Some(true));
        assert_eq!(for_certificates(&[3, 3, 7, 0x84, 0x80]), Some(true));
        assert_eq!(for_certificates(&[3, 2, 1, 0xfa]), Some(false));
        assert_eq!(for_certificates(&[3, 1, 0]), Some(false));
        assert_eq!(for_certificates(&[4, 1, 0x04]), None);
    }

    #[test]
    fn usages_are_for_the_purposes_that_they_name() {
        use rcgen::ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth, TimeStamping};
        let is_for = |read: Result<Certificate>| {
            let found = read.unwrap_or_else(|error| panic!("{error:#}"));
            [Purpose::Server, Purpose::Client].map(|purpose| found.is_for(purpose))
        };
        for (usages, expected) in [
            (vec![], [true, true]),
            (vec![ServerAuth], [true, false]),
            (vec![ClientAuth], [false, true]),
            (vec![TimeStamping, ClientAuth, ServerAuth], [true, true]),
            (vec![Any], [true, true]),
            (vec![TimeStamping], [false, false]),
        ] {
            let mut params = rcgen::CertificateParams::default();
            params.extended_key_usages = usages.clone();
            let made = crate::tls::key::make().and_then(|key| Ok(params.self_signed(&key)?));
            let found = made.and_then(|made| Certificate::read(made.der().clone()));
            assert_eq!(is_for(found), expected, "{usages:?}");
        }
        // An identifier with the arc of a UUID, too large for any integer type: ITU-T X.667.
        let uuid = [&[0x69, 0x83][..], &[0xff; 17], &[0x7f]].concat();
        let usages = element(0x30, &element(6, &uuid));
        assert_eq!(is_for(with(37, &usages)), [false, false]);
    }

    #[test]
    fn names_are_checked_against_the_constraints() {
        let limits = |permitted: &[Vec<u8>], excluded: &[Vec<u8>]| {
            let all = |tag, trees: &[Vec<u8>]| match trees {
                [] => Vec::new(),
                trees => element(tag, &trees.concat()),
            };
            let both = [all(0xa0, permitted), all(0xa1, excluded)].concat();
            let found = with(30, &element(0x30, &both));
            found.unwrap_or_else(|error| panic!("{error:#}"))
        };
        let tree = |kind: u8, base: &[u8]| element(0x30, &element(0x80 | kind, base));
        let forbids = |limits: &Certificate, name: &str| {
            let names = Name::parse_list(name).unwrap_or_else(|error| panic!("{error}"));
            limits.forbidden(&names.into_iter().collect()).is_some()
        };
        let domain = limits(&[tree(2, b"Example.com")], &[tree(2, b"a.example.com")]);
        for (name, is_forbidden) in [
            ("DNS:example.com", false),
            ("DNS:b.EXAMPLE.com.", false),
            ("DNS:anexample.com", true),
            ("DNS:example.org", true),
            ("DNS:a.example.com", true),
            ("DNS:b.a.example.com", true),
            ("DNS:ba.example.com", false),
            // Kinds without a constraint.
            ("IP:10.0.0.1", false),
            ("email:a@b", false),
        ] {
            assert_eq!(forbids(&domain, name), is_forbidden, "{name}");
        }
        let below = limits(&[tree(2, b".example.com")], &[]);
        assert!(forbids(&below, "DNS:example.com"));
        assert!(!forbids(&below, "DNS:a.example.com"));
        assert!(forbids(&limits(&[], &[tree(2, b"")]), "DNS:a"));

        let network = limits(&[tree(7, &[10, 1, 0, 0, 255, 255, 0, 0])], &[]);
        assert!(!forbids(&network, "IP:10.1.2.3"));
        assert!(forbids(&network, "IP:10.2.2.3"));
        assert!(forbids(&network, "IP:fe80::1"));
        assert!(!forbids(&network, "DNS:a"));
        // A constraint on mail addresses limits none of these names, and an encoded minimum
        // changes nothing.
        let mail = limits(&[tree(1, b"b")], &[]);
        assert!(!forbids(&mail, "DNS:a,IP:10.0.0.1"));
        let base = [element(0x82, b"a"), element(0x80, &[0])].concat();
        let minimum = limits(&[], &[element(0x30, &base)]);
        assert!(forbids(&minimum, "DNS:a"));
        assert!(!forbids(&minimum, "DNS:b"));
    }

    #[test]
    fn a_time_is_parsed_in_the_forms_of_rfc_5280_only() {
        let read = |tag: u8, text: &str| {
            let mut der = vec![tag, u8::try_from(text.len()).unwrap_or_default()];
            der.extend(text.as_bytes());
            time(&mut SliceReader::new(&der).ok()?).ok()
        };
        const UTC: u8 = 23;
        const GENERALIZED: u8 = 24;
        assert_eq!(read(UTC, "700101000010Z"), Some(10));
        assert_eq!(read(UTC, "491231235959Z"), Some(2_524_607_999));
        assert_eq!(read(UTC, "500101000000Z"), Some(-631_152_000));
        assert_eq!(read(UTC, "7001010001Z"), Some(60));
        assert_eq!(read(GENERALIZED, "20500101000000Z"), Some(2_524_608_000));
        assert_eq!(read(GENERALIZED, "99991231235959Z"), Some(253_402_300_799));
        for wrong in [
            "",
            "Z",
            "99991231235959-0100",
            "20500101000000",
            "20501301000000Z",
            "20500101000000.5Z",
            "2050010100000Z",
        ] {
            assert_eq!(read(GENERALIZED, wrong), None, "{wrong}");
            assert_eq!(read(UTC, wrong), None, "{wrong}");
        }
    }
}

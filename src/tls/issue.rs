//! Issues certificates with the fields that docker-library's script has OpenSSL write.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use der::asn1::{AnyRef, BitString};
use der::{Decode, Encode};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;

use super::certificate::Certificate;
use super::purpose::Purpose;
use super::verify::{self, Verdict};
use crate::input::san::Name;
use crate::messages::remedy::Remedy;

/// How long certificates are valid: the most that macOS accepts, according to that script.
const VALIDITY: Duration = Duration::from_secs(825 * 24 * 3600);

/// How long before they are issued certificates become valid, as clients' clocks differ.
const BACKDATED: Duration = Duration::from_secs(3600);

/// A certificate authority that can sign.
#[derive(Debug)]
pub struct Authority {
    /// The certificate, in PEM.
    pub pem: String,
    /// The same certificate, parsed.
    pub certificate: Certificate,
    /// The private key that signs.
    pub key: KeyPair,
}

/// Issues the authority's own certificate for `key`. `now` is the time since 1970. The error is
/// that there are no random numbers, or one of rcgen.
pub fn authority(key: KeyPair, now: Duration) -> Result<Authority> {
    let mut params = params("docker:dind CA", now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
    ];
    let pem = params.self_signed(&key)?.pem();
    Ok(Authority {
        certificate: Certificate::read_first(pem.as_bytes())?,
        pem,
        key,
    })
}

/// Issues a certificate with these subject alternative names for `key`, signed by `authority`,
/// and returns it in PEM. `now` is the time since 1970. The certificate is verified, as the
/// authority may be the user's, of any kind; the error is the reason why it is not valid.
pub fn leaf(
    purpose: Purpose,
    names: &BTreeSet<Name>,
    key: &KeyPair,
    authority: &Authority,
    now: Duration,
) -> Result<String> {
    let (name, usage) = match purpose {
        Purpose::Server => ("docker:dind server", ExtendedKeyUsagePurpose::ServerAuth),
        Purpose::Client => ("docker:dind client", ExtendedKeyUsagePurpose::ClientAuth),
    };
    let mut params = params(name, now)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = names.iter().map(san).collect::<Result<_>>()?;

    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = DistinguishedName::new();
    if let Some(identifier) = &authority.certificate.key_identifier {
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(identifier.clone());
    }
    let issuer = Issuer::from_params(&issuer, Unsigned(&authority.key));
    let unsigned = params.signed_by(key, &issuer)?;
    let pem = sign(unsigned.der(), authority)?;

    let made = Certificate::read_first(pem.as_bytes())?;
    match verify::chain(&made, &[], &[&authority.certificate], purpose, now) {
        Verdict::Good => Ok(pem),
        Verdict::Bad(reason) | Verdict::Unknown(reason) => Err(anyhow!(
            "a certificate that it signs is not valid: {reason}"
        )),
    }
}

/// A key whose signatures are empty: [`sign`] makes the real one.
struct Unsigned<'a>(&'a KeyPair);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Unsigned<'_> {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

/// Replaces the issuer of an unsigned certificate by the authority's subject, byte for byte, as
/// clients compare them, signs the result and returns it in PEM. [`DistinguishedName`] cannot
/// hold that name: it has one value of each type, and Active Directory's names have several
/// domainComponents.
fn sign(unsigned: &[u8], authority: &Authority) -> Result<String> {
    /// The issuer's place among version, serialNumber, signature: RFC 5280, 4.1.
    const ISSUER: usize = 3;
    let parts = Vec::<AnyRef<'_>>::from_der(unsigned)?;
    let &[fields, algorithm, _] = parts.as_slice() else {
        bail!("an unsigned certificate does not have three parts");
    };
    let mut fields: Vec<AnyRef<'_>> = fields.decode_as()?;
    let issuer = fields.get_mut(ISSUER).context("no issuer")?;
    *issuer = AnyRef::from_der(&authority.certificate.subject)?;
    let body = fields.to_der()?;
    let signature = BitString::from_bytes(&authority.key.sign(&body)?)?.to_der()?;
    let signed = [
        AnyRef::from_der(&body)?,
        algorithm,
        AnyRef::from_der(&signature)?,
    ]
    .to_der()?;
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(pem::encode_config(
        &pem::Pem::new("CERTIFICATE", signed),
        lines,
    ))
}

fn params(common_name: &str, now: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(
        DnType::CommonName,
        DnValue::Utf8String(common_name.to_owned()),
    );
    params.distinguished_name = name;
    let begin = OffsetDateTime::UNIX_EPOCH + now.saturating_sub(BACKDATED);
    params.not_before = begin;
    params.not_after = begin + VALIDITY;
    params.serial_number = Some(serial_number()?);
    Ok(params)
}

/// Fills `bytes` with random numbers. The error is that of getrandom(2), which a seccomp profile
/// may forbid.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| {
        anyhow!("cannot get random numbers").remedy("allow getrandom(2) in the seccomp profile")
    })
}

/// A random serial number of 16 bytes, positive and without a leading zero: RFC 5280, 4.1.2.2.
fn serial_number() -> Result<SerialNumber> {
    let mut bytes = [0_u8; 16];
    random(&mut bytes)?;
    let first = bytes.first_mut().context("no serial number")?;
    *first = *first & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn san(name: &Name) -> Result<SanType> {
    let text = |text: &str| rcgen::string::Ia5String::try_from(text);
    Ok(match name {
        Name::Dns(name) => SanType::DnsName(text(name)?),
        Name::Ip(address) => SanType::IpAddress(*address),
        Name::Email(address) => SanType::Rfc822Name(text(address)?),
        Name::Uri(uri) => SanType::URI(text(uri)?),
    })
}

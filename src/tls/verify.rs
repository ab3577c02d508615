//! Verifies chains of certificates.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

use super::certificate::Certificate;
use super::purpose::Purpose;

/// Whether a chain is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The chain is valid for the purpose.
    Good,
    /// The chain is not valid, for this reason, and dockerd's clients would reject it, too.
    Bad(String),
    /// The chain cannot be judged here, for this reason, and may be valid: webpki is stricter
    /// than OpenSSL and Go, and has fewer algorithms.
    Unknown(String),
}

/// Verifies a chain from `leaf` through any of the `intermediates` to one of the `authorities`,
/// for `purpose`. `now` is the time since 1970.
pub fn chain(
    leaf: &Certificate,
    intermediates: &[Certificate],
    authorities: &[&Certificate],
    purpose: Purpose,
    now: Duration,
) -> Verdict {
    if let Some(reason) = dates(leaf, now) {
        return Verdict::Bad(reason);
    }
    let usage = match purpose {
        Purpose::Server => "serverAuth",
        Purpose::Client => "clientAuth",
    };
    if !leaf.is_for(purpose) {
        return Verdict::Bad(format!("its extendedKeyUsage has no {usage}"));
    }
    if authorities
        .iter()
        .any(|authority| authority.der == leaf.der)
    {
        // The leaf is an authority itself: that is the whole chain, and webpki would reject it.
        return Verdict::Good;
    }
    let judged = |intermediates: &[Certificate], authorities: &[&Certificate]| {
        let usage = match purpose {
            Purpose::Server => KeyUsage::server_auth(),
            Purpose::Client => KeyUsage::client_auth(),
        };
        let (anchors, unusable): (Vec<_>, Vec<_>) = authorities
            .iter()
            .map(|authority| anchor_from_trusted_cert(&authority.der))
            .partition(Result::is_ok);
        let anchors: Vec<_> = anchors.into_iter().flatten().collect();
        let intermediates: Vec<CertificateDer<'_>> = intermediates
            .iter()
            .map(|certificate| certificate.der.clone())
            .collect();
        let result = EndEntityCert::try_from(&leaf.der)?
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                UnixTime::since_unix_epoch(now),
                usage,
                None,
                None,
            )
            .map(drop);
        match (result, unusable.into_iter().find_map(Result::err)) {
            // The issuer may be the authority that cannot be used.
            (Err(Error::UnknownIssuer), Some(error)) => Err(error),
            (result, _) => result,
        }
    };
    // Whether every chain has a certificate that is not `fit`.
    let needs_unfit = |authorities: &[&Certificate], fit: &dyn Fn(&Certificate) -> bool| {
        let authorities: Vec<_> = authorities.iter().copied().filter(|one| fit(one)).collect();
        let intermediates: Vec<_> = intermediates
            .iter()
            .filter(|one| fit(one))
            .cloned()
            .collect();
        judged(&intermediates, &authorities) == Err(Error::UnknownIssuer)
    };
    let judged = |authorities: &[&Certificate]| judged(intermediates, authorities);
    // webpki does not check an authority's dates and rights, and clients do.
    let (valid, expired): (Vec<&Certificate>, Vec<&Certificate>) = authorities
        .iter()
        .partition(|authority| dates(authority, now).is_none());
    let (able, unable): (Vec<&Certificate>, Vec<&Certificate>) = valid
        .into_iter()
        .partition(|authority| authority.may_sign());
    let (able, misused): (Vec<&Certificate>, Vec<&Certificate>) = able
        .into_iter()
        .partition(|authority| authority.is_for(purpose));
    match judged(&able) {
        Ok(()) => Verdict::Good,
        Err(Error::UnknownIssuer) if judged(&expired).is_ok() => {
            Verdict::Bad("the authority that signed it is not valid now".into())
        }
        Err(Error::UnknownIssuer) if judged(&unable).is_ok() => Verdict::Bad(
            "the authority that signed it may not sign: its certificate needs \
             basicConstraints with CA:TRUE, and keyCertSign where it has a keyUsage"
                .into(),
        ),
        Err(Error::UnknownIssuer) if judged(&misused).is_ok() => Verdict::Bad(format!(
            "the extendedKeyUsage of the authority that signed it has no {usage}"
        )),
        Err(Error::UnknownIssuer) => Verdict::Bad("it was signed by another authority".into()),
        Err(Error::InvalidSignatureForPublicKey) => {
            Verdict::Bad("its signature is not by the authority".into())
        }
        Err(Error::CertExpired { .. }) => Verdict::Bad("an intermediate has expired".into()),
        Err(Error::CertNotValidYet { .. }) => {
            Verdict::Bad("an intermediate is not valid yet".into())
        }
        // webpki rejects more than clients do: anyExtendedKeyUsage, and constraints on names of
        // other kinds.
        Err(Error::RequiredEkuNotFoundContext(_))
            if needs_unfit(&able, &|one| one.is_for(purpose)) =>
        {
            Verdict::Bad(format!(
                "the extendedKeyUsage of an intermediate has no {usage}"
            ))
        }
        Err(Error::NameConstraintViolation)
            if needs_unfit(&able, &|one| one.forbidden(&leaf.names).is_none()) =>
        {
            let signers = able.iter().copied().chain(intermediates);
            let name = signers
                .flat_map(|signer| signer.forbidden(&leaf.names))
                .next();
            Verdict::Bad(format!(
                "the nameConstraints of an issuer forbid {}",
                name.map(ToString::to_string).unwrap_or_default()
            ))
        }
        Err(error) => Verdict::Unknown(words(&error).into()),
    }
}

/// What webpki does not take, in words: it has none of its own.
fn words(error: &Error) -> &'static str {
    match error {
        Error::BadDer | Error::TrailingData(_) | Error::SignatureAlgorithmMismatch => {
            "a part of the chain is not encoded as RFC 5280 has it"
        }
        Error::BadDerTime | Error::InvalidCertValidity => "its dates are not those of RFC 5280",
        Error::CaUsedAsEndEntity => "it is the certificate of an authority",
        Error::EndEntityUsedAsCa => "an issuer is not an authority",
        Error::InvalidSerialNumber => "a serial number is not one of RFC 5280",
        Error::UnsupportedCertVersion => "a certificate is not of version 3",
        Error::UnsupportedCriticalExtension => "a critical extension is not known here",
        Error::ExtensionValueInvalid | Error::MalformedExtensions | Error::EmptyEkuExtension => {
            "an extension is malformed"
        }
        Error::MalformedDnsIdentifier | Error::UnsupportedNameType => {
            "a name is of a form that is not known here"
        }
        Error::MalformedNameConstraint
        | Error::InvalidNetworkMaskConstraint
        | Error::NameConstraintViolation => "nameConstraints cannot be checked here",
        Error::PathLenConstraintViolated => "the pathlen of an issuer is too small",
        Error::RequiredEkuNotFoundContext(_) => "an extendedKeyUsage cannot be checked here",
        Error::MaximumNameConstraintComparisonsExceeded
        | Error::MaximumPathBuildCallsExceeded
        | Error::MaximumPathDepthExceeded
        | Error::MaximumSignatureChecksExceeded => "its chain is too long",
        Error::UnsupportedSignatureAlgorithmContext(_)
        | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            "a key or signature in its chain is of a kind that is not known here"
        }
        _ => "a part of its chain is not known here",
    }
}

/// The whole days for which a certificate is still valid at `now`, the time since 1970.
pub fn days_left(certificate: &Certificate, now: Duration) -> i64 {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    days(certificate.not_after.saturating_sub(now))
}

/// The reason why a certificate is not valid at `now`, the time since 1970; `None` where it is.
pub fn dates(certificate: &Certificate, now: Duration) -> Option<String> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if certificate.not_after < now {
        Some(format!(
            "it expired {} days ago",
            days(now.saturating_sub(certificate.not_after))
        ))
    } else if certificate.not_before > now {
        Some(format!(
            "it becomes valid in {} days; check this machine's clock",
            days(certificate.not_before.saturating_sub(now))
        ))
    } else {
        None
    }
}

fn days(seconds: i64) -> i64 {
    seconds / (24 * 3600)
}

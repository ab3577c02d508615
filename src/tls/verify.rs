//! Whether a chain of certificates holds.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

use super::certificate::Certificate;
use super::purpose::Purpose;

/// What is known of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Good,
    /// It does not, and dockerd's clients would say so too.
    Bad(String),
    /// It has something that is not known here and may be to others: webpki is stricter
    /// than OpenSSL and Go, and has fewer algorithms.
    Unknown(String),
}

/// Judges a chain from `leaf` over some of the `intermediates` to one of the
/// `authorities`. `now` is the time since 1970.
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
        // One certificate for itself is its own chain, and no leaf to webpki.
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
            // It may be the one that cannot be used.
            (Err(Error::UnknownIssuer), Some(error)) => Err(error),
            (result, _) => result,
        }
    };
    // Whether there is no chain without one of those that are not `fit`.
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
    // webpki does not look at an authority's dates and rights, and clients do.
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
            Verdict::Bad("the authority that has signed it is not valid now".into())
        }
        Err(Error::UnknownIssuer) if judged(&unable).is_ok() => Verdict::Bad(
            "the authority that has signed it may not: its certificate needs \
             basicConstraints with CA:TRUE, and keyCertSign where it has a keyUsage"
                .into(),
        ),
        Err(Error::UnknownIssuer) if judged(&misused).is_ok() => Verdict::Bad(format!(
            "the extendedKeyUsage of the authority that has signed it has no {usage}"
        )),
        Err(Error::UnknownIssuer) => Verdict::Bad("another authority has signed it".into()),
        Err(Error::InvalidSignatureForPublicKey) => {
            Verdict::Bad("the authority has not signed it".into())
        }
        Err(Error::CertExpired { .. }) => Verdict::Bad("an intermediate has expired".into()),
        Err(Error::CertNotValidYet { .. }) => {
            Verdict::Bad("an intermediate is not valid yet".into())
        }
        // webpki rejects more than clients do: any purpose, and limits of other kinds.
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
                "the nameConstraints of what has signed it forbid {}",
                name.map(ToString::to_string).unwrap_or_default()
            ))
        }
        Err(error) => Verdict::Unknown(format!("{error:?}")),
    }
}

/// The days for which a certificate is still valid at `now`.
pub fn days_left(certificate: &Certificate, now: Duration) -> i64 {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    days(certificate.not_after.saturating_sub(now))
}

/// Why a certificate is not valid at `now`, if it is not.
pub fn dates(certificate: &Certificate, now: Duration) -> Option<String> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if certificate.not_after < now {
        Some(format!(
            "it expired {} days ago",
            days(now.saturating_sub(certificate.not_after))
        ))
    } else if certificate.not_before > now {
        Some(format!(
            "it is valid in {} days only; check this machine's clock",
            days(certificate.not_before.saturating_sub(now))
        ))
    } else {
        None
    }
}

fn days(seconds: i64) -> i64 {
    seconds / (24 * 3600)
}

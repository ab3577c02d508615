//! Certificates, as they come in ca.pem and cert.pem. The input is DER, several with a
//! length of two bytes before each, since nothing gets through PEM's base64 by chance;
//! and it is read as PEM too.

#![no_main]

use std::time::Duration;

use dind::tls::certificate::Certificate;
use dind::tls::purpose::Purpose;
use dind::tls::verify::{self, Verdict};
use libfuzzer_sys::fuzz_target;

const NOW: Duration = Duration::from_secs(1_800_000_000);

fn parts(mut data: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let [high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (part, after) = rest.split_at(length);
        parts.push(part);
        data = after;
    }
    parts
}

fuzz_target!(|data: &[u8]| {
    let _ = Certificate::read_all(data);
    let pems: Vec<pem::Pem> = parts(data)
        .into_iter()
        .take(8)
        .map(|der| pem::Pem::new("CERTIFICATE", der))
        .collect();
    let Ok(found) = Certificate::read_all(pem::encode_many(&pems).as_bytes()) else {
        return;
    };
    assert_eq!(found.len(), pems.len());
    for (certificate, pem) in found.iter().zip(&pems) {
        assert_eq!(certificate.der.as_ref(), pem.contents());
        for part in [&certificate.subject, &certificate.public_key] {
            assert!(
                pem.contents()
                    .windows(part.len())
                    .any(|found| found == part)
            );
        }
        assert!(certificate.names.len() <= pem.contents().len());
        verify::days_left(certificate, NOW);
        let out_of_date = verify::dates(certificate, NOW).is_some();
        let inside =
            certificate.not_before <= 1_800_000_000 && certificate.not_after >= 1_800_000_000;
        assert_eq!(out_of_date, !inside);
    }
    let Some((leaf, rest)) = found.split_first() else {
        return;
    };
    let authorities: Vec<&Certificate> = rest.iter().collect();
    for purpose in [Purpose::Server, Purpose::Client] {
        // Nobody has signed anything for nobody.
        let alone = verify::chain(leaf, rest, &[], purpose, NOW);
        assert!(!matches!(alone, Verdict::Good), "{alone:?}");
        let verdict = verify::chain(leaf, rest, &authorities, purpose, NOW);
        if verify::dates(leaf, NOW).is_some() {
            assert!(matches!(verdict, Verdict::Bad(_)));
        }
    }
});

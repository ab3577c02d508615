//! Subject alternative names, for which a certificate is valid: RFC 5280, 4.2.1.6.

use std::fmt;
use std::net::IpAddr;

use crate::messages::fault::Fault;

/// A subject alternative name of the kinds that servers have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A host name, which may begin with `*.`.
    Dns(String),
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A mail address, with an `@`.
    Email(String),
    /// An absolute URI.
    Uri(String),
}

impl Name {
    /// The name for a host, which may be an address; `None` where no certificate can have it.
    pub fn host(host: &str) -> Option<Self> {
        match host.parse() {
            Ok(address) => Some(Self::Ip(address)),
            Err(_) => is_host(host).then(|| Self::Dns(host.to_owned())),
        }
    }

    /// Parses OpenSSL's notation for `subjectAltName` (x509v3_config(5)), which `DOCKER_TLS_SAN`
    /// has: `DNS:NAME,IP:ADDRESS`, with `email:` and `URI:`, and a number that distinguishes two
    /// of a kind (`DNS.1:`). Blanks may be around each, also after the colon, and separate names
    /// as commas do: docker-library's script splits the list with xargs. The fault names the
    /// invalid part and what is allowed.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, Fault> {
        let mut parts: Vec<String> = Vec::new();
        for part in text.split(',') {
            let mut words = part.split_whitespace();
            let mut last = words.next().unwrap_or_default().to_owned();
            for word in words {
                if !is_kind(&last) {
                    parts.push(std::mem::take(&mut last));
                }
                last.push_str(word);
            }
            parts.push(last);
        }
        // A comma at the end is ignored, as the script did.
        if parts.len() > 1 && parts.last().is_some_and(String::is_empty) {
            parts.pop();
        }
        parts.iter().map(|part| Self::parse(part)).collect()
    }

    fn parse(part: &str) -> Result<Self, Fault> {
        let wrong = |what: &str| {
            Fault::usage(format!("{part:?} is not valid")).remedy(format!("allowed: {what}"))
        };
        let (kind, value) = part
            .split_once(':')
            .map(|(kind, value)| (kind.trim(), value.trim()))
            .ok_or_else(|| wrong("DNS:NAME, IP:ADDRESS, email:ADDRESS, URI:ADDRESS"))?;
        let kind = match kind.split_once('.') {
            Some((kind, suffix)) if suffix.bytes().all(|byte| byte.is_ascii_digit()) => kind,
            Some(_) | None => kind,
        };
        let text = || {
            let valid = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic());
            valid.then(|| value.to_owned())
        };
        match kind {
            "DNS" => is_host(value)
                .then(|| Self::Dns(value.to_owned()))
                .ok_or_else(|| wrong("DNS: with a host name, which may begin with '*.'")),
            "IP" => value
                .parse()
                .map(Self::Ip)
                .map_err(|_| wrong("IP: with an IPv4 or IPv6 address")),
            "email" => text()
                .filter(|value| value.contains('@'))
                .map(Self::Email)
                .ok_or_else(|| wrong("email: with a mail address")),
            "URI" => text()
                .filter(|value| value.contains(':'))
                .map(Self::Uri)
                .ok_or_else(|| wrong("URI: with an absolute URI")),
            _ => Err(wrong("DNS:, IP:, email: and URI:")),
        }
    }
}

/// Whether `text` is a kind without a value: `DNS:`, and not `IP:fe80::`.
fn is_kind(text: &str) -> bool {
    text.find(':') == Some(text.len().saturating_sub(1))
}

/// Labels of letters, digits, hyphens and underscores; the first may be `*`.
fn is_host(host: &str) -> bool {
    let rest = host.strip_prefix("*.").unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    host.len() <= 253 && rest.trim_end_matches('.').split('.').all(is_label)
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => write!(formatter, "DNS:{name}"),
            Self::Ip(address) => write!(formatter, "IP:{address}"),
            Self::Email(address) => write!(formatter, "email:{address}"),
            Self::Uri(uri) => write!(formatter, "URI:{uri}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn openssls_notation_is_read() {
        let read = |text| {
            let names: Vec<String> = match Name::parse_list(text) {
                Ok(names) => names.iter().map(ToString::to_string).collect(),
                Err(fault) => vec![fault.to_string()],
            };
            names.join(" ")
        };
        assert_eq!(
            read("DNS:a.example,IP:10.0.0.1"),
            "DNS:a.example IP:10.0.0.1"
        );
        assert_eq!(read(" DNS: *.b , IP:::1 "), "DNS:*.b IP:::1");
        assert_eq!(
            read("DNS:a IP:fe80:: DNS: b\n  DNS:c,"),
            "DNS:a IP:fe80:: DNS:b DNS:c"
        );
        assert_eq!(read("DNS.1:a,DNS.2:b_c"), "DNS:a DNS:b_c");
        assert_eq!(
            read("email:me@b,URI:https://a/"),
            "email:me@b URI:https://a/"
        );
    }

    #[test]
    fn the_invalid_part_is_named() {
        for (text, part) in [
            ("DNS:a,IP:10.0.0", "\"IP:10.0.0\""),
            ("DNS:a,,DNS:b", "\"\""),
            ("docker", "\"docker\""),
            ("DNS:a b", "\"b\""),
            ("", "\"\""),
            ("DNS:a, ,", "\"\""),
            ("DNS:", "\"DNS:\""),
            ("DNS:a..b", "\"DNS:a..b\""),
            ("dirName:x", "\"dirName:x\""),
            ("email:me", "\"email:me\""),
            ("URI:a", "\"URI:a\""),
            ("DNS:ä", "\"DNS:ä\""),
        ] {
            let fault = Name::parse_list(text).err();
            let shown = fault.map(|fault| fault.to_string()).unwrap_or_default();
            assert!(
                shown.starts_with(part) && shown.contains("; allowed: "),
                "{text}: {shown}"
            );
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_or_not_for_a_certificate() {
        assert_eq!(Name::host("box"), Some(Name::Dns("box".into())));
        assert_eq!(Name::host("10.0.0.1"), Some(Name::Ip([10, 0, 0, 1].into())));
        assert_eq!(Name::host("two words"), None);
        assert_eq!(Name::host(""), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") {
            let _ = Name::parse_list(&text);
            let _ = Name::host(&text);
        }

        #[test]
        fn what_is_shown_is_read_again(text in "(DNS:[a-z]{1,5}|IP:[0-9]{1,3}\\.1\\.1\\.1)(,DNS:[a-z]{1,5}){0,3}") {
            if let Ok(names) = Name::parse_list(&text) {
                let shown: Vec<String> = names.iter().map(ToString::to_string).collect();
                prop_assert_eq!(Name::parse_list(&shown.join(",")), Ok(names));
            }
        }
    }
}

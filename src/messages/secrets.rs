//! Removes passwords and keys from arguments and variables that the plan and errors quote:
//! their text ends up in logs and bug reports.
//!
//! Three places are known: before the `@` of an address (RFC 3986, 3.2.1), after the name of
//! a password or token (`--log-opt splunk-token=…`), and private keys in PEM.

/// The replacement, as in Go's `URL.Redacted` and in `docker info`.
const HIDDEN: &str = "xxxxx";

/// The endings of the names of secrets, in any case. Not `key`: `--tlskey=FILE`.
const NAMES: &[&str] = &[
    "password", "passwd", "secret", "token", "apikey", "api-key", "api_key",
];

/// The end of the line before a private key, and the beginning of the line after it:
/// RFC 7468, 2.
const KEY_BEGINS: &str = "PRIVATE KEY-----";
const KEY_ENDS: &str = "-----END";

/// Takes a text of any words and returns it with `xxxxx` for each secret. A secret ends at
/// the next blank or quote here; where it may have one, use [`hide_in_word`]. Hiding twice
/// changes nothing more.
pub fn hide(text: &str) -> String {
    without(text, |character| {
        character.is_whitespace() || matches!(character, '"' | '\'')
    })
}

/// Takes one word, such as the value of a variable, and returns it with `xxxxx` for each
/// secret, whatever characters that has.
pub fn hide_in_word(word: &str) -> String {
    without(word, |_| false)
}

/// Takes the words of a command line and returns them as [`hide_in_word`] does each. A word
/// behind a flag with the name of a secret is one as a whole (`--password WORD`).
pub fn hide_in_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut before = "";
    let hidden = words.into_iter().map(|current| {
        let flag = std::mem::replace(&mut before, current);
        match current.rsplit_once('@') {
            _ if flag.starts_with('-') && is_secret(flag) => HIDDEN.to_owned(),
            Some((_, host)) if flag.starts_with('-') && is_proxy(flag) => {
                format!("{HIDDEN}@{}", hide_in_word(host))
            }
            _ => hide_in_word(current),
        }
    });
    hidden.collect()
}

/// Replaces the secrets of a text. The value behind `=` and the address behind `://` end
/// before the first character that `is_end`.
fn without(text: &str, is_end: fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    let text = without_keys(text);
    let mut rest = text.as_str();
    while let Some((place, marker)) = ["=", "://"]
        .iter()
        .filter_map(|marker| Some((rest.find(marker)?, marker)))
        .min()
    {
        let (before, after) = rest.split_at(place + marker.len());
        shown.push_str(before);
        let end = after.find(is_end).unwrap_or(after.len());
        let (value, next) = after.split_at(end);
        let name = before.strip_suffix(marker).unwrap_or_default();
        rest = if *marker == "=" && is_secret(name) && !value.is_empty() {
            shown.push_str(HIDDEN);
            next
        } else if let Some(at) = value.rfind('@')
            && (*marker == "://" || (is_proxy(name) && !has_scheme(value)))
        {
            shown.push_str(HIDDEN);
            after.get(at..).unwrap_or_default()
        } else {
            after
        };
    }
    shown + rest
}

/// Replaces everything between the first line of the first private key and the last line of
/// the last one. A key without an end goes to the end of the text.
fn without_keys(text: &str) -> String {
    let Some((before, key)) = text.split_once(KEY_BEGINS) else {
        return text.to_owned();
    };
    let end = key.rfind(KEY_ENDS).and_then(|end| key.get(end..));
    format!("{before}{KEY_BEGINS}{HIDDEN}{}", end.unwrap_or_default())
}

fn is_secret(name: &str) -> bool {
    NAMES.iter().any(|secret| ends_with(name, secret))
}

/// Go takes a proxy's address without a scheme too (golang.org/x/net/http/httpproxy).
fn is_proxy(name: &str) -> bool {
    ends_with(name, "proxy")
}

/// Whether an address begins with a scheme: RFC 3986, 3.1. A password may have `://` in it, too.
fn has_scheme(address: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    address.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(is_part)
    })
}

fn ends_with(text: &str, end: &str) -> bool {
    let start = text.len().checked_sub(end.len());
    start
        .and_then(|start| text.get(start..))
        .is_some_and(|found| found.eq_ignore_ascii_case(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn secrets_are_found_where_people_put_them() {
        for (text, shown) in [
            ("https://me:pass@host/v2/", "https://xxxxx@host/v2/"),
            ("http://me:p/a@s#s@host:80", "http://xxxxx@host:80"),
            ("HTTPS_PROXY=me:pass@host:80", "HTTPS_PROXY=xxxxx@host:80"),
            ("HTTPS_PROXY=me:p://s@host:80", "HTTPS_PROXY=xxxxx@host:80"),
            (
                "--http-proxy=http://a:b@c d",
                "--http-proxy=http://xxxxx@c d",
            ),
            (
                "--log-opt=splunk-token=a-b,c",
                "--log-opt=splunk-token=xxxxx",
            ),
            ("x=1 DB_PASSWORD=abc y=2", "x=1 DB_PASSWORD=xxxxx y=2"),
            ("https://h/?token=a&b=c", "https://h/?token=xxxxx"),
            ("a://b c://d:e@f", "a://b c://xxxxx@f"),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
                "-----BEGIN RSA PRIVATE KEY-----xxxxx-----END RSA PRIVATE KEY-----",
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nMIIE",
                "-----BEGIN PRIVATE KEY-----xxxxx",
            ),
        ] {
            assert_eq!(hide(text), shown);
        }
    }

    #[test]
    fn other_text_is_shown() {
        for text in [
            "--tlskey=/certs/server/key.pem --host=tcp://0.0.0.0:2376",
            "certificates in /certs for DNS:docker,email:me@host",
            "run busybox:1@sha256:00",
            "unix:///var/run/docker.sock",
            "token=",
            "",
        ] {
            assert_eq!(hide(text), text);
        }
    }

    #[test]
    fn a_secret_in_a_separate_word_may_have_blanks() {
        assert_eq!(hide_in_word("http://me:a 'b@host"), "http://xxxxx@host");
        assert_eq!(hide_in_word("my-secret=a b"), "my-secret=xxxxx");
        let line = [
            "login",
            "--password",
            "a b",
            "--http-proxy",
            "me:a b@c",
            "d",
        ];
        let shown = [
            "login",
            "--password",
            "xxxxx",
            "--http-proxy",
            "xxxxx@c",
            "d",
        ];
        assert_eq!(hide_in_words(line), shown);
    }

    proptest! {
        #[test]
        fn a_password_is_never_shown(
            before in "[ -~]{0,10}",
            user in "[a-z:]{0,5}",
            password in "[!#-&(-~]{6,12}",
        ) {
            for text in [
                format!("{before} https://{user}:{password}@host"),
                format!("{before} --http-proxy={user}:{password}@host"),
                format!("{before} --log-opt splunk-token={password}"),
            ] {
                let shown = hide(&text);
                prop_assert!(!shown.contains(&password) || before.contains(&password), "{}", shown);
                prop_assert_eq!(hide(&shown), shown);
            }
        }
    }
}

//! What is shown to nobody: passwords and keys among arguments and variables, which the
//! plan and errors quote, so that they would end up in logs and bug reports.
//!
//! They are looked for where people put them: before the `@` of an address (RFC 3986,
//! 3.2.1), after the name of a password or token (`--log-opt splunk-token=…`), and in PEM.

/// What stands in their place, as in Go's `URL.Redacted` and in `docker info`.
const HIDDEN: &str = "xxxxx";

/// What the name of a secret ends with. Not `key`: `--tlskey=FILE`.
const NAMES: &[&str] = &[
    "password", "passwd", "secret", "token", "apikey", "api-key", "api_key",
];

/// Where a private key begins and ends: RFC 7468, 2.
const KEY_BEGINS: &str = "PRIVATE KEY-----";
const KEY_ENDS: &str = "-----END";

/// A text of several words without its secrets. One that has a blank or a quote in it is
/// hidden as a whole only in a [`word`] of its own.
pub fn hidden(text: &str) -> String {
    without(text, |character| {
        character.is_whitespace() || matches!(character, '"' | '\'')
    })
}

/// One word without its secrets, whatever characters these have.
pub fn word(word: &str) -> String {
    without(word, |_| false)
}

/// The words of a command line without their secrets, among which are the words after
/// flags that have such a name.
pub fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut before = "";
    let hidden = words.into_iter().map(|current| {
        let flag = std::mem::replace(&mut before, current);
        match current.rsplit_once('@') {
            _ if flag.starts_with('-') && is_secret(flag) => HIDDEN.to_owned(),
            Some((_, host)) if flag.starts_with('-') && is_proxy(flag) => {
                format!("{HIDDEN}@{}", word(host))
            }
            _ => word(current),
        }
    });
    hidden.collect()
}

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
            && (*marker == "://" || (is_proxy(name) && !value.contains("://")))
        {
            shown.push_str(HIDDEN);
            after.get(at..).unwrap_or_default()
        } else {
            after
        };
    }
    shown + rest
}

/// From the first private key's first line to the last one's last, or to the text's end.
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
            assert_eq!(hidden(text), shown);
        }
    }

    #[test]
    fn what_is_no_secret_is_shown() {
        for text in [
            "--tlskey=/certs/server/key.pem --host=tcp://0.0.0.0:2376",
            "certificates in /certs for DNS:docker,email:me@host",
            "run busybox:1@sha256:00",
            "unix:///var/run/docker.sock",
            "token=",
            "",
        ] {
            assert_eq!(hidden(text), text);
        }
    }

    #[test]
    fn in_a_word_of_its_own_a_secret_may_have_blanks() {
        assert_eq!(word("http://me:a 'b@host"), "http://xxxxx@host");
        assert_eq!(word("my-secret=a b"), "my-secret=xxxxx");
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
        assert_eq!(words(line), shown);
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
                let shown = hidden(&text);
                prop_assert!(!shown.contains(&password) || before.contains(&password), "{}", shown);
                prop_assert_eq!(hidden(&shown), shown);
            }
        }
    }
}

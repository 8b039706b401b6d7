//! Who may call the catalog port, where `--catalog-tokens-file` is given: static bearer tokens, and clients that get a
//! token for an hour for their id and secret (OAuth 2.0, client credentials).
//!
//! Owns: the file, whose token is right, tokens that are issued. Does not own: routes and answers (`catalog_http`).
//! A token that is issued carries the client's id and its end, signed with the client's secret. So every broker that
//! has the same file accepts it, nothing is kept, and a new secret ends all tokens of the old one. *Node-wide*.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidewater_storage::model::TimestampMs;

/// How long a token that is issued is good for.
pub const TOKEN_SECONDS: u32 = 3600;
/// Characters of a secret or a token at least.
const SECRET_MIN: usize = 16;
/// What an issued token begins with, and the domain of its signature.
const ISSUED: &str = "tw1";

/// What the file says.
pub struct Tokens {
    /// Bearer tokens by name.
    fixed: BTreeMap<String, String>,
    /// Secrets by the client's id.
    clients: BTreeMap<String, String>,
}

/// Secrets stay out of logs.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({} tokens, {} clients)", self.fixed.len(), self.clients.len())
    }
}

impl Tokens {
    /// Reads the file.
    ///
    /// # Errors
    /// What is wrong with it, and what to do.
    pub fn load(path: &Path) -> Result<Self, String> {
        let of_file = |why: String| format!("--catalog-tokens-file {}: {why}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| of_file(error.to_string()))?;
        Self::parse(&text).map_err(of_file)
    }

    /// Lines `token NAME TOKEN` and `client ID SECRET`; empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    /// What is wrong, and in which line. Secrets are not repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Self { fixed: BTreeMap::new(), clients: BTreeMap::new() };
        for (number, line) in (1..).zip(text.lines()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (held, name, secret) = match words[..] {
                [] => continue,
                [first, ..] if first.starts_with('#') => continue,
                ["token", name, secret] => (&mut tokens.fixed, name, secret),
                ["client", name, secret] => (&mut tokens.clients, name, secret),
                _ => return Err(format!("line {number} is neither `token NAME TOKEN` nor `client ID SECRET`")),
            };
            if secret.chars().count() < SECRET_MIN {
                return Err(format!(
                    "line {number}: the secret of {name} has fewer than {SECRET_MIN} characters; make a longer one, \
                     for example with `openssl rand -hex 24`"
                ));
            }
            if held.insert(name.to_owned(), secret.to_owned()).is_some() {
                return Err(format!("line {number}: {name} is there twice; remove one of them"));
            }
        }
        if tokens.fixed.is_empty() && tokens.clients.is_empty() {
            return Err(
                "it has no line `token NAME TOKEN` or `client ID SECRET`: every request would be refused".into()
            );
        }
        Ok(tokens)
    }

    /// Whose token it is; `None` if it is not good now.
    #[must_use]
    pub fn holder(&self, token: &str, now: TimestampMs) -> Option<&str> {
        let mut holder = None;
        // All are compared, so that the time says nothing.
        for (name, fixed) in &self.fixed {
            if verify_slices_are_equal(fixed.as_bytes(), token.as_bytes()).is_ok() {
                holder = Some(name.as_str());
            }
        }
        holder.or_else(|| self.issued_to(token, now))
    }

    /// A token for the client until [`TOKEN_SECONDS`] after `now`; `None` if id and secret do not match.
    #[must_use]
    pub fn issue(&self, id: &str, secret: &str, now: TimestampMs) -> Option<String> {
        let held = self.clients.get(id)?;
        verify_slices_are_equal(held.as_bytes(), secret.as_bytes()).ok()?;
        self.renewed(id, now)
    }

    /// A new token for the holder of a good one that was issued.
    #[must_use]
    pub fn exchange(&self, token: &str, now: TimestampMs) -> Option<String> {
        self.renewed(self.issued_to(token, now)?, now)
    }

    fn renewed(&self, id: &str, now: TimestampMs) -> Option<String> {
        let end = now.0.saturating_add(i64::from(TOKEN_SECONDS) * 1000);
        let signed = format!("{ISSUED}.{}.{end}", URL_SAFE_NO_PAD.encode(id));
        let tag = hmac::sign(&key(self.clients.get(id)?), signed.as_bytes());
        Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag)))
    }

    fn issued_to(&self, token: &str, now: TimestampMs) -> Option<&str> {
        let (signed, tag) = token.rsplit_once('.')?;
        let mut parts = signed.strip_prefix(ISSUED)?.strip_prefix('.')?.split('.');
        let (id, end) = (parts.next()?, parts.next()?);
        let id = String::from_utf8(URL_SAFE_NO_PAD.decode(id).ok()?).ok()?;
        let (id, secret) = self.clients.get_key_value(&id)?;
        hmac::verify(&key(secret), signed.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).ok()?).ok()?;
        let end: i64 = end.parse().ok()?;
        (parts.next().is_none() && now.0 < end).then_some(id.as_str())
    }
}

fn key(secret: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "# who\n\ntoken ops 0123456789abcdef\nclient spark 0123456789ABCDEF\nclient trino 0123456789ABCDEF\n";
    const NOW: TimestampMs = TimestampMs(1_760_000_000_000);

    #[test]
    fn a_token_is_good_for_an_hour_and_for_its_secret_alone() {
        let tokens = Tokens::parse(FILE).expect("parses");
        assert_eq!(tokens.holder("0123456789abcdef", NOW), Some("ops"));
        assert_eq!(tokens.holder("0123456789ABCDEF", NOW), None, "a secret is no token");
        assert_eq!(tokens.issue("spark", "0123456789abcdef", NOW), None);
        assert_eq!(tokens.issue("ops", "0123456789abcdef", NOW), None, "a token is no secret");
        let issued = tokens.issue("spark", "0123456789ABCDEF", NOW).expect("issued");
        assert_eq!(tokens.holder(&issued, NOW), Some("spark"));
        let last = TimestampMs(NOW.0 + 3_599_999);
        assert_eq!(tokens.holder(&issued, last), Some("spark"));
        assert_eq!(tokens.holder(&issued, TimestampMs(last.0 + 1)), None);
        let renewed = tokens.exchange(&issued, last).expect("renewed");
        assert_eq!(tokens.holder(&renewed, TimestampMs(last.0 + 1000)), Some("spark"));
        assert_eq!(tokens.exchange("0123456789abcdef", NOW), None, "a fixed token needs no other");
        let other = Tokens::parse(&FILE.replace("0123456789ABCDEF", "another-secret-00")).expect("parses");
        assert_eq!(other.holder(&issued, NOW), None);
    }

    #[test]
    fn a_token_that_was_changed_anywhere_is_refused() {
        let tokens = Tokens::parse(FILE).expect("parses");
        let issued = tokens.issue("spark", "0123456789ABCDEF", NOW).expect("issued");
        for at in 0..issued.len() {
            let mut bytes = issued.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            // The last character of base64 has bits that mean nothing; the decoder refuses them.
            assert_eq!(tokens.holder(&changed, NOW), None, "{at}");
            assert_eq!(tokens.holder(&issued[..at], NOW), None, "{at}");
        }
        // The same secret for two clients: a token of one is none of the other's.
        let of_trino = issued.replace(&URL_SAFE_NO_PAD.encode("spark"), &URL_SAFE_NO_PAD.encode("trino"));
        assert_eq!(tokens.holder(&of_trino, NOW), None);
    }

    #[test]
    fn a_file_that_is_wrong_is_refused_with_its_line_and_without_its_secrets() {
        for (text, wanted) in [
            ("", "has no line"),
            ("# token a 0123456789abcdef", "has no line"),
            ("token a", "line 1"),
            ("\npassword a 0123456789abcdef", "line 2"),
            ("token a hush-hush", "fewer than 16"),
            ("client a 0123456789abcdef\nclient a 0123456789abcdeg", "twice"),
        ] {
            let why = Tokens::parse(text).expect_err("is refused");
            assert!(why.contains(wanted) && !why.contains("hush") && !why.contains("0123"), "{why}");
        }
        assert_eq!(format!("{:?}", Tokens::parse(FILE).expect("parses")), "Tokens(1 tokens, 2 clients)");
    }
}

//! Which topics of a source are followed: names with `*` and `?`.

use std::fmt;
use std::str::FromStr;

use tidewater_storage::model::TopicName;

/// One or more patterns, of which one must match. `*` stands for any characters, `?` for one. Topics whose names begin
/// with `__` are a cluster's own (group offsets): a pattern matches them only if it begins so too. *Message*.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    patterns: Vec<String>,
}

/// Why a string is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error(
        "topic pattern {0:?} has an empty part; write names with * and ?, separated by commas, such as 'orders*,users'"
    )]
    Empty(String),
    #[error("topic pattern {pattern:?} contains {found:?}; topic names consist of letters, digits, '.', '_' and '-'")]
    Character { pattern: String, found: char },
}

impl TopicPattern {
    /// All topics but a cluster's own.
    #[must_use]
    pub fn all() -> Self {
        Self { patterns: vec!["*".to_owned()] }
    }

    #[must_use]
    pub fn matches(&self, topic: &TopicName) -> bool {
        let own = topic.as_str().starts_with("__");
        let tried = self.patterns.iter().filter(|pattern| !own || pattern.starts_with("__"));
        tried.into_iter().any(|pattern| matches(pattern.as_bytes(), topic.as_str().as_bytes()))
    }
}

impl FromStr for TopicPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let patterns: Vec<String> = text.split(',').map(|pattern| pattern.trim().to_owned()).collect();
        if patterns.iter().any(String::is_empty) {
            return Err(PatternError::Empty(text.to_owned()));
        }
        let legal = |c: &char| c.is_ascii_alphanumeric() || "._-*?".contains(*c);
        for pattern in &patterns {
            if let Some(found) = pattern.chars().find(|c| !legal(c)) {
                return Err(PatternError::Character { pattern: pattern.clone(), found });
            }
        }
        Ok(Self { patterns })
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.patterns.join(","))
    }
}

/// Both walk forward; after a mismatch the last `*` takes one more character. At most as many steps as the product of
/// the lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || name.get(n) == Some(c) => (p, n) = (p + 1, n + 1),
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_by_stars_and_question_marks_and_own_topics_only_by_name() {
        let matches = |pattern: &str, name: &str| {
            pattern.parse::<TopicPattern>().expect("legal").matches(&TopicName::new(name).expect("legal"))
        };
        for (pattern, name) in [
            ("*", "orders"),
            ("orders", "orders"),
            ("orders*", "orders"),
            ("orders*", "orders-eu"),
            ("*-eu", "orders-eu"),
            ("o*s-?u", "orders-eu"),
            ("*a*b*", "xaxaxbx"),
            ("users, orders", "orders"),
            ("__consumer*", "__consumer_offsets"),
        ] {
            assert!(matches(pattern, name), "{pattern} matches {name}");
        }
        for (pattern, name) in [
            ("orders", "orders2"),
            ("orders?", "orders"),
            ("*-eu", "orders-us"),
            ("*a*b*", "xbxa"),
            ("*", "__consumer_offsets"),
            ("users,order", "orders"),
        ] {
            assert!(!matches(pattern, name), "{pattern} does not match {name}");
        }
    }

    #[test]
    fn what_no_topic_can_be_called_is_refused() {
        assert!(matches!("orders,,users".parse::<TopicPattern>(), Err(PatternError::Empty(_))));
        assert!(matches!("".parse::<TopicPattern>(), Err(PatternError::Empty(_))));
        assert!(matches!("ord/ers".parse::<TopicPattern>(), Err(PatternError::Character { found: '/', .. })));
        let text = "orders*,users";
        assert_eq!(text.parse::<TopicPattern>().map(|pattern| pattern.to_string()), Ok(text.to_owned()));
    }
}

//! Names of subjects, and the contexts that separate them: `:.context:subject`, or `subject` in the default context.

use std::fmt;

use super::limits::SUBJECT_BYTES_MAX;

/// A subject with its context, written so that one subject has one form. An empty name stands for the whole context.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    qualified: String,
    /// Bytes of the prefix `:.context:`; zero in the default context.
    prefix: usize,
}

/// The name of a context, with its leading point.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Context(String);

/// The context of subjects without a prefix.
const DEFAULT: &str = ".";
/// The context whose settings are those of all contexts.
const GLOBAL: &str = ".__GLOBAL";
/// Names that mean something else in a path: all subjects, and the subject without a name.
const RESERVED: [&str; 2] = ["__GLOBAL", "__EMPTY"];

impl Subject {
    /// Reads a name as a client writes it; `:.:s` is `s`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let Some(rest) = text.strip_prefix(":.") else { return Self { qualified: text.to_owned(), prefix: 0 } };
        let (context, name) = rest.split_once(':').unwrap_or((rest, ""));
        Self::new(&Context(format!(".{context}")), name)
    }

    #[must_use]
    pub fn new(context: &Context, name: &str) -> Self {
        if context.is_default() {
            return Self { qualified: name.to_owned(), prefix: 0 };
        }
        let prefix = context.0.len() + 2;
        Self { qualified: format!(":{}:{name}", context.0), prefix }
    }

    /// A name that a schema's reference gives: without a context it is in that of the schema.
    #[must_use]
    pub fn parse_beside(text: &str, parent: &Self) -> Self {
        let named = Self::parse(text);
        if named.prefix == 0 && parent.prefix > 0 { Self::new(&parent.context(), text) } else { named }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.qualified
    }

    /// The name without its context.
    #[must_use]
    pub fn name(&self) -> &str {
        self.qualified.get(self.prefix..).unwrap_or_default()
    }

    #[must_use]
    pub fn context(&self) -> Context {
        match self.prefix {
            0 => Context::default(),
            prefix => Context(self.qualified.get(1..prefix - 1).unwrap_or_default().to_owned()),
        }
    }

    /// Does it stand for a context and not for a subject in it?
    #[must_use]
    pub fn is_context(&self) -> bool {
        self.name().is_empty()
    }

    /// May settings lie here? Those of a whole context may, and those of all contexts.
    #[must_use]
    pub fn is_place(&self) -> bool {
        let controls = self.qualified.chars().any(char::is_control);
        self.is_valid() || (self.is_context() && !controls && self.qualified.len() <= SUBJECT_BYTES_MAX)
    }

    /// May a schema be registered here?
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let controls = self.qualified.chars().any(char::is_control);
        let reserved = RESERVED.contains(&self.name()) || self.context().0 == GLOBAL;
        !controls && !reserved && self.qualified.len() <= SUBJECT_BYTES_MAX
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.qualified)
    }
}

impl Context {
    /// Reads `.a` or `:.a:`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let bare = text.strip_prefix(':').unwrap_or(text);
        let bare = bare.strip_suffix(':').unwrap_or(bare);
        Self(if bare.starts_with('.') { bare.to_owned() } else { format!(".{bare}") })
    }

    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == DEFAULT
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Context {
    fn default() -> Self {
        Self(DEFAULT.to_owned())
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_form() {
        for (read, wanted, context, name) in [
            ("orders-value", "orders-value", ".", "orders-value"),
            (":.:orders", "orders", ".", "orders"),
            (":.dev:orders", ":.dev:orders", ".dev", "orders"),
            (":.dev:", ":.dev:", ".dev", ""),
            (":.dev", ":.dev:", ".dev", ""),
            (":.dev:a:b", ":.dev:a:b", ".dev", "a:b"),
            ("a:.b:c", "a:.b:c", ".", "a:.b:c"),
            ("", "", ".", ""),
        ] {
            let subject = Subject::parse(read);
            assert_eq!(
                (subject.as_str(), subject.context().as_str(), subject.name()),
                (wanted, context, name),
                "{read}"
            );
            assert_eq!(Subject::parse(subject.as_str()), subject);
        }
    }

    #[test]
    fn a_reference_is_in_the_context_of_its_schema() {
        let parent = Subject::parse(":.dev:orders");
        assert_eq!(Subject::parse_beside("money", &parent).as_str(), ":.dev:money");
        assert_eq!(Subject::parse_beside(":.other:money", &parent).as_str(), ":.other:money");
        assert_eq!(Subject::parse_beside("money", &Subject::parse("orders")).as_str(), "money");
    }

    #[test]
    fn names_that_cannot_be_registered() {
        for bad in ["a\nb", "__GLOBAL", "__EMPTY", ":.c:__GLOBAL", ":.__GLOBAL:x"] {
            assert!(!Subject::parse(bad).is_valid(), "{bad:?}");
        }
        assert!(!Subject::parse(&"x".repeat(SUBJECT_BYTES_MAX + 1)).is_valid());
        assert!(Subject::parse("a/b c").is_valid());
    }
}

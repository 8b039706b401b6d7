//! Settings of subjects, contexts and the whole registry: how schemas may change, and what may be written.

use std::fmt;

use super::definition::Metadata;
use super::json::Json;

/// How a new schema has to fit the subject's earlier ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    None,
    /// Readers with the new schema read data of the latest one.
    #[default]
    Backward,
    /// The same for data of every version.
    BackwardTransitive,
    /// Readers with the latest schema read data of the new one.
    Forward,
    ForwardTransitive,
    Full,
    FullTransitive,
}

impl Level {
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::Backward,
        Self::BackwardTransitive,
        Self::Forward,
        Self::ForwardTransitive,
        Self::Full,
        Self::FullTransitive,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Backward => "BACKWARD",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
            Self::Forward => "FORWARD",
            Self::ForwardTransitive => "FORWARD_TRANSITIVE",
            Self::Full => "FULL",
            Self::FullTransitive => "FULL_TRANSITIVE",
        }
    }

    /// Reads a name in letters of either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text))
    }

    #[must_use]
    pub const fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }

    /// Must the new schema read what the earlier ones wrote?
    #[must_use]
    pub const fn is_backward(self) -> bool {
        matches!(self, Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive)
    }

    /// Must the earlier schemas read what the new one writes?
    #[must_use]
    pub const fn is_forward(self) -> bool {
        matches!(self, Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    ReadWrite,
    ReadOnly,
    /// Read-only everywhere, with other modes below it ignored.
    ReadOnlyOverride,
    /// Schemas come with ids and versions that another registry gave; nothing is compared.
    Import,
    /// As [`Mode::Import`], from a registry that goes on to give ids.
    Forward,
}

impl Mode {
    pub const ALL: [Self; 5] = [Self::ReadWrite, Self::ReadOnly, Self::ReadOnlyOverride, Self::Import, Self::Forward];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "READWRITE",
            Self::ReadOnly => "READONLY",
            Self::ReadOnlyOverride => "READONLY_OVERRIDE",
            Self::Import => "IMPORT",
            Self::Forward => "FORWARD",
        }
    }

    /// Reads a name in letters of either case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.as_str().eq_ignore_ascii_case(text))
    }

    #[must_use]
    pub const fn is_read_only(self) -> bool {
        matches!(self, Self::ReadOnly | Self::ReadOnlyOverride)
    }

    /// Do schemas bring their ids?
    #[must_use]
    pub const fn is_import(self) -> bool {
        matches!(self, Self::Import | Self::Forward)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Settings at one place: a subject, a context or the registry. What is not set is decided further up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Another subject that this one stands for.
    pub alias: Option<String>,
    pub normalize: Option<bool>,
    pub validate_fields: Option<bool>,
    pub level: Option<Level>,
    /// A property of metadata: schemas are compared with those only that have the same value of it.
    pub group: Option<String>,
    pub default_metadata: Option<Metadata>,
    pub override_metadata: Option<Metadata>,
    pub default_rules: Option<Json>,
    pub override_rules: Option<Json>,
}

/// Why a JSON value is no [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    Level,
    Part(&'static str),
}

impl Config {
    /// `compatibility` is what a client sends for what is stored as `compatibilityLevel`.
    ///
    /// # Errors
    /// A part is of another type, or the level has no such name.
    pub fn from_json(json: &Json) -> Result<Self, ConfigError> {
        let text = |name: &'static str| match json.given(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(|text| Some(text.to_owned())).ok_or(ConfigError::Part(name)),
        };
        let flag = |name: &'static str| match json.given(name) {
            None => Ok(None),
            Some(value) => value.as_bool().map(Some).ok_or(ConfigError::Part(name)),
        };
        let metadata = |name: &'static str| match json.given(name) {
            None => Ok(None),
            Some(value) => Metadata::from_json(value).map(Some).ok_or(ConfigError::Part(name)),
        };
        let rules = |name: &'static str| match json.given(name) {
            None => Ok(None),
            Some(value) => value.as_object().map(|_| Some(value.clone())).ok_or(ConfigError::Part(name)),
        };
        let level = match json.given("compatibility").or_else(|| json.given("compatibilityLevel")) {
            None => None,
            Some(value) => Some(value.as_str().and_then(Level::parse).ok_or(ConfigError::Level)?),
        };
        Ok(Self {
            alias: text("alias")?,
            normalize: flag("normalize")?,
            validate_fields: flag("validateFields")?,
            level,
            group: text("compatibilityGroup")?,
            default_metadata: metadata("defaultMetadata")?,
            override_metadata: metadata("overrideMetadata")?,
            default_rules: rules("defaultRuleSet")?,
            override_rules: rules("overrideRuleSet")?,
        })
    }

    /// With the level under `level_name`.
    #[must_use]
    pub fn to_json(&self, level_name: &str) -> Json {
        let metadata = |metadata: &Option<Metadata>| metadata.as_ref().map_or(Json::Null, Metadata::to_json);
        Json::object([
            ("alias", self.alias.clone().into()),
            ("normalize", self.normalize.into()),
            ("validateFields", self.validate_fields.into()),
            (level_name, self.level.map(Level::as_str).into()),
            ("compatibilityGroup", self.group.clone().into()),
            ("defaultMetadata", metadata(&self.default_metadata)),
            ("overrideMetadata", metadata(&self.override_metadata)),
            ("defaultRuleSet", self.default_rules.clone().unwrap_or_default()),
            ("overrideRuleSet", self.override_rules.clone().unwrap_or_default()),
        ])
    }

    /// What `change` sets, over this.
    #[must_use]
    pub fn updated(&self, change: Self) -> Self {
        Self {
            alias: change.alias.or_else(|| self.alias.clone()),
            normalize: change.normalize.or(self.normalize),
            validate_fields: change.validate_fields.or(self.validate_fields),
            level: change.level.or(self.level),
            group: change.group.or_else(|| self.group.clone()),
            default_metadata: change.default_metadata.or_else(|| self.default_metadata.clone()),
            override_metadata: change.override_metadata.or_else(|| self.override_metadata.clone()),
            default_rules: change.default_rules.or_else(|| self.default_rules.clone()),
            override_rules: change.override_rules.or_else(|| self.override_rules.clone()),
        }
    }

    /// Does it put metadata or rules onto schemas that come without?
    #[must_use]
    pub const fn fills_in(&self) -> bool {
        self.default_metadata.is_some()
            || self.override_metadata.is_some()
            || self.default_rules.is_some()
            || self.override_rules.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for level in Level::ALL {
            assert_eq!(Level::parse(&level.as_str().to_lowercase()), Some(level));
        }
        for mode in Mode::ALL {
            assert_eq!(Mode::parse(mode.as_str()), Some(mode));
        }
        assert_eq!((Level::parse("backwards"), Mode::parse("")), (None, None));
    }

    #[test]
    fn a_config_reads_what_it_prints() {
        let text = r#"{"alias":"a","normalize":true,"validateFields":false,"compatibilityLevel":"FULL","compatibilityGroup":"g","defaultMetadata":{"properties":{"p":"1"}},"defaultRuleSet":{"domainRules":[]}}"#;
        let config = Config::from_json(&Json::parse(text).expect("reads")).expect("a config");
        assert_eq!(config.to_json("compatibilityLevel").to_string(), text);
        let change = Config { level: Some(Level::None), ..Config::default() };
        let updated = config.updated(change);
        assert_eq!((updated.level, updated.alias.as_deref()), (Some(Level::None), Some("a")));
    }

    #[test]
    fn bad_parts_are_named() {
        let error = |text| Config::from_json(&Json::parse(text).expect("reads")).err();
        assert_eq!(error(r#"{"compatibility":"SOMETIMES"}"#), Some(ConfigError::Level));
        assert_eq!(error(r#"{"normalize":"yes"}"#), Some(ConfigError::Part("normalize")));
        assert_eq!(error(r#"{"compatibility":null}"#), None);
    }
}

//! What clients ask of the registry, and what it answers: the HTTP surface without HTTP.

use super::canonical::Format;
use super::definition::{Definition, Guid, Metadata, Reference, SchemaKind};
use super::json::Json;
use super::settings::{Config, Mode};
use super::state::Deleted;
use super::subject::{Context, Subject};

/// A version as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionId {
    /// `latest`, or −1.
    Latest,
    /// Above 0.
    Number(i32),
}

impl VersionId {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim() {
            "-1" => Some(Self::Latest),
            text if text.eq_ignore_ascii_case("latest") => Some(Self::Latest),
            text => text.parse().ok().filter(|version| *version > 0).map(Self::Number),
        }
    }
}

/// A schema that a client sends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submitted {
    pub kind: SchemaKind,
    /// Without one, a registration takes the subject's latest.
    pub text: Option<String>,
    pub references: Vec<Reference>,
    pub metadata: Option<Metadata>,
    pub rules: Option<Json>,
    /// The id that another registry gave: for imports.
    pub id: Option<i32>,
    /// The version it is to become, −1 for the next one.
    pub version: Option<i32>,
}

/// A part of a listing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub offset: usize,
    /// Nothing: as many as there are.
    pub limit: Option<usize>,
}

impl Page {
    pub fn of<T>(self, items: impl Iterator<Item = T>) -> Vec<T> {
        items.skip(self.offset).take(self.limit.unwrap_or(usize::MAX)).collect()
    }
}

/// A question that the state answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    Kinds,
    Contexts,
    Subjects {
        prefix: String,
        deleted: Deleted,
        page: Page,
    },
    Schemas {
        prefix: String,
        deleted: Deleted,
        latest_only: bool,
        page: Page,
    },
    Versions {
        subject: Subject,
        deleted: Deleted,
        page: Page,
    },
    Version {
        subject: Subject,
        version: VersionId,
        deleted: bool,
        format: Format,
    },
    VersionText {
        subject: Subject,
        version: VersionId,
        deleted: bool,
        format: Format,
    },
    ReferencedBy {
        subject: Subject,
        version: VersionId,
    },
    Id {
        id: i32,
        subject: Option<Subject>,
        format: Format,
        with_max_id: bool,
    },
    IdText {
        id: i32,
        subject: Option<Subject>,
        format: Format,
    },
    IdSubjects {
        id: i32,
        subject: Option<Subject>,
        deleted: bool,
    },
    IdVersions {
        id: i32,
        subject: Option<Subject>,
        deleted: bool,
    },
    Guid {
        guid: Guid,
        format: Format,
    },
    GuidIds {
        guid: Guid,
    },
    Lookup {
        subject: Subject,
        schema: Submitted,
        normalize: bool,
        deleted: bool,
        format: Format,
    },
    /// Without a version: against as many as the subject's level looks at.
    Compatibility {
        subject: Subject,
        version: Option<VersionId>,
        schema: Submitted,
        normalize: bool,
        verbose: bool,
    },
    Config {
        subject: Option<Subject>,
        in_scope: bool,
    },
    Mode {
        subject: Option<Subject>,
        in_scope: bool,
    },
    ServerVersion,
    ClusterId,
}

impl Query {
    /// Is an answer that was right once right for ever? An id and a GUID stand for one schema.
    #[must_use]
    pub const fn is_of_what_never_changes(&self) -> bool {
        matches!(self, Self::Id { with_max_id: false, .. } | Self::IdText { .. } | Self::Guid { .. } | Self::Kinds)
    }
}

/// A change of the registry.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Register {
        subject: Subject,
        schema: Submitted,
        normalize: bool,
    },
    DeleteVersion {
        subject: Subject,
        version: VersionId,
        permanent: bool,
    },
    DeleteSubject {
        subject: Subject,
        permanent: bool,
    },
    SetConfig {
        subject: Option<Subject>,
        config: Config,
    },
    DeleteConfig {
        subject: Option<Subject>,
    },
    /// `force` imports into subjects that have schemas.
    SetMode {
        subject: Option<Subject>,
        mode: Mode,
        force: bool,
    },
    DeleteMode {
        subject: Option<Subject>,
    },
    DeleteContext {
        context: Context,
    },
}

impl Command {
    /// Has it the same effect and answer when it is carried out twice? Then it is tried again where it is not known
    /// whether it was carried out.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        match self {
            Self::Register { .. } | Self::SetConfig { .. } => true,
            Self::SetMode { mode, .. } => !mode.is_import(),
            Self::DeleteVersion { .. }
            | Self::DeleteSubject { .. }
            | Self::DeleteConfig { .. }
            | Self::DeleteMode { .. }
            | Self::DeleteContext { .. } => false,
        }
    }
}

/// A schema as an answer shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub subject: Option<Subject>,
    pub version: Option<i32>,
    pub id: Option<i32>,
    pub guid: Guid,
    pub definition: Definition,
    pub max_id: Option<i32>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Names(Vec<String>),
    Numbers(Vec<i32>),
    Number(i32),
    /// A schema's text alone.
    Text(String),
    Schema(Box<Shown>),
    Schemas(Vec<Shown>),
    Places(Vec<(Subject, i32)>),
    Ids(Vec<(Context, i32)>),
    Registered {
        id: i32,
        version: i32,
        guid: Guid,
        /// What was registered, where that is not what was sent.
        changed: Option<Box<Definition>>,
    },
    /// `None`: the client did not ask for messages.
    Compatible {
        is_compatible: bool,
        messages: Option<Vec<String>>,
    },
    Config(Config),
    /// The echo of a change.
    ConfigSet(Config),
    Mode(Mode),
    Json(Json),
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_from_one_or_the_latest() {
        for (text, wanted) in [
            ("1", Some(VersionId::Number(1))),
            ("2147483647", Some(VersionId::Number(i32::MAX))),
            ("latest", Some(VersionId::Latest)),
            ("LATEST", Some(VersionId::Latest)),
            ("-1", Some(VersionId::Latest)),
            ("0", None),
            ("-2", None),
            ("2147483648", None),
            ("earliest", None),
            ("", None),
            ("1.0", None),
        ] {
            assert_eq!(VersionId::parse(text), wanted, "{text:?}");
        }
    }
}

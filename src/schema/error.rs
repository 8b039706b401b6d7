//! Why the registry refuses. Each variant is one error code of Confluent's contract; clients act on the code.

use super::definition::Guid;
use super::subject::{Context, Subject};

/// A refusal, with the message that a client sees.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("Subject '{0}' not found.")]
    SubjectNotFound(Subject),
    #[error("Version {0} not found.")]
    VersionNotFound(i32),
    #[error("Schema not found")]
    SchemaNotFound,
    #[error("Schema {0} not found")]
    IdNotFound(i32),
    #[error("Schema {0} not found")]
    GuidNotFound(Guid),
    /// Deleted for now; a permanent delete is the next step.
    #[error("Subject '{0}' was soft deleted. Set permanent=true to delete permanently")]
    SubjectSoftDeleted(Subject),
    /// A permanent delete follows an ordinary one.
    #[error("Subject '{0}' was not deleted first before being permanently deleted")]
    SubjectNotSoftDeleted(Subject),
    #[error("Subject '{0}' Version {1} was soft deleted. Set permanent=true to delete permanently")]
    VersionSoftDeleted(Subject, i32),
    #[error("Subject '{0}' Version {1} was not deleted first before being permanently deleted")]
    VersionNotSoftDeleted(Subject, i32),
    #[error("Subject '{0}' does not have subject-level compatibility configured")]
    NoSubjectConfig(Subject),
    #[error("Subject '{0}' does not have subject-level mode configured")]
    NoSubjectMode(Subject),
    /// Each message says one difference.
    #[error("Schema being registered is incompatible with an earlier schema for subject \"{subject}\", details: [{}]", messages.join(", "))]
    Incompatible { subject: Subject, messages: Vec<String> },
    #[error("Invalid schema: {0}")]
    InvalidSchema(String),
    #[error(
        "The specified version '{0}' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\""
    )]
    InvalidVersion(String),
    #[error(
        "Invalid compatibility level. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive"
    )]
    InvalidLevel,
    #[error("Invalid mode. Valid values are READWRITE, READONLY, READONLY_OVERRIDE, IMPORT and FORWARD")]
    InvalidMode,
    #[error("{0}")]
    NotPermitted(String),
    #[error("One or more references exist to the schema {{magic=1,keytype=SCHEMA,subject={0},version={1}}}.")]
    ReferenceExists(Subject, i32),
    #[error("Schema already registered with id {registered} instead of input id {given}")]
    IdDoesNotMatch { registered: i32, given: i32 },
    #[error("The specified subject '{0}' is not a valid subject.")]
    InvalidSubject(String),
    #[error("The schema has {found} bytes, more than {max}")]
    TooLarge { found: usize, max: usize },
    #[error("Invalid rule set: {0}")]
    InvalidRules(String),
    #[error("Context {0} is not empty")]
    ContextNotEmpty(Context),
    /// The body or the query is not of the form that the route takes.
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Unprocessable(String),
    #[error("HTTP 404 Not Found: no route for {0}")]
    NoRoute(String),
    #[error("HTTP 405 Method Not Allowed: {0}")]
    NoMethod(String),
    #[error("HTTP 406 Not Acceptable: {0}")]
    NotAcceptable(String),
    #[error("HTTP 415 Unsupported Media Type: {0}")]
    MediaType(String),
    /// Before it is read.
    #[error("the body has more than {0} bytes")]
    BodyTooLarge(usize),
    /// A record could not be written: whether it will appear is not known.
    #[error("The schema registry could not write to _schemas: {0}")]
    Store(String),
    #[error("The schema registry did not answer in time: {0}")]
    Timeout(String),
    /// The schema is registered, but a restore from the bucket would lose it: its id is not given out yet.
    #[error(
        "The schema is registered and its id is not given out, because the bucket does not hold it yet ({0}). Register it again: it gets the same id"
    )]
    NotArchived(String),
    /// The broker that leads `_schemas` gave no answer that can be used; it may have carried out the request.
    #[error("Error while forwarding the request to the leader of _schemas: {0}")]
    Forward(String),
    /// This broker neither leads `_schemas` nor reaches the broker that does.
    #[error("The leader of _schemas is not known; try again")]
    NoLeader,
}

impl SchemaError {
    /// The code in the body of the answer.
    #[must_use]
    pub const fn code(&self) -> u32 {
        match self {
            Self::BadRequest(_) => 400,
            Self::NoRoute(_) => 404,
            Self::NoMethod(_) => 405,
            Self::NotAcceptable(_) => 406,
            Self::BodyTooLarge(_) => 413,
            Self::MediaType(_) => 415,
            Self::Unprocessable(_) => 422,
            Self::SubjectNotFound(_) => 40401,
            Self::VersionNotFound(_) => 40402,
            Self::SchemaNotFound | Self::IdNotFound(_) | Self::GuidNotFound(_) => 40403,
            Self::SubjectSoftDeleted(_) => 40404,
            Self::SubjectNotSoftDeleted(_) => 40405,
            Self::VersionSoftDeleted(..) => 40406,
            Self::VersionNotSoftDeleted(..) => 40407,
            Self::NoSubjectConfig(_) => 40408,
            Self::NoSubjectMode(_) => 40409,
            // What Confluent's documentation says; its newest sources have 40901. Clients look at the status.
            Self::Incompatible { .. } => 409,
            Self::InvalidSchema(_) => 42201,
            Self::InvalidVersion(_) => 42202,
            Self::InvalidLevel => 42203,
            Self::InvalidMode => 42204,
            Self::NotPermitted(_) => 42205,
            Self::ReferenceExists(..) => 42206,
            Self::IdDoesNotMatch { .. } => 42207,
            Self::InvalidSubject(_) => 42208,
            Self::TooLarge { .. } => 42209,
            Self::InvalidRules(_) => 42210,
            Self::ContextNotEmpty(_) => 42211,
            Self::Store(_) => 50001,
            Self::Timeout(_) | Self::NotArchived(_) => 50002,
            Self::Forward(_) => 50003,
            Self::NoLeader => 50004,
        }
    }

    /// The status of the answer: the first three digits of the code.
    #[must_use]
    pub const fn status(&self) -> u16 {
        let code = self.code();
        let status = if code >= 10_000 { code / 100 } else { code };
        debug_assert!(status >= 400 && status < 600);
        status as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_the_beginning_of_its_code() {
        for (error, code, status) in [
            (SchemaError::SchemaNotFound, 40403, 404),
            (SchemaError::InvalidLevel, 42203, 422),
            (SchemaError::NoLeader, 50004, 500),
            (SchemaError::BadRequest(String::new()), 400, 400),
            (SchemaError::Incompatible { subject: Subject::parse("s"), messages: Vec::new() }, 409, 409),
        ] {
            assert_eq!((error.code(), error.status()), (code, status), "{error}");
        }
    }
}

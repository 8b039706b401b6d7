//! Paths and query parameters: which query or command a request is.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::super::canonical::Format;
use super::super::definition::Guid;
use super::super::error::SchemaError;
use super::super::request::{Command, Page, Query, VersionId};
use super::super::state::Deleted;
use super::super::subject::{Context, Subject};
use super::{MEDIA_TYPES, Request, body};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Routed {
    /// Is anything here?
    Root,
    Query(Query),
    Command(Command),
}

/// Subjects of all contexts.
const EVERYWHERE: &str = ":*:";

/// # Errors
/// No such route, or a part of the request is not of its form.
pub fn route(request: &Request<'_>) -> Result<Routed, SchemaError> {
    let decoded = |segment: &str| percent_decode_str(segment).decode_utf8().map(Cow::into_owned);
    let segments = request.path.split('/').filter(|segment| !segment.is_empty());
    let segments: Vec<String> = segments
        .map(|segment| decoded(segment).map_err(|_| SchemaError::BadRequest("the path is no UTF-8".to_owned())))
        .collect::<Result<_, _>>()?;
    if !request.body.is_empty() {
        check_media_type(request.content_type)?;
    }
    let parameters = Parameters::parse(request.query)?;
    let mut path: Vec<&str> = segments.iter().map(String::as_str).collect();
    let context = match path.as_slice() {
        ["contexts", context, _, ..] => Context::parse(context),
        _ => Context::default(),
    };
    if matches!(path.as_slice(), ["contexts", _, _, ..]) {
        path.drain(..2);
    }
    Route { request, parameters, context }.of(&path)
}

fn check_media_type(given: Option<&str>) -> Result<(), SchemaError> {
    let Some(given) = given else { return Ok(()) };
    let bare = given.split(';').next().unwrap_or_default().trim();
    let known = MEDIA_TYPES.iter().chain(&["application/octet-stream", "*/*"]);
    if known.into_iter().any(|known| known.eq_ignore_ascii_case(bare)) {
        return Ok(());
    }
    Err(SchemaError::MediaType(bare.to_owned()))
}

struct Route<'a> {
    request: &'a Request<'a>,
    parameters: Parameters,
    /// Where subjects without a context of their own are.
    context: Context,
}

impl Route<'_> {
    fn of(&self, path: &[&str]) -> Result<Routed, SchemaError> {
        let method = self.request.method;
        match path {
            [] if method == "GET" => Ok(Routed::Root),
            ["subjects", rest @ ..] => self.subjects(rest),
            ["schemas", rest @ ..] => self.schemas(rest),
            ["compatibility", "subjects", subject, "versions", rest @ ..] => self.compatibility(subject, rest),
            ["config", rest @ ..] => self.config(rest),
            ["mode", rest @ ..] => self.mode(rest),
            ["contexts"] if method == "GET" => Ok(Routed::Query(Query::Contexts)),
            ["contexts", context] if method == "DELETE" => {
                Ok(Routed::Command(Command::DeleteContext { context: Context::parse(context) }))
            }
            ["v1", "metadata", "version"] if method == "GET" => Ok(Routed::Query(Query::ServerVersion)),
            ["v1", "metadata", "id"] if method == "GET" => Ok(Routed::Query(Query::ClusterId)),
            [] | ["contexts" | "v1", ..] => Err(self.no_method()),
            _ => Err(self.no_route()),
        }
    }

    fn no_route(&self) -> SchemaError {
        SchemaError::NoRoute(self.request.path.chars().take(200).collect())
    }

    fn no_method(&self) -> SchemaError {
        SchemaError::NoMethod(self.request.method.chars().take(20).collect())
    }

    fn subject(&self, text: &str) -> Subject {
        Subject::parse_beside(text, &Subject::new(&self.context, ""))
    }

    /// Without a name: the context that the path names, or everything.
    fn place(&self, rest: &[&str]) -> Result<Option<Subject>, SchemaError> {
        match rest {
            [] if self.context.is_default() => Ok(None),
            [] => Ok(Some(Subject::new(&self.context, ""))),
            [subject] => Ok(Some(self.subject(subject))),
            _ => Err(self.no_route()),
        }
    }

    fn prefix(&self) -> String {
        let given = self.parameters.get("subjectPrefix");
        if self.context.is_default() {
            return given.unwrap_or(EVERYWHERE).to_owned();
        }
        Subject::new(&self.context, given.unwrap_or_default()).as_str().to_owned()
    }

    fn deleted(&self) -> Deleted {
        Deleted::new(self.parameters.is_set("deleted"), self.parameters.is_set("deletedOnly"))
    }

    fn format(&self) -> Format {
        self.parameters.get("format").map(Format::parse).unwrap_or_default()
    }

    fn version(text: &str) -> Result<VersionId, SchemaError> {
        VersionId::parse(text).ok_or_else(|| SchemaError::InvalidVersion(text.chars().take(40).collect()))
    }

    fn subjects(&self, rest: &[&str]) -> Result<Routed, SchemaError> {
        let parameters = &self.parameters;
        let (deleted, format) = (parameters.is_set("deleted"), self.format());
        Ok(match (self.request.method, rest) {
            ("GET", []) => {
                let (prefix, deleted, page) = (self.prefix(), self.deleted(), parameters.page()?);
                Routed::Query(Query::Subjects { prefix, deleted, page })
            }
            ("POST", [subject]) => Routed::Query(Query::Lookup {
                subject: self.subject(subject),
                schema: body::schema(self.request.body)?,
                normalize: parameters.is_set("normalize"),
                deleted,
                format,
            }),
            ("DELETE", [subject]) => {
                let (subject, permanent) = (self.subject(subject), parameters.is_set("permanent"));
                Routed::Command(Command::DeleteSubject { subject, permanent })
            }
            ("GET", [subject, "versions"]) => {
                let (subject, deleted, page) = (self.subject(subject), self.deleted(), parameters.page()?);
                Routed::Query(Query::Versions { subject, deleted, page })
            }
            ("POST", [subject, "versions"]) => Routed::Command(Command::Register {
                subject: self.subject(subject),
                schema: body::schema(self.request.body)?,
                normalize: parameters.is_set("normalize"),
            }),
            ("GET", [subject, "versions", version]) => {
                let (subject, version) = (self.subject(subject), Self::version(version)?);
                Routed::Query(Query::Version { subject, version, deleted, format })
            }
            ("GET", [subject, "versions", version, "schema"]) => {
                let (subject, version) = (self.subject(subject), Self::version(version)?);
                Routed::Query(Query::VersionText { subject, version, deleted, format })
            }
            ("GET", [subject, "versions", version, "referencedby"]) => {
                let (subject, version) = (self.subject(subject), Self::version(version)?);
                Routed::Query(Query::ReferencedBy { subject, version })
            }
            ("DELETE", [subject, "versions", version]) => Routed::Command(Command::DeleteVersion {
                subject: self.subject(subject),
                version: Self::version(version)?,
                permanent: parameters.is_set("permanent"),
            }),
            (_, [] | [_] | [_, "versions"] | [_, "versions", _] | [_, "versions", _, "schema" | "referencedby"]) => {
                return Err(self.no_method());
            }
            _ => return Err(self.no_route()),
        })
    }

    fn schemas(&self, rest: &[&str]) -> Result<Routed, SchemaError> {
        if self.request.method != "GET" {
            return Err(self.no_method());
        }
        let parameters = &self.parameters;
        // An empty name is the default context, which is where ids are looked for without one.
        let given =
            parameters.get("subject").filter(|subject| !subject.is_empty()).map(|subject| self.subject(subject));
        let subject = given.or_else(|| (!self.context.is_default()).then(|| Subject::new(&self.context, "")));
        let (deleted, format) = (parameters.is_set("deleted"), self.format());
        let number = |id: &str| id.parse::<i32>().map_err(|_| self.no_route());
        let guid = |text: &str| Guid::parse(text).ok_or_else(|| self.no_route());
        Ok(Routed::Query(match rest {
            [] => Query::Schemas {
                prefix: self.prefix(),
                deleted: self.deleted(),
                latest_only: parameters.is_set("latestOnly"),
                page: parameters.page()?,
            },
            ["types"] => Query::Kinds,
            ["ids", id] => {
                let with_max_id = parameters.is_set("fetchMaxId");
                Query::Id { id: number(id)?, subject, format, with_max_id }
            }
            ["ids", id, "schema"] => Query::IdText { id: number(id)?, subject, format },
            ["ids", id, "subjects"] => Query::IdSubjects { id: number(id)?, subject, deleted },
            ["ids", id, "versions"] => Query::IdVersions { id: number(id)?, subject, deleted },
            ["guids", text] => Query::Guid { guid: guid(text)?, format },
            ["guids", text, "ids"] => Query::GuidIds { guid: guid(text)? },
            _ => return Err(self.no_route()),
        }))
    }

    fn compatibility(&self, subject: &str, rest: &[&str]) -> Result<Routed, SchemaError> {
        if self.request.method != "POST" {
            return Err(self.no_method());
        }
        let version = match rest {
            [] => None,
            [version] => Some(Self::version(version)?),
            _ => return Err(self.no_route()),
        };
        Ok(Routed::Query(Query::Compatibility {
            subject: self.subject(subject),
            version,
            schema: body::schema(self.request.body)?,
            normalize: self.parameters.is_set("normalize"),
            verbose: self.parameters.is_set("verbose"),
        }))
    }

    fn config(&self, rest: &[&str]) -> Result<Routed, SchemaError> {
        let (subject, in_scope) = (self.place(rest)?, self.parameters.is_set("defaultToGlobal"));
        Ok(match self.request.method {
            "GET" => Routed::Query(Query::Config { subject, in_scope }),
            "PUT" => Routed::Command(Command::SetConfig { subject, config: body::config(self.request.body)? }),
            "DELETE" => Routed::Command(Command::DeleteConfig { subject }),
            _ => return Err(self.no_method()),
        })
    }

    fn mode(&self, rest: &[&str]) -> Result<Routed, SchemaError> {
        let (subject, in_scope) = (self.place(rest)?, self.parameters.is_set("defaultToGlobal"));
        Ok(match self.request.method {
            "GET" => Routed::Query(Query::Mode { subject, in_scope }),
            "PUT" => {
                let (mode, force) = (body::mode(self.request.body)?, self.parameters.is_set("force"));
                Routed::Command(Command::SetMode { subject, mode, force })
            }
            "DELETE" => Routed::Command(Command::DeleteMode { subject }),
            _ => return Err(self.no_method()),
        })
    }
}

struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn parse(query: &str) -> Result<Self, SchemaError> {
        let decoded = |text: &str| {
            let spaced = text.replace('+', " ");
            let decoded = percent_decode_str(&spaced).decode_utf8().map(Cow::into_owned);
            decoded.map_err(|_| SchemaError::BadRequest("the query is no UTF-8".to_owned()))
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(name)?, decoded(value)?))
        });
        pairs.collect::<Result<_, _>>().map(Self)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// A negative limit is none, as it is Confluent's default.
    fn page(&self) -> Result<Page, SchemaError> {
        let number = |name: &str| match self.get(name).map(str::parse::<i64>) {
            None => Ok(None),
            Some(Ok(number)) => Ok(usize::try_from(number).ok()),
            Some(Err(_)) => Err(SchemaError::BadRequest(format!("{name} is no number"))),
        };
        Ok(Page { offset: number("offset")?.unwrap_or_default(), limit: number("limit")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(method: &str, path: &str, query: &str, body: &[u8]) -> Result<Routed, SchemaError> {
        route(&Request { method, path, query, body, content_type: None })
    }

    #[test]
    fn names_in_paths_are_decoded_and_qualified() {
        for (path, wanted) in [
            ("/subjects/a%2Fb/versions/1", "a/b"),
            ("/subjects/:.dev:s/versions/1", ":.dev:s"),
            ("/subjects/%3A.dev%3As/versions/1", ":.dev:s"),
            ("/contexts/.dev/subjects/s/versions/1", ":.dev:s"),
            ("/contexts/:.dev:/subjects/s/versions/1", ":.dev:s"),
            ("/contexts/.dev/subjects/:.other:s/versions/1", ":.other:s"),
            ("/contexts/./subjects/s/versions/1", "s"),
        ] {
            let Ok(Routed::Query(Query::Version { subject, .. })) = routed("GET", path, "", b"") else {
                unreachable!("{path}")
            };
            assert_eq!(subject.as_str(), wanted, "{path}");
        }
    }

    #[test]
    fn contexts_of_paths_qualify_listings_ids_and_settings() {
        let Ok(Routed::Query(Query::Subjects { prefix, .. })) = routed("GET", "/contexts/.dev/subjects", "", b"")
        else {
            unreachable!("subjects")
        };
        assert_eq!(prefix, ":.dev:");
        let Ok(Routed::Query(Query::Id { subject, .. })) = routed("GET", "/contexts/.dev/schemas/ids/1", "", b"")
        else {
            unreachable!("an id")
        };
        assert_eq!(subject, Some(Subject::parse(":.dev:")));
        let Ok(Routed::Query(Query::Config { subject, .. })) = routed("GET", "/contexts/.dev/config", "", b"") else {
            unreachable!("a config")
        };
        assert_eq!(subject, Some(Subject::parse(":.dev:")));
    }

    #[test]
    fn what_is_not_served_says_so() {
        for (method, path, code) in [
            ("GET", "/nope", 404),
            ("PUT", "/subjects", 405),
            ("DELETE", "/schemas/ids/1", 405),
            ("GET", "/schemas/ids/x", 404),
            ("GET", "/schemas/guids/x", 404),
            ("GET", "/subjects/s/versions/0", 42202),
            ("GET", "/subjects/%ff", 400),
            ("PATCH", "/config", 405),
        ] {
            let error = routed(method, path, "", b"").expect_err(path);
            assert_eq!(error.code(), code, "{method} {path}");
        }
        let typed = Request {
            method: "POST",
            path: "/subjects/s",
            content_type: Some("text/xml"),
            body: b"{}",
            ..Request::default()
        };
        assert_eq!(route(&typed).expect_err("no XML").code(), 415);
        let error = routed("GET", "/subjects", "limit=x", b"").expect_err("no number");
        assert_eq!(error.code(), 400);
    }
}

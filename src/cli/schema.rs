//! `tidewater schema …`: over the port of the Schema Registry, as other programs can.

use std::io::Read;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use super::is_stdin;
use crate::console::{CliError, admin, output};

#[derive(Debug, Subcommand)]
pub(super) enum SchemaCommand {
    /// The latest schema of each subject
    List(ListArgs),
    /// Print a schema: a subject's version, or by id
    Get(GetArgs),
    /// Register a schema under a subject
    Register(SendArgs),
    /// Check whether a schema fits a subject's earlier ones, without registering it
    Check(SendArgs),
    /// Delete a subject or one of its versions; again with --permanent to delete for good
    Delete(DeleteArgs),
    /// Show or set what may be written: READWRITE, READONLY, READONLY_OVERRIDE, IMPORT
    Mode(ModeArgs),
    /// Show or set how schemas must fit earlier ones: NONE, BACKWARD, FORWARD, FULL, and each with _TRANSITIVE
    Compatibility(CompatibilityArgs),
}

#[derive(Clone, Debug, Args)]
struct Port {
    /// Address of the Schema Registry
    #[arg(long, env = "TIDEWATER_REGISTRY", default_value = "127.0.0.1:8081", value_name = "HOST:PORT")]
    registry: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Only subjects whose names begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Also deleted schemas
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    port: Port,
}

#[derive(Debug, Args)]
pub(super) struct GetArgs {
    /// The subject
    #[arg(required_unless_present = "id", conflicts_with = "id")]
    subject: Option<String>,
    /// A version of it
    #[arg(long = "schema-version", default_value = "latest", value_name = "VERSION")]
    version: String,
    /// The schema with this id
    #[arg(long)]
    id: Option<i32>,
    #[command(flatten)]
    port: Port,
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// The subject
    subject: String,
    /// File with the schema; - or nothing reads standard input
    file: Option<PathBuf>,
    /// AVRO, JSON or PROTOBUF
    #[arg(long = "type", default_value = "AVRO", value_name = "TYPE")]
    kind: String,
    /// A schema that it refers to; may be repeated
    #[arg(long = "reference", value_name = "NAME=SUBJECT:VERSION")]
    references: Vec<String>,
    /// Put what does not change its meaning into one order first
    #[arg(long)]
    normalize: bool,
    #[command(flatten)]
    port: Port,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// The subject
    subject: String,
    /// Only this version
    #[arg(long = "schema-version", value_name = "VERSION")]
    version: Option<String>,
    /// Delete for good what is deleted already
    #[arg(long)]
    permanent: bool,
    #[command(flatten)]
    port: Port,
}

#[derive(Debug, Args)]
pub(super) struct ModeArgs {
    /// The mode to set; without one the mode is shown
    mode: Option<String>,
    /// Of this subject; without one, of all
    #[arg(long)]
    subject: Option<String>,
    /// Import even where schemas are registered
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    port: Port,
}

#[derive(Debug, Args)]
pub(super) struct CompatibilityArgs {
    /// The level to set; without one the level is shown
    level: Option<String>,
    /// Of this subject; without one, of all
    #[arg(long)]
    subject: Option<String>,
    #[command(flatten)]
    port: Port,
}

pub(super) async fn run(command: SchemaCommand) -> Result<(), CliError> {
    match command {
        SchemaCommand::List(args) => list(args).await,
        SchemaCommand::Get(args) => get(args).await,
        SchemaCommand::Register(args) => register(args).await,
        SchemaCommand::Check(args) => check(args).await,
        SchemaCommand::Delete(args) => delete(args).await,
        SchemaCommand::Mode(args) => {
            let ModeArgs { mode, subject, force, port } = args;
            setting(&port, "mode", subject.as_deref(), mode.map(|mode| json!({ "mode": mode })), force).await
        }
        SchemaCommand::Compatibility(args) => {
            let CompatibilityArgs { level, subject, port } = args;
            let body = level.map(|level| json!({ "compatibility": level }));
            setting(&port, "config", subject.as_deref(), body, false).await
        }
    }
}

impl Port {
    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let unreachable = |error| match error {
            CliError::Admin { addr, why } => CliError::Registry { addr, why },
            error => error,
        };
        let answer = admin::ask(&self.registry, method, path, body).await.map_err(unreachable)?;
        answer.map_err(|(_, why)| CliError::Refused(why))
    }
}

/// A name as a part of a path or query.
fn encoded(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

async fn list(args: ListArgs) -> Result<(), CliError> {
    let prefix = if args.prefix.starts_with(':') { args.prefix } else { format!(":*:{}", args.prefix) };
    let path = format!("/schemas?latestOnly=true&deleted={}&subjectPrefix={}", args.deleted, encoded(&prefix));
    let schemas = args.port.ask(Method::GET, &path, None).await?;
    if args.port.json {
        return output::json(&schemas);
    }
    let mut table = output::table(&["SUBJECT", "VERSION", "ID", "TYPE"]);
    for schema in schemas.as_array().into_iter().flatten() {
        let number = |name: &str| schema.get(name).map_or_else(|| "-".to_owned(), Value::to_string);
        table.add_row([
            text(schema, "subject").to_owned(),
            number("version"),
            number("id"),
            schema.get("schemaType").and_then(Value::as_str).unwrap_or("AVRO").to_owned(),
        ]);
    }
    output::print(&table)
}

fn text<'a>(json: &'a Value, name: &str) -> &'a str {
    json.get(name).and_then(Value::as_str).unwrap_or_default()
}

async fn get(args: GetArgs) -> Result<(), CliError> {
    let path = match (args.id, &args.subject) {
        (Some(id), _) => format!("/schemas/ids/{id}"),
        (None, subject) => {
            let subject = encoded(subject.as_deref().unwrap_or_default());
            format!("/subjects/{subject}/versions/{}", encoded(&args.version))
        }
    };
    let schema = args.port.ask(Method::GET, &path, None).await?;
    if args.port.json {
        return output::json(&schema);
    }
    output::line(text(&schema, "schema").trim_end())
}

/// The body of a request with the schema of a file.
fn body(args: &SendArgs) -> Result<Value, CliError> {
    let input = |source| CliError::Input { path: args.file.clone().unwrap_or_else(|| "-".into()), source };
    let schema = match &args.file {
        Some(path) if !is_stdin(Some(path)) => std::fs::read_to_string(path).map_err(input)?,
        _ => {
            let mut schema = String::new();
            std::io::stdin().read_to_string(&mut schema).map_err(input)?;
            schema
        }
    };
    let references = args.references.iter().map(|text| reference(text)).collect::<Result<Vec<_>, _>>()?;
    let kind = args.kind.to_ascii_uppercase();
    Ok(json!({ "schema": schema, "schemaType": kind, "references": references }))
}

fn reference(text: &str) -> Result<Value, CliError> {
    let parts = text.split_once('=').and_then(|(name, of)| {
        let (subject, version) = of.rsplit_once(':')?;
        Some(json!({ "name": name, "subject": subject, "version": version.parse::<i32>().ok()? }))
    });
    parts.ok_or_else(|| CliError::Usage(format!("--reference {text:?} is not of the form NAME=SUBJECT:VERSION")))
}

async fn register(args: SendArgs) -> Result<(), CliError> {
    let path = format!("/subjects/{}/versions?normalize={}", encoded(&args.subject), args.normalize);
    let registered = args.port.ask(Method::POST, &path, Some(&body(&args)?)).await?;
    if args.port.json {
        return output::json(&registered);
    }
    let number = |name: &str| registered.get(name).map_or_else(|| "-".to_owned(), Value::to_string);
    output::line(&format!("subject {} version {} has the schema id {}", args.subject, number("version"), number("id")))
}

async fn check(args: SendArgs) -> Result<(), CliError> {
    let query = format!("verbose=true&normalize={}", args.normalize);
    let path = format!("/compatibility/subjects/{}/versions?{query}", encoded(&args.subject));
    let checked = args.port.ask(Method::POST, &path, Some(&body(&args)?)).await?;
    let fits = checked.get("is_compatible").and_then(Value::as_bool).unwrap_or_default();
    if args.port.json {
        output::json(&checked)?;
    } else if fits {
        output::line(&format!("the schema fits subject {}", args.subject))?;
    } else {
        let messages = checked.get("messages").and_then(Value::as_array);
        messages.into_iter().flatten().filter_map(Value::as_str).try_for_each(output::line)?;
    }
    if fits { Ok(()) } else { Err(CliError::Refused(format!("the schema does not fit subject {}", args.subject))) }
}

async fn delete(args: DeleteArgs) -> Result<(), CliError> {
    let subject = encoded(&args.subject);
    let of = args.version.as_ref().map_or_else(String::new, |version| format!("/versions/{}", encoded(version)));
    let path = format!("/subjects/{subject}{of}?permanent={}", args.permanent);
    let deleted = args.port.ask(Method::DELETE, &path, None).await?;
    if args.port.json {
        return output::json(&deleted);
    }
    let how = if args.permanent { "for good" } else { "for now" };
    output::line(&format!("deleted {how}: subject {} version {deleted}", args.subject))
}

/// Shows or sets a setting of a subject, or of all.
async fn setting(
    port: &Port,
    name: &str,
    subject: Option<&str>,
    body: Option<Value>,
    force: bool,
) -> Result<(), CliError> {
    let of = subject.map_or_else(String::new, |subject| format!("/{}", encoded(subject)));
    let answer = match &body {
        Some(body) => port.ask(Method::PUT, &format!("/{name}{of}?force={force}"), Some(body)).await?,
        None => port.ask(Method::GET, &format!("/{name}{of}?defaultToGlobal=true"), None).await?,
    };
    if port.json {
        return output::json(&answer);
    }
    let names = ["mode", "compatibilityLevel", "compatibility"];
    output::line(names.into_iter().map(|name| text(&answer, name)).find(|text| !text.is_empty()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_name_a_subject_and_a_version() {
        let read = reference("a/b.proto=:.dev:money:3").expect("reads");
        assert_eq!(read, json!({ "name": "a/b.proto", "subject": ":.dev:money", "version": 3 }));
        for bad in ["", "a", "a=b", "a=b:c"] {
            assert!(matches!(reference(bad), Err(CliError::Usage(_))), "{bad}");
        }
    }
}

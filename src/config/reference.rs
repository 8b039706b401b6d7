//! The reference of all settings, generated from their tables: `src/config/REFERENCE.md`, which a test compares.

use std::fmt::Write;

use clap::{Args, Command};

use super::node::RawConfig;
use super::topic::{IcebergMode, Kind, SETTINGS, Shape};
use crate::trace;

/// The part of the reference that is not generated.
const ELSEWHERE: &str = "| `--config` | `TIDEWATER_CONFIG` | TOML file with the settings above |

## Of the client commands

| flag | variable | meaning |
|---|---|---|
| `--bootstrap` | `TIDEWATER_BOOTSTRAP` | Kafka address of the broker [default: 127.0.0.1:9092] |
| `--admin` | `TIDEWATER_ADMIN` | Admin address of the broker [default: 127.0.0.1:9644] |
| `--registry` | `TIDEWATER_REGISTRY` | Address of the Schema Registry, for `tidewater schema` [default: 127.0.0.1:8081] |

## Of the bucket

The usual variables of each store:

| bucket | variables |
|---|---|
| `s3://` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`; without keys, the role of the pod, task or machine (`AWS_WEB_IDENTITY_TOKEN_FILE`, `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` or `_FULL_URI`, instance metadata); `AWS_ENDPOINT_URL` for stores that are not AWS, also over plain HTTP; `AWS_UNSIGNED_PAYLOAD` (`true` or `false`): leave bodies out of the signature [default: over https, where TLS protects them] |
| `gs://` | `GOOGLE_SERVICE_ACCOUNT` (a file), `GOOGLE_SERVICE_ACCOUNT_KEY` (its content) or `GOOGLE_APPLICATION_CREDENTIALS` |
| `az://` | `AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY`, or with `AZURE_STORAGE_CLIENT_ID`, `AZURE_STORAGE_CLIENT_SECRET`, `AZURE_STORAGE_TENANT_ID` |
| `file://` | none |
";

/// The reference as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Settings\n\nGenerated from the tables in `src/config` and compared by `cargo test --release --test tidy`.\n\n\
         ## Of the process\n\n\
         A flag wins over its environment variable, that over the TOML file of `--config` (the same names without the \
         dashes in front), and that over the default.\n\n| flag | variable | meaning |\n|---|---|---|\n",
    );
    for arg in RawConfig::augment_args(Command::new("tidewater")).get_arguments() {
        let (Some(long), Some(env)) = (arg.get_long(), arg.get_env()) else { continue };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "| `--{long}` | `{}` | {help} |", env.to_string_lossy());
    }
    for (name, meaning) in [trace::LEVELS, trace::FORM] {
        let _ = writeln!(out, "| | `{name}` | {meaning} |");
    }
    out.push_str(ELSEWHERE);
    out.push_str("\n## Of a topic\n\n### Honoured\n\n| setting | default | values | meaning |\n|---|---|---|---|\n");
    for row in SETTINGS.iter().filter(|row| row.kind == Kind::Honoured) {
        let refused = row.refuses.map(|why| format!(" Other values are refused: {why}.")).unwrap_or_default();
        let _ = writeln!(out, "| `{}` | `{}` | {} | {}{refused} |", row.name, row.default, values(row.shape), row.doc);
    }
    out.push_str("\n### Accepted without effect\n\n| setting | default | why |\n|---|---|---|\n");
    for row in SETTINGS {
        if let Kind::Accepted(why) = row.kind {
            let _ = writeln!(out, "| `{}` | `{}` | {why} |", row.name, row.default);
        }
    }
    out
}

fn values(shape: Shape) -> String {
    match shape {
        Shape::Integer { min, max: i64::MAX } => format!("from {min}"),
        Shape::Integer { min, max } => format!("{min} to {max}"),
        Shape::IntegerOr { min, max, or } => format!("{min} to {max}, or {or}"),
        Shape::Boolean => "`true`, `false`".into(),
        Shape::Word(words) | Shape::List(words) => format!("`{}`", words.join("`, `")),
        Shape::Fraction => "0 to 1".into(),
        Shape::Text => "text".into(),
        Shape::IcebergMode => format!("`{}`", IcebergMode::forms().join("`, `")),
        Shape::JsonSchema => "a JSON Schema".into(),
        Shape::PartitionSpec => "`(FIELD, FIELD)`".into(),
        Shape::SortOrder => "`COLUMN ASC, COLUMN DESC NULLS LAST`".into(),
        Shape::TableProperties => "`KEY=VALUE,KEY=VALUE`".into(),
        Shape::TableName => "`NAMESPACE.TABLE`, `TABLE`".into(),
    }
}

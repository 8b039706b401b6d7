//! The reference of all settings, generated from their tables: `src/config/REFERENCE.md`, which a test compares.

use std::fmt::Write;

use clap::{Args, Command};

use super::node::RawConfig;
use super::topic::{Kind, SETTINGS, Shape};
use crate::trace;

/// The reference as Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut out = String::from(
        "# Settings\n\nGenerated from the tables in `src/config`; `cargo test --release --test tidy` compares it.\n\n\
         ## Of the process\n\n\
         A flag over its environment variable over the TOML file named by `--config` (same key without the dashes in \
         front) over the default.\n\n| flag | variable | meaning |\n|---|---|---|\n",
    );
    for arg in RawConfig::augment_args(Command::new("tidewater")).get_arguments() {
        let (Some(long), Some(env)) = (arg.get_long(), arg.get_env()) else { continue };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "| `--{long}` | `{}` | {help} |", env.to_string_lossy());
    }
    for (name, meaning) in [trace::LEVELS, trace::FORM] {
        let _ = writeln!(out, "| | `{name}` | {meaning} |");
    }
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
        Shape::Boolean => "`true`, `false`".into(),
        Shape::Word(words) | Shape::List(words) => format!("`{}`", words.join("`, `")),
        Shape::Fraction => "0 to 1".into(),
        Shape::Text => "text".into(),
    }
}

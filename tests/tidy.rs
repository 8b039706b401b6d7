//! Rules of the source tree that the compiler does not check. Breaking one is a defect, not a matter of taste.
#![allow(clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[path = "support/source.rs"]
mod source;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "golden" && !name.to_string_lossy().starts_with('.') {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["src", "storage", "tiering", "iceberg", "read-replica", "tests", "benches"] {
        if root().join(folder).is_dir() {
            rust_files(&root().join(folder), &mut files);
        }
    }
    files.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("inside").display().to_string();
        (name, std::fs::read_to_string(&path).expect("readable"))
    };
    files.into_iter().map(read).collect()
}

/// Names that fit any content, and the old name of a module's file.
#[test]
fn files_are_named_for_what_they_own() {
    let banned = ["utils", "util", "common", "helpers", "helper", "types", "misc", "manager", "mod"];
    let bad: Vec<_> = sources()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            Path::new(name).file_stem().is_some_and(|stem| banned.contains(&stem.to_string_lossy().as_ref()))
        })
        .collect();
    assert!(bad.is_empty(), "name these for what they own: {bad:?}");
}

#[test]
fn every_file_has_a_header() {
    let bad: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    assert!(bad.is_empty(), "these lack a `//!` header: {bad:?}");
}

/// A crate uses only those to its left: storage ← tiering ← {iceberg, read-replica} ← root.
#[test]
fn crates_form_one_chain() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("storage", &[][..]),
        ("tiering", &["storage"][..]),
        ("iceberg", &["storage", "tiering"][..]),
        ("read-replica", &["storage", "tiering"][..]),
    ]);
    for (folder, lower) in allowed {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("manifest");
        for other in ["storage", "tiering", "iceberg", "read-replica"].iter().filter(|o| **o != folder) {
            let named = manifest.contains(&format!("tidewater-{other}"));
            assert!(!named || lower.contains(other), "{folder} may not depend on {other}");
        }
    }
}

/// The rows of modules in the header of `src/lib.rs`, lowest first: each line `//! - \`module\` \`module\`: what`.
fn layers() -> Vec<Vec<String>> {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let rows = lib.lines().filter_map(|line| line.strip_prefix("//! - "));
    rows.map(|row| {
        let names = row.split(':').next().unwrap_or_default();
        names.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    })
    .collect()
}

#[test]
fn the_list_of_layers_names_every_module_once() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let mut modules: Vec<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let mut listed: Vec<String> = layers().concat();
    listed.sort_unstable();
    modules.sort_unstable();
    assert_eq!(listed, modules, "the header of src/lib.rs lists each module in one row");
}

#[test]
fn modules_use_only_lower_layers() {
    let layers = layers();
    let layer = |module: &str| match module {
        "main" | "lib" => layers.len(),
        module => layers
            .iter()
            .position(|row| row.iter().any(|name| name == module))
            .unwrap_or_else(|| panic!("module {module} has no layer: add it to the header of src/lib.rs")),
    };
    let mut bad = Vec::new();
    // Tests may reach up, and so may what they stand on.
    let of_tests =
        |name: &str| name.ends_with("/tests.rs") || name.contains("/tests/") || name.ends_with("/fixture.rs");
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("src/") && !of_tests(name)) {
        let own = name.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default().to_owned();
        for line in source::production(&text).lines() {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if !used.is_empty() && layer(&used) > layer(&own) {
                    bad.push(format!("{name}: {}", line.trim()));
                }
            }
        }
    }
    assert!(bad.is_empty(), "these reach up:\n{}", bad.join("\n"));
}

#[test]
fn glommio_is_used_in_three_places_only() {
    let allowed = |name: &str| {
        name.starts_with("storage/src/env")
            || name.starts_with("src/shard")
            || name.starts_with("src/net")
            || !name.contains("src/")
            || name.ends_with("tests.rs")
    };
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| !allowed(name) && source::production(text).contains("glommio::"))
        .map(|(name, _)| name)
        .collect();
    assert!(bad.is_empty(), "glommio is used outside env, shard and net: {bad:?}");
}

#[test]
fn openraft_is_used_in_raft_only() {
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| {
            name.contains("src/") && !name.starts_with("src/raft") && source::code(text).contains("openraft::")
        })
        .map(|(name, _)| name)
        .collect();
    assert!(bad.is_empty(), "openraft is used outside src/raft: {bad:?}");
}

/// The generated reference; `TIDEWATER_WRITE=1` writes it.
#[test]
fn the_config_reference_is_current() {
    let path = root().join("src/config/REFERENCE.md");
    let wanted = tidewater::config::reference::markdown() + &tidewater::node::bounds::markdown();
    if std::env::var_os("TIDEWATER_WRITE").is_some() {
        std::fs::write(&path, &wanted).expect("writable");
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(held == wanted, "src/config/REFERENCE.md is stale: TIDEWATER_WRITE=1 cargo test --release --test tidy");
}

#[test]
fn the_gate_runs_the_readmes_command() {
    let gate = std::fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let command = "cargo test --release --workspace";
    assert!(gate.lines().any(|line| line.trim() == command) && readme.contains(command));
    for step in
        ["cargo clippy --release --workspace --all-targets -- -D warnings", "--no-default-features", "cargo doc"]
    {
        assert!(gate.contains(step), ".ci/run lacks {step}");
    }
}

/// Words and phrases that a reader whose first language is not English stumbles over.
const UNPLAIN: &[&str] = &[
    "whoever",
    "whomever",
    "whatever",
    "nobody",
    "somebody",
    "anew",
    "hence",
    "thereof",
    "lest",
    "save for",
    "be it",
    "as ever",
    "of late",
    "is told",
    "was told",
    "are told",
    "were told",
    "be told",
    "been told",
];

/// Whether `text` has `phrase` as whole words.
fn has_phrase(text: &str, phrase: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    text.match_indices(phrase)
        .any(|(at, _)| !is_word(text[..at].chars().next_back()) && !is_word(text[at + phrase.len()..].chars().next()))
}

fn pages(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("readable").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            pages(&path, out);
        } else if path.extension().is_some_and(|e| e == "md") {
            out.push(path);
        }
    }
}

#[test]
fn comments_and_pages_are_in_plain_english() {
    let mut texts: Vec<(String, String)> =
        sources().into_iter().map(|(name, text)| (name, source::comments(&text))).collect();
    let mut found = Vec::new();
    pages(root(), &mut found);
    for path in found {
        let text = std::fs::read_to_string(&path).expect("readable");
        texts.push((path.strip_prefix(root()).expect("inside").display().to_string(), text));
    }
    let mut bad = Vec::new();
    for (name, text) in &texts {
        for (n, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            bad.extend(UNPLAIN.iter().filter(|p| has_phrase(&line, p)).map(|p| format!("{name}:{}: {p}", n + 1)));
        }
    }
    assert!(bad.is_empty(), "say these in plain English:\n{}", bad.join("\n"));
}

/// As wide as rustfmt makes code. Tables, and lines to copy, may be wider.
#[test]
fn comments_and_pages_are_as_wide_as_code() {
    const WIDTH: usize = 120;
    let mut bad = Vec::new();
    for (name, text) in sources() {
        let prose = |line: &&str| line.trim_start_matches(['/', '!', ' ']).chars().next().is_some_and(|c| c != '|');
        let comments = text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//"));
        let wide = comments.filter(|(_, line)| line.chars().count() > WIDTH && prose(line));
        bad.extend(wide.map(|(n, _)| format!("{name}:{}", n + 1)));
    }
    let mut found = Vec::new();
    pages(root(), &mut found);
    // Generated pages have their texts from elsewhere.
    let generated = ["src/config/REFERENCE.md", "src/admin/METRICS.md", "tests/kafka/README.md"];
    for path in found.into_iter().filter(|path| !generated.iter().any(|page| path.ends_with(page))) {
        let mut is_copied = false;
        for (n, line) in std::fs::read_to_string(&path).expect("readable").lines().enumerate() {
            is_copied ^= line.trim_start().starts_with("```");
            if line.chars().count() > WIDTH && !is_copied && !line.trim_start().starts_with('|') {
                bad.push(format!("{}:{}", path.display(), n + 1));
            }
        }
    }
    assert!(bad.is_empty(), "wider than {WIDTH} columns:\n{}", bad.join("\n"));
}

/// A doc of one or two words repeats the name below it. Help texts of the command line are no docs.
#[test]
fn docs_say_what_names_do_not() {
    let is_noise = |line: &str| {
        let words: Vec<&str> = line.trim_end_matches('.').split_whitespace().collect();
        let starts =
            ["Its", "Their", "The", "A", "An", "All", "Which", "Where", "Who", "What", "When", "How", "Why", "Not"];
        match words.as_slice() {
            [one] => starts.contains(one),
            [one, _] => starts.contains(one) && !line.contains("A message"),
            _ => false,
        }
    };
    let mut bad = Vec::new();
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.starts_with("src/cli")) {
        let lines: Vec<Option<&str>> =
            text.lines().map(|line| line.trim_start().strip_prefix("///").map(str::trim)).collect();
        for (n, doc) in lines.iter().enumerate() {
            let alone = (n == 0 || lines[n - 1].is_none()) && lines.get(n + 1).is_none_or(Option::is_none);
            if doc.is_some_and(|doc| alone && is_noise(doc)) {
                bad.push(format!("{name}:{}: {}", n + 1, doc.unwrap_or_default()));
            }
        }
    }
    assert!(bad.is_empty(), "delete these docs, or say more:\n{}", bad.join("\n"));
}

/// The functions that README's walks name exist in the files they name: each as `` `function` (`path.rs`) ``.
#[test]
fn the_walks_name_real_functions() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let parts: Vec<&str> = readme.split('`').collect();
    let steps = parts.windows(3).filter(|w| w[1].trim() == "(" && w[2].ends_with(".rs"));
    let (mut named, mut bad) = (0, Vec::new());
    for step in steps {
        let (function, path) = (step[0], step[2]);
        named += 1;
        let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        let code = source::code(&text);
        let found = code.split(&format!("fn {function}")).skip(1).any(|rest| rest.starts_with(['(', '<']));
        if !found {
            bad.push(format!("{function} in {path}"));
        }
    }
    assert!(named > 30, "README.md names only {named} functions");
    assert!(bad.is_empty(), "README.md names functions that do not exist: {bad:?}");
}

#[test]
fn formats_are_written_down() {
    for (folder, marks) in
        [("storage", &["journal", "segment", "checkpoint"][..]), ("tiering", &["bundle", "manifest"][..])]
    {
        let text = std::fs::read_to_string(root().join(folder).join("FORMAT.md")).expect("FORMAT.md").to_lowercase();
        for mark in marks {
            assert!(text.contains(mark), "{folder}/FORMAT.md does not mention {mark}");
        }
    }
}

//! The repository's rules about itself: what a compiler cannot check and what would be a defect, not a matter of taste.
#![allow(clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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

/// Names of nothing in particular, and the old way of naming a module's file.
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
fn every_file_says_what_it_is() {
    let bad: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    assert!(bad.is_empty(), "these lack a `//!` header: {bad:?}");
}

/// A crate names only what is to its left: storage ← tiering ← {iceberg, read-replica} ← root.
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

/// The layers of `src`, lowest first; a module uses only its own row and rows below.
const LAYERS: &[&[&str]] = &[
    &["config", "limits", "trace"],
    &["shard", "net"],
    &["raft"],
    &["partition"],
    &["controller", "group", "archival", "lakehouse", "catalog_http"],
    &["kafka", "admin"],
    &["client"],
    &["main", "lib", "cli", "node", "demo", "inspect"],
];

fn layer(module: &str) -> usize {
    LAYERS
        .iter()
        .position(|row| row.contains(&module))
        .unwrap_or_else(|| panic!("module {module} has no layer: add it to LAYERS in tests/tidy.rs"))
}

#[test]
fn modules_use_only_lower_layers() {
    let mut bad = Vec::new();
    // Tests may reach up, and so may what they stand on.
    let of_tests = |name: &str| name.ends_with("/tests.rs") || name.ends_with("/fixture.rs");
    for (name, text) in sources().into_iter().filter(|(name, _)| name.starts_with("src/") && !of_tests(name)) {
        let own = name.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default().to_owned();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
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
fn glommio_is_named_in_its_three_places_alone() {
    let allowed = |name: &str| {
        name.starts_with("storage/src/env")
            || name.starts_with("src/shard")
            || name.starts_with("src/net")
            || !name.contains("src/")
            || name.ends_with("tests.rs")
    };
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| {
            !allowed(name) && text.lines().any(|l| l.contains("glommio::") && !l.trim_start().starts_with("//"))
        })
        .map(|(name, _)| name)
        .collect();
    assert!(bad.is_empty(), "glommio is used outside env, shard and net: {bad:?}");
}

#[test]
fn openraft_hides_in_raft() {
    let bad: Vec<_> = sources()
        .into_iter()
        .filter(|(name, text)| name.contains("src/") && !name.starts_with("src/raft") && text.contains("openraft::"))
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
}

#[test]
fn formats_are_written_down() {
    for (folder, marks) in
        [("storage", &["journal", "segment", "checkpoint"][..]), ("tiering", &["bundle", "manifest"][..])]
    {
        let text = std::fs::read_to_string(root().join(folder).join("FORMAT.md")).expect("FORMAT.md").to_lowercase();
        for mark in marks {
            assert!(text.contains(mark), "{folder}/FORMAT.md says nothing of {mark}");
        }
    }
}

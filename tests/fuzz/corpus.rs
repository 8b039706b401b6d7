//! Inputs in the tree: `corpus/<target>.hex`, one a line, `#` begins a comment. What once broke something stays for
//! ever.

use std::path::{Path, PathBuf};

fn path(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target).with_extension("hex")
}

/// Hex, as in the corpus.
pub(crate) fn hex(input: &[u8]) -> String {
    input.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse(line: &str) -> Option<Vec<u8>> {
    let digits = line.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(pair).collect()
}

/// All inputs of a target.
pub(crate) fn inputs(target: &str) -> Vec<Vec<u8>> {
    let Ok(text) = std::fs::read_to_string(path(target)) else { return Vec::new() };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| parse(line).unwrap_or_else(|| panic!("{}: no hex: {line}", path(target).display()))).collect()
}

/// Adds inputs that reach far.
pub(crate) fn add(target: &str, inputs: &[Vec<u8>]) {
    let mut text = std::fs::read_to_string(path(target)).unwrap_or_default();
    for input in inputs {
        text.push_str(&hex(input));
        text.push('\n');
    }
    let path = path(target);
    std::fs::create_dir_all(path.parent().expect("a directory")).expect("the corpus can be made");
    std::fs::write(path, text).expect("the corpus can be written");
}

/// A file of `tests/golden`.
pub(crate) fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file of hex in `tests/golden`.
pub(crate) fn golden_hex(name: &str) -> Vec<u8> {
    let text = String::from_utf8(golden(name)).expect("hex");
    parse(&text.split_whitespace().collect::<String>()).expect("hex")
}

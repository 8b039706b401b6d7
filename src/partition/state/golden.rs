//! Frozen samples of what this package writes: `tests/golden/broker/<name>.hex`. `TIDEWATER_GOLDEN=write` writes those
//! that are missing; none is ever replaced. For tests.

use std::path::{Path, PathBuf};

use bytes::Bytes;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/broker/{name}.hex"))
}

/// The bytes of a sample.
pub(crate) fn kept(name: &str) -> Bytes {
    let text = std::fs::read_to_string(path(name)).expect("the golden file is there");
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect::<Vec<_>>().into()
}

/// The bytes of a sample, which must be `ours`.
pub(crate) fn frozen(name: &str, ours: &[u8]) -> Bytes {
    if std::env::var_os("TIDEWATER_GOLDEN").is_some_and(|how| how == "write") && !path(name).exists() {
        std::fs::write(path(name), hex(ours)).expect("writes");
    }
    let kept = kept(name);
    assert_eq!(hex(&kept), hex(ours), "{name} is written otherwise: give it a new version and read this one");
    kept
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    lines.map(|line| line + "\n").collect()
}

//! A broker's log, read afterwards: a WARN or ERROR that the test did not expect fails it.

/// Lines that are WARN or ERROR and hold none of `expected`; a panic is never expected.
pub fn unexpected(log: &str, expected: &[&str]) -> Vec<String> {
    log.lines()
        .filter(|line| {
            let noted = line.contains(" WARN ") || line.contains(" ERROR ");
            line.contains("panicked at") || noted && !expected.iter().any(|known| line.contains(known))
        })
        .map(ToOwned::to_owned)
        .collect()
}

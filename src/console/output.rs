//! Printing: tables for people, JSON for programs, numbers with units.

use std::io::{self, Write};

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use indicatif::{HumanBytes, HumanCount};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tidewater_storage::model::TimestampMs;

use super::error::CliError;

/// A table without lines, as `kubectl` and `ps` print.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header.iter().copied());
    table
}

pub(crate) fn print(table: &Table) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    for line in table.to_string().lines() {
        writeln!(out, "{}", line.trim())?;
    }
    Ok(())
}

pub(crate) fn line(text: &str) -> Result<(), CliError> {
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Prints `value` as one indented JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// `1.50 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

/// Thousands set apart: `1,000,000`.
pub(crate) fn count(n: u64) -> String {
    HumanCount(n).to_string()
}

/// `350ms`, `5m 10s`, `168h`: whole seconds from one second on.
pub(crate) fn millis(ms: u64) -> String {
    let shown = if ms < 1000 { ms } else { ms - ms % 1000 };
    format!("{:#}", SignedDuration::from_millis(i64::try_from(shown).unwrap_or(i64::MAX)))
}

/// `2026-11-21 15:29:11.198Z`; `-` for Kafka's "none", plain milliseconds after the year 9999.
pub(crate) fn when(at: TimestampMs) -> String {
    match Timestamp::from_millisecond(at.0) {
        _ if at.0 < 0 => "-".into(),
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S%.3fZ").to_string(),
        Err(_) => format!("{} ms", at.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([bytes(0), bytes(1536), bytes(1 << 30)], ["0 B", "1.50 KiB", "1.00 GiB"]);
        assert_eq!([millis(0), millis(350), millis(12_345), millis(310_000)], ["0s", "350ms", "12s", "5m 10s"]);
        assert_eq!([millis(604_800_000), millis(7_380_000)], ["168h", "2h 3m"]);
        assert!(!millis(u64::MAX).is_empty());
        assert_eq!([count(0), count(999), count(1000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn times_for_people() {
        let at = |ms| when(TimestampMs(ms));
        assert_eq!(at(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(at(951_782_400_123), "2000-02-29 00:00:00.123Z");
        assert_eq!(at(1_760_000_000_000), "2025-10-09 08:53:20.000Z");
        assert_eq!([at(-1), at(-2), at(i64::MAX)], ["-".to_owned(), "-".to_owned(), format!("{} ms", i64::MAX)]);
    }
}

//! Dates and times as text: RFC 3339, section 5.6.

use crate::columns::fault::Fault;
use crate::columns::fill::{Unit, timestamp};

/// `2026-11-29T15:27:14.5Z` → microseconds or nanoseconds since 1970; further digits are cut.
pub(super) fn date_time(text: &str, to_nanos: bool) -> Result<i64, Fault> {
    let bytes = text.as_bytes();
    let (day, rest) = bytes.split_at_checked(10).ok_or(Fault::Time)?;
    let days = i64::from(days_of(day)?);
    let [b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = rest else { return Err(Fault::Time) };
    let (hour, minute, second) = (number(&[*h1, *h2], 23)?, number(&[*m1, *m2], 59)?, number(&[*s1, *s2], 59)?);
    let (mut nanos, mut rest) = (0_i64, rest);
    if let [b'.', digits @ ..] = rest {
        let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if len == 0 {
            return Err(Fault::Time);
        }
        for at in 0..9 {
            nanos = nanos * 10 + digits[..len].get(at).map_or(0, |digit| i64::from(digit - b'0'));
        }
        rest = &digits[len..];
    }
    let offset = match rest {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let minutes = number(&[*h1, *h2], 23)? * 60 + number(&[*m1, *m2], 59)?;
            if *sign == b'-' { -minutes } else { minutes }
        }
        _ => return Err(Fault::Time),
    };
    let seconds = days * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    if to_nanos {
        let nanos = seconds.checked_mul(1_000_000_000).and_then(|whole| whole.checked_add(nanos));
        return nanos.ok_or(Fault::Time);
    }
    timestamp(seconds * 1_000_000 + nanos / 1000, Unit::Micros, false)
}

/// `2026-11-29` → days since 1970.
pub(super) fn days(text: &str) -> Result<i32, Fault> {
    days_of(text.as_bytes())
}

fn days_of(text: &[u8]) -> Result<i32, Fault> {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text else { return Err(Fault::Time) };
    let year = number(&[*y1, *y2, *y3, *y4], 9999)?;
    let (month, day) = (number(&[*m1, *m2], 12)?, number(&[*d1, *d2], 31)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year == 0 || month == 0 || day == 0 || day > length {
        return Err(Fault::Time);
    }
    // Years begin in March, so that the leap day is the last one (Howard Hinnant's `days_from_civil`).
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + day - 1 - 719_468;
    i32::try_from(days).map_err(|_| Fault::Time)
}

fn number(digits: &[u8], max: i64) -> Result<i64, Fault> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::Time);
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
    if number <= max { Ok(number) } else { Err(Fault::Time) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        for (text, wanted) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("0001-01-01", -719_162),
            ("9999-12-31", 2_932_896),
        ] {
            assert_eq!(days(text), Ok(wanted), "{text}");
        }
        for bad in ["2023-02-29", "1900-02-29", "2024-13-01", "2024-00-01", "2024-04-31", "0000-01-01", "2024-1-01", ""]
        {
            assert_eq!(days(bad), Err(Fault::Time), "{bad}");
        }
    }

    #[test]
    fn times_have_an_offset_and_any_fraction() {
        for (text, wanted) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t01:00:00.5+01:00", 500_000),
            ("1969-12-31 23:59:59.9999999Z", -1),
            ("1970-01-01T00:00:00.000001-00:30", 1_800_000_001),
            ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ] {
            assert_eq!(date_time(text, false), Ok(wanted), "{text}");
        }
        assert_eq!(date_time("1970-01-01T00:00:00.1234567891Z", true), Ok(123_456_789));
        for bad in [
            "1970-01-01T00:00:00",
            "1970-01-01",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00Z ",
            "0001-01-01T00:00:00+00:01",
            "é70-01-01T00:00:00Z",
        ] {
            assert_eq!(date_time(bad, false), Err(Fault::Time), "{bad}");
        }
    }
}

//! Decimals: unscaled integers of any length, two's complement, the highest byte first.

use crate::columns::fault::Fault;

/// The integer, if it has at most `precision` digits, which is at most 38.
pub(super) fn unscaled(bytes: &[u8], precision: u32) -> Result<i128, Fault> {
    let first = *bytes.first().ok_or(Fault::Decimal)?;
    let sign = if first >= 0x80 { 0xff } else { 0 };
    let start = bytes.iter().position(|byte| *byte != sign).unwrap_or(bytes.len());
    let significant = &bytes[start..];
    if significant.len() > 16 {
        return Err(Fault::Decimal);
    }
    let mut wide = [sign; 17];
    wide[17 - significant.len()..].copy_from_slice(significant);
    // The byte in front says whether 16 bytes lost the sign.
    if (wide[1] >= 0x80) != (sign == 0xff) {
        return Err(Fault::Decimal);
    }
    let mut narrow = [0; 16];
    narrow.copy_from_slice(&wide[1..]);
    let value = i128::from_be_bytes(narrow);
    if value.unsigned_abs() < 10_u128.pow(precision) { Ok(value) } else { Err(Fault::Decimal) }
}

/// The number as text with `scale` digits behind the point, if it has at most `precision` digits.
pub(super) fn text(bytes: &[u8], precision: u32, scale: u32) -> Result<String, Fault> {
    let first = *bytes.first().ok_or(Fault::Decimal)?;
    let negative = first >= 0x80;
    let sign = if negative { 0xff } else { 0 };
    let start = bytes.iter().position(|byte| *byte != sign).unwrap_or(bytes.len());
    // A digit takes more than 3 bits, so this is beyond the precision; it bounds the work below.
    if (bytes.len() - start) * 8 > precision as usize * 4 + 8 {
        return Err(Fault::Decimal);
    }
    let magnitude = magnitude(&bytes[start..], negative);
    let (precision, scale) = (precision as usize, scale as usize);
    let mut digits = digits(magnitude);
    if digits.len() > precision {
        return Err(Fault::Decimal);
    }
    if digits.len() <= scale {
        digits.insert_str(0, &"0".repeat(scale + 1 - digits.len()));
    }
    if scale > 0 {
        digits.insert(digits.len() - scale, '.');
    }
    if negative {
        digits.insert(0, '-');
    }
    Ok(digits)
}

/// Limbs of 32 bits, the lowest first.
fn magnitude(bytes: &[u8], negative: bool) -> Vec<u32> {
    let fill = if negative { 0xff } else { 0 };
    let mut limbs: Vec<u32> = bytes
        .rchunks(4)
        .map(|chunk| {
            let mut limb = [fill; 4];
            limb[4 - chunk.len()..].copy_from_slice(chunk);
            u32::from_be_bytes(limb)
        })
        .collect();
    if negative {
        // A limb more for the sign: -2^32n has the magnitude 2^32n.
        limbs.push(u32::MAX);
        let mut carry = true;
        for limb in &mut limbs {
            let (sum, more) = (!*limb).overflowing_add(u32::from(carry));
            (*limb, carry) = (sum, more);
        }
    }
    limbs
}

fn digits(mut limbs: Vec<u32>) -> String {
    const NINE: u64 = 1_000_000_000;
    let mut groups = Vec::new();
    while limbs.iter().any(|limb| *limb != 0) {
        let mut rest = 0;
        for limb in limbs.iter_mut().rev() {
            let number = rest << 32 | u64::from(*limb);
            *limb = (number / NINE) as u32;
            rest = number % NINE;
        }
        groups.push(rest);
    }
    let Some(first) = groups.pop() else { return "0".to_owned() };
    let rest = groups.iter().rev().map(|group| format!("{group:09}"));
    std::iter::once(first.to_string()).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_at_any_length() {
        assert_eq!(unscaled(&[], 5), Err(Fault::Decimal));
        assert_eq!(unscaled(&[0], 1), Ok(0));
        assert_eq!(unscaled(&[0xff; 40], 1), Ok(-1));
        assert_eq!(unscaled(&[0x80], 3), Ok(-128));
        assert_eq!(unscaled(&[0, 0x80], 3), Ok(128));
        assert_eq!(unscaled(&[0x03, 0xe7], 3), Ok(999));
        assert_eq!(unscaled(&[0x03, 0xe8], 3), Err(Fault::Decimal));
        assert_eq!(unscaled(&[0xfc, 0x18], 3), Err(Fault::Decimal), "-1000");
        let largest = 10_i128.pow(38) - 1;
        assert_eq!(unscaled(&largest.to_be_bytes(), 38), Ok(largest));
        assert_eq!(unscaled(&(-largest).to_be_bytes(), 38), Ok(-largest));
        assert_eq!(unscaled(&i128::MAX.to_be_bytes(), 38), Err(Fault::Decimal));
        assert_eq!(unscaled(&i128::MIN.to_be_bytes(), 38), Err(Fault::Decimal));
        let mut beyond = [0; 17];
        beyond[1] = 0x80;
        assert_eq!(unscaled(&beyond, 38), Err(Fault::Decimal), "2^127 lost its sign in 16 bytes");
    }

    #[test]
    fn text_has_the_digits_of_the_integer() {
        for (value, scale, wanted) in [
            (0_i128, 0, "0"),
            (0, 2, "0.00"),
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (-128, 0, "-128"),
            (1_000_000_000, 9, "1.000000000"),
            (-4_294_967_296, 0, "-4294967296"),
            (i128::MIN, 0, "-170141183460469231731687303715884105728"),
            (i128::MAX, 38, "1.70141183460469231731687303715884105727"),
        ] {
            let bytes = value.to_be_bytes();
            assert_eq!(text(&bytes, 40, scale).as_deref(), Ok(wanted));
            let extended = [&[if value < 0 { 0xff } else { 0 }; 9][..], &bytes].concat();
            assert_eq!(text(&extended, 40, scale).as_deref(), Ok(wanted));
        }
        assert_eq!(text(&[0x03, 0xe8], 3, 0), Err(Fault::Decimal));
        assert_eq!(text(&[0x7f; 600], 1000, 0), Err(Fault::Decimal));
    }
}

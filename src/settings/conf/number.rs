//! Numbers as Kong reads them from a kong.conf: its loader converts a value that looks like a number, and the text is
//! lost (`007` becomes 7). LuaJIT's `tonumber` accepts more forms than Rust, and `%.14g` prints the result.

use super::{BLANKS, trim};

/// What Kong reads instead of `raw`, the text between the `=` and the end of the line; `None` if it reads the same text.
pub(super) fn kong_reading(raw: &str) -> Option<String> {
    let text = trim(raw);
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-')) {
        return None;
    }
    let number = to_number(text).or_else(|| to_number(raw.strip_suffix(" kB")?))?;
    Some(print(number)).filter(|reading| reading != text)
}

fn to_number(text: &str) -> Option<f64> {
    let text = text.trim_matches(BLANKS).to_ascii_lowercase();
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (-1.0, unsigned),
        None => (1.0, text.strip_prefix('+').unwrap_or(&text)),
    };
    let number = match unsigned {
        "inf" | "infinity" => f64::INFINITY,
        "nan" => return Some(f64::NAN),
        _ if unsigned.starts_with("0x") => hexadecimal(&unsigned[2..])?,
        _ if unsigned.starts_with("0b") => digits(&unsigned[2..], 2)?,
        _ if unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') => unsigned.parse().ok()?,
        _ => return None,
    };
    Some(sign * number)
}

/// Such as `1f`, `1.8` or `1p-4`, after the `0x`.
fn hexadecimal(text: &str) -> Option<f64> {
    let (mantissa, exponent): (&str, i32) = match text.split_once('p') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let scale = i32::try_from(fraction.len()).ok()?.checked_mul(4)?;
    Some(digits(&[whole, fraction].concat(), 16)? * 2_f64.powi(exponent.checked_sub(scale)?))
}

fn digits(text: &str, base: u32) -> Option<f64> {
    let value = |sum: f64, c: char| Some(sum.mul_add(f64::from(base), f64::from(c.to_digit(base)?)));
    (!text.is_empty()).then(|| text.chars().try_fold(0.0, value))?
}

/// C's `%.14g`.
fn print(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string().to_ascii_lowercase();
    }
    let scientific = format!("{number:.13e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let short = |text: &str| match text.split_once('.') {
        Some(_) => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        None => text.to_owned(),
    };
    match usize::try_from(13_i32.saturating_sub(exponent)) {
        Ok(decimals) if exponent >= -4 => short(&format!("{number:.decimals$}")),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", short(mantissa), exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_other_forms_are_read_differently() {
        for (text, reading) in [
            ("007", "7"),
            ("00", "0"),
            ("+5", "5"),
            ("5.", "5"),
            ("1.50", "1.5"),
            ("1e3", "1000"),
            ("1E-3", "0.001"),
            ("1e-5", "1e-05"),
            ("0x1F", "31"),
            ("0x1.8", "1.5"),
            ("0x1p4", "16"),
            ("-0b101", "-5"),
            ("5 kB", "5"),
            (" 5 ", "5"),
            ("+inf", "inf"),
            ("-Infinity", "-inf"),
            ("+nan", "nan"),
            ("1e400", "inf"),
            ("123456789012345", "1.2345678901234e+14"),
            ("99999999999999999999", "1e+20"),
        ] {
            let expected = Some(reading.to_owned()).filter(|reading| trim(text) != reading);
            assert_eq!(kong_reading(text), expected, "{text}");
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in [
            "",
            "0",
            "7",
            "-7",
            "-0",
            "1.5",
            "0.001",
            "12345678901234",
            "on",
            "0x",
            "0x1p",
            "s.123",
            "1e",
            "1_000",
            "+",
            "-",
            "--1",
            "+ 5",
            "5 kB ",
            "5kB",
            "1.2.3",
            ".5",
            "nan",
            "inf",
            "0b12",
            "0b1.1",
            "1f",
            "10s",
            "é",
        ] {
            assert_eq!(kong_reading(text), None, "{text}");
        }
    }
}

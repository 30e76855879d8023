//! Values with units: durations, sizes and money, read exactly.

use std::time::Duration;

const NANOS: u128 = 1_000_000_000;

/// Reads a duration such as `250ms`, `30s`, `5m`, `12h` or `2d`; a bare number means seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let units = [
        ("ms", NANOS / 1000),
        ("s", NANOS),
        ("m", 60 * NANOS),
        ("h", 3600 * NANOS),
        ("d", 86_400 * NANOS),
        ("", NANOS),
    ];
    let nanos = with_unit(text, &units).map_err(|()| {
        format!("`{text}` is no duration; write `250ms`, `30s`, `5m`, `12h` or `2d`")
    })?;
    let too_long = |_| format!("`{text}` is too long a duration");
    let seconds = u64::try_from(nanos / NANOS).map_err(too_long)?;
    let rest = u32::try_from(nanos % NANOS).map_err(too_long)?;
    Ok(Duration::new(seconds, rest))
}

/// Reads a size such as `20MB`, `512KB` or `1GB` (decimal units); a bare number means bytes.
pub fn size(text: &str) -> Result<u64, String> {
    let units = [("KB", 1000), ("MB", 1_000_000), ("GB", 1_000_000_000), ("B", 1), ("", 1)];
    let bytes = with_unit(text, &units)
        .map_err(|()| format!("`{text}` is no size; write `512KB`, `20MB`, `1GB` or bytes"))?;
    u64::try_from(bytes).map_err(|_| format!("`{text}` is too large a size"))
}

/// Reads an amount of USD such as `2.50`, with or without a leading `$`, as billionths of a USD.
pub fn money(text: &str) -> Result<i64, String> {
    let amount = text.trim();
    let amount = amount.strip_prefix('$').unwrap_or(amount);
    let nanos = with_unit(amount, &[("", NANOS)])
        .map_err(|()| format!("`{text}` is no amount of USD; write `5` or `2.50`"))?;
    i64::try_from(nanos).map_err(|_| format!("`{text}` is too large an amount"))
}

/// Reads a decimal number followed by one of `units`, and multiplies the two.
///
/// The first unit that fits counts, so longer ones come before their own endings.
fn with_unit(text: &str, units: &[(&str, u128)]) -> Result<u128, ()> {
    let text = text.trim();
    for (unit, factor) in units {
        let Some(cut) = text.len().checked_sub(unit.len()) else { continue };
        if text.get(cut..).is_some_and(|end| end.eq_ignore_ascii_case(unit)) {
            return times(text[..cut].trim_end(), *factor);
        }
    }
    Err(())
}

/// Multiplies a number without sign or exponent by `factor`, cutting off what is below one.
fn times(number: &str, factor: u128) -> Result<u128, ()> {
    /// More digits would overflow, and are beyond any unit.
    const DIGITS: usize = 18;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return Err(());
    }
    // An overlong whole number is a number all the same: its saturated value is then too large.
    let whole = match whole {
        "" => 0,
        digits => digits.parse::<u128>().unwrap_or(u128::MAX),
    };
    let fraction = &fraction[..fraction.len().min(DIGITS)];
    let part = match fraction {
        "" => 0,
        digits => {
            let tenths: u128 = digits.parse().map_err(|_| ())?;
            let places = u32::try_from(digits.len()).map_err(|_| ())?;
            tenths * factor / 10_u128.pow(places)
        }
    };
    Ok(whole.saturating_mul(factor).saturating_add(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_decimals() {
        for (text, millis) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("2d", 172_800_000),
            ("90", 90_000),
            ("0", 0),
            ("1.5", 1500),
            (".5s", 500),
            ("1.25M", 75_000),
            (" 3 s ", 3000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "s", "-5s", "+5", "NaN", "inf", "1e3", "5 weeks", "1.2.3", ".", "ü"] {
            assert!(duration(text).unwrap_err().contains("is no duration"), "{text}");
        }
        for text in ["99999999999999999999s", "9999999999999999999999999999999999999999999d"] {
            assert!(duration(text).unwrap_err().contains("too long"), "{text}");
        }
    }

    #[test]
    fn sizes_are_decimal() {
        assert_eq!(size("20MB"), Ok(20_000_000));
        assert_eq!(size("512kb"), Ok(512_000));
        assert_eq!(size("1.5GB"), Ok(1_500_000_000));
        assert_eq!(size("77"), Ok(77));
        assert_eq!(size("77 B"), Ok(77));
        assert!(size("20 MiB").is_err());
        assert!(size("-1").is_err());
        assert!(size("99999999999GB").unwrap_err().contains("too large"));
    }

    #[test]
    fn money_is_exact() {
        assert_eq!(money("2.50"), Ok(2_500_000_000));
        assert_eq!(money("$0.1"), Ok(100_000_000));
        assert_eq!(money("0.000000001"), Ok(1));
        assert!(money("-1").is_err());
        assert!(money("five").is_err());
        assert!(money("10000000000").unwrap_err().contains("too large"));
    }
}

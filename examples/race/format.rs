//! Numbers as people read them.

/// Three significant digits, without an exponent: 0.0123, 1.23, 12.3, 123, 1234.
pub(crate) fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    // 9.996 has to become 10.0, not 10.00: the decimals follow from the rounded number.
    let exponent = |value: f64| value.abs().log10().floor() as i32;
    let unit = 10f64.powi(exponent(value) - 2);
    let decimals = 2 - exponent((value / unit).round() * unit * (1.0 + f64::EPSILON));
    format!("{value:.*}", decimals.clamp(0, 9) as usize)
}

/// With a metric prefix: 11.3 GB/s.
pub(crate) fn scaled(value: f64, unit: &str) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (size, prefix) = prefixes.into_iter().find(|&(size, _)| value >= size).unwrap_or((1.0, ""));
    format!("{} {prefix}{unit}", significant(value / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits() {
        let cases = [
            (0.0, "0"),
            (0.001_234, "0.00123"),
            (0.1, "0.100"),
            (0.999_9, "1.00"),
            (1.0, "1.00"),
            (9.996, "10.0"),
            (10.0, "10.0"),
            (99.96, "100"),
            (123.4, "123"),
            (1000.0, "1000"),
            (12_345.6, "12346"),
            (f64::INFINITY, "inf"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
    }

    #[test]
    fn prefixes() {
        assert_eq!(scaled(11.34e9, "B/s"), "11.3 GB/s");
        assert_eq!(scaled(1.5e13, "FLOP/s"), "15.0 TFLOP/s");
        assert_eq!(scaled(12.0, "B/s"), "12.0 B/s");
    }
}

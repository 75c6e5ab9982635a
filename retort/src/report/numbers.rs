//! How numbers are written in page and document.

use super::Metric;
use super::svg::in_points;

/// Between a mean and its spread.
pub(super) const SPREAD: &str = " ± ";

pub(super) fn percent(metric: &Metric) -> String {
    with_sd(metric, |v| format!("{:.1}", 100.0 * v), " %")
}

pub(super) fn points(metric: &Metric) -> String {
    with_sd(metric, |v| format!("{:.1}", in_points(v)), " points")
}

pub(super) fn decimal(metric: &Metric) -> String {
    with_sd(metric, |v| format!("{v:.3}"), "")
}

/// A single seed has no spread.
fn with_sd(metric: &Metric, write: impl Fn(f64) -> String, unit: &str) -> String {
    let mean = write(metric.mean);
    match metric.values.len() {
        0 | 1 => format!("{mean}{unit}"),
        _ => format!("{mean}{SPREAD}{}{unit}", write(metric.sd)),
    }
}

/// With thousands set apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|g| std::str::from_utf8(g).ok())
        .collect();
    groups.join(",")
}

pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

pub(super) fn bytes(number: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = number as f64;
    let mut unit = "bytes";
    for larger in units {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "bytes" {
        format!("{number} bytes")
    } else {
        format!("{value:.1} {unit}")
    }
}

pub(super) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

pub(super) fn milliseconds(value: f64) -> String {
    amount(value, "ms")
}

/// Three digits that matter, whatever the size.
pub(super) fn amount(value: f64, unit: &str) -> String {
    let decimals = (2.0 - value.max(1e-6).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$} {unit}")
}

/// Starts with a capital letter and ends with a full stop.
pub(super) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars
        .next()
        .map(|c| c.to_uppercase().collect())
        .unwrap_or_default();
    format!("{first}{}.", chars.as_str().trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(count),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0, 1023, 1024, 5 << 20].map(bytes),
            ["0 bytes", "1023 bytes", "1.0 KiB", "5.0 MiB"]
        );
        assert_eq!(
            [0.4, 71.4, 3725.0].map(duration),
            ["0 s", "1 min 11 s", "1 h 2 min"]
        );
        assert_eq!(
            (counted(1, "seed"), counted(5, "seed")),
            ("1 seed".to_owned(), "5 seeds".to_owned())
        );
        assert_eq!(percent(&vec![0.5].into()), "50.0 %");
        assert_eq!(decimal(&vec![0.25, 0.25].into()), "0.250 ± 0.000");
        assert_eq!(sentence("it helped"), "It helped.");
    }

    #[test]
    fn amounts_keep_three_digits() {
        assert_eq!(
            [0.012_34, 0.5, 12.345, 999.6, 12_345.0, 0.0].map(milliseconds),
            [
                "0.0123 ms",
                "0.500 ms",
                "12.3 ms",
                "1000 ms",
                "12345 ms",
                "0.000000 ms"
            ]
        );
    }
}

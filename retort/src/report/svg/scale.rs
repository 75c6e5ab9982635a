//! Axes: a linear scale with round ticks, and how its values are written.

/// How the values of an axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Unit {
    Plain,
    /// Shares between 0 and 1, in percent.
    Percent,
    /// Differences of shares, in points.
    Points,
}

/// A linear map from values to chart units.
#[derive(Debug, Clone)]
pub(super) struct Scale {
    domain: (f64, f64),
    /// Chart unit of the lower end.
    pub(super) from: f64,
    /// Chart unit of the upper end.
    pub(super) to: f64,
    pub(super) ticks: Vec<f64>,
    pub(super) step: f64,
}

/// Ticks that an axis aims at; it may have one or two more or fewer.
const TICKS: f64 = 5.0;

impl Scale {
    /// Spans exactly a given domain, or all finite `values` and on to the next ticks.
    pub(super) fn new(
        values: impl Iterator<Item = f64>,
        domain: Option<(f64, f64)>,
        (from, to): (f64, f64),
    ) -> Self {
        let (low, high) = domain.filter(|d| d.0 < d.1).unwrap_or_else(|| extent(values));
        let step = round_step((high - low) / TICKS);
        let (below, above) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let (first, last, domain) = match domain {
            Some(_) => (
                (low / step - 1e-9).ceil(),
                (high / step + 1e-9).floor(),
                (low, high),
            ),
            None => (below, above, (below * step, above * step)),
        };
        let ticks = (0..=(last - first) as u32)
            .map(|i| (first + f64::from(i)) * step)
            .collect();
        Self {
            domain,
            from,
            to,
            ticks,
            step,
        }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let (low, high) = self.domain;
        self.from + (value - low) / (high - low) * (self.to - self.from)
    }
}

impl Unit {
    /// A tick, with as many decimals as its step needs.
    pub(super) fn label(self, value: f64, step: f64) -> String {
        let (value, step) = match self {
            Self::Plain => (value, step),
            Self::Percent | Self::Points => (100.0 * value, 100.0 * step),
        };
        // A sum of steps may miss zero by a hair, and "-0" reads badly.
        let value = if value.abs() < 1e-9 * step { 0.0 } else { value };
        let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 9.0) as usize;
        match self {
            Self::Plain if step >= 1000.0 && value != 0.0 => format!("{}k", value / 1000.0),
            Self::Plain => format!("{value:.decimals$}"),
            Self::Percent => format!("{value:.decimals$}%"),
            Self::Points if value == 0.0 => "0".to_owned(),
            Self::Points => format!("{value:+.decimals$}"),
        }
    }

    /// A value within a sentence.
    pub(in super::super) fn value(self, value: f64) -> String {
        match self {
            Self::Plain => format!("{value:.3}"),
            Self::Percent => format!("{:.1} %", 100.0 * value),
            Self::Points => match in_points(value) {
                0.0 => "0.0 points".to_owned(),
                points => format!("{points:+.1} points"),
            },
        }
    }
}

/// A difference of shares in points, without a sign where it is written as zero.
pub(in super::super) fn in_points(value: f64) -> f64 {
    let points = 100.0 * value;
    if points.abs() < 0.05 { 0.0 } else { points }
}

/// A coordinate without trailing zeros.
pub(super) fn number(value: f64) -> String {
    format!("{}", (10.0 * value).round() / 10.0)
}

/// The least and greatest finite value, kept apart where they are equal.
fn extent(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
            (low.min(v), high.max(v))
        });
    match (low, high) {
        _ if low > high => (0.0, 1.0),
        _ if high - low < 1e-9 * high.abs().max(1e-3) => {
            (low - 0.05 * low.abs().max(0.1), high + 0.05 * high.abs().max(0.1))
        }
        _ => (low, high),
    }
}

/// 1, 2 or 5 times a power of ten, near `rough`.
fn round_step(rough: f64) -> f64 {
    let power = 10f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| f * power * 1.2 >= rough)
        .unwrap_or(10.0);
    factor * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(low: f64, high: f64) -> Scale {
        Scale::new([low, high].into_iter(), None, (0.0, 100.0))
    }

    #[test]
    fn ticks_are_round_few_and_cover_the_values() {
        for (low, high) in [
            (0.0, 1.0),
            (0.13, 0.947),
            (0.0, 1240.0),
            (-3.0, 7.0),
            (2.0, 2.0),
            (0.0, 0.0),
            (1e-5, 3e-5),
            (1e6, 1e9),
        ] {
            let s = scale(low, high);
            assert!((3..=9).contains(&s.ticks.len()), "{low}..{high}: {:?}", s.ticks);
            assert!(
                s.at(low) >= -1e-6 && s.at(high) <= 100.0 + 1e-6,
                "{low}..{high}: {s:?}"
            );
        }
        assert_eq!(scale(0.0, 10.0).ticks, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    }

    #[test]
    fn a_given_domain_is_kept_and_has_its_ticks_inside() {
        let s = Scale::new(std::iter::empty(), Some((0.0, 820.0)), (0.0, 100.0));
        assert_eq!(
            (s.ticks.as_slice(), s.at(820.0)),
            ([0.0, 200.0, 400.0, 600.0, 800.0].as_slice(), 100.0)
        );
        let empty = Scale::new(std::iter::empty(), Some((0.0, 0.0)), (0.0, 100.0));
        assert!(empty.at(0.0).is_finite());
    }

    #[test]
    fn a_difference_that_is_written_as_zero_has_no_sign() {
        let texts = [0.012, -0.000_49, -1e-17, -0.000_51].map(|v| Unit::Points.value(v));
        assert_eq!(texts, ["+1.2 points", "0.0 points", "0.0 points", "-0.1 points"]);
    }

    #[test]
    fn labels_have_the_decimals_of_their_step() {
        let labels =
            |unit: Unit, s: Scale| s.ticks.iter().map(|t| unit.label(*t, s.step)).collect::<Vec<_>>();
        assert_eq!(
            labels(Unit::Percent, scale(0.8, 0.84)),
            ["80%", "81%", "82%", "83%", "84%"]
        );
        assert_eq!(
            labels(Unit::Plain, scale(0.0, 0.5)),
            ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]
        );
        assert_eq!(
            labels(Unit::Plain, scale(0.0, 6000.0)),
            ["0", "1k", "2k", "3k", "4k", "5k", "6k"]
        );
    }
}

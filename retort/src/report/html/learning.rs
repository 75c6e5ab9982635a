//! Charts of what was measured while training, by step.

use std::collections::BTreeMap;

use super::super::curves::{Curves, GroupCurve, Point};
use super::super::svg::{self, Line, LineChart, Series, Unit};
use super::charts::{Cast, figure};

/// Points that a line is thinned to; more than this a chart cannot show.
const RESOLUTION: u64 = 120;
/// An axis that reaches so far has its marks at whole numbers only.
const WHOLE: f64 = 4.0;

/// Everything measured while training.
pub(super) fn charts(curves: &Curves, cast: &Cast) -> String {
    let plots = [
        Plot::new(
            "Accuracy on held-out data",
            "Share of samples put right.",
            Unit::Percent,
            |p| p.held_out_accuracy,
        ),
        Plot::new(
            "Loss on held-out data",
            "Cross-entropy in nats.",
            Unit::Plain,
            |p| p.held_out_loss,
        ),
        Plot::new(
            "Hard loss",
            "Cross-entropy of the labelled training samples, in nats.",
            Unit::Plain,
            |p| p.hard_loss,
        ),
        Plot::new(
            "Soft loss",
            "KL divergence from the teacher, in nats.",
            Unit::Plain,
            |p| p.kl,
        ),
        Plot::new(
            "Feature loss",
            "Between a layer of the student and one of its teacher, before its weight.",
            Unit::Plain,
            |p| p.feature_loss,
        ),
        Plot::new(
            "Effective alpha",
            "Weight of the soft loss, schedule and gate included.",
            Unit::Plain,
            |p| p.alpha,
        ),
        Plot::new(
            "Teacher's share of the gradient",
            "0 means that only labels taught.",
            Unit::Percent,
            |p| p.gradient_share,
        ),
        Plot {
            stepped: true,
            ..Plot::new(
                "Teacher version",
                "The version each step's soft targets came from.",
                Unit::Plain,
                |p| p.teacher_version.map(|v| v as f64),
            )
        },
        Plot::new(
            "Staleness",
            "Versions that the soft targets were behind the newest one, in the mean of the samples.",
            Unit::Plain,
            |p| p.staleness,
        ),
        Plot::new("Throughput", "Samples trained on per second.", Unit::Plain, |p| {
            p.samples_per_s
        }),
    ];
    let plots = plots.into_iter().chain(replicas(curves));
    plots.filter_map(|plot| plot.render(curves, cast)).collect()
}

/// Nothing where each group had one throughout.
fn replicas(curves: &Curves) -> Option<Plot> {
    let mut points = curves.groups.iter().flat_map(|c| &c.points);
    points.any(|p| p.replicas > 1).then(|| Plot {
        stepped: true,
        ..Plot::new(
            "Replicas",
            "Those that brought something to the merge.",
            Unit::Plain,
            |p| (p.replicas > 0).then(|| f64::from(p.replicas)),
        )
    })
}

/// One line chart of [`charts`].
struct Plot {
    title: &'static str,
    note: &'static str,
    unit: Unit,
    value: fn(&Point) -> Option<f64>,
    /// A count or a version: whole, and what it is until the next point.
    stepped: bool,
}

impl Plot {
    fn new(title: &'static str, note: &'static str, unit: Unit, value: fn(&Point) -> Option<f64>) -> Self {
        Self {
            title,
            note,
            unit,
            value,
            stepped: false,
        }
    }

    /// None where no group measured it.
    fn render(&self, curves: &Curves, cast: &Cast) -> Option<String> {
        let mut groups: BTreeMap<usize, (Series, Vec<&GroupCurve>)> = BTreeMap::new();
        for curve in &curves.groups {
            let series = cast.of(&curve.group);
            groups
                .entry(series.number)
                .or_insert_with(|| (series, Vec::new()))
                .1
                .push(curve);
        }
        let lines: Vec<Line> = groups
            .into_values()
            .flat_map(|(series, seeds)| self.lines(&series, &seeds))
            .collect();
        let mut series: Vec<Series> = lines.iter().map(|l| l.series.clone()).collect();
        series.dedup();
        if lines.is_empty() {
            return None;
        }
        let last = curves
            .groups
            .iter()
            .flat_map(|c| &c.points)
            .map(|p| p.step)
            .max()
            .unwrap_or(0) as f64;
        let chart = LineChart {
            title: self.title.into(),
            x_label: "step",
            y_unit: self.unit,
            x_range: Some((0.0, last)),
            y_range: self.stepped.then(|| (0.0, highest(&lines).max(WHOLE))),
            height: 230.0,
            diagonal: false,
            lines,
        };
        Some(figure(
            self.title,
            self.note,
            &svg::legend(&series),
            &chart.render(),
        ))
    }

    /// A pale line for each seed and their mean, or one line where there is but one seed.
    fn lines(&self, series: &Series, seeds: &[&GroupCurve]) -> Vec<Line> {
        let last = seeds
            .iter()
            .flat_map(|c| &c.points)
            .map(|p| p.step)
            .max()
            .unwrap_or(0);
        let thinned: Vec<_> = seeds
            .iter()
            .map(|c| self.thin(c, last))
            .filter(|t| !t.is_empty())
            .collect();
        let line = |points: Vec<(f64, f64)>, faint| Line {
            series: series.clone(),
            points,
            faint,
            stepped: self.stepped,
            radii: Vec::new(),
        };
        let mean = mean(&thinned);
        let longest = thinned.iter().map(BTreeMap::len).max().unwrap_or(0);
        // Seeds that were measured at other steps have no mean to speak of.
        let comparable = thinned.len() > 1 && 2 * mean.len() >= longest;
        let mut lines: Vec<Line> = thinned
            .into_iter()
            .map(|t| line(t.into_values().collect(), comparable))
            .collect();
        if comparable {
            lines.push(line(mean, false));
        }
        lines
    }

    /// Mean step and value of at most [`RESOLUTION`] stretches of steps; a version is not averaged.
    fn thin(&self, curve: &GroupCurve, last: u64) -> BTreeMap<u64, (f64, f64)> {
        let mut buckets: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
        for point in &curve.points {
            if let Some(value) = (self.value)(point).filter(|v| v.is_finite()) {
                let bucket =
                    (u128::from(point.step) * u128::from(RESOLUTION) / (u128::from(last) + 1)) as u64;
                buckets
                    .entry(bucket)
                    .or_default()
                    .push((point.step as f64, value));
            }
        }
        let one = |points: Vec<(f64, f64)>| {
            if self.stepped {
                points[points.len() - 1]
            } else {
                centre(&points)
            }
        };
        buckets
            .into_iter()
            .map(|(bucket, points)| (bucket, one(points)))
            .collect()
    }
}

fn highest(lines: &[Line]) -> f64 {
    let values = lines.iter().flat_map(|l| &l.points).map(|p| p.1);
    values.fold(0.0, f64::max)
}

/// The mean over seeds, where every seed has a value.
fn mean(seeds: &[BTreeMap<u64, (f64, f64)>]) -> Vec<(f64, f64)> {
    let Some(first) = seeds.first() else {
        return Vec::new();
    };
    let all = |bucket: &u64| {
        seeds
            .iter()
            .map(|s| s.get(bucket).copied())
            .collect::<Option<Vec<_>>>()
    };
    first
        .keys()
        .filter_map(all)
        .map(|points| centre(&points))
        .collect()
}

fn centre(points: &[(f64, f64)]) -> (f64, f64) {
    let (x, y) = points
        .iter()
        .fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
    (x / points.len() as f64, y / points.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    /// The chart of replicas of a group with so many at each step.
    fn drawn(replicas: &[u32]) -> Option<String> {
        let point = |(step, replicas): (u64, &u32)| Point {
            step,
            replicas: *replicas,
            ..Point::default()
        };
        let curves = Curves {
            groups: vec![GroupCurve {
                run: "seed 1".into(),
                group: "small".into(),
                kind: "student".into(),
                points: (0..).zip(replicas).map(point).collect(),
            }],
        };
        let charts = charts(&curves, &Cast::new(&report(1), &curves));
        let chart = charts.split("<title>Replicas</title>").nth(1)?;
        Some(chart.split("</svg>").next()?.to_owned())
    }

    #[test]
    fn one_replica_throughout_is_no_chart() {
        assert_eq!(drawn(&[1, 1, 1]), None);
        assert!(drawn(&[1, 2, 1]).is_some());
    }

    #[test]
    fn counts_have_whole_numbers_on_their_axis() {
        for most in [2, 3, 5, 7] {
            let chart = drawn(&[1, most, 1]).unwrap();
            let floor = chart.split("class=\"tick middle\"").next().unwrap();
            let marks: Vec<&str> = floor
                .split("</text>")
                .filter_map(|part| part.rsplit('>').next())
                .filter(|mark| !mark.starts_with('<'))
                .collect();
            assert!(marks.len() > 2, "{chart}");
            for mark in marks {
                assert!(mark.parse::<u32>().is_ok(), "{mark} of {most}: {chart}");
            }
        }
    }
}

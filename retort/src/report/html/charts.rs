//! Charts of the final models, and the cast that appears in every chart.

use super::super::curves::Curves;
use super::super::metrics::Bin;
use super::super::svg::{self, DotChart, Line, LineChart, Mark, Row, Series, Stroke, Unit};
use super::super::{Metric, Report, Student, stats};

/// Who appears in the charts: every group keeps one colour and stroke throughout the page.
pub(super) struct Cast(Vec<Series>);

impl Cast {
    /// Students, each followed by itself alone, then teachers, then whatever else has a curve.
    pub(super) fn new(report: &Report, curves: &Curves) -> Self {
        let mut cast = Self(Vec::new());
        for student in &report.students {
            cast.add(&student.name, Stroke::Solid);
            if let Some(alone) = report.baseline_of(&student.name) {
                cast.add(&alone.name, Stroke::Dashed);
            }
        }
        for teacher in &report.teachers {
            cast.add(&teacher.name, Stroke::Dotted);
        }
        for curve in &curves.groups {
            cast.add(&curve.group, Stroke::Solid);
        }
        cast
    }

    fn add(&mut self, name: &str, stroke: Stroke) {
        if self.get(name).is_none() {
            self.0.push(Series {
                label: name.to_owned(),
                number: self.0.len(),
                stroke,
            });
        }
    }

    fn get(&self, name: &str) -> Option<&Series> {
        self.0.iter().find(|s| s.label == name)
    }

    /// The series of a name, or a colour of its own for a stranger.
    pub(super) fn of(&self, name: &str) -> Series {
        let stranger = || Series {
            label: name.to_owned(),
            number: self.0.len(),
            stroke: Stroke::Solid,
        };
        self.get(name).cloned().unwrap_or_else(stranger)
    }
}

/// Test accuracy of every model, seed by seed.
pub(super) fn accuracy(report: &Report, cast: &Cast) -> String {
    let row = |role: &str, name: &str, accuracy: &Metric| Row {
        label: format!("{name} ({role})"),
        marks: vec![mark(cast.of(name), accuracy)],
    };
    let mut rows: Vec<Row> = report
        .teachers
        .iter()
        .map(|t| row("teacher", &t.name, &t.test_accuracy))
        .collect();
    for student in &report.students {
        rows.push(row("student", &student.name, &student.test_accuracy));
        if let Some(alone) = report.baseline_of(&student.name) {
            rows.push(row("without teacher", &alone.name, &alone.test_accuracy));
        }
    }
    let note = if report.run.seeds.len() > 1 {
        "The large mark is the mean, each pale dot one seed."
    } else {
        "One seed."
    };
    let chart = DotChart {
        title: "Test accuracy".into(),
        rows,
        unit: Unit::Percent,
        named_values: true,
    };
    figure(&chart.title, note, "", &chart.render())
}

/// What each student gained over itself alone, seed by seed; nothing where one seed shows no spread.
pub(super) fn gains(report: &Report, cast: &Cast) -> String {
    let row = |student: &Student| {
        let alone = report.baseline_of(&student.name)?;
        let pairs = student
            .test_accuracy
            .values
            .iter()
            .zip(&alone.test_accuracy.values);
        let values: Vec<f64> = pairs.map(|(s, a)| s - a).collect();
        let (mean, interval) = (stats::mean(&values)?, stats::interval_95(&values)?);
        let mark = Mark {
            series: cast.of(&student.name),
            mean,
            values,
            interval: Some(interval),
        };
        Some(Row {
            label: student.name.clone(),
            marks: vec![mark],
        })
    };
    let rows: Vec<Row> = report.students.iter().filter_map(row).collect();
    if rows.is_empty() {
        return String::new();
    }
    let note = "Student minus the same student alone, in points of test accuracy. Each pale dot is one seed, the bar is the \
                95&nbsp;% interval of the mean: if it crosses zero, no difference is shown.";
    let chart = DotChart {
        title: "What the teacher gave".into(),
        rows,
        unit: Unit::Points,
        named_values: true,
    };
    figure(&chart.title, note, "", &chart.render())
}

/// Confidence against accuracy; the larger the dot, the more samples.
pub(super) fn reliability(models: &[(String, Vec<Bin>)], cast: &Cast) -> String {
    let lines: Vec<Line> = models
        .iter()
        .map(|(name, bins)| {
            let filled: Vec<&Bin> = bins.iter().filter(|b| b.samples > 0).collect();
            let most = filled.iter().map(|b| b.samples).max().unwrap_or(1) as f64;
            Line {
                series: cast.of(name),
                points: filled.iter().map(|b| (b.confidence, b.accuracy)).collect(),
                radii: filled
                    .iter()
                    .map(|b| 1.5 + 5.0 * (b.samples as f64 / most).sqrt())
                    .collect(),
                faint: false,
                stepped: false,
            }
        })
        .filter(|line| !line.points.is_empty())
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let legend = svg::legend(&lines.iter().map(|l| l.series.clone()).collect::<Vec<_>>());
    let chart = LineChart {
        title: "Accuracy by confidence, on test data".into(),
        x_label: "confidence",
        y_unit: Unit::Percent,
        x_range: Some((0.0, 1.0)),
        y_range: Some((0.0, 1.0)),
        height: 320.0,
        diagonal: true,
        lines,
    };
    let note = "A calibrated model lies on the thin line; below it, the model claims more than it keeps. Larger dots hold more samples.";
    figure(&chart.title, note, &legend, &chart.render())
}

fn mark(series: Series, metric: &Metric) -> Mark {
    Mark {
        series,
        mean: metric.mean,
        values: metric.values.clone(),
        interval: None,
    }
}

/// `title`, `note`, `legend` and `chart` are HTML already.
pub(super) fn figure(title: &str, note: &str, legend: &str, chart: &str) -> String {
    format!(
        "<figure>\n<figcaption><strong>{title}</strong> {note}</figcaption>\n{legend}{chart}\n</figure>\n"
    )
}

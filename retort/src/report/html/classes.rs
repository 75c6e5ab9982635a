//! Charts by class: accuracy, what the teacher gave, and whose mistakes they are.

use super::super::svg::{self, DotChart, Mark, Row, Series, Stroke, Unit};
use super::super::{ClassRow, Metric, Student};
use super::charts::{Cast, figure};

/// Classes that a chart has room for; the table below it lists all.
const MOST_CLASSES: usize = 40;

/// Accuracy by class, of the student and of itself alone, and its agreement with the teacher.
pub(super) fn accuracy(student: &Student, alone: Option<&Student>, cast: &Cast) -> String {
    let with = cast.of(&student.name);
    let agreement = Series {
        label: "agreement with teacher".into(),
        number: with.number + 2,
        stroke: Stroke::Dotted,
    };
    let mut series = vec![with.clone()];
    series.extend(alone.map(|a| cast.of(&a.name)));
    if student.agreement_with_teacher.is_some() {
        series.push(agreement.clone());
    }
    let rows = student
        .per_class
        .iter()
        .enumerate()
        .take(MOST_CLASSES)
        .map(|(i, row)| {
            let without =
                alone.and_then(|a| Some((cast.of(&a.name), a.per_class.get(i)?.accuracy.as_ref()?)));
            let marks = [
                row.agreement.as_ref().map(|m| (agreement.clone(), m)),
                without,
                row.accuracy.as_ref().map(|m| (with.clone(), m)),
            ];
            let marks = marks.into_iter().flatten();
            Row {
                label: row.class.clone(),
                marks: marks
                    .map(|(series, metric)| mean_only(series, metric.mean))
                    .collect(),
            }
        });
    let chart = DotChart {
        title: format!("{}: accuracy by class", student.name),
        rows: rows.collect(),
        unit: Unit::Percent,
        named_values: false,
    };
    let note = format!("Means over seeds, on test data{}.", left_out(student));
    drawn(&chart, &note, &svg::keys(&series))
}

/// What the student gained over itself alone, from the class that gained most down.
pub(super) fn gains(student: &Student, cast: &Cast) -> String {
    let gain = |row: &ClassRow| row.gain.clone().map(|gain| (row.class.clone(), gain));
    let mut gains: Vec<(String, Metric)> = student.per_class.iter().filter_map(gain).collect();
    gains.sort_by(|a, b| b.1.mean.total_cmp(&a.1.mean));
    if gains.is_empty() {
        return String::new();
    }
    if gains.len() > MOST_CLASSES {
        gains.drain(MOST_CLASSES / 2..gains.len() - MOST_CLASSES / 2);
    }
    let several = gains[0].1.values.len() > 1;
    let rows = gains.into_iter().map(|(label, gain)| Row {
        label,
        marks: vec![Mark {
            series: cast.of(&student.name),
            mean: gain.mean,
            values: gain.values,
            interval: None,
        }],
    });
    let chart = DotChart {
        title: format!("{}: gain by class", student.name),
        rows: rows.collect(),
        unit: Unit::Points,
        named_values: true,
    };
    let seeds = if several {
        " The large mark is the mean, each pale dot one seed; a class has few samples, so that single classes may part by \
         chance."
    } else {
        ""
    };
    let note = format!(
        "Student minus the same student alone, in points of accuracy, largest gain first{}.{seeds}",
        left_out(student)
    );
    drawn(&chart, &note, "")
}

/// Mistakes shared with the teacher beyond chance, of the student and of itself alone; nothing without a teacher.
pub(super) fn inherited(student: &Student, alone: Option<&Student>, cast: &Cast) -> String {
    let excess = |row: &ClassRow| row.inherited.as_ref()?.pooled();
    let with = cast.of(&student.name);
    let rows = student
        .per_class
        .iter()
        .enumerate()
        .take(MOST_CLASSES)
        .map(|(i, row)| {
            let without = alone.and_then(|a| Some((cast.of(&a.name), excess(a.per_class.get(i)?)?)));
            let marks = [without, excess(row).map(|value| (with.clone(), value))];
            Row {
                label: row.class.clone(),
                marks: marks
                    .into_iter()
                    .flatten()
                    .map(|(series, value)| mean_only(series, value))
                    .collect(),
            }
        });
    let chart = DotChart {
        title: format!("{}: shared mistakes by class", student.name),
        rows: rows.collect(),
        unit: Unit::Points,
        named_values: false,
    };
    if chart.rows.iter().all(|row| row.marks.is_empty()) {
        return String::new();
    }
    let note = format!(
        "Share of the mistakes that the teacher makes as well, beyond chance, over all seeds together{}. A class without a \
         mark is put right throughout.",
        left_out(student)
    );
    let mut series = vec![with];
    series.extend(alone.map(|a| cast.of(&a.name)));
    drawn(&chart, &note, &svg::keys(&series))
}

fn mean_only(series: Series, mean: f64) -> Mark {
    Mark {
        series,
        mean,
        values: Vec::new(),
        interval: None,
    }
}

fn left_out(student: &Student) -> String {
    match student.per_class.len().saturating_sub(MOST_CLASSES) {
        0 => String::new(),
        n => format!("; {n} more classes are in the table"),
    }
}

fn drawn(chart: &DotChart, note: &str, legend: &str) -> String {
    figure(&svg::escape(&chart.title), note, legend, &chart.render())
}

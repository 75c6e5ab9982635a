//! Charts of mistakes: which are the teacher's, and which change from seed to seed.

use super::super::svg::{Bar, BarChart, DotChart, Mark, Row, Unit};
use super::super::{Report, Student, stats};
use super::charts::{Cast, figure};

/// How many of each student's mistakes its teacher makes as well, beside itself alone; nothing without teachers.
pub(super) fn inherited(report: &Report, cast: &Cast) -> String {
    let row = |student: &Student, role: &str| {
        let inherited = student.inherited.as_ref()?;
        let values = inherited
            .excess
            .as_ref()
            .map_or_else(Vec::new, |e| e.values.clone());
        let mean = stats::mean(&values).or_else(|| inherited.pooled())?;
        let mark = Mark {
            series: cast.of(&student.name),
            mean,
            interval: stats::interval_95(&values),
            values,
        };
        Some(Row {
            label: format!("{} ({role})", student.name),
            marks: vec![mark],
        })
    };
    let rows: Vec<Row> = report
        .students
        .iter()
        .flat_map(|student| {
            let alone = report.baseline_of(&student.name);
            [
                row(student, "student"),
                alone.and_then(|a| row(a, "without teacher")),
            ]
        })
        .flatten()
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let note = "Share of a model's mistakes where the teacher names the same wrong class, minus the share that would fall \
                together if both answered by the label alone, in points. Zero is chance. Samples that are hard for all \
                models put the student alone above it too: what is inherited is the difference between the two. The bar \
                is the 95&nbsp;% interval of the mean.";
    let chart = DotChart {
        title: "Mistakes shared with the teacher".into(),
        rows,
        unit: Unit::Points,
        named_values: true,
    };
    figure(&chart.title, note, "", &chart.render())
}

/// How often two seeds of a model disagree; nothing for a single seed.
pub(super) fn churn(report: &Report, cast: &Cast) -> String {
    let bar = |name: &str, role: &str, churn: Option<f64>| {
        churn.map(|value| Bar {
            series: cast.of(name),
            label: format!("{name} ({role})"),
            value,
            text: Unit::Percent.value(value),
            upper: None,
        })
    };
    let teachers = report.teachers.iter().map(|t| bar(&t.name, "teacher", t.churn));
    let students = report.students.iter().flat_map(|s| {
        let alone = report.baseline_of(&s.name);
        [
            bar(&s.name, "student", s.churn),
            alone.and_then(|a| bar(&a.name, "without teacher", a.churn)),
        ]
    });
    let bars: Vec<Bar> = teachers.chain(students).flatten().collect();
    if bars.is_empty() {
        return String::new();
    }
    let note = "Share of test samples that two seeds of a model put into different classes, over all pairs of seeds.";
    let chart = BarChart {
        title: "Churn between seeds".into(),
        bars,
    };
    figure(&chart.title, note, "", &chart.render())
}

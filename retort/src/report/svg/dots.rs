//! Dot plots: a value by row, with one small dot for each seed behind its mean.

use super::scale::{Scale, Unit};
use super::{Series, WIDTH, element, escape, number};

const ROW: f64 = 34.0;
const SIDE: f64 = 20.0;
const FOOT: f64 = 22.0;
/// Keeps text off the lines at both ends.
const INSET: f64 = 4.0;

/// Rows over a common axis.
#[derive(Debug, Clone)]
pub(in super::super) struct DotChart {
    pub(in super::super) title: String,
    pub(in super::super) rows: Vec<Row>,
    pub(in super::super) unit: Unit,
    /// Writes each row's first mean at its right end.
    pub(in super::super) named_values: bool,
}

#[derive(Debug, Clone)]
pub(in super::super) struct Row {
    pub(in super::super) label: String,
    pub(in super::super) marks: Vec<Mark>,
}

/// A mean, and the values that it is the mean of.
#[derive(Debug, Clone)]
pub(in super::super) struct Mark {
    pub(in super::super) series: Series,
    pub(in super::super) mean: f64,
    pub(in super::super) values: Vec<f64>,
    /// Drawn as a bar through the mean.
    pub(in super::super) interval: Option<[f64; 2]>,
}

impl DotChart {
    /// The `<svg>` element.
    pub(in super::super) fn render(&self) -> String {
        let zero = (self.unit == Unit::Points).then_some(0.0);
        let marks = self.rows.iter().flat_map(|r| &r.marks);
        let values = marks
            .flat_map(|m| {
                m.values
                    .iter()
                    .chain([&m.mean])
                    .chain(m.interval.iter().flatten())
            })
            .copied()
            .chain(zero);
        let x = Scale::new(values, None, (SIDE, WIDTH - SIDE));
        let floor = ROW * self.rows.len() as f64;
        let grid = x.ticks.iter().map(|&t| {
            let (at, text) = (number(x.at(t)), self.unit.label(t, x.step));
            let class = if zero.is_some() && t.abs() < 1e-9 { "zero" } else { "grid" };
            format!(r#"<path class="{class}" d="M{at} 4V{floor}"/><text class="tick middle" x="{at}" y="{}">{text}</text>"#, floor + 15.0)
        });
        let rows = self
            .rows
            .iter()
            .enumerate()
            .map(|(i, row)| self.row(row, ROW * i as f64, &x));
        let body: String = grid.chain(rows).collect();
        element(&self.title, &self.description(), floor + FOOT, &body)
    }

    fn row(&self, row: &Row, top: f64, x: &Scale) -> String {
        let middle = top + 23.0;
        let label = format!(
            r#"<text class="row" x="{}" y="{}">{}</text>"#,
            SIDE + INSET,
            top + 12.0,
            escape(&row.label)
        );
        let value = row.marks.first().filter(|_| self.named_values).map(|m| {
            let text = self.unit.value(m.mean);
            format!(
                r#"<text class="row end strong" x="{}" y="{}">{text}</text>"#,
                WIDTH - SIDE - INSET,
                top + 12.0
            )
        });
        let rail = format!(r#"<path class="rail" d="M{SIDE} {middle}H{}"/>"#, WIDTH - SIDE);
        let marks = row.marks.iter().map(|m| m.render(middle, x));
        [label, value.unwrap_or_default(), rail]
            .into_iter()
            .chain(marks)
            .collect()
    }

    fn description(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let marks = row
                .marks
                .iter()
                .map(|m| format!("{} {}", m.series.label, self.unit.value(m.mean)));
            format!("{}: {}", row.label, marks.collect::<Vec<_>>().join(", "))
        });
        rows.collect::<Vec<_>>().join("; ")
    }
}

impl Mark {
    fn render(&self, y: f64, x: &Scale) -> String {
        let seeds: String = match self.values.len() {
            0 | 1 => String::new(),
            _ => {
                let each = self.values.iter().map(|&v| number(x.at(v)));
                each.map(|cx| format!(r#"<circle class="seed" cx="{cx}" cy="{y}" r="3"/>"#))
                    .collect()
            }
        };
        let bar = self.interval.map(|[low, high]| {
            format!(
                r#"<path class="bar" d="M{} {y}H{}"/>"#,
                number(x.at(low)),
                number(x.at(high))
            )
        });
        let shape = shape(&self.series, x.at(self.mean), y);
        format!(
            r#"<g class="{}">{}{seeds}{shape}</g>"#,
            self.series.class(),
            bar.unwrap_or_default()
        )
    }
}

/// A list of the series with the shape of each, as [`super::legend`] is for lines.
pub(in super::super) fn keys(series: &[Series]) -> String {
    let items = series.iter().map(|s| {
        format!(
            r#"<li><svg class="dotkey {}" viewBox="0 0 12 12" aria-hidden="true">{}</svg>{}</li>"#,
            s.class(),
            shape(s, 6.0, 6.0),
            escape(&s.label)
        )
    });
    format!(r#"<ul class="legend">{}</ul>"#, items.collect::<String>())
}

/// Neighbouring series differ in shape as well as colour.
fn shape(series: &Series, x: f64, y: f64) -> String {
    let at = number(x);
    match series.number % 3 {
        0 => format!(r#"<circle class="dot" cx="{at}" cy="{y}" r="5"/>"#),
        1 => format!(
            r#"<path class="dot" d="M{at} {}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>"#,
            y - 5.5
        ),
        _ => format!(r#"<path class="dot" d="M{at} {}m-4.5 0h9v9h-9z"/>"#, y - 4.5),
    }
}

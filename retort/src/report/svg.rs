//! Charts as inline SVG: no scripts, colours by CSS class, a title and a description for readers
//! who do not see them.
//!
//! A series has a number; `class="s0"` and so on get their colours from the page's style sheet, so
//! that one drawing serves light and dark. Dashes and shapes repeat what colours say.

mod bars;
mod dots;
mod scale;

pub(super) use bars::{Bar, BarChart};
pub(super) use dots::{DotChart, Mark, Row, keys};
use scale::{Scale, number};
pub(super) use scale::{Unit, in_points};

/// Width of every chart in its own units: near that of a phone, so that text stays legible there.
const WIDTH: f64 = 440.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 36.0;

/// Colours that the style sheet defines.
const COLOURS: usize = 7;

/// How a line is drawn beside its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stroke {
    Solid,
    Dashed,
    Dotted,
}

/// What a legend names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) label: String,
    /// Chooses the colour.
    pub(super) number: usize,
    pub(super) stroke: Stroke,
}

impl Series {
    /// Colours repeat after [`COLOURS`] series.
    fn class(&self) -> String {
        format!("s{}", self.number % COLOURS)
    }
}

/// One line of a [`LineChart`]; several may belong to one series.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) series: Series,
    pub(super) points: Vec<(f64, f64)>,
    /// Drawn thin and pale, behind the others: a single seed.
    pub(super) faint: bool,
    /// Keeps its value until the next point.
    pub(super) stepped: bool,
    /// Radius of a dot at each point; empty for none.
    pub(super) radii: Vec<f64>,
}

/// Lines over a common pair of axes.
#[derive(Debug, Clone)]
pub(super) struct LineChart {
    pub(super) title: String,
    pub(super) x_label: &'static str,
    pub(super) y_unit: Unit,
    pub(super) x_range: Option<(f64, f64)>,
    pub(super) y_range: Option<(f64, f64)>,
    pub(super) height: f64,
    /// A thin line from corner to corner, as a reliability diagram has it.
    pub(super) diagonal: bool,
    pub(super) lines: Vec<Line>,
}

impl LineChart {
    /// The `<svg>` element.
    pub(super) fn render(&self) -> String {
        let points = || self.lines.iter().flat_map(|l| &l.points);
        let x = Scale::new(points().map(|p| p.0), self.x_range, (LEFT, WIDTH - RIGHT));
        let y = Scale::new(points().map(|p| p.1), self.y_range, (self.height - BOTTOM, TOP));
        let diagonal = if self.diagonal {
            path("diagonal", &[(x.from, y.from), (x.to, y.to)])
        } else {
            String::new()
        };
        let (faint, bold): (Vec<&Line>, Vec<&Line>) = self.lines.iter().partition(|l| l.faint);
        let lines: String = faint.into_iter().chain(bold).map(|l| l.render(&x, &y)).collect();
        let body = format!("{}{diagonal}{lines}", self.axes(&x, &y));
        element(&self.title, &self.description(), self.height, &body)
    }

    fn axes(&self, x: &Scale, y: &Scale) -> String {
        let floor = self.height - BOTTOM;
        let rows = y.ticks.iter().map(|&t| {
            let (at, text) = (y.at(t), self.y_unit.label(t, y.step));
            format!(
                r#"<path class="grid" d="M{LEFT} {at:.1}H{:.1}"/><text class="tick end" x="{:.1}" y="{:.1}">{text}</text>"#,
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            )
        });
        let columns = x.ticks.iter().map(|&t| {
            let (at, text) = (x.at(t), Unit::Plain.label(t, x.step));
            format!(
                r#"<text class="tick middle" x="{at:.1}" y="{:.1}">{text}</text>"#,
                floor + 15.0
            )
        });
        let label = format!(
            r#"<text class="tick end" x="{:.1}" y="{:.1}">{}</text>"#,
            WIDTH - RIGHT,
            floor + 31.0,
            self.x_label
        );
        rows.chain(columns).chain([label]).collect()
    }

    /// In words, what each series does from its first point to its last.
    fn description(&self) -> String {
        let told = self.lines.iter().filter(|l| !l.faint).filter_map(|l| {
            let (first, last) = (l.points.first()?, l.points.last()?);
            let value = |v: f64| self.y_unit.value(v);
            Some(format!(
                "{}: from {} to {}",
                l.series.label,
                value(first.1),
                value(last.1)
            ))
        });
        format!(
            "{} by {}. {}",
            self.title,
            self.x_label,
            told.collect::<Vec<_>>().join("; ")
        )
    }
}

impl Line {
    fn render(&self, x: &Scale, y: &Scale) -> String {
        let mut points: Vec<(f64, f64)> = self.points.iter().map(|p| (x.at(p.0), y.at(p.1))).collect();
        let dots: String = match self.points.len() {
            1 => dot(points[0], 3.0),
            _ => points.iter().zip(&self.radii).map(|(&p, &r)| dot(p, r)).collect(),
        };
        if self.stepped {
            let corners = points
                .windows(2)
                .flat_map(|w| [w[0], (w[1].0, w[0].1)])
                .collect::<Vec<_>>();
            points = corners.into_iter().chain(points.last().copied()).collect();
        }
        let class = format!(
            "line {}{}",
            self.series.stroke.class(),
            if self.faint { " faint" } else { "" }
        );
        format!(
            r#"<g class="{}">{}{dots}</g>"#,
            self.series.class(),
            path(&class, &points)
        )
    }
}

impl Stroke {
    fn class(self) -> &'static str {
        match self {
            Self::Solid => "solid",
            Self::Dashed => "dashed",
            Self::Dotted => "dotted",
        }
    }
}

/// A list of the series with a sample of each stroke. It is HTML, so that it wraps on a phone.
pub(super) fn legend(series: &[Series]) -> String {
    let items = series.iter().map(|s| {
        format!(
            r#"<li><svg class="key {}" viewBox="0 0 28 12" aria-hidden="true"><path class="line {}" d="M1 6H27"/></svg>{}</li>"#,
            s.class(),
            s.stroke.class(),
            escape(&s.label)
        )
    });
    format!(r#"<ul class="legend">{}</ul>"#, items.collect::<String>())
}

/// Text as HTML and SVG show it literally, also within quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn element(title: &str, description: &str, height: f64, body: &str) -> String {
    let (title, description) = (escape(title), escape(description));
    format!(
        r#"<svg class="chart" role="img" aria-label="{title}" viewBox="0 0 {WIDTH} {height}"><title>{title}</title><desc>{description}</desc>{body}</svg>"#
    )
}

fn path(class: &str, points: &[(f64, f64)]) -> String {
    let steps = points.iter().enumerate().map(|(i, p)| {
        format!(
            "{}{} {}",
            if i == 0 { 'M' } else { 'L' },
            number(p.0),
            number(p.1)
        )
    });
    format!(r#"<path class="{class}" d="{}"/>"#, steps.collect::<String>())
}

fn dot((x, y): (f64, f64), radius: f64) -> String {
    format!(
        r#"<circle class="dot" cx="{}" cy="{}" r="{}"/>"#,
        number(x),
        number(y),
        number(radius)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: Vec<(f64, f64)>, stepped: bool) -> LineChart {
        let series = Series {
            label: "a<b & \"c\"".into(),
            number: 1,
            stroke: Stroke::Dashed,
        };
        LineChart {
            title: "x < y".into(),
            x_label: "step",
            y_unit: Unit::Percent,
            x_range: None,
            y_range: None,
            height: 200.0,
            diagonal: false,
            lines: vec![Line {
                series,
                points,
                faint: false,
                stepped,
                radii: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_chart_is_named_described_and_escaped() {
        let svg = chart(vec![(0.0, 0.1), (10.0, 0.9)], false).render();
        assert!(svg.contains("<title>x &lt; y</title>"), "{svg}");
        assert!(
            svg.contains("a&lt;b &amp; &quot;c&quot;: from 10.0 % to 90.0 %"),
            "{svg}"
        );
        assert!(
            svg.contains(r#"<g class="s1"><path class="line dashed" d="M"#),
            "{svg}"
        );
    }

    #[test]
    fn a_stepped_line_turns_at_right_angles() {
        let svg = chart(vec![(0.0, 0.0), (10.0, 1.0)], true).render();
        let (left, right, floor) = (LEFT, WIDTH - RIGHT, 200.0 - BOTTOM);
        assert!(
            svg.contains(&format!("M{left} {floor}L{right} {floor}L{right} {TOP}")),
            "{svg}"
        );
    }

    #[test]
    fn no_points_and_one_point_give_a_chart_without_nan() {
        for points in [vec![], vec![(3.0, 0.5)]] {
            let svg = chart(points, false).render();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}

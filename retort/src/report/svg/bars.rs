//! Bars from zero, for amounts whose ratio is what matters: half the size is half the bar.

use super::{Series, WIDTH, element, escape, number};

const ROW: f64 = 38.0;
const SIDE: f64 = 20.0;
const THICK: f64 = 10.0;
/// Whiskers may stretch the scale to so many times the longest bar: a rare delay must not make all bars short.
const STRETCH: f64 = 1.5;
/// A bar too short to be seen is still there.
const LEAST: f64 = 1.5;

/// Amounts of one kind, one below the other.
#[derive(Debug, Clone)]
pub(in super::super) struct BarChart {
    pub(in super::super) title: String,
    pub(in super::super) bars: Vec<Bar>,
}

#[derive(Debug, Clone)]
pub(in super::super) struct Bar {
    pub(in super::super) series: Series,
    pub(in super::super) label: String,
    /// At least 0.
    pub(in super::super) value: f64,
    /// The value in words, at the right end of the row.
    pub(in super::super) text: String,
    /// Drawn as a whisker from the value to here, or to the edge of the chart.
    pub(in super::super) upper: Option<f64>,
}

impl BarChart {
    /// The `<svg>` element.
    pub(in super::super) fn render(&self) -> String {
        let greatest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        let bar = greatest(&mut self.bars.iter().map(|b| b.value));
        let whisker = greatest(&mut self.bars.iter().filter_map(|b| b.upper));
        let longest = whisker.clamp(bar, STRETCH * bar);
        let unit = if longest > 0.0 {
            (WIDTH - 2.0 * SIDE) / longest
        } else {
            0.0
        };
        let rows: String = self
            .bars
            .iter()
            .enumerate()
            .map(|(i, bar)| bar.render(ROW * i as f64, unit))
            .collect();
        let told: Vec<String> = self
            .bars
            .iter()
            .map(|b| format!("{}: {}", b.label, b.text))
            .collect();
        element(&self.title, &told.join("; "), ROW * self.bars.len() as f64, &rows)
    }
}

impl Bar {
    fn render(&self, top: f64, unit: f64) -> String {
        let (text, bar) = (top + 14.0, top + 20.0);
        let labels = format!(
            r#"<text class="row" x="{SIDE}" y="{text}">{}</text><text class="row end strong" x="{}" y="{text}">{}</text>"#,
            escape(&self.label),
            WIDTH - SIDE,
            escape(&self.text)
        );
        let length = (self.value * unit).max(LEAST);
        let whisker = self.upper.map(|upper| {
            let (to, edge) = (SIDE + upper * unit, WIDTH - SIDE);
            // Without a cap it goes on beyond the edge.
            let cap = if to > edge + 0.1 {
                String::new()
            } else {
                format!("M{} {bar}v{THICK}", number(to))
            };
            format!(
                r#"<path class="whisker" d="M{} {}H{}{cap}"/>"#,
                number(SIDE + length),
                bar + THICK / 2.0,
                number(to.min(edge))
            )
        });
        format!(
            r#"{labels}<g class="{}"><rect class="amount" x="{SIDE}" y="{bar}" width="{}" height="{THICK}" rx="1"/>{}</g>"#,
            self.series.class(),
            number(length),
            whisker.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Stroke;
    use super::*;

    fn bar(label: &str, value: f64, upper: Option<f64>) -> Bar {
        Bar {
            series: Series {
                label: label.into(),
                number: 8,
                stroke: Stroke::Solid,
            },
            label: label.into(),
            value,
            text: format!("{value} <ms>"),
            upper,
        }
    }

    fn latencies(upper: f64) -> String {
        let chart = BarChart {
            title: "Latency".into(),
            bars: vec![
                bar("a", 1.0, Some(upper)),
                bar("b", 2.0, None),
                bar("c", 1e-9, None),
            ],
        };
        chart.render()
    }

    #[test]
    fn lengths_are_in_proportion() {
        let svg = latencies(2.5);
        for width in ["width=\"160\"", "width=\"320\"", "width=\"1.5\""] {
            assert!(svg.contains(width), "{width} in {svg}");
        }
        assert!(svg.contains("M180 25H420M420 20v10"), "{svg}");
        assert!(svg.contains("<desc>a: 1 &lt;ms&gt;; b: 2 &lt;ms&gt;"), "{svg}");
        assert!(svg.contains(r#"<g class="s1">"#), "{svg}");
    }

    #[test]
    fn a_long_whisker_leaves_the_chart_instead_of_making_the_bars_short() {
        let svg = latencies(100.0);
        assert!(svg.contains("width=\"266.7\""), "{svg}");
        assert!(svg.contains(r#"M153.3 25H420"/>"#), "{svg}");
    }

    #[test]
    fn nothing_but_zeros_gives_a_chart_without_nan() {
        let chart = BarChart {
            title: "Churn".into(),
            bars: vec![bar("a", 0.0, None)],
        };
        let svg = chart.render();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}

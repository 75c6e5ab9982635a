//! One curve of each group.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::symbols::Marker;
use ratatui::widgets::{Axis, Chart, Dataset, GraphType};
use retort_proto::pb;

use super::super::board::Curves;
use super::{COLOURS, titled};

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, state: &pb::RunStatus, curves: Curves) {
    let lines: Vec<(&str, Vec<(f64, f64)>)> = state
        .groups
        .iter()
        .map(|g| {
            let points = g.curve.iter();
            let points = points.filter_map(|p| Some((p.positions as f64, curves.value(p)?)));
            (g.name.as_str(), points.collect())
        })
        .collect();
    let all = || lines.iter().flat_map(|(_, points)| points);
    let right = all().map(|p| p.0).fold(1.0, f64::max);
    let (low, high) = bounds(all().map(|p| p.1));
    let sets = lines
        .iter()
        .zip(COLOURS.iter().cycle())
        .map(|((name, points), colour)| {
            Dataset::default()
                .name(*name)
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(*colour))
                .data(points)
        });
    let label = |value: f64| format!("{value:.2}");
    let chart = Chart::new(sets.collect())
        // Always: colours alone do not say whose curve it is.
        .hidden_legend_constraints((Constraint::Min(0), Constraint::Min(0)))
        .block(titled(curves.title()))
        .x_axis(
            Axis::default()
                .bounds([0.0, right])
                .labels(["0".to_owned(), format!("{} samples", short(right))]),
        )
        .y_axis(
            Axis::default()
                .bounds([low, high])
                .labels([label(low), label(high)]),
        );
    frame.render_widget(chart, area);
}

/// Lowest and highest value. Nothing yet, or one value only: some height all the same.
fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match low <= high {
        true if high - low > 1e-9 => (low, high),
        true => (low - 0.5, high + 0.5),
        false => (0.0, 1.0),
    }
}

/// `839k`: a label has half of its axis, and would lose its first digits.
fn short(count: f64) -> String {
    match count {
        c if c < 1e5 => format!("{c:.0}"),
        c if c < 1e8 => format!("{:.0}k", c / 1e3),
        c => format!("{:.0}M", c / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_short_enough_for_its_axis() {
        let told = [1.0, 51_880.0, 839_159.0, 12_345_678.0, 4.2e9].map(short);
        assert_eq!(told, ["1", "51880", "839k", "12346k", "4200M"]);
    }

    #[test]
    fn an_axis_has_some_height() {
        assert_eq!(bounds([].into_iter()), (0.0, 1.0));
        assert_eq!(bounds([2.0].into_iter()), (1.5, 2.5));
        assert_eq!(bounds([3.0, 1.0].into_iter()), (1.0, 3.0));
    }
}

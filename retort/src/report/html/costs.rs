//! Bars of what the models take to keep and to run.

use super::super::numbers::{amount, bytes, milliseconds};
use super::super::svg::{Bar, BarChart};
use super::super::tables::{self, Costed};
use super::super::{Cost, Report};
use super::charts::{Cast, figure};

/// Size, latency and energy.
pub(super) fn charts(report: &Report, cast: &Cast) -> String {
    let rows = tables::costed(report);
    let bar = |row: &Costed<'_>, value: f64, text: String, upper: Option<f64>| Bar {
        series: cast.of(row.name),
        label: format!("{} ({})", row.name, row.role),
        value,
        text,
        upper,
    };
    let size = rows
        .iter()
        .map(|r| bar(r, r.bytes as f64, bytes(r.bytes), None))
        .collect();
    let latency = costs(&rows)
        .map(|(r, c)| {
            bar(
                r,
                c.latency_ms,
                milliseconds(c.latency_ms),
                Some(c.latency_p95_ms),
            )
        })
        .collect();
    let energy: Vec<Bar> = costs(&rows)
        .filter_map(|(r, c)| {
            let joules = c.joules_per_1000?;
            Some(bar(r, joules, amount(joules, "J"), None))
        })
        .collect();
    [
        ("Size", "Bytes of the exported weights.", size),
        (
            "Latency of one prediction",
            "Median of calls with one sample; the whisker ends at the 95th percentile, or goes on beyond the chart.",
            latency,
        ),
        (
            "Energy of 1,000 predictions",
            "By the processor's counter, of all that ran on it meanwhile.",
            energy,
        ),
    ]
    .into_iter()
    .filter(|(_, _, bars)| !bars.is_empty())
    .map(|(title, note, bars)| {
        let title = title.to_owned();
        let chart = BarChart { title, bars };
        figure(&chart.title, note, "", &chart.render())
    })
    .collect()
}

/// Those that were measured.
fn costs<'a>(rows: &'a [Costed<'a>]) -> impl Iterator<Item = (&'a Costed<'a>, &'a Cost)> {
    rows.iter().filter_map(|r| Some((r, r.cost?)))
}

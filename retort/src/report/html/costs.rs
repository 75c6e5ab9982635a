//! What the models take to keep and to run. A baseline is missing here: it costs what its student does.

use super::super::svg::{Bar, BarChart, escape};
use super::super::{Cost, Report};
use super::charts::{Cast, figure};
use super::tables::{self, NONE};

/// A model of the section.
struct Row<'a> {
    name: &'a str,
    role: &'static str,
    parameters: u64,
    bytes: u64,
    flops: Option<u64>,
    cost: Option<&'a Cost>,
}

/// Bars of size, latency and energy, their table, and how they were measured.
pub(super) fn section(report: &Report, cast: &Cast) -> String {
    let rows = rows(report);
    let bar = |row: &Row<'_>, value: f64, text: String, upper: Option<f64>| Bar {
        series: cast.of(row.name),
        label: format!("{} ({})", row.name, row.role),
        value,
        text,
        upper,
    };
    let size = rows
        .iter()
        .map(|r| bar(r, r.bytes as f64, tables::bytes(r.bytes), None))
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
    let without_energy = energy.is_empty();
    let charts: String = [
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
    .collect();
    format!(
        "{}{}<p class=\"note\">{}</p>\n",
        super::figures(&charts),
        table(&rows),
        note(report, &rows, without_energy)
    )
}

fn rows(report: &Report) -> Vec<Row<'_>> {
    let teachers = report.teachers.iter().map(|t| Row {
        name: &t.name,
        role: "teacher",
        parameters: t.parameters,
        bytes: t.bytes,
        flops: t.flops_per_sample,
        cost: t.cost.as_ref(),
    });
    let students = report.students.iter().map(|s| Row {
        name: &s.name,
        role: "student",
        parameters: s.parameters,
        bytes: s.bytes,
        flops: s.flops_per_sample,
        cost: s.cost.as_ref(),
    });
    teachers.chain(students).collect()
}

/// Those that were measured.
fn costs<'a>(rows: &'a [Row<'a>]) -> impl Iterator<Item = (&'a Row<'a>, &'a Cost)> {
    rows.iter().filter_map(|r| Some((r, r.cost?)))
}

fn table(rows: &[Row<'_>]) -> String {
    let heads = [
        "model",
        "role",
        "parameters",
        "size",
        "FLOPs per sample",
        "latency",
        "95th percentile",
        "samples per second",
        "J per 1,000",
    ];
    let row = |r: &Row<'_>| {
        let cost = |write: &dyn Fn(&Cost) -> Option<String>| {
            r.cost.and_then(write).unwrap_or_else(|| NONE.to_owned())
        };
        let cells = [
            r.role.to_owned(),
            tables::count(r.parameters),
            tables::bytes(r.bytes),
            r.flops.map_or_else(|| NONE.to_owned(), tables::count),
            cost(&|c| Some(milliseconds(c.latency_ms))),
            cost(&|c| Some(milliseconds(c.latency_p95_ms))),
            cost(&|c| Some(tables::count(c.samples_per_s.round() as u64))),
            cost(&|c| c.joules_per_1000.map(|j| amount(j, "J"))),
        ];
        tables::row(r.name, cells.each_ref().map(String::as_str))
    };
    let rows: String = rows.iter().map(row).collect();
    tables::table("What the models cost", &heads, &rows)
}

fn note(report: &Report, rows: &[Row<'_>], without_energy: bool) -> String {
    let Some((_, first)) = costs(rows).next() else {
        return "Time and energy could not be measured.".to_owned();
    };
    let (fewest, most) = costs(rows).fold((u64::MAX, 0), |(fewest, most), (_, cost)| {
        (fewest.min(cost.latency_calls), most.max(cost.latency_calls))
    });
    let calls = if fewest == most {
        tables::count(most)
    } else {
        format!("{} to {}", tables::count(fewest), tables::count(most))
    };
    let machine = &report.machine;
    let processor = machine.processor.as_deref().unwrap_or("an unnamed processor");
    let energy = if without_energy {
        " Energy: not available on this machine, whose processor has no counter that can be read."
    } else {
        ""
    };
    format!(
        "Measured on {}, device {}, which may use {}, by the call that <code>retort predict</code> makes, one after the \
         other: {calls} calls with one sample after others to warm up, then calls with {}. A forward pass always holds {}, \
         so that one sample takes as long as they do; of an ONNX model it holds one, or as many as the file says.{energy}",
        escape(processor),
        escape(&machine.device),
        tables::counted(machine.threads, "thread"),
        first.batch,
        tables::counted(first.batch, "sample")
    )
}

fn milliseconds(value: f64) -> String {
    amount(value, "ms")
}

/// Three digits that matter, whatever the size.
fn amount(value: f64, unit: &str) -> String {
    let decimals = (2.0 - value.max(1e-6).log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_keep_three_digits() {
        assert_eq!(
            [0.012_34, 0.5, 12.345, 999.6, 12_345.0, 0.0].map(milliseconds),
            [
                "0.0123 ms",
                "0.500 ms",
                "12.3 ms",
                "1000 ms",
                "12345 ms",
                "0.000000 ms"
            ]
        );
    }
}

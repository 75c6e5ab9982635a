//! `report.html`: one self-contained page that opens offline, in light and dark, on a phone too.

mod charts;
mod classes;
mod costs;
mod learning;
mod mistakes;
mod tables;
#[cfg(test)]
mod tests;

use super::curves::Curves;
use super::metrics::Bin;
use super::svg::escape;
use super::{Report, Student, Verdict};
use charts::Cast;

const STYLE: &str = include_str!("html/style.css");

/// The whole page. `reliability` holds the pooled bins of each model by its group's name.
pub fn render(report: &Report, curves: &Curves, reliability: &[(String, Vec<Bin>)]) -> String {
    let cast = Cast::new(report, curves);
    let sections = [
        section("Results", &results(report, &cast)),
        section("How it learned", &figures(&learning::charts(curves, &cast))),
        section("By class and confidence", &details(report, reliability, &cast)),
        section("Mistakes", &figures(&mistakes(report, &cast))),
        section("What it costs", &costs::section(report, &cast)),
        section("Soft targets", &tables::soft_targets(report)),
        section("Time", &tables::time(report)),
        section("Replicas", &tables::sync(report)),
        section("Samples", &tables::ledger(report)),
        section("Repeat this run", &tables::origin(report)),
    ];
    let title = escape(&report.run.name);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title} - distillation report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         {}<main>\n{}</main>\n</body>\n</html>\n",
        header(report),
        sections.concat()
    )
}

fn header(report: &Report) -> String {
    let (run, data) = (&report.run, &report.dataset);
    let seeds = tables::counted(run.seeds.len() as u64, "seed");
    let facts = format!(
        "{}: {} training samples, {} of them labelled, {} for testing &middot; {seeds} &middot; {}",
        escape(&data.name),
        tables::count(data.train),
        tables::count(data.labelled),
        tables::count(data.test),
        tables::duration(run.wall_s)
    );
    format!(
        "<header>\n<h1>{}</h1>\n<p class=\"facts\">{facts}</p>\n<p class=\"verdict {}\">{}</p>\n</header>\n",
        escape(&run.name),
        tone(&report.verdict),
        sentence(&report.verdict.text)
    )
}

/// The colour of the verdict follows the interval, not the mean.
fn tone(verdict: &Verdict) -> &'static str {
    match verdict.interval {
        Some([low, _]) if low > 0.0 => "helped",
        Some([_, high]) if high < 0.0 => "harmed",
        _ => "open",
    }
}

/// Starts with a capital letter, ends with a full stop, and keeps numbers with their percent signs.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars
        .next()
        .map(|c| c.to_uppercase().collect())
        .unwrap_or_default();
    escape(&format!("{first}{}.", chars.as_str().trim_end_matches('.'))).replace(" %", "&nbsp;%")
}

/// Nothing at all where there is nothing to show.
fn section(title: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!("<section>\n<h2>{title}</h2>\n{body}</section>\n")
}

/// Charts side by side where the page is wide enough.
fn figures(charts: &str) -> String {
    if charts.is_empty() {
        String::new()
    } else {
        format!("<div class=\"figures\">\n{charts}</div>\n")
    }
}

fn results(report: &Report, cast: &Cast) -> String {
    let charts = format!(
        "{}{}",
        charts::accuracy(report, cast),
        charts::gains(report, cast)
    );
    format!("{}{}", figures(&charts), tables::results(report))
}

/// Each student beside itself alone class by class, then the calibration of all models.
fn details(report: &Report, reliability: &[(String, Vec<Bin>)], cast: &Cast) -> String {
    let charts = by_class(report).map(|(student, alone)| {
        format!(
            "{}{}{}",
            classes::accuracy(student, alone, cast),
            classes::gains(student, cast),
            classes::inherited(student, alone, cast)
        )
    });
    let charts: String = charts.chain([charts::reliability(reliability, cast)]).collect();
    let tables: String = by_class(report)
        .map(|(student, alone)| tables::classes(student, alone))
        .collect();
    format!("{}{tables}", figures(&charts))
}

/// Which mistakes are the teacher's, and which change from seed to seed.
fn mistakes(report: &Report, cast: &Cast) -> String {
    format!(
        "{}{}",
        mistakes::inherited(report, cast),
        mistakes::churn(report, cast)
    )
}

/// The students that were measured by class, each with itself alone.
fn by_class(report: &Report) -> impl Iterator<Item = (&Student, Option<&Student>)> {
    let students = report.students.iter().filter(|s| !s.per_class.is_empty());
    students.map(|s| (s, report.baseline_of(&s.name)))
}

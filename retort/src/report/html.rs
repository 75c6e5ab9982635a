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
use super::numbers;
use super::svg::escape;
use super::tables as told;
use super::{Report, Verdict};
use charts::Cast;
use tables::{facts, folded};

const STYLE: &str = include_str!("html/style.css");

/// The whole page. `reliability` holds the pooled bins of each model by its group's name.
pub fn render(report: &Report, curves: &Curves, reliability: &[(String, Vec<Bin>)]) -> String {
    let cast = Cast::new(report, curves);
    let sections = [
        section("Results", &results(report, &cast)),
        section("How it learned", &figures(&learning::charts(curves, &cast))),
        section("By class and confidence", &details(report, reliability, &cast)),
        section("Mistakes", &figures(&mistakes(report, &cast))),
        section("What it costs", &costs(report, &cast)),
        section("Soft targets", &optional(told::soft_targets(report))),
        section("Time", &tables::tables(told::time(report))),
        section("Replicas", &optional(told::sync(report))),
        section("Samples", &samples(report)),
        section("Repeat this run", &origin(report)),
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
    format!(
        "<header>\n<h1>{}</h1>\n<p class=\"facts\">{}</p>\n<p class=\"verdict {}\">{}</p>\n</header>\n",
        escape(&report.run.name),
        escape(&told::summary(report)),
        tone(&report.verdict),
        sentence(&report.verdict.text)
    )
}

/// The colour of the verdict follows what all students' intervals say, not the means.
fn tone(verdict: &Verdict) -> &'static str {
    match verdict.finding {
        super::Finding::Helped => "helped",
        super::Finding::Harmed => "harmed",
        super::Finding::Open => "open",
    }
}

/// Keeps numbers with their percent signs.
fn sentence(text: &str) -> String {
    escape(&numbers::sentence(text)).replace(" %", "&nbsp;%")
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
    format!("{}{}", figures(&charts), tables::tables(told::results(report)))
}

/// Each student beside itself alone class by class, then the calibration of all models.
fn details(report: &Report, reliability: &[(String, Vec<Bin>)], cast: &Cast) -> String {
    let charts = told::by_class(report).map(|(student, alone)| {
        format!(
            "{}{}{}",
            classes::accuracy(student, alone, cast),
            classes::gains(student, cast),
            classes::inherited(student, alone, cast)
        )
    });
    let charts: String = charts.chain([charts::reliability(reliability, cast)]).collect();
    let tables: String = told::classes(report).iter().map(folded).collect();
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

fn costs(report: &Report, cast: &Cast) -> String {
    let charts = costs::charts(report, cast);
    format!("{}{}", figures(&charts), tables::tables(told::costs(report)))
}

fn optional(told: Option<told::Facts>) -> String {
    told.map(|told| facts(&told)).unwrap_or_default()
}

fn samples(report: &Report) -> String {
    let said = told::soundness(report).map(|(sound, said)| {
        let class = if sound { "good" } else { "bad" };
        format!("<p class=\"{class}\">{said}</p>\n")
    });
    said.unwrap_or_default() + &optional(told::ledger(report))
}

fn origin(report: &Report) -> String {
    let job = match report.run.job.as_str() {
        "" => String::new(),
        job => format!(
            "<details>\n<summary>The job</summary>\n<pre>{}</pre>\n</details>\n",
            escape(job)
        ),
    };
    facts(&told::origin(report)) + &job
}

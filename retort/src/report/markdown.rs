//! `report.md`: what the page says, for a pull request or a mail.

use super::{Metric, Report, Student};

/// The whole document.
pub fn render(report: &Report) -> String {
    let (run, data) = (&report.run, &report.dataset);
    let seeds: Vec<String> = run.seeds.iter().map(u64::to_string).collect();
    let l = &report.ledger;
    let mut out = format!("# {}\n\n{}.\n", cell(&run.name), sentence(&report.verdict.text));
    out += &format!(
        "\n{}: {} training samples, {} of them labelled, {} for testing; seeds {}; {:.0} s.\n",
        cell(&data.name),
        data.train,
        data.labelled,
        data.test,
        seeds.join(", "),
        run.wall_s
    );
    out += &section("Results on test data", &results(report));
    out += "\nMean ± standard deviation over seeds, at temperature 1. NLL in nats; ECE: expected calibration error; agreement: how \
            often model and teacher name the same class.\n";
    out += &section("What it costs", &costs(report));
    out += &section("Classes", &classes(report));
    out += &format!(
        "\n## Samples\n\n{} samples: {} committed, {} quarantined, {} duplicates, {} lost ({} leased again, {} rolled back).\n",
        l.samples, l.committed, l.quarantined, l.duplicates, l.lost, l.redelivered, l.rolled_back
    );
    let retuned = match run.retuned.len() {
        0 => String::new(),
        n => format!(" An operator tuned {n} of the runs, which the command does not repeat."),
    };
    out += &format!(
        "\n## Repeat this run\n\n    {}\n\nRetort {}, data {}. {}{retuned}\n\n```toml\n{}\n```\n",
        run.command,
        run.retort,
        data.digest,
        super::TUNED,
        run.job.trim()
    );
    out
}

/// Nothing where there are no rows below the two of the head.
fn section(title: &str, table: &[String]) -> String {
    match table.len() {
        0..=2 => String::new(),
        _ => format!("\n## {title}\n\n{}\n", table.join("\n")),
    }
}

fn table(heads: &[&str]) -> Vec<String> {
    let line = heads.iter().map(|_| "---").collect::<Vec<_>>();
    vec![row(heads), row(&line)]
}

fn row<T: AsRef<str>>(cells: &[T]) -> String {
    let cells: Vec<String> = cells.iter().map(|c| cell(c.as_ref())).collect();
    format!("| {} |", cells.join(" | "))
}

/// Names are users': a bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(chars).collect()
}

fn models(report: &Report) -> impl Iterator<Item = (&Student, &'static str)> {
    let students = report.students.iter().map(|s| (s, "student"));
    students.chain(report.baselines.iter().map(|s| (s, "alone")))
}

fn results(report: &Report) -> Vec<String> {
    let mut lines = table(&[
        "model",
        "role",
        "accuracy",
        "NLL",
        "ECE",
        "agreement",
        "parameters",
    ]);
    for t in &report.teachers {
        lines.push(row(&[
            t.name.clone(),
            "teacher".into(),
            percent(&t.test_accuracy),
            decimal(&t.test_nll),
            decimal(&t.ece),
            "-".into(),
            t.parameters.to_string(),
        ]));
    }
    for (s, role) in models(report) {
        lines.push(row(&[
            s.name.clone(),
            role.into(),
            percent(&s.test_accuracy),
            decimal(&s.test_nll),
            decimal(&s.ece),
            s.agreement_with_teacher.as_ref().map_or("-".into(), percent),
            s.parameters.to_string(),
        ]));
    }
    lines
}

fn costs(report: &Report) -> Vec<String> {
    let mut lines = table(&["model", "bytes", "latency, ms", "samples/s", "J per 1,000"]);
    let teachers = report.teachers.iter().map(|t| (&t.name, t.bytes, &t.cost));
    let students = report.students.iter().map(|s| (&s.name, s.bytes, &s.cost));
    for (name, bytes, cost) in teachers.chain(students) {
        let Some(cost) = cost else { continue };
        lines.push(row(&[
            name.clone(),
            bytes.to_string(),
            format!("{:.3}", cost.latency_ms),
            format!("{:.0}", cost.samples_per_s),
            cost.joules_per_1000.map_or("-".into(), |j| format!("{j:.2}")),
        ]));
    }
    lines
}

/// Of the students that were also trained alone.
fn classes(report: &Report) -> Vec<String> {
    let mut lines = table(&["student", "class", "accuracy", "gain, points", "test samples"]);
    for s in &report.students {
        for class in s.per_class.iter().filter(|c| c.gain.is_some()) {
            lines.push(row(&[
                s.name.clone(),
                class.class.clone(),
                class.accuracy.as_ref().map_or("-".into(), percent),
                class
                    .gain
                    .as_ref()
                    .map_or("-".into(), |g| format!("{:+.1}", 100.0 * g.mean)),
                class.support.to_string(),
            ]));
        }
    }
    lines
}

fn percent(metric: &Metric) -> String {
    spread(metric, 100.0, 1) + " %"
}

fn decimal(metric: &Metric) -> String {
    spread(metric, 1.0, 3)
}

fn spread(metric: &Metric, scale: f64, digits: usize) -> String {
    let (mean, sd) = (scale * metric.mean, scale * metric.sd);
    match metric.values.len() {
        0 | 1 => format!("{mean:.digits$}"),
        _ => format!("{mean:.digits$} ± {sd:.digits$}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn the_document_has_what_the_page_has_and_bars_in_names_break_no_table() {
        let mut report = report(3);
        report.students[0].name = "sm|all".into();
        let text = render(&report);
        let verdict = sentence(&report.verdict.text);
        for part in [
            verdict.as_str(),
            "## Results on test data",
            "## What it costs",
            "## Samples",
            report.run.command.as_str(),
            report.dataset.digest.as_str(),
            "sm\\|all",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let mut tables = text.lines().filter(|l| l.starts_with('|')).peekable();
        let mut seen = 0;
        while let Some(line) = tables.next() {
            if let Some(next) = tables.peek().filter(|next| next.starts_with("| ---")) {
                assert_eq!(columns(line), columns(next), "{line}");
            }
            seen += 1;
        }
        assert!(seen > 6, "{text}");
    }
}

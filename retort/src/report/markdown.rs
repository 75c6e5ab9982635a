//! `report.md`: the page's words and tables without its charts, for a pull request or a mail.

use super::Report;
use super::numbers::sentence;
use super::tables::{self, Facts, Row, Table};

/// The whole document.
pub fn render(report: &Report) -> String {
    let samples = tables::soundness(report).map_or("", |(_, said)| said);
    let sections = [
        section("Results", &tables(&tables::results(report))),
        section("Classes", &tables(&tables::classes(report))),
        section("What it costs", &tables(tables::costs(report).as_slice())),
        section("Soft targets", &facts(tables::soft_targets(report).as_ref())),
        section("Time", &tables(tables::time(report).as_slice())),
        section("Replicas", &facts(tables::sync(report).as_ref())),
        section(
            "Samples",
            &[samples, &facts(tables::ledger(report).as_ref())].join("\n\n"),
        ),
        section("Repeat this run", &facts(Some(&tables::origin(report)))),
    ];
    let job = match report.run.job.trim() {
        "" => String::new(),
        job => format!("\n```toml\n{job}\n```\n"),
    };
    format!(
        "# {}\n\n{}\n\n{}\n{}{job}",
        cell(&report.run.name),
        sentence(&report.verdict.text),
        cell(&tables::summary(report)),
        sections.concat()
    )
}

/// Nothing at all where there is nothing to show.
fn section(title: &str, body: &str) -> String {
    match body.trim() {
        "" => String::new(),
        body => format!("\n## {title}\n\n{body}\n"),
    }
}

fn tables(tables: &[Table]) -> String {
    let all: Vec<String> = tables.iter().map(table).collect();
    all.join("\n\n")
}

fn table(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let row = |row: &Row| {
        let cells = row
            .cells
            .iter()
            .map(|c| c.as_deref().map_or("n/a".to_owned(), cell));
        line([cell(&row.name)].into_iter().chain(cells).collect())
    };
    let heads = [
        line(table.heads.iter().map(|h| (*h).to_owned()).collect()),
        line(vec!["---".to_owned(); table.heads.len()]),
    ];
    let lines: Vec<String> = heads.into_iter().chain(table.rows.iter().map(row)).collect();
    let title = cell(&table.title);
    format!("**{title}**\n\n{}\n\n{}", lines.join("\n"), table.note)
}

fn facts(facts: Option<&Facts>) -> String {
    let Some(facts) = facts else {
        return String::new();
    };
    let pairs = facts.pairs.iter().map(|(name, value)| {
        let value = value.as_deref().unwrap_or("n/a");
        format!("- {}: {}", cell(name), value.replace('\n', "\n  - "))
    });
    let lines: Vec<String> = pairs.collect();
    format!("{}\n\n{}", lines.join("\n"), facts.note)
}

/// Names are users': a bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
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
            "## Results",
            "**Results on test data**",
            "**sm\\|all: classes**",
            "## What it costs",
            "## Soft targets",
            "## Samples",
            "- Committed: ",
            report.run.command.as_str(),
            report.dataset.digest.as_str(),
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let (mut width, mut seen) = (0, 0);
        for line in text.lines() {
            match line.starts_with('|') {
                true if width == 0 => width = columns(line),
                true => assert_eq!(columns(line), width, "{line}"),
                false => width = 0,
            }
            seen += usize::from(line.starts_with('|'));
        }
        assert!(seen > 20, "{text}");
        assert!(!text.contains('<') || report.dataset.bad_rows.count > 0, "{text}");
    }

    #[test]
    fn a_run_that_only_trained_a_teacher_has_no_empty_sections() {
        let mut report = report(1);
        (report.students, report.baselines) = (Vec::new(), Vec::new());
        (report.soft_targets, report.ledger) = Default::default();
        let text = render(&report);
        for part in ["## Classes", "## Soft targets", "## Samples"] {
            assert!(!text.contains(part), "{part} in\n{text}");
        }
    }
}

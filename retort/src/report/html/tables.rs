//! Tables and facts as the page writes them.

use super::super::numbers::SPREAD;
use super::super::svg::escape;
use super::super::tables::{Facts, Row, Table};

/// Where a value does not exist.
const NONE: &str = "<span class=\"none\">n/a</span>";

/// A table that scrolls by itself where the page is too narrow for it, and its note.
pub(super) fn table(table: &Table) -> String {
    let heads = table.heads.iter();
    let heads: String = heads.map(|h| format!("<th scope=\"col\">{h}</th>")).collect();
    let rows: String = table.rows.iter().map(row).collect();
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\">\n<table>\n<thead><tr>{heads}</tr></thead>\n\
         <tbody>\n{rows}</tbody>\n</table>\n</div>\n{}",
        escape(&table.title),
        note(&table.note)
    )
}

pub(super) fn tables(tables: impl IntoIterator<Item = Table>) -> String {
    tables.into_iter().map(|t| table(&t)).collect()
}

/// A table that is folded away.
pub(super) fn folded(long: &Table) -> String {
    format!(
        "<details>\n<summary>{} as a table</summary>\n{}</details>\n",
        escape(&long.title),
        table(long)
    )
}

fn row(row: &Row) -> String {
    let cells = row.cells.iter().map(|c| match c {
        Some(text) => format!("<td>{}</td>", value(text)),
        None => format!("<td>{NONE}</td>"),
    });
    let cells: String = cells.collect();
    format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escape(&row.name))
}

/// The spread stands behind the mean, and paler.
fn value(text: &str) -> String {
    match text.split_once(SPREAD) {
        Some((mean, sd)) => format!("{} <span class=\"sd\">± {}</span>", escape(mean), escape(sd)),
        None => escape(text),
    }
}

/// Facts one below the other, and their note.
pub(super) fn facts(facts: &Facts) -> String {
    let pairs = facts.pairs.iter().map(|(name, value)| {
        let value = value.as_deref().map_or_else(|| NONE.to_owned(), prose);
        format!("<div><dt>{}</dt><dd>{value}</dd></div>\n", escape(name))
    });
    let pairs: String = pairs.collect();
    format!(
        "<dl aria-label=\"{}\">\n{pairs}</dl>\n{}",
        facts.title,
        note(facts.note)
    )
}

fn note(text: &str) -> String {
    match text {
        "" => String::new(),
        text => format!("<p class=\"note\">{}</p>\n", prose(text)),
    }
}

/// Lines, and code between backticks, as far as they come in pairs.
fn prose(text: &str) -> String {
    let parts: Vec<String> = escape(text)
        .replace('\n', "<br>")
        .split('`')
        .map(str::to_owned)
        .collect();
    if parts.len().is_multiple_of(2) {
        return parts.join("`");
    }
    let code = |(i, part): (usize, &String)| match i % 2 {
        0 => part.clone(),
        _ => format!("<code>{part}</code>"),
    };
    parts.iter().enumerate().map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_stands_between_pairs_of_backticks_and_nothing_else_is_markup() {
        for (text, written) in [
            ("run `a <b>` now", "run <code>a &lt;b&gt;</code> now"),
            ("one ` alone", "one ` alone"),
            ("two\nlines", "two<br>lines"),
        ] {
            assert_eq!(prose(text), written);
        }
        assert_eq!(value("50.0 ± 1.0 %"), "50.0 <span class=\"sd\">± 1.0 %</span>");
    }
}

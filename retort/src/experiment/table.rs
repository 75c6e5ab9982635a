//! The result for people: `result.md`.

use std::fmt::Write;

use super::file::Settings;
use super::outcome::{Outcome, Row};
use super::quantity::Quantity;
use crate::report::Metric;

/// One table, and how its figures came about.
pub(super) fn render(outcome: &Outcome) -> String {
    let mut out = format!("## {}\n\n{}\n\n", outcome.name, outcome.question);
    let percent = percent(&outcome.metric);
    let axes: Vec<String> = outcome
        .rows
        .first()
        .map(|row| row.axes.keys().cloned().collect())
        .unwrap_or_default();
    let mut header: Vec<String> = axes.iter().map(|axis| format!("`{axis}`")).collect();
    header.push("arm".into());
    header.push(heading(&outcome.metric, &outcome.metric));
    if let Some(against) = &outcome.against {
        header.push(format!("difference from {against} (95 % interval)"));
    }
    header.extend(outcome.columns.iter().map(|(name, path)| heading(name, path)));
    let searched = outcome.search.trials_per_row > 1;
    if searched {
        header.push("chosen".into());
    }
    line(&mut out, &header);
    line(&mut out, &vec!["---".to_owned(); header.len()]);
    for row in &outcome.rows {
        let mut cells: Vec<String> = row.axes.values().map(ToString::to_string).collect();
        cells.push(row.arm.clone());
        cells.push(spread(&row.metric, percent));
        if outcome.against.is_some() {
            cells.push(difference(row, percent));
        }
        for (name, path) in &outcome.columns {
            let metric = row.columns.get(name).and_then(Option::as_ref);
            cells.push(metric.map_or("-".into(), |m| spread(m, self::percent(path))));
        }
        if searched {
            cells.push(chosen(row));
        }
        line(&mut out, &cells);
    }
    out.push('\n');
    for sentence in sentences(outcome, searched) {
        let _ = writeln!(out, "{sentence}");
    }
    out
}

fn line(out: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn sentences(outcome: &Outcome, searched: bool) -> Vec<String> {
    let seeds = |seeds: &[u64]| seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let mut out = vec![format!(
        "Mean ± standard deviation over the final seeds {}, measured after the last epoch.",
        seeds(&outcome.seeds)
    )];
    out.push(if searched {
        format!(
            "Tuned in every row: {} trials of {} seed(s) ({}), the highest mean `{}` wins{}. {}",
            outcome.search.trials_per_row,
            outcome.tuning_seeds.len(),
            seeds(&outcome.tuning_seeds),
            outcome.search.metric,
            if outcome.rows.iter().any(|row| !edges(row).is_empty()) {
                "; \\* marks a value at the end of its list, beyond which a better one may lie"
            } else {
                ""
            },
            values(outcome)
        )
    } else {
        "Nothing was tuned: every arm ran with the settings of its job.".into()
    });
    if let Some(against) = &outcome.against {
        out.push(verdict(outcome, against));
    }
    let (minutes, seconds) = (outcome.wall_s as u64 / 60, outcome.wall_s as u64 % 60);
    out.push(format!(
        "{} runs took {minutes} min {seconds} s on {} cores. Command: `{}`",
        outcome.runs, outcome.cores, outcome.command
    ));
    out
}

/// What the intervals say, whatever their sign.
fn verdict(outcome: &Outcome, against: &str) -> String {
    let intervals: Vec<[f64; 2]> = outcome
        .rows
        .iter()
        .filter_map(|row| row.difference.as_ref()?.interval)
        .collect();
    if intervals.is_empty() {
        return "One seed shows no spread, so no difference can be told from chance.".into();
    }
    let above = intervals.iter().filter(|[low, _]| *low > 0.0).count();
    let below = intervals.iter().filter(|[_, high]| *high < 0.0).count();
    format!(
        "Of {} differences from {against}, {above} lie above zero with their whole interval, {below} below it; the \
         intervals of the other {} include zero. By chance alone one in twenty intervals misses zero.",
        intervals.len(),
        intervals.len() - above - below
    )
}

fn values(outcome: &Outcome) -> String {
    let mut said: Vec<(String, Vec<&str>)> = Vec::new();
    for (arm, lists) in &outcome.search.values {
        let lists: Vec<String> = lists
            .iter()
            .map(|(key, values)| format!("`{key}` of {}", toml::Value::Array(values.clone())))
            .collect();
        let text = lists.join(", ");
        match said.iter_mut().find(|(known, _)| *known == text) {
            Some((_, arms)) => arms.push(arm),
            None => said.push((text, vec![arm])),
        }
    }
    let same = said.len() == 1;
    let each = said.into_iter().map(|(text, arms)| {
        if same {
            format!("All arms: {text}.")
        } else {
            format!("{}: {text}.", arms.join(", "))
        }
    });
    each.collect::<Vec<_>>().join(" ")
}

fn percent(path: &str) -> bool {
    path.parse::<Quantity>().is_ok_and(|quantity| quantity.percent())
}

fn heading(name: &str, path: &str) -> String {
    let name = if name == path {
        format!("`{name}`")
    } else {
        name.to_owned()
    };
    if percent(path) { format!("{name}, %") } else { name }
}

fn spread(metric: &Metric, percent: bool) -> String {
    if metric.values.len() < 2 {
        return number(metric.mean, percent);
    }
    format!(
        "{} ± {}",
        number(metric.mean, percent),
        number(metric.sd, percent)
    )
}

fn difference(row: &Row, percent: bool) -> String {
    let Some(difference) = &row.difference else {
        return "-".into();
    };
    let signed = |value: f64| {
        let sign = if value < 0.0 { "" } else { "+" };
        format!("{sign}{}", number(value, percent))
    };
    match difference.interval {
        Some([low, high]) => format!(
            "{} ({} to {})",
            signed(difference.mean),
            signed(low),
            signed(high)
        ),
        None => signed(difference.mean),
    }
}

/// Percent with two digits behind the point, anything else with four digits that count.
fn number(value: f64, percent: bool) -> String {
    if percent {
        return format!("{:.2}", value * 100.0);
    }
    if value == 0.0 {
        return "0".into();
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    format!("{value:.*}", digits.clamp(0, 8) as usize)
}

fn chosen(row: &Row) -> String {
    let edges = edges(row);
    let short = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
    let settings = row.chosen.iter().map(|(key, value)| {
        let mark = if edges.contains(&key.as_str()) { "\\*" } else { "" };
        format!("{} {value}{mark}", short(key))
    });
    settings.collect::<Vec<_>>().join(", ")
}

/// Chosen numbers that are the smallest or the largest of three or more.
fn edges(row: &Row) -> Vec<&str> {
    let number = |value: &toml::Value| value.as_float().or(value.as_integer().map(|i| i as f64));
    let values = |key: &str| -> Vec<f64> {
        let tried = row.tried.iter().filter_map(|t| number(t.settings.get(key)?));
        let mut values: Vec<f64> = tried.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    };
    let at_edge = |(key, value): (&String, &toml::Value)| {
        let (values, value) = (values(key), number(value)?);
        Some(values.len() > 2 && (values.first() == Some(&value) || values.last() == Some(&value)))
    };
    let settings: &Settings = &row.chosen;
    settings
        .iter()
        .filter(|entry| at_edge(*entry).unwrap_or(false))
        .map(|(key, _)| key.as_str())
        .collect()
}

//! A reader of Prometheus' text format 0.0.4 that is strict where Prometheus is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};

/// Labels of a sample.
pub type Labels = BTreeMap<String, String>;

/// Samples by metric.
#[derive(Debug, Default)]
pub struct Exposition {
    samples: BTreeMap<String, Vec<(Labels, f64)>>,
}

impl Exposition {
    /// Reads a whole answer. Every metric has its help and type first, its samples together, and no
    /// series twice; counters end in `_total`.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        ensure!(
            text.is_empty() || text.ends_with('\n'),
            "the last line has no end"
        );
        let mut all = Self::default();
        let mut series = BTreeSet::new();
        let (mut helped, mut current) = (String::new(), String::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').context("help without a text")?;
                ensure!(!help.trim().is_empty(), "{name}: empty help");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').context("type without a kind")?;
                ensure!(name == helped, "{name}: no help before its type");
                ensure!(["counter", "gauge"].contains(&kind), "{name}: type {kind}");
                ensure!(
                    (kind == "counter") == name.ends_with("_total"),
                    "{name} is a {kind}"
                );
                let known = all.samples.insert(name.to_owned(), Vec::new());
                ensure!(known.is_none(), "{name}: a second type");
                current = name.to_owned();
            } else {
                let (name, labels, value) = sample(line).with_context(|| line.to_owned())?;
                ensure!(name == current, "{line}: among the samples of {current}");
                ensure!(series.insert((name.clone(), labels.clone())), "{line}: twice");
                all.samples.entry(name).or_default().push((labels, value));
            }
        }
        Ok(all)
    }

    /// Samples whose labels contain all of these.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(&Labels, f64)> {
        let fits = |all: &Labels| labels.iter().all(|(k, v)| all.get(*k).is_some_and(|a| a == v));
        let samples = self.samples.get(name).into_iter().flatten();
        samples
            .filter(|(all, _)| fits(all))
            .map(|(l, v)| (l, *v))
            .collect()
    }

    /// Sum of them.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).iter().map(|(_, v)| v).sum()
    }
}

fn sample(line: &str) -> anyhow::Result<(String, Labels, f64)> {
    let end = line.find(['{', ' ']).context("a name alone")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(is_name(name), "name {name:?}");
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = read_labels(inner, &mut labels)?;
    }
    let value = rest.strip_prefix(' ').context("no space before the value")?;
    let value = match value {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().context("the value")?,
    };
    Ok((name.to_owned(), labels, value))
}

fn is_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(legal)
}

/// `a="b",c="d"}`; gives what follows.
fn read_labels<'a>(mut rest: &'a str, labels: &mut Labels) -> anyhow::Result<&'a str> {
    loop {
        let (name, value) = rest.split_once("=\"").context("a label without a value")?;
        ensure!(is_name(name), "label {name:?}");
        let (mut text, mut chars) = (String::new(), value.char_indices());
        let end = loop {
            match chars.next().context("a value without an end")? {
                (at, '"') => break at + 1,
                (_, '\\') => text.push(match chars.next().context("half an escape")?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => bail!("escape \\{c}"),
                }),
                (_, c) => text.push(c),
            }
        };
        let known = labels.insert(name.to_owned(), text);
        ensure!(known.is_none(), "label {name} twice");
        rest = &value[end..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.strip_prefix('}').context("labels without an end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a_total What.\n# TYPE a_total counter\n";

    #[test]
    fn labels_are_unescaped_and_values_summed() {
        let text = format!("{HEAD}a_total{{x=\"q\\\"\\\\\\n,}}\",y=\"1\"}} 2\na_total 0.5\n");
        let read = Exposition::parse(&text).unwrap();
        assert_eq!(read.find("a_total", &[("x", "q\"\\\n,}")]).len(), 1);
        assert_eq!(read.sum("a_total", &[]), 2.5);
    }

    #[test]
    fn what_prometheus_would_refuse_is_refused() {
        for bad in [
            "a_total 1\n",
            "# TYPE a_total counter\na_total 1\n",
            "# HELP a What.\n# TYPE a counter\n",
            "# HELP a_total What.\n# TYPE a_total gauge\n",
            &format!("{HEAD}a_total 1\na_total 2\n"),
            &format!("{HEAD}b_total 1\n"),
            &format!("{HEAD}a_total inf\n").replace("inf", "many"),
            &format!("{HEAD}a_total{{x=\"1\"}}2\n"),
            &format!("{HEAD}a_total{{x=\"1\",x=\"2\"}} 2\n"),
            &format!("{HEAD}a_total{{x=\"\\t\"}} 2\n"),
            &format!("{HEAD}a_total{{x=\"1}} 2\n"),
            &format!("{HEAD}a_total 1"),
        ] {
            assert!(Exposition::parse(bad).is_err(), "{bad}");
        }
    }
}

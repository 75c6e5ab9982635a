//! Several reports side by side, as Markdown, which reads as plain text too.
//!
//! A model is held against the model of the same place in the first report, its reference: the student of the same name, or the first
//! one. The difference is paired by seed where both were measured on the same data with the same seeds; else there is none
//! to be shown. What was asked for is compared as well, by the keys of the jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::numbers::{decimal, percent};
use super::{Metric, Report, Student, Teacher, stats};

/// Keys of a job that are written out; more would hide the table, and the JSON has them all.
const KEYS: usize = 12;

/// What several runs gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compared {
    pub runs: Vec<Run>,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    /// As it was asked for.
    pub run: String,
    pub data: String,
    pub seeds: Vec<u64>,
    pub verdict: String,
    pub wall_s: f64,
    /// Keys of the job that are not as in the first run; null of the first run itself, and where one of the two reports
    /// has no job.
    pub job_differs: Option<Vec<Setting>>,
    pub models: Vec<Model>,
}

/// A key of a job with its values, null where it is not set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// As `--set` takes it.
    pub key: String,
    pub value: Option<toml::Value>,
    /// In the first run.
    pub reference: Option<toml::Value>,
}

/// One model of a run; the names are those of `report.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Model {
    pub name: String,
    pub role: &'static str,
    pub test_accuracy: Metric,
    pub test_nll: Metric,
    pub ece: Metric,
    pub agreement_with_teacher: Option<Metric>,
    pub parameters: u64,
    pub bytes: u64,
    pub latency_ms: Option<f64>,
    /// Accuracy less its reference's; null of the references themselves.
    pub against: Option<Against>,
}

/// How far a model is from its reference.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Against {
    /// Name of the reference.
    pub model: String,
    /// Mean over seeds, in test accuracy; null where the two cannot be paired.
    pub difference: Option<f64>,
    /// Its 95 % interval; null of a single seed.
    pub interval: Option<[f64; 2]>,
}

impl Compared {
    /// The first of these reports, with the names that the user gave them, is what the others are held against.
    pub fn new(reports: &[(String, Report)]) -> Self {
        let first = reports.first().map(|(_, report)| report);
        let runs = reports.iter().enumerate().map(|(i, (name, report))| {
            let reference = first.filter(|_| i > 0);
            Run {
                run: name.clone(),
                data: report.dataset.name.clone(),
                seeds: report.run.seeds.clone(),
                verdict: report.verdict.text.clone(),
                wall_s: report.run.wall_s,
                job_differs: reference.and_then(|r| differences(&report.run.job, &r.run.job)),
                models: models(report, reference),
            }
        });
        Self { runs: runs.collect() }
    }
}

/// Where a job is not as the first; none if one of the two is unknown.
fn differences(job: &str, first: &str) -> Option<Vec<Setting>> {
    let (mine, theirs) = (settings(job)?, settings(first)?);
    let keys: BTreeSet<&String> = mine.keys().chain(theirs.keys()).collect();
    let differ = keys.into_iter().filter(|key| mine.get(*key) != theirs.get(*key));
    let setting = |key: &String| Setting {
        key: key.clone(),
        value: mine.get(key).cloned(),
        reference: theirs.get(key).cloned(),
    };
    Some(differ.map(setting).collect())
}

/// The values of a job by their keys; none of an older report, which has no job.
fn settings(job: &str) -> Option<BTreeMap<String, toml::Value>> {
    let job: toml::Table = toml::from_str(job)
        .ok()
        .filter(|job: &toml::Table| !job.is_empty())?;
    let mut settings = BTreeMap::new();
    spread(String::new(), toml::Value::Table(job), &mut settings);
    Some(settings)
}

/// Goes down into tables and lists of tables, whose keys are numbers.
fn spread(key: String, value: toml::Value, into: &mut BTreeMap<String, toml::Value>) {
    let below = |part: &str| match key.as_str() {
        "" => part.to_owned(),
        key => format!("{key}.{part}"),
    };
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (part, value) in table {
                spread(below(&part), value, into);
            }
        }
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for (i, value) in items.into_iter().enumerate() {
                spread(below(&i.to_string()), value, into);
            }
        }
        value => {
            into.insert(key, value);
        }
    }
}

fn models(report: &Report, first: Option<&Report>) -> Vec<Model> {
    // Not zipped by place: which seeds and data the two have decides whether they can be paired at all.
    let alike = |other: &Report| {
        (&report.dataset.digest, &report.run.seeds) == (&other.dataset.digest, &other.run.seeds)
    };
    let against = |mine: &Metric, name: &str, theirs: &Metric, other: &Report| {
        let differences = alike(other).then(|| mine.minus(theirs));
        Against {
            model: name.to_owned(),
            difference: differences.as_ref().map(|d| d.mean),
            interval: differences.and_then(|d| stats::interval_95(&d.values)),
        }
    };
    let teacher = |(i, t): (usize, &Teacher)| Model {
        name: t.name.clone(),
        role: "teacher",
        test_accuracy: t.test_accuracy.clone(),
        test_nll: t.test_nll.clone(),
        ece: t.ece.clone(),
        agreement_with_teacher: None,
        parameters: t.parameters,
        bytes: t.bytes,
        latency_ms: t.cost.as_ref().map(|c| c.latency_ms),
        against: first.and_then(|other| {
            let named = other.teachers.iter().find(|o| o.name == t.name);
            let reference = named.or_else(|| other.teachers.get(i))?;
            Some(against(
                &t.test_accuracy,
                &reference.name,
                &reference.test_accuracy,
                other,
            ))
        }),
    };
    let student = |role, of: fn(&Report) -> &[Student]| {
        move |(i, s): (usize, &Student)| Model {
            name: s.name.clone(),
            role,
            test_accuracy: s.test_accuracy.clone(),
            test_nll: s.test_nll.clone(),
            ece: s.ece.clone(),
            agreement_with_teacher: s.agreement_with_teacher.clone(),
            parameters: s.parameters,
            bytes: s.bytes,
            latency_ms: s.cost.as_ref().map(|c| c.latency_ms),
            against: first.and_then(|other| {
                let named = of(other).iter().find(|o| o.name == s.name);
                let reference = named.or_else(|| of(other).get(i)).or_else(|| of(other).first())?;
                Some(against(
                    &s.test_accuracy,
                    &reference.name,
                    &reference.test_accuracy,
                    other,
                ))
            }),
        }
    };
    let teachers = report.teachers.iter().enumerate().map(teacher);
    let students = report.students.iter().enumerate();
    let students = students.map(student("student", |r| &r.students));
    let alone = report.baselines.iter().enumerate();
    let alone = alone.map(student("alone", |r| &r.baselines));
    teachers.chain(students).chain(alone).collect()
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let several = self.runs.len() > 1;
        let against = self.runs.first().map_or("", |r| &r.run);
        for (i, run) in self.runs.iter().enumerate() {
            writeln!(f, "{run}")?;
            if i > 0 {
                writeln!(f, "  - {}.", run.job_beside(against))?;
            }
        }
        let mut head = vec![
            "run".to_owned(),
            "model".to_owned(),
            "role".to_owned(),
            "accuracy".to_owned(),
        ];
        if several {
            head.push(format!("less {against}'s, points"));
        }
        let rest = ["NLL", "ECE", "agreement", "parameters", "bytes", "one sample, ms"];
        head.extend(rest.map(str::to_owned));
        let mut rows = vec![head];
        for run in &self.runs {
            rows.extend(run.models.iter().map(|model| model.cells(&run.run, several)));
        }
        writeln!(f)?;
        write_table(f, &rows)?;
        write!(
            f,
            "\nMean ± standard deviation over seeds, on test data, at temperature 1. "
        )?;
        if several {
            write!(
                f,
                "Differences are means with a 95 % interval, paired by seed; there is none where data or seeds differ. "
            )?;
        }
        f.write_str("NLL in nats; ECE: expected calibration error; agreement: how often model and teacher name the same class.")
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seeds: Vec<String> = self.seeds.iter().map(u64::to_string).collect();
        write!(
            f,
            "- **{}** ({}, seeds {}, {:.0} s): {}.",
            self.run,
            self.data,
            seeds.join(", "),
            self.wall_s,
            self.verdict.trim_end_matches('.')
        )
    }
}

impl Run {
    /// In words, what was asked for otherwise than in the first run.
    fn job_beside(&self, first: &str) -> String {
        let Some(settings) = &self.job_differs else {
            return "what differs in the jobs is unknown: a report of an older Retort has none".to_owned();
        };
        if settings.is_empty() {
            return format!("the same job as {first}");
        }
        let told: Vec<String> = settings.iter().take(KEYS).map(Setting::to_string).collect();
        let more = match settings.len() - told.len() {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        format!("not the job of {first}: {}{more}", told.join("; "))
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |value: &Option<toml::Value>| match value {
            Some(value) => value.to_string().replace('\n', " "),
            None => "unset".to_owned(),
        };
        let (value, reference) = (told(&self.value), told(&self.reference));
        write!(f, "`{}` {value} instead of {reference}", self.key)
    }
}

impl Model {
    fn cells(&self, run: &str, several: bool) -> Vec<String> {
        let none = || "-".to_owned();
        let mut cells = vec![
            run.to_owned(),
            self.name.clone(),
            self.role.to_owned(),
            percent(&self.test_accuracy),
        ];
        if several {
            cells.push(self.against.as_ref().map_or_else(none, Against::cell));
        }
        cells.extend([
            decimal(&self.test_nll),
            decimal(&self.ece),
            self.agreement_with_teacher.as_ref().map_or_else(none, percent),
            self.parameters.to_string(),
            self.bytes.to_string(),
            self.latency_ms.map_or_else(none, |ms| format!("{ms:.3}")),
        ]);
        cells
    }
}

impl Against {
    fn cell(&self) -> String {
        let points = |share: f64| format!("{:+.2}", 100.0 * share);
        match (self.difference, self.interval) {
            (None, _) => "-".to_owned(),
            (Some(difference), None) => format!("{} (one seed)", points(difference)),
            (Some(difference), Some([low, high])) => {
                format!("{} ({} to {})", points(difference), points(low), points(high))
            }
        }
    }
}

/// Columns as wide as their widest cell; a bar in a name must not end a cell.
fn write_table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| cell.replace('|', "\\|")).collect())
        .collect();
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |f: &mut fmt::Formatter<'_>, cells: &[String]| {
        let cells = cells.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(f, "| {} |", cells.join(" | "))
    };
    for (i, row) in rows.iter().enumerate() {
        line(f, row)?;
        if i == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            line(f, &rule)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{report, student};
    use super::*;

    fn named(reports: Vec<Report>) -> Vec<(String, Report)> {
        let names = ["a", "b", "c"].map(str::to_owned);
        names.into_iter().zip(reports).collect()
    }

    fn taught(accuracies: &[f64]) -> Report {
        let mut report = report(accuracies.len() as u64);
        report.students = vec![student("small", 2_410, accuracies)];
        report
    }

    fn of_student(compared: &Compared, run: usize) -> Against {
        let student = compared.runs[run].models.iter().find(|m| m.role == "student");
        student.unwrap().against.clone().unwrap()
    }

    #[test]
    fn differences_are_paired_by_seed() {
        let reports = named(vec![taught(&[0.80, 0.90, 0.70]), taught(&[0.82, 0.92, 0.72])]);
        let compared = Compared::new(&reports);
        let against = of_student(&compared, 1);
        assert_eq!(against.model, "small");
        assert!((against.difference.unwrap() - 0.02).abs() < 1e-12);
        let [low, high] = against.interval.unwrap();
        assert!(
            high - low < 1e-9,
            "every seed gained the same, however far seeds are apart"
        );
        assert!(compared.runs[0].models.iter().all(|m| m.against.is_none()));
        let text = compared.to_string();
        assert!(text.contains("| +2.00 (+2.00 to +2.00) "), "{text}");
        assert!(text.starts_with("- **a** (digits, seeds 1, 2, 3, "), "{text}");
    }

    #[test]
    fn other_seeds_or_other_data_are_not_paired() {
        let (first, mut other) = (taught(&[0.8, 0.9]), taught(&[0.7, 0.6]));
        other.run.seeds = vec![3, 4];
        let of = |other: Report| of_student(&Compared::new(&named(vec![first.clone(), other])), 1);
        assert_eq!(of(other.clone()).difference, None);
        other.run.seeds = vec![1, 2];
        assert!(of(other.clone()).difference.is_some());
        other.dataset.digest = "another".into();
        assert_eq!(of(other).difference, None);
    }

    #[test]
    fn a_student_of_another_name_is_held_against_the_first_and_one_run_against_nothing() {
        let mut other = taught(&[0.8, 0.9]);
        other.students[0].name = "a|b".into();
        let compared = Compared::new(&named(vec![taught(&[0.8, 0.9]), other]));
        assert_eq!(of_student(&compared, 1).model, "small");
        assert!(compared.to_string().contains(" a\\|b "));
        let alone = Compared::new(&named(vec![taught(&[0.8])])).to_string();
        assert!(
            !alone.contains("'s, points") && !alone.contains("Differences"),
            "{alone}"
        );
        let table: Vec<&str> = alone.lines().filter(|l| l.starts_with('|')).collect();
        assert_eq!(table.len(), 2 + 3, "head, rule, teacher, student, alone");
        assert!(
            table
                .iter()
                .all(|l| l.chars().count() == table[0].chars().count()),
            "{alone}"
        );
    }

    #[test]
    fn one_seed_shows_no_spread() {
        let rows = |accuracies: &[f64]| {
            let text = Compared::new(&named(vec![taught(accuracies)])).to_string();
            let rows = text.lines().filter(|l| l.starts_with('|'));
            rows.map(str::to_owned).collect::<Vec<_>>().join("\n")
        };
        let one = rows(&[0.8]);
        assert!(one.contains("| 80.0 % ") && !one.contains('±'), "{one}");
        let two = rows(&[0.8, 0.8]);
        assert!(two.contains("| 80.0 ± 0.0 % "), "{two}");
    }

    #[test]
    fn keys_of_the_jobs_that_differ_are_named() {
        let job = |keys: &str| {
            let mut report = taught(&[0.8, 0.9]);
            report.run.job = keys.into();
            report
        };
        let first = job("[run]\nname = \"x\"\nepochs = 10\n[[students]]\nname = \"s\"\nhidden = [8]\n");
        let other =
            job("[run]\nname = \"x\"\nepochs = 20\n[[students]]\nname = \"s\"\nhidden = [8, 8]\nshare = 1\n");
        let beside =
            |first: &Report, other: &Report| Compared::new(&named(vec![first.clone(), other.clone()]));
        let compared = beside(&first, &other);
        assert_eq!(compared.runs[0].job_differs, None);
        let text = compared.to_string();
        let line = "\n  - not the job of a: `run.epochs` 20 instead of 10; `students.0.hidden` [8, 8] instead of [8]; \
                    `students.0.share` 1 instead of unset.\n";
        assert!(text.contains(line), "{text}");
        let json = serde_json::to_value(&compared).unwrap();
        assert_eq!(
            json["runs"][1]["job_differs"][0],
            serde_json::json!({ "key": "run.epochs", "value": 20, "reference": 10 })
        );
        let same = beside(&first, &first).to_string();
        assert!(same.contains("\n  - the same job as a.\n"), "{same}");
        let older = beside(&job(""), &other);
        assert_eq!(older.runs[1].job_differs, None);
        assert!(older.to_string().contains("is unknown"), "{older}");
    }

    #[test]
    fn of_many_keys_that_differ_the_first_are_written() {
        let keys: String = (0..KEYS + 3).map(|i| format!("k{i} = {i}\n")).collect();
        let settings = differences(&keys, "other = 1").unwrap();
        assert_eq!(settings.len(), KEYS + 4);
        let run = Run {
            job_differs: Some(settings),
            ..Compared::new(&named(vec![taught(&[0.8])])).runs.remove(0)
        };
        let told = run.job_beside("a");
        assert!(told.ends_with("; and 4 more"), "{told}");
        assert_eq!(told.matches("instead of").count(), KEYS);
    }
}

//! From text to a job, with every problem named at once.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Job;

/// One thing wrong with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Dotted path into the job file, as `--set` takes it (`students.0.replicas`).
    pub key: String,
    pub value: String,
    /// What would be valid.
    pub expected: String,
}

impl Problem {
    pub fn new(key: impl Into<String>, value: impl fmt::Display, expected: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: expected {}", self.key, self.value, self.expected)
    }
}

/// A job that can't be started. Its `Display` names the file and lists every problem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read job {}: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{}: {message}", file.display())]
    Syntax { file: PathBuf, message: String },
    #[error("--set {setting}: {message}")]
    Setting { setting: String, message: String },
    #[error("{}:{}", file.display(), problems.iter().map(|p| format!("\n  {p}")).collect::<String>())]
    Invalid { file: PathBuf, problems: Vec<Problem> },
}

/// Reads and checks a job file; `settings` are `KEY=VALUE` overrides with dotted keys.
pub fn read(file: &Path, settings: &[String]) -> Result<Job, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Read {
        file: file.to_owned(),
        source,
    })?;
    parse(&text, file, settings)
}

/// Parses and checks a job; `file` is named in errors only.
pub fn parse(text: &str, file: &Path, settings: &[String]) -> Result<Job, Error> {
    let syntax = |e: toml::de::Error| Error::Syntax {
        file: file.to_owned(),
        message: e.to_string(),
    };
    // Straight from the text first: its errors carry line and column.
    let mut job: Job = toml::from_str(text).map_err(syntax)?;
    if !settings.is_empty() {
        let mut table: toml::Value = toml::from_str(text).map_err(syntax)?;
        for setting in settings {
            apply(&mut table, setting).map_err(|message| Error::Setting {
                setting: setting.clone(),
                message,
            })?;
        }
        job = table.try_into().map_err(|e| Error::Setting {
            setting: settings.join(" --set "),
            message: e.to_string(),
        })?;
    }
    let problems = job.problems();
    if problems.is_empty() {
        Ok(job)
    } else {
        Err(Error::Invalid {
            file: file.to_owned(),
            problems,
        })
    }
}

fn apply(root: &mut toml::Value, setting: &str) -> Result<(), String> {
    let (key, text) = setting
        .split_once('=')
        .ok_or("expected KEY=VALUE, such as students.0.replicas=4")?;
    let value = toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .and_then(|mut t| t.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let mut at = root;
    let mut parts = key.trim().split('.').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        at = match at {
            toml::Value::Array(items) => {
                let len = items.len();
                let index: usize = part
                    .parse()
                    .map_err(|_| format!("{part:?} is no index of a list of {len}"))?;
                items
                    .get_mut(index)
                    .ok_or_else(|| format!("index {index} is outside a list of {len}"))?
            }
            toml::Value::Table(table) if last => {
                table.insert(part.to_owned(), value);
                return Ok(());
            }
            toml::Value::Table(table) => table
                .entry(part.to_owned())
                .or_insert_with(|| toml::Value::Table(toml::Table::new())),
            other => return Err(format!("{part:?} lies below {other}, which has no keys")),
        };
        if last {
            *at = value;
            return Ok(());
        }
    }
    Err("the key is empty".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = r#"
        [run]
        name = "t"
        epochs = 2
        [dataset]
        name = "digits"
        [[teachers]]
        name = "big"
        model = { architecture = "mlp", hidden = [64] }
        source = { kind = "trained", learning_rate = 0.01 }
        [[students]]
        name = "small"
        model = { architecture = "mlp", hidden = [8] }
        teachers = [{ name = "big" }]
    "#;

    fn problems(edit: &[&str]) -> String {
        let edit: Vec<String> = edit.iter().map(|s| (*s).to_owned()).collect();
        parse(JOB, Path::new("j.toml"), &edit)
            .expect_err("must be refused")
            .to_string()
    }

    #[test]
    fn a_small_job_is_accepted_and_settings_apply() {
        let job = parse(JOB, Path::new("j.toml"), &["students.0.replicas=4".into()]).unwrap();
        assert_eq!(job.students[0].replicas, 4);
        assert_eq!(job.groups().len(), 2);
    }

    #[test]
    fn every_problem_is_named_with_key_value_and_bound() {
        let text = problems(&[
            "distillation.temperature=0.0",
            "distillation.alpha=1.5",
            "students.0.replicas=0",
        ]);
        for part in [
            "j.toml",
            "distillation.temperature = 0",
            "distillation.alpha = 1.5",
            "students.0.replicas = 0",
        ] {
            assert!(text.contains(part), "{part} missing in {text}");
        }
    }

    #[test]
    fn unknown_keys_and_teachers_are_refused() {
        assert!(problems(&["distillation.temprature=3"]).contains("temprature"));
        let text = problems(&["students.0.teachers.0.name=bog"]);
        assert!(text.contains("bog") && text.contains("big"), "{text}");
        assert!(problems(&["distillation.temperature=nan"]).contains("distillation.temperature"));
    }

    #[test]
    fn a_students_temperature_and_patience_are_its_groups() {
        let edit = [
            "students.0.temperature=2",
            "students.0.on_missing=hard",
            "run.baseline=true",
        ];
        let job = parse(JOB, Path::new("j.toml"), &edit.map(str::to_owned)).unwrap();
        let of = |name: &str| job.group(name).map(|g| (g.temperature, g.on_missing)).unwrap();
        assert_eq!(of("small"), (2.0.into(), crate::OnMissing::Hard));
        assert_eq!(of("big"), (4.0.into(), crate::OnMissing::Wait));
        assert_eq!(of("small@alone"), (4.0.into(), crate::OnMissing::Wait));
        let text = problems(&["students.0.temperature=-1.0"]);
        assert!(
            text.contains("students.0.temperature = -1: expected a finite number, 0.001 <= T"),
            "{text}"
        );
    }

    #[test]
    fn mixtures_are_chosen_by_name_and_survive_a_round_trip() {
        let edit = [
            "distillation.encoding=top-8",
            "distillation.combine=probability",
            "distillation.weights=label-cross-entropy",
        ];
        let job = parse(JOB, Path::new("j.toml"), &edit.map(str::to_owned)).unwrap();
        assert_eq!(job.distillation.weights, crate::Weights::LabelCrossEntropy);
        let text = toml::to_string(&job).unwrap();
        assert!(text.contains("encoding = \"top-8\""), "{text}");
        assert_eq!(parse(&text, Path::new("j.toml"), &[]).unwrap(), job);
        for (edit, parts) in [
            (
                "distillation.encoding=f64",
                ["distillation.encoding", "\"f64\"", "top-64"],
            ),
            (
                "distillation.encoding=top-0",
                ["distillation.encoding", "\"top-0\"", "top-64"],
            ),
            (
                "distillation.combine=mean",
                ["distillation.combine", "`mean`", "`logit`"],
            ),
            (
                "distillation.weights=best",
                ["distillation.weights", "`best`", "`uniform`"],
            ),
            (
                "students.0.on_missing=skip",
                ["students", "`skip`", "`renormalise`"],
            ),
        ] {
            let text = problems(&[edit]);
            assert!(parts.iter().all(|part| text.contains(part)), "{edit}: {text}");
        }
    }

    #[test]
    fn what_can_not_be_mixed_is_refused_at_once() {
        let text = problems(&[
            "distillation.combine=logit",
            "distillation.encoding=top-8",
            "students.0.on_missing=renormalise",
        ]);
        for part in [
            "distillation.combine = \"logit\": expected \"probability\" with distillation.encoding = \"top-8\"",
            "students.0.on_missing = \"renormalise\": expected at least 2 teachers",
        ] {
            assert!(text.contains(part), "{part} missing in {text}");
        }
        let dense = [
            "distillation.combine=logit".to_owned(),
            "distillation.encoding=u8".to_owned(),
        ];
        assert!(parse(JOB, Path::new("j.toml"), &dense).is_ok());
    }

    #[test]
    fn losses_are_chosen_by_name_or_with_parameters_and_survive_a_round_trip() {
        for (edit, loss) in [
            ("reverse-kl", crate::Loss::ReverseKl),
            ("jsd", crate::Loss::Jsd { beta: 0.5 }),
            ("{ kind = \"jsd\", beta = 0.9 }", crate::Loss::Jsd { beta: 0.9 }),
            (
                "{ kind = \"dkd\", beta = 2.0 }",
                crate::Loss::Dkd {
                    alpha: 1.0,
                    beta: 2.0,
                },
            ),
        ] {
            let job = parse(JOB, Path::new("j.toml"), &[format!("distillation.loss={edit}")]).unwrap();
            assert_eq!(job.distillation.loss, loss);
            let text = toml::to_string(&job).unwrap();
            assert_eq!(parse(&text, Path::new("j.toml"), &[]).unwrap(), job, "{text}");
        }
        let text = problems(&["distillation.loss=hinton"]);
        assert!(
            text.contains("unknown loss \"hinton\", expected kd, reverse-kl, jsd, mse or dkd"),
            "{text}"
        );
    }

    #[test]
    fn replicas_synchronise_by_rules_that_work() {
        for (edit, expected) in [
            (
                &["sync.wire=bf16"][..],
                "sync.wire = \"bf16\": expected \"f32\" with sync.strategy = \"local-sgd\"",
            ),
            (
                &["sync.outer={ momentum = 0.5 }"],
                "sync.outer = set: expected nothing, or sync.strategy = \"diloco\"",
            ),
            (
                &["sync.strategy=diloco", "sync.outer={ momentum = 1.0 }"],
                "sync.outer.momentum = 1: expected 0 <= momentum < 1",
            ),
            (
                &["sync.strategy=diloco", "sync.outer={ learning_rate = 0.0 }"],
                "sync.outer.learning_rate = 0: expected a finite number > 0",
            ),
            (
                &["sync.strategy=step", "students.0.replicas=3", "run.batch_size=64"],
                "students.0.replicas = 3: expected a divisor of run.batch_size = 64",
            ),
            (&["sync.strategy=ring"], "ring"),
        ] {
            let text = problems(edit);
            assert!(text.contains(expected), "{edit:?}: {text}");
        }
        let edits = [
            "sync.strategy=step",
            "students.0.replicas=4",
            "run.batch_size=64",
            "sync.wire=bf16",
        ];
        let edits: Vec<String> = edits.iter().map(|e| (*e).to_owned()).collect();
        let job = parse(JOB, Path::new("j.toml"), &edits).unwrap();
        assert_eq!(job.groups().iter().map(|g| g.batch_size).min(), Some(16));
    }

    #[test]
    fn a_share_and_a_tail_must_mean_something() {
        for (edit, expected) in [
            (
                "students.0.share={ part = 2, of = 2 }",
                "students.0.share.part = 2: expected a number below share.of = 2",
            ),
            ("students.0.share={ part = 0, of = 0 }", "students.0.share.of = 0"),
            (
                "students.0.share={ part = 0, of = 5000 }",
                "students.0.share.of = 5000",
            ),
            (
                "distillation.tail=drop",
                "distillation.tail = \"drop\": expected \"bucket\", or distillation.encoding",
            ),
            ("distillation.tail=cut", "cut"),
        ] {
            let text = problems(&[edit]);
            assert!(text.contains(expected), "{edit}: {text}");
        }
        let cut = [
            "distillation.tail=renormalise".to_owned(),
            "distillation.encoding=top-4".to_owned(),
        ];
        assert!(parse(JOB, Path::new("j.toml"), &cut).is_ok());
    }

    #[test]
    fn losses_that_can_not_be_computed_are_refused() {
        let dkd = "distillation.loss={ kind = \"dkd\", alpha = 0.0, beta = 0.0 }";
        for (edit, expected) in [
            (
                &["distillation.loss={ kind = \"jsd\", beta = 1.5 }"][..],
                "distillation.loss.beta = 1.5: expected a number within 0..=1",
            ),
            (
                &["distillation.loss={ kind = \"jsd\", beta = nan }"],
                "distillation.loss.beta = NaN: expected a number within 0..=1",
            ),
            (
                &["distillation.loss={ kind = \"dkd\", alpha = -1.0 }"],
                "distillation.loss.alpha = -1: expected a finite number >= 0",
            ),
            (
                &["distillation.loss={ kind = \"dkd\", beta = inf }"],
                "distillation.loss.beta = inf: expected a finite number >= 0",
            ),
            (
                &[dkd],
                "distillation.loss = \"dkd\" with alpha = 0 and beta = 0: expected at least one of them > 0",
            ),
            (
                &["distillation.loss=dkd", "dataset.labelled=100"],
                "dataset.labelled = 100: expected nothing (all labels) with distillation.loss = \"dkd\"",
            ),
            (
                &["distillation.loss=mse", "distillation.encoding=top-8"],
                "distillation.loss = \"mse\": expected kd, reverse-kl or jsd with distillation.encoding = \"top-8\"",
            ),
            (
                &["distillation.loss=dkd", "distillation.encoding=top-8"],
                "distillation.loss = \"dkd\": expected kd, reverse-kl or jsd with distillation.encoding = \"top-8\"",
            ),
        ] {
            let text = problems(edit);
            assert!(text.contains(expected), "{edit:?}: {text}");
        }
        for loss in ["kd", "reverse-kl", "jsd"] {
            let cut = [
                format!("distillation.loss={loss}"),
                "distillation.encoding=top-8".to_owned(),
            ];
            assert!(parse(JOB, Path::new("j.toml"), &cut).is_ok(), "{loss}");
        }
    }

    #[test]
    fn random_views_cannot_be_recorded_by_sample() {
        let job = JOB
            .replace("model = { architecture = \"mlp\", hidden = [64] }", "")
            .replace(
                "{ kind = \"trained\", learning_rate = 0.01 }",
                "{ kind = \"checkpoint\", path = \"big\", store = \"soft\" }",
            );
        assert!(parse(&job, Path::new("j.toml"), &[]).is_ok());
        let text = parse(&job, Path::new("j.toml"), &["dataset.views.shift=1".to_owned()])
            .expect_err("must be refused")
            .to_string();
        let expected = "teachers.0.source.store = \"soft\": expected none with dataset.views";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn settings_outside_the_job_say_so() {
        assert!(problems(&["students.7.replicas=1"]).contains("outside a list of 1"));
        assert!(problems(&["run.name.x=1"]).contains("no keys"));
    }
}

//! What students learn from a layer of a teacher, beside its soft targets.

use serde::{Deserialize, Serialize};

use crate::{Job, Problem, Source, Student};

/// A layer of the student is to hold what a layer of the teacher holds: alpha times `weight` times this loss is added
/// to a student's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Features {
    pub loss: FeatureLoss,
    /// Relative to the soft loss, > 0.
    #[serde(default = "Features::weight")]
    pub weight: f64,
    /// Of the student, by its name in the model.
    pub student_layer: String,
    /// Of the teacher.
    pub teacher_layer: String,
    /// Whose layer it is; unset: that of a student's only teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
}

impl Features {
    fn weight() -> f64 {
        1.0
    }
}

/// How the two layers are compared. Each is normalised, so that a weight which suits one pair of models is of the right
/// size for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FeatureLoss {
    /// Romero et al. 2015: mean squared error. Where the channels differ, the student's are projected to the teacher's.
    Hint,
    /// Zagoruyko and Komodakis 2017: where a layer looks, the mean square over its channels.
    Attention,
    /// Sun et al. 2019 and Sanh et al. 2019: the direction at each place. Where the channels differ, the student's are
    /// projected to the teacher's.
    Cosine,
    /// Park et al. 2019: distances and angles between the samples of a batch.
    Relational,
}

impl FeatureLoss {
    /// Whether it compares channel with channel.
    pub const fn by_channel(self) -> bool {
        matches!(self, Self::Hint | Self::Cosine)
    }

    /// Whether it compares place with place.
    pub const fn by_position(self) -> bool {
        !matches!(self, Self::Relational)
    }
}

impl Job {
    /// What a student learns from a layer, with the stream that sends it as the teacher.
    pub(crate) fn features_of(&self, student: &Student) -> Option<Features> {
        let features = self.distillation.features.as_ref()?;
        let asked = features.teacher.as_ref();
        let mixture = student.teachers.iter();
        let part = mixture
            .into_iter()
            .find(|m| asked.is_none_or(|name| m.name == *name))?;
        let stream = self.by_stream(std::slice::from_ref(part)).into_iter().next()?;
        Some(Features {
            teacher: Some(stream.name),
            ..features.clone()
        })
    }

    pub(crate) fn check_features(&self, out: &mut Vec<Problem>) {
        let Some(features) = &self.distillation.features else {
            return;
        };
        let key = |k: &str| format!("distillation.features.{k}");
        if !(features.weight.is_finite() && features.weight > 0.0) {
            out.push(Problem::new(
                key("weight"),
                features.weight,
                "a finite number > 0",
            ));
        }
        let learns = |name: &str| {
            self.students
                .iter()
                .any(|s| s.teachers.iter().any(|m| m.name == name))
        };
        let taught = || self.students.iter().filter(|s| !s.teachers.is_empty());
        match &features.teacher {
            Some(name) if !learns(name) => {
                let known: Vec<&str> = self.teachers.iter().map(|t| t.name.as_str()).collect();
                let expected = format!(
                    "a teacher that some student names in its `teachers` ({})",
                    known.join(", ")
                );
                out.push(Problem::new(key("teacher"), format!("{name:?}"), expected));
            }
            None if taught().next().is_none() => {
                let expected = "a student with teachers, or no [distillation.features]";
                out.push(Problem::new(key("teacher"), "unset", expected));
            }
            Some(_) => {}
            None => {
                if let Some(student) = taught().find(|s| s.teachers.len() > 1) {
                    let expected = format!(
                        "the name of the teacher whose layer it is: {:?} has several",
                        student.name
                    );
                    out.push(Problem::new(key("teacher"), "unset", expected));
                }
            }
        }
        for (i, teacher) in self.teachers.iter().enumerate() {
            let asked = features.teacher.as_ref().is_none_or(|name| teacher.name == *name);
            if !asked || !learns(&teacher.name) {
                continue;
            }
            match &teacher.source {
                Source::Peers { of, .. } if of.len() > 1 => {
                    let expected =
                        "one student, whose layer the others learn from with distillation.features";
                    out.push(Problem::new(
                        format!("teachers.{i}.source.of"),
                        format!("{of:?}"),
                        expected,
                    ));
                }
                Source::Checkpoint {
                    store: Some(folder), ..
                } => {
                    let value = format!("{:?}", folder.display().to_string());
                    let expected =
                        "none with distillation.features: it keeps soft targets, not what layers hold";
                    out.push(Problem::new(
                        format!("teachers.{i}.source.store"),
                        value,
                        expected,
                    ));
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::parse;

    const JOB: &str = r#"
        [run]
        name = "t"
        epochs = 2
        baseline = true
        [dataset]
        name = "digits"
        [[teachers]]
        name = "big"
        source = { kind = "checkpoint", path = "big" }
        [[teachers]]
        name = "peer"
        source = { kind = "peers", of = ["b"] }
        [[students]]
        name = "a"
        model = { architecture = "mlp", hidden = [8] }
        teachers = [{ name = "big" }, { name = "peer" }]
        [[students]]
        name = "b"
        model = { architecture = "mlp", hidden = [8] }
        teachers = [{ name = "big" }]
        [distillation.features]
        loss = "hint"
        student_layer = "hidden1"
        teacher_layer = "hidden2"
        teacher = "peer"
    "#;

    fn job(settings: &[&str]) -> Result<Job, String> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        parse(JOB, Path::new("j.toml"), &settings).map_err(|e| e.to_string())
    }

    #[test]
    fn a_layer_comes_from_the_stream_of_the_teacher_that_is_named() {
        let job = job(&[]).unwrap();
        let of = |name: &str| {
            job.group(name)
                .unwrap()
                .features
                .map(|f| (f.teacher.unwrap(), f.weight))
        };
        assert_eq!(
            of("a"),
            Some(("b".into(), 1.0)),
            "peers are streams of their groups"
        );
        assert_eq!(of("b"), None, "it does not learn from that teacher");
        assert_eq!(of("a@alone"), None);
        let big = self::job(&["distillation.features.teacher=big"]).unwrap();
        assert_eq!(big.group("b").unwrap().features.unwrap().teacher.unwrap(), "big");
        let text = toml::to_string(&big).unwrap();
        assert_eq!(parse(&text, Path::new("j.toml"), &[]).unwrap(), big, "{text}");
    }

    #[test]
    fn layers_that_nobody_sends_are_refused() {
        for (setting, parts) in [
            (
                "distillation.features.weight=0.0",
                ["distillation.features.weight = 0", "> 0"],
            ),
            (
                "distillation.features.teacher=x",
                ["distillation.features.teacher = \"x\"", "(big, peer)"],
            ),
            ("distillation.features.loss=vid", ["vid", "hint"]),
            (
                "distillation.features={ loss = \"hint\", student_layer = \"a\", teacher_layer = \"b\" }",
                ["distillation.features.teacher = unset", "\"a\" has several"],
            ),
            (
                "teachers.1.source.of=[\"b\", \"a\"]",
                ["teachers.1.source.of", "one student"],
            ),
        ] {
            let text = job(&[setting]).expect_err(setting);
            assert!(parts.iter().all(|part| text.contains(part)), "{setting}: {text}");
        }
        let store = "teachers.0.source={ kind = \"checkpoint\", path = \"big\", store = \"soft\" }";
        let text = job(&[store, "distillation.features.teacher=big"]).expect_err("a store");
        assert!(
            text.contains("teachers.0.source.store = \"soft\": expected none with distillation.features")
        );
        assert!(job(&[store]).is_ok(), "it is another teacher's layer");
    }
}

//! Groups: whatever trains. Students, online teachers and baselines are all run by the same worker.

use serde::{Deserialize, Serialize};

use crate::{Device, Job, Mixture, Model, OnMissing, Source};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    #[default]
    Adam,
    /// With momentum 0.9.
    Sgd,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    pub learning_rate: f64,
    pub weight_decay: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupKind {
    /// An online teacher: labels only, publishes versions.
    Teacher,
    /// Learns from teachers.
    Student,
    /// A student alone: the same steps from labelled samples only.
    Baseline,
}

/// One trained model: what the replicas of it need to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub name: String,
    pub kind: GroupKind,
    pub model: Model,
    pub optimizer: Optimizer,
    pub replicas: u32,
    pub epochs: u32,
    pub teachers: Vec<Mixture>,
    /// Softens the group's logits and its teachers' alike.
    pub temperature: f64,
    pub on_missing: OnMissing,
    pub device: Device,
    /// Optimizer steps between published versions; 0: at the end of each epoch only.
    pub publish_every: u32,
}

impl Group {
    /// A group without teachers sees labels only, so its positions cycle through labelled samples.
    pub fn labelled_only(&self) -> bool {
        self.teachers.is_empty()
    }
}

/// A baseline is named after its student; `check` keeps users' names free of this suffix.
pub(crate) const BASELINE_SUFFIX: &str = "@alone";

impl Job {
    /// All groups of the job: online teachers, students, then baselines.
    pub fn groups(&self) -> Vec<Group> {
        let teachers = self.teachers.iter().filter_map(|t| match &t.source {
            Source::Trained {
                learning_rate,
                optimizer,
                weight_decay,
                publish_every,
                epochs,
            } => Some(Group {
                name: t.name.clone(),
                kind: GroupKind::Teacher,
                model: t.model.clone()?,
                optimizer: Optimizer {
                    kind: *optimizer,
                    learning_rate: *learning_rate,
                    weight_decay: *weight_decay,
                },
                replicas: 1,
                epochs: epochs.unwrap_or(self.run.epochs),
                teachers: Vec::new(),
                temperature: self.distillation.temperature,
                on_missing: OnMissing::Wait,
                device: t.device.clone(),
                publish_every: *publish_every,
            }),
            Source::Checkpoint { .. } => None,
        });
        let students = self.students.iter().map(|s| Group {
            name: s.name.clone(),
            kind: GroupKind::Student,
            model: s.model.clone(),
            optimizer: Optimizer {
                kind: s.optimizer,
                learning_rate: s.learning_rate,
                weight_decay: s.weight_decay,
            },
            replicas: s.replicas,
            epochs: self.run.epochs,
            teachers: s.teachers.clone(),
            temperature: s.temperature.unwrap_or(self.distillation.temperature),
            on_missing: s.on_missing,
            device: s.device.clone(),
            publish_every: 0,
        });
        let mut groups: Vec<Group> = teachers.chain(students).collect();
        if self.run.baseline {
            let baselines: Vec<Group> = self
                .students
                .iter()
                .filter(|s| !s.teachers.is_empty())
                .map(|s| Group {
                    name: format!("{}{BASELINE_SUFFIX}", s.name),
                    kind: GroupKind::Baseline,
                    model: s.model.clone(),
                    optimizer: Optimizer {
                        kind: s.optimizer,
                        learning_rate: s.baseline_learning_rate.unwrap_or(s.learning_rate),
                        weight_decay: s.weight_decay,
                    },
                    replicas: s.replicas,
                    epochs: self.run.epochs,
                    teachers: Vec::new(),
                    temperature: self.distillation.temperature,
                    on_missing: OnMissing::Wait,
                    device: s.device.clone(),
                    publish_every: 0,
                })
                .collect();
            groups.extend(baselines);
        }
        groups
    }

    pub fn group(&self, name: &str) -> Option<Group> {
        self.groups().into_iter().find(|g| g.name == name)
    }
}

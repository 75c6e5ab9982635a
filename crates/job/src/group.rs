//! Groups: whatever trains. Students, online teachers and baselines are all run by the same worker.

use serde::{Deserialize, Serialize};

use crate::{Device, Features, Job, Mixture, Model, OnMissing, Schedule, Share, Source, Student, Teacher};
use retort_data::order::{self, Order};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// Weight decay is added to the gradient (L2), as PyTorch's `Adam` does.
    #[default]
    Adam,
    /// Weight decay is taken off the weights, apart from the gradient. Loshchilov and Hutter 2019,
    /// <https://arxiv.org/abs/1711.05101>.
    Adamw,
    /// With momentum.
    Sgd,
}

/// How a group steps. Weight decay leaves biases and norms alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    pub kind: OptimizerKind,
    pub learning_rate: Schedule,
    pub weight_decay: f64,
    /// Of SGD.
    pub momentum: f64,
    /// Largest norm of a step's gradient.
    pub clip_norm: Option<f64>,
}

/// SGD's momentum unless given.
const MOMENTUM: f64 = 0.9;

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
    /// Samples of one batch of one replica.
    pub batch_size: u32,
    pub epochs: u32,
    /// The streams that it learns from.
    pub teachers: Vec<Mixture>,
    /// Share of the soft loss; the gate multiplies a student's.
    pub alpha: Schedule,
    /// Softens the group's logits and its teachers' alike.
    pub temperature: Schedule,
    pub on_missing: OnMissing,
    pub device: Device,
    /// Optimizer steps between published versions; 0: at the end of each epoch only.
    pub publish_every: u32,
    /// What it learns from a layer of one of its teachers, with the stream as the teacher.
    pub features: Option<Features>,
    /// The samples that it trains on; `None`: all.
    pub share: Option<Share>,
}

impl Group {
    /// Which sample stands where, of `samples` of which those in `labelled` have a label: the same for whoever trains the
    /// group and whoever answers it. `None`: there is no sample that it could train on.
    pub fn order(&self, seed: u64, samples: u32, labelled: &[u32]) -> Option<Order> {
        let all_labelled = labelled.len() == samples as usize;
        let labels_only = self.labelled_only() && !all_labelled;
        let ids: Vec<u32> = match (self.share, labels_only) {
            (None, false) => return Some(Order::new_all(seed, samples)),
            (None, true) => labelled.to_vec(),
            (Some(Share { part, of }), false) => order::share(seed, samples, part, of).collect(),
            (Some(Share { part, of }), true) => {
                let has_label = |id: &u32| labelled.binary_search(id).is_ok();
                order::share(seed, samples, part, of).filter(has_label).collect()
            }
        };
        (!ids.is_empty()).then(|| Order::new_cycle(seed, samples.into(), ids))
    }

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
        let teachers = self.teachers.iter().filter_map(|t| self.online_teacher(t));
        let students = self.students.iter().map(|s| self.student(s));
        let mut groups: Vec<Group> = teachers.chain(students).collect();
        if self.run.baseline {
            let taught = self.students.iter().filter(|s| !s.teachers.is_empty());
            groups.extend(taught.map(|s| self.baseline(s)));
        }
        groups
    }

    pub fn group(&self, name: &str) -> Option<Group> {
        self.groups().into_iter().find(|g| g.name == name)
    }

    fn online_teacher(&self, t: &Teacher) -> Option<Group> {
        let Source::Trained {
            learning_rate,
            optimizer,
            weight_decay,
            momentum,
            clip_norm,
            publish_every,
            epochs,
            teachers,
            alpha,
        } = &t.source
        else {
            return None;
        };
        Some(Group {
            name: t.name.clone(),
            kind: GroupKind::Teacher,
            model: t.model.clone()?,
            optimizer: Optimizer {
                kind: *optimizer,
                learning_rate: learning_rate.clone(),
                weight_decay: *weight_decay,
                momentum: momentum.unwrap_or(MOMENTUM),
                clip_norm: *clip_norm,
            },
            replicas: 1,
            batch_size: self.run.batch_size,
            epochs: epochs.unwrap_or(self.run.epochs),
            teachers: self.by_stream(teachers),
            alpha: alpha.clone(),
            temperature: self.distillation.temperature.clone(),
            on_missing: OnMissing::Wait,
            device: t.device.clone(),
            publish_every: *publish_every,
            features: None,
            share: None,
        })
    }

    fn student(&self, s: &Student) -> Group {
        let distillation = &self.distillation;
        Group {
            name: s.name.clone(),
            kind: GroupKind::Student,
            model: s.model.clone(),
            optimizer: Optimizer {
                kind: s.optimizer,
                learning_rate: s.learning_rate.clone(),
                weight_decay: s.weight_decay,
                momentum: s.momentum.unwrap_or(MOMENTUM),
                clip_norm: s.clip_norm,
            },
            replicas: s.replicas,
            batch_size: self.run.batch_size / self.sync.parts(s.replicas),
            epochs: self.run.epochs,
            teachers: self.by_stream(&s.teachers),
            alpha: distillation.alpha.clone(),
            temperature: s
                .temperature
                .clone()
                .unwrap_or_else(|| distillation.temperature.clone()),
            on_missing: s.on_missing,
            device: s.device.clone(),
            publish_every: self.publish_every(&s.name),
            features: self.features_of(s),
            share: s.share,
        }
    }

    /// The same student without teachers.
    fn baseline(&self, s: &Student) -> Group {
        let student = self.student(s);
        let rate = s.baseline_learning_rate.as_ref();
        Group {
            name: format!("{}{BASELINE_SUFFIX}", s.name),
            kind: GroupKind::Baseline,
            optimizer: Optimizer {
                learning_rate: rate.unwrap_or(&s.learning_rate).clone(),
                ..student.optimizer
            },
            teachers: Vec::new(),
            temperature: self.distillation.temperature.clone(),
            on_missing: OnMissing::Wait,
            publish_every: 0,
            features: None,
            ..student
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use crate::parse;

    #[test]
    fn shares_cut_the_samples_of_a_group_and_its_baseline() {
        let job = r#"
            [run]
            name = "t"
            epochs = 1
            baseline = true
            [dataset]
            name = "digits"
            [[teachers]]
            name = "big"
            source = { kind = "checkpoint", path = "big" }
            [[students]]
            name = "half"
            model = { architecture = "mlp", hidden = [8] }
            teachers = [{ name = "big" }]
            share = { part = 1, of = 2 }
        "#;
        let job = parse(job, Path::new("j.toml"), &[]).unwrap();
        let seen = |group: &str, labelled: &[u32]| {
            let order = job.group(group).unwrap().order(3, 100, labelled)?;
            assert_eq!(order.len(), 100, "as many steps as the others");
            Some((0..100).map(|p| order.sample(0, p)).collect::<BTreeSet<u32>>())
        };
        let all: Vec<u32> = (0..100).collect();
        let half = seen("half", &all[..10]).unwrap();
        assert_eq!(half.len(), 50);
        assert_eq!(seen("half@alone", &all).unwrap(), half);
        let few = seen("half@alone", &all[..10]).unwrap();
        assert!(
            !few.is_empty() && few.iter().all(|s| *s < 10 && half.contains(s)),
            "{few:?}"
        );
        assert_eq!(seen("half@alone", &[]), None);
        let big = crate::Group {
            share: None,
            ..job.group("half").unwrap()
        };
        assert_eq!(
            big.order(3, 100, &[]),
            Some(retort_data::order::Order::new_all(3, 100))
        );
    }
}

//! What a job must satisfy before anything starts.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::group::BASELINE_SUFFIX;
use crate::{
    Combine, Device, Encoding, Job, Loss, OnMissing, Outer, Pace, Problem, Schedule, Share, Source, Strategy,
    Tail, Teacher, Wire,
};

/// Largest batch of one replica's step.
const MAX_BATCH: u32 = 65_536;
/// Largest number of processes of one part; more than this on one job is a typing error.
const MAX_REPLICAS: u32 = 1_024;

impl Job {
    /// Everything that is wrong with the job by itself, without reading data or models.
    pub fn problems(&self) -> Vec<Problem> {
        let mut out = Vec::new();
        self.check_run(&mut out);
        self.check_names(&mut out);
        for (i, teacher) in self.teachers.iter().enumerate() {
            check_teacher(i, teacher, &mut out);
            self.check_store(i, teacher, &mut out);
        }
        self.check_students(&mut out);
        self.check_sources(&mut out);
        self.check_distillation(&mut out);
        self.check_fleet(&mut out);
        for p in self.dataset.problems() {
            out.push(Problem::new(format!("dataset.{}", p.key), p.value, p.expected));
        }
        out
    }

    fn check_run(&self, out: &mut Vec<Problem>) {
        let run = &self.run;
        let named = !run.name.is_empty()
            && run.name.len() <= 64
            && run
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !run.name.starts_with('.');
        if !named {
            out.push(Problem::new(
                "run.name",
                format!("{:?}", run.name),
                "1 to 64 letters, digits, '-', '_' or '.'",
            ));
        }
        range(out, "run.epochs", run.epochs, 1, 1_000_000);
        range(out, "run.batch_size", run.batch_size, 1, MAX_BATCH);
        if let Some(block) = self.dataset.block_samples
            && (block == 0 || !block.is_multiple_of(run.batch_size.max(1)))
        {
            out.push(Problem::new(
                "dataset.block_samples",
                block,
                format!("a multiple of run.batch_size ({})", run.batch_size),
            ));
        }
    }

    fn check_names(&self, out: &mut Vec<Problem>) {
        if self.teachers.is_empty() && self.students.is_empty() {
            out.push(Problem::new("students", "[]", "at least one teacher or student"));
        }
        let mut seen = BTreeSet::new();
        let teachers = self
            .teachers
            .iter()
            .enumerate()
            .map(|(i, t)| (format!("teachers.{i}.name"), &t.name));
        let students = self
            .students
            .iter()
            .enumerate()
            .map(|(i, s)| (format!("students.{i}.name"), &s.name));
        for (key, name) in teachers.chain(students) {
            let plain = !name.is_empty()
                && name.len() <= 64
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
            if !plain {
                out.push(Problem::new(
                    &key,
                    format!("{name:?}"),
                    format!("1 to 64 letters, digits, '-' or '_' ({BASELINE_SUFFIX:?} marks baselines)"),
                ));
            }
            if !seen.insert(name.as_str()) {
                out.push(Problem::new(
                    key,
                    format!("{name:?}"),
                    "a name that no other teacher or student has",
                ));
            }
        }
    }

    fn check_students(&self, out: &mut Vec<Problem>) {
        for (i, s) in self.students.iter().enumerate() {
            let key = |k: &str| format!("students.{i}.{k}");
            range(out, &key("replicas"), s.replicas, 1, MAX_REPLICAS);
            if self.sync.strategy == Strategy::None && s.replicas > 1 {
                out.push(Problem::new(
                    key("replicas"),
                    s.replicas,
                    "1 with sync.strategy = \"none\"; several replicas need \"step\", \"local-sgd\" or \"diloco\"",
                ));
            }
            if self.sync.strategy == Strategy::Step && !self.run.batch_size.is_multiple_of(s.replicas.max(1))
            {
                out.push(Problem::new(
                    key("replicas"),
                    s.replicas,
                    format!(
                        "a divisor of run.batch_size = {} with sync.strategy = \"step\", which shares each batch",
                        self.run.batch_size
                    ),
                ));
            }
            learning_rate(out, &key("learning_rate"), &s.learning_rate);
            if let Some(rate) = &s.baseline_learning_rate {
                learning_rate(out, &key("baseline_learning_rate"), rate);
            }
            weight_decay(out, &key("weight_decay"), s.weight_decay);
            steps(out, key, (s.optimizer, s.momentum, s.clip_norm));
            check_device(out, key("device"), &s.device);
            check_model(out, &key("model"), &s.model);
            if let Some(value) = &s.temperature {
                temperature(out, &key("temperature"), value);
            }
            self.check_mixture(&key("teachers"), &s.name, &s.teachers, out);
            if let Some(Share { part, of }) = s.share {
                range(out, &key("share.of"), of, 1, 1_000);
                if part >= of {
                    let expected = format!("a number below share.of = {of}");
                    out.push(Problem::new(key("share.part"), part, expected));
                }
            }
            if s.on_missing == OnMissing::Renormalise && s.teachers.len() < 2 {
                let has = s.teachers.len();
                out.push(Problem::new(
                    key("on_missing"),
                    "\"renormalise\"",
                    format!(
                        "at least 2 teachers to normalise over, and it has {has}; \"wait\" waits for the teacher, \
                         \"hard\" goes on with the labels"
                    ),
                ));
            }
        }
        let online = self.teachers.iter().flat_map(|t| match &t.source {
            Source::Trained { teachers, .. } => teachers.as_slice(),
            _ => &[],
        });
        let named = self.students.iter().flat_map(|s| &s.teachers).chain(online);
        let named: BTreeSet<&str> = named.map(|m| m.name.as_str()).collect();
        let taught = |t: &Teacher| named.contains(t.name.as_str());
        for (i, t) in self.teachers.iter().enumerate() {
            if !self.students.is_empty() && !taught(t) {
                out.push(Problem::new(
                    format!("teachers.{i}.name"),
                    format!("{:?}", t.name),
                    "a teacher that some student, or online teacher, names in its `teachers`",
                ));
            }
        }
    }

    fn check_store(&self, i: usize, t: &Teacher, out: &mut Vec<Problem>) {
        let Source::Checkpoint {
            store: Some(folder), ..
        } = &t.source
        else {
            return;
        };
        if let Err(expected) = folder.to_string_lossy().parse::<retort_data::Location>() {
            out.push(Problem::new(
                format!("teachers.{i}.source.store"),
                format!("{:?}", folder.display().to_string()),
                expected,
            ));
        }
        let learns = self
            .groups()
            .into_iter()
            .filter(|g| g.teachers.iter().any(|m| m.name == t.name));
        for group in learns.filter(|g| !g.temperature.is_constant()) {
            out.push(Problem::new(
                format!("teachers.{i}.source.store"),
                format!("{:?}", folder.display().to_string()),
                format!(
                    "none where the temperature of {:?} changes: rows are kept softened",
                    group.name
                ),
            ));
        }
        if !self.dataset.views.is_none() {
            out.push(Problem::new(
                format!("teachers.{i}.source.store"),
                format!("{:?}", folder.display().to_string()),
                "none with dataset.views: a row is kept by sample, and random views differ from epoch to epoch",
            ));
        }
    }

    fn check_distillation(&self, out: &mut Vec<Problem>) {
        let d = &self.distillation;
        temperature(out, "distillation.temperature", &d.temperature);
        if let Encoding::Fixed(encoding @ retort_codec::Encoding::TopK(_)) = d.encoding {
            let without = format!("with distillation.encoding = \"{encoding}\", which leaves classes out");
            if d.combine == Combine::Logit {
                out.push(Problem::new(
                    "distillation.combine",
                    "\"logit\"",
                    format!("\"probability\" {without}; a mean of logits needs f32, f16, bf16, u8 or auto"),
                ));
            }
            if d.loss.whole() {
                out.push(Problem::new(
                    "distillation.loss",
                    format!("{:?}", d.loss.name()),
                    format!("kd, reverse-kl or jsd {without}; this loss needs f32, f16, bf16, u8 or auto"),
                ));
            }
        }
        if d.tail != Tail::Bucket && !matches!(d.encoding, Encoding::Fixed(retort_codec::Encoding::TopK(_))) {
            let value = if d.tail == Tail::Drop {
                "\"drop\""
            } else {
                "\"renormalise\""
            };
            let expected =
                "\"bucket\", or distillation.encoding = \"top-K\": other encodings leave no class out";
            out.push(Problem::new("distillation.tail", value, expected));
        }
        self.check_loss(out);
        self.check_mixup(out);
        self.check_features(out);
        alpha(out, "distillation.alpha", &d.alpha);
        range(out, "distillation.max_staleness", d.max_staleness, 0, 1_000);
        range(out, "sync.every", self.sync.every, 1, 1_000_000);
        self.check_sync(out);
        let trained = |t: &&Teacher| matches!(t.source, Source::Trained { .. });
        if d.pace == Pace::Lockstep && self.teachers.iter().filter(trained).count() > 1 {
            out.push(Problem::new(
                "distillation.pace",
                "\"lockstep\"",
                "at most one teacher with source \"trained\"",
            ));
        }
    }

    fn check_sync(&self, out: &mut Vec<Problem>) {
        if self.sync.strategy == Strategy::LocalSgd && self.sync.wire() == Wire::Bf16 {
            out.push(Problem::new(
                "sync.wire",
                "\"bf16\"",
                "\"f32\" with sync.strategy = \"local-sgd\", which sends the weights themselves: with 8 bits they would forget \
                 small steps; \"diloco\" with outer = { learning_rate = 1.0, momentum = 0.0 } sends how far they came",
            ));
        }
        let Some(Outer {
            learning_rate,
            momentum,
        }) = self.sync.outer
        else {
            return;
        };
        if self.sync.strategy != Strategy::Diloco {
            out.push(Problem::new(
                "sync.outer",
                "set",
                "nothing, or sync.strategy = \"diloco\", which alone has an outer step",
            ));
        }
        if !(learning_rate.is_finite() && learning_rate > 0.0) {
            out.push(Problem::new(
                "sync.outer.learning_rate",
                learning_rate,
                "a finite number > 0",
            ));
        }
        if !(0.0..1.0).contains(&momentum) {
            out.push(Problem::new("sync.outer.momentum", momentum, "0 <= momentum < 1"));
        }
    }

    fn check_loss(&self, out: &mut Vec<Problem>) {
        match self.distillation.loss {
            Loss::Kd | Loss::ReverseKl | Loss::Mse => {}
            Loss::Jsd { beta } => {
                if !(0.0..=1.0).contains(&beta) {
                    out.push(Problem::new(
                        "distillation.loss.beta",
                        beta,
                        "a number within 0..=1",
                    ));
                }
            }
            Loss::Dkd { alpha, beta } => {
                for (key, value) in [("alpha", alpha), ("beta", beta)] {
                    if !(value.is_finite() && value >= 0.0) {
                        let key = format!("distillation.loss.{key}");
                        out.push(Problem::new(key, value, "a finite number >= 0"));
                    }
                }
                if alpha == 0.0 && beta == 0.0 {
                    out.push(Problem::new(
                        "distillation.loss",
                        "\"dkd\" with alpha = 0 and beta = 0",
                        "at least one of them > 0",
                    ));
                }
                if let Some(labelled) = self.dataset.labelled {
                    out.push(Problem::new(
                        "dataset.labelled",
                        labelled,
                        "nothing (all labels) with distillation.loss = \"dkd\": dkd needs every sample's label",
                    ));
                }
            }
        }
    }

    fn check_fleet(&self, out: &mut Vec<Problem>) {
        let fleet = &self.fleet;
        let lease = fleet.lease;
        if lease < Duration::from_millis(200) || lease > Duration::from_secs(600) {
            out.push(Problem::new(
                "fleet.lease",
                humantime::format_duration(lease),
                "200ms to 10min",
            ));
        }
        if fleet.heartbeat < Duration::from_millis(10) || fleet.heartbeat * 2 > lease {
            let value = humantime::format_duration(fleet.heartbeat);
            out.push(Problem::new(
                "fleet.heartbeat",
                value,
                "10ms to half of fleet.lease",
            ));
        }
        let checkpoint = fleet.checkpoint;
        if checkpoint < Duration::from_millis(100) || checkpoint > Duration::from_secs(3_600) {
            out.push(Problem::new(
                "fleet.checkpoint",
                humantime::format_duration(checkpoint),
                "100ms to 1h",
            ));
        }
        range(out, "fleet.prefetch", fleet.prefetch, 1, 1_024);
    }
}

fn check_teacher(i: usize, t: &Teacher, out: &mut Vec<Problem>) {
    let key = |k: &str| format!("teachers.{i}.{k}");
    range(out, &key("replicas"), t.replicas, 1, MAX_REPLICAS);
    check_device(out, key("device"), &t.device);
    if let Some(model) = &t.model {
        check_model(out, &key("model"), model);
    }
    match &t.source {
        Source::Trained {
            learning_rate: rate,
            optimizer,
            weight_decay: decay,
            momentum,
            clip_norm,
            publish_every,
            epochs,
            alpha: share,
            ..
        } => {
            if t.model.is_none() {
                out.push(Problem::new(
                    key("model"),
                    "nothing",
                    "a model, since source \"trained\" starts from none",
                ));
            }
            learning_rate(out, &key("source.learning_rate"), rate);
            weight_decay(out, &key("source.weight_decay"), *decay);
            let source = |k: &str| key(&format!("source.{k}"));
            steps(out, source, (*optimizer, *momentum, *clip_norm));
            alpha(out, &key("source.alpha"), share);
            range(out, &key("source.publish_every"), *publish_every, 1, 1_000_000);
            if let Some(epochs) = epochs {
                range(out, &key("source.epochs"), *epochs, 1, 1_000_000);
            }
        }
        Source::Checkpoint { .. } => {
            if t.model.is_some() {
                out.push(Problem::new(
                    key("model"),
                    "a model",
                    "none: a checkpoint's model card names its own",
                ));
            }
        }
        Source::Ema { .. } | Source::Snapshot { .. } | Source::Peers { .. } => {
            if t.model.is_some() {
                out.push(Problem::new(
                    key("model"),
                    "a model",
                    "none: it is the model of the student that it follows",
                ));
            }
        }
    }
}

fn check_model(out: &mut Vec<Problem>, key: &str, model: &crate::Model) {
    if model.architecture.is_foreign() {
        let expected = "one that can be trained; a model from elsewhere only teaches: make a folder of it with `retort \
                        import`, and say source = { kind = \"checkpoint\", path = \"FOLDER\" } without a model";
        let found = format!("\"{}\"", model.architecture);
        out.push(Problem::new(format!("{key}.architecture"), found, expected));
        return;
    }
    for (k, value, expected) in model.problems() {
        out.push(Problem::new(format!("{key}.{k}"), value, expected));
    }
}

fn check_device(out: &mut Vec<Problem>, key: String, device: &Device) {
    let text = device.0.as_str();
    let ordinal = |t: &str| t.parse::<u32>().is_ok();
    let known = matches!(text, "auto" | "flex" | "libtorch" | "wgpu")
        || text.strip_prefix("libtorch:cuda:").is_some_and(ordinal)
        || text.strip_prefix("cuda:").is_some_and(ordinal);
    if !known {
        out.push(Problem::new(
            key,
            format!("{text:?}"),
            "flex, libtorch, libtorch:cuda:N, cuda:N, wgpu or auto",
        ));
    }
}

fn temperature(out: &mut Vec<Problem>, key: &str, value: &Schedule) {
    let fine = |v: f64| (1e-3..=1e4).contains(&v);
    scheduled(out, key, value, fine, "a finite number, 0.001 <= T <= 10000");
}

fn learning_rate(out: &mut Vec<Problem>, key: &str, rate: &Schedule) {
    // It may come from nothing and end there.
    let fine = |v: f64| v.is_finite() && v >= 0.0;
    scheduled(out, key, rate, fine, "a finite number, at least 0");
    if rate.bounds().1 <= 0.0 {
        out.push(Problem::new(key, rate.bounds().1, "a finite number > 0"));
    }
}

fn alpha(out: &mut Vec<Problem>, key: &str, value: &Schedule) {
    let fine = |v: f64| (0.0..=1.0).contains(&v);
    scheduled(out, key, value, fine, "a number within 0..=1");
}

/// The shape of a schedule, and its values at every point.
fn scheduled(
    out: &mut Vec<Problem>,
    key: &str,
    value: &Schedule,
    fine: impl Fn(f64) -> bool,
    expected: &str,
) {
    for (k, value, expected) in value.problems() {
        out.push(Problem::new(format!("{key}.{k}"), value, expected));
    }
    let (low, high) = value.bounds();
    if !(fine(low) && fine(high)) {
        let (found, everywhere) = if matches!(value, Schedule::Constant(_)) {
            (low.to_string(), "")
        } else {
            (format!("{low}..{high}"), ", at every point of its schedule")
        };
        out.push(Problem::new(key, found, format!("{expected}{everywhere}")));
    }
}

fn steps(
    out: &mut Vec<Problem>,
    key: impl Fn(&str) -> String,
    (kind, momentum, clip): (crate::OptimizerKind, Option<f64>, Option<f64>),
) {
    if let Some(momentum) = momentum {
        if kind != crate::OptimizerKind::Sgd {
            let expected = "none: only optimizer = \"sgd\" has momentum";
            out.push(Problem::new(key("momentum"), momentum, expected));
        } else if !(0.0..1.0).contains(&momentum) {
            out.push(Problem::new(key("momentum"), momentum, "0 <= momentum < 1"));
        }
    }
    if let Some(clip) = clip.filter(|c| !(c.is_finite() && *c > 0.0)) {
        out.push(Problem::new(key("clip_norm"), clip, "a finite number > 0"));
    }
}

fn weight_decay(out: &mut Vec<Problem>, key: &str, decay: f64) {
    if !(decay.is_finite() && decay >= 0.0) {
        out.push(Problem::new(key, decay, "a finite number >= 0"));
    }
}

pub(crate) fn range(out: &mut Vec<Problem>, key: &str, value: u32, low: u32, high: u32) {
    if !(low..=high).contains(&value) {
        out.push(Problem::new(
            key,
            value,
            format!("a whole number from {low} to {high}"),
        ));
    }
}

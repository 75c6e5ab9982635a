//! The report of a run: what was measured of its models and what the coordinator counted.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use retort_data::{HeldOut, Part};
use retort_job::{GroupKind, Stream, Versions};
use retort_proto::pb;

use super::{Exit, Finished, Model, samples, text_bytes};
use crate::check::Checked;
use crate::cost;
use crate::failure::Failure;
use crate::report::metrics::{self, Bin, Comparison, Logits, MetricsError, SharedErrors};
use crate::report::{
    self, Audit, ClassRow, Cost, Curves, ExitRow, GroupCurve, Inherited, LeftOut, Metric, Point, Report,
    Verdict,
};

/// What a report is made from.
struct Material<'a> {
    checked: &'a Checked,
    finished: &'a [Finished],
    test: HeldOut,
}

pub(super) fn report(
    checked: &Checked,
    finished: &[Finished],
    audit: &Audit,
    wall_s: f64,
) -> Result<Report, Failure> {
    let material = Material {
        checked,
        finished,
        test: samples(&checked.dataset, Part::Test),
    };
    let mut students = material.students(GroupKind::Student)?;
    let baselines = material.students(GroupKind::Baseline)?;
    for student in &mut students {
        if let Some(alone) = report::baseline_of(&baselines, &student.name) {
            student.gain_over(alone);
        }
    }
    let teachers: Vec<report::Teacher> = checked
        .job
        .streams()
        .iter()
        .map(|t| material.teacher(t, audit))
        .collect::<Result<_, _>>()?;
    let groups = || student_groups(finished);
    let ledgers = || groups().filter_map(|g| g.ledger);
    let dataset = &checked.dataset;
    let train_s: f64 = finished.iter().map(|f| f.status.age_s - f.status.started_s).sum();
    let trained: u64 = groups()
        .filter_map(|g| g.totals.as_ref())
        .map(|t| t.samples)
        .sum();
    Ok(Report {
        run: report::Run {
            name: checked.job.run.name.clone(),
            seeds: finished.iter().map(|f| f.status.seed).collect(),
            wall_s,
            command: std::env::args().collect::<Vec<_>>().join(" "),
            retort: env!("CARGO_PKG_VERSION").to_owned(),
            job: toml::to_string(&checked.job).context("write the job")?,
            retuned: finished.iter().filter_map(|f| retuned(&f.status)).collect(),
        },
        dataset: report::Dataset {
            name: dataset.name().to_owned(),
            digest: dataset.digest().to_owned(),
            train: u64::from(dataset.train_len()),
            labelled: dataset.labelled().len() as u64,
            unlabelled: u64::from(dataset.unlabelled()),
            validation: u64::from(dataset.split(Part::Validation).len()),
            test: u64::from(dataset.split(Part::Test).len()),
            classes: dataset.classes() as u64,
            bad_rows: dataset.bad_rows().into(),
            targets_per_sample: dataset.rows() as u64,
            text_bytes_per_target: text_bytes(dataset)
                .map(|bytes| bytes as f64 / material.test.labels.len() as f64),
        },
        verdict: Verdict::new(&teachers, &students, &baselines),
        soft_targets: soft_targets(checked, finished),
        ledger: report::Ledger::new(
            audit,
            ledgers().map(|l| l.redelivered).sum(),
            ledgers().map(|l| l.rolled_back).sum(),
        ),
        sync: sync(finished),
        throughput: report::Throughput {
            samples_per_s: (train_s > 0.0 && trained > 0).then(|| trained as f64 / train_s),
        },
        machine: cost::machine(),
        teachers,
        students,
        baselines,
    })
}

fn retuned(status: &pb::RunStatus) -> Option<report::Retuned> {
    let tuned = status.alpha.is_some() || status.temperature.is_some();
    tuned.then_some(report::Retuned {
        seed: status.seed,
        alpha: status.alpha,
        temperature: status.temperature,
    })
}

/// Status of every student group of every seed.
fn student_groups(finished: &[Finished]) -> impl Iterator<Item = &pb::GroupStatus> {
    finished
        .iter()
        .flat_map(|f| f.status.groups.iter().filter(|g| g.kind == "student"))
}

/// The final models of one group, seed by seed.
fn models<'a>(finished: &'a [Finished], name: &'a str) -> impl Iterator<Item = &'a Model> {
    finished
        .iter()
        .filter_map(move |f| f.models.iter().find(|m| m.name == name))
}

/// Whose final model a teacher's is: that of the group whose states it was, else the one of its own name.
fn model_of(checked: &Checked, teacher: &str) -> String {
    let found = checked.job.streams().into_iter().find(|s| s.name == teacher);
    match found.map(|s| s.versions) {
        Some(Versions::Last(of) | Versions::EpochEnds(of)) => of,
        _ => teacher.to_owned(),
    }
}

/// The class that each model names for each target of the test data, by the model's name, then by seed.
pub(super) fn predictions(finished: &[Finished]) -> BTreeMap<&str, Vec<Vec<usize>>> {
    let mut named: BTreeMap<&str, Vec<Vec<usize>>> = BTreeMap::new();
    for model in finished.iter().flat_map(|f| &f.models) {
        let classes = model.export.card.classes.max(1);
        let tops = model.logits.chunks_exact(classes).map(metrics::top_class);
        named.entry(&model.name).or_default().push(tops.collect());
    }
    named
}

/// Where the time of a group's replicas went, over all seeds.
fn time(finished: &[Finished], group: &str) -> Option<report::Time> {
    let groups = finished.iter().flat_map(|f| &f.status.groups);
    let totals = groups
        .filter(|g| g.name == group)
        .filter_map(|g| g.totals.as_ref());
    let mut seconds = [0.0; 6];
    for total in totals {
        for (sum, more) in seconds.iter_mut().zip(&total.spent) {
            *sum += more;
        }
    }
    report::Time::of(seconds)
}

fn exits(models: &[&Model]) -> Vec<ExitRow> {
    let first = models.first().map_or(&[][..], |m| m.exits.as_slice());
    let row = |(i, exit): (usize, &Exit)| ExitRow {
        at: exit.at,
        parameters: exit.parameters as u64,
        flops_per_sample: exit.flops,
        test_accuracy: metric(models, |m| m.exits[i].accuracy),
    };
    first.iter().enumerate().map(row).collect()
}

fn metric(models: &[&Model], value: impl Fn(&Model) -> f64) -> Metric {
    models.iter().map(|m| value(m)).collect::<Vec<_>>().into()
}

/// BLAKE3 of each model's weights, as its export has them.
fn digests(models: &[&Model]) -> Vec<String> {
    let digest = |m: &&Model| blake3::hash(&m.export.weights).to_hex().to_string();
    models.iter().map(digest).collect()
}

/// A student's model beside its teacher's of the same seed.
struct Pair {
    compared: Comparison,
    kl_at_temperature: f64,
    /// By label.
    shared: Vec<SharedErrors>,
}

impl Pair {
    fn shared(&self) -> SharedErrors {
        self.shared.iter().copied().sum()
    }
}

impl Material<'_> {
    fn students(&self, kind: GroupKind) -> Result<Vec<report::Student>, Failure> {
        let groups = self.checked.job.groups();
        let named = groups.iter().filter(|g| g.kind == kind);
        named.map(|g| self.student(&g.name)).collect()
    }

    fn student(&self, name: &str) -> Result<report::Student, Failure> {
        // A baseline is held against the teacher that it went without.
        let base = name.split('@').next().unwrap_or(name);
        let taught = self.checked.job.group(base).context("a group of a student")?;
        let teacher = taught.teachers.first().map(|m| m.name.as_str());
        let model = teacher.map(|t| model_of(self.checked, t));
        // What softens at the end, where it changes.
        let temperature = taught.temperature.at(1.0);
        let models: Vec<&Model> = models(self.finished, name).collect();
        let first = *models.first().context("a run has a model of each group")?;
        let pairs: Vec<Pair> = models
            .iter()
            .zip(model.iter().flat_map(|m| self::models(self.finished, m)))
            .map(|(mine, theirs)| self.pair(mine, theirs, temperature))
            .collect::<Result<_, _>>()
            .context("compare with the teacher")?;
        let compare = |value: fn(&Pair) -> f64| Metric::of(pairs.iter().map(|p| Some(value(p))));
        let validation = |m: &&Model| m.export.card.metrics.get("validation_accuracy").copied();
        Ok(report::Student {
            name: name.to_owned(),
            parameters: first.export.card.parameters as u64,
            bytes: first.export.weights.len() as u64,
            flops_per_sample: first.export.card.spec().flops(),
            test_accuracy: metric(&models, |m| m.test.accuracy),
            test_nll: metric(&models, |m| m.test.nll),
            test_perplexity: self.perplexity(&models),
            test_bits_per_byte: self.bits_per_byte(&models),
            ece: metric(&models, |m| m.test.ece),
            compared_with: teacher.map(str::to_owned),
            agreement_with_teacher: compare(|p| p.compared.agreement),
            kl_to_teacher: compare(|p| p.compared.kl),
            kl_to_teacher_at_temperature: compare(|p| p.kl_at_temperature),
            temperature: teacher.map(|_| temperature),
            inherited: Inherited::of(&pairs.iter().map(Pair::shared).collect::<Vec<_>>()),
            validation_accuracy: Metric::of(models.iter().map(validation)),
            churn: self.churn(&models)?,
            cost: if first.kind == Some(GroupKind::Baseline) {
                None
            } else {
                self.cost(first)
            },
            weights_blake3: digests(&models),
            time: time(self.finished, name),
            exits: exits(&models),
            left_out: self.left_out(&models).context("correct the bias")?,
            per_class: self.classes(&models, &pairs),
        })
    }

    /// Of language models.
    fn perplexity(&self, models: &[&Model]) -> Option<Metric> {
        let tells_next = self.checked.dataset.tells_next();
        tells_next.then(|| metric(models, |m| m.test.perplexity()))
    }

    /// Of language models on texts that their tokens tell whole.
    fn bits_per_byte(&self, models: &[&Model]) -> Option<Metric> {
        let bytes = text_bytes(&self.checked.dataset)?;
        let targets = self.test.labels.len();
        Some(metric(models, |m| m.test.bits_per_byte(targets, bytes)))
    }

    fn left_out(&self, models: &[&Model]) -> Result<Option<LeftOut>, MetricsError> {
        let (classes, without) = (
            self.checked.dataset.classes(),
            &self.checked.job.dataset.without_classes,
        );
        let labels = samples(&self.checked.dataset, Part::Validation).labels;
        if without.is_empty() || labels.is_empty() {
            return Ok(None);
        }
        let each = models.iter().map(|model| {
            let bias = Logits::new(&model.validation, classes)?.best_bias(&labels, without)?;
            let test = Logits::new(&model.logits, classes)?;
            let (before, _) = test.accuracy_with_bias(&self.test.labels, without, 0.0)?;
            let (after, all) = test.accuracy_with_bias(&self.test.labels, without, bias)?;
            Ok((before, after, all, bias))
        });
        let each: Vec<_> = each.collect::<Result<_, MetricsError>>()?;
        Ok(Some(LeftOut {
            accuracy: Metric::of(each.iter().map(|e| e.0)),
            corrected: Metric::of(each.iter().map(|e| e.1)),
            test_accuracy: each.iter().map(|e| e.2).collect::<Vec<_>>().into(),
            bias: each.iter().map(|e| e.3).collect::<Vec<_>>().into(),
        }))
    }

    fn pair(&self, mine: &Model, theirs: &Model, temperature: f64) -> Result<Pair, MetricsError> {
        let classes = self.checked.dataset.classes();
        let (mine, theirs) = (
            Logits::new(&mine.logits, classes)?,
            Logits::new(&theirs.logits, classes)?,
        );
        Ok(Pair {
            compared: mine.compare(&theirs, &self.test.labels)?,
            kl_at_temperature: mine.kl(&theirs, temperature)?,
            shared: mine.shared_errors(&theirs, &self.test.labels)?,
        })
    }

    fn classes(&self, models: &[&Model], pairs: &[Pair]) -> Vec<ClassRow> {
        let names = self.checked.dataset.class_names().iter().enumerate();
        let row = |(c, class): (usize, &String)| ClassRow {
            class: class.clone(),
            accuracy: Metric::of(models.iter().map(|m| m.test.per_class[c].share)),
            agreement: Metric::of(pairs.iter().map(|p| p.compared.per_class[c].share)),
            gain: None,
            inherited: Inherited::of(&pairs.iter().map(|p| p.shared[c]).collect::<Vec<_>>()),
            support: models.first().map_or(0, |m| m.test.per_class[c].support),
        };
        names.map(row).collect()
    }

    fn teacher(&self, teacher: &Stream, audit: &Audit) -> Result<report::Teacher, Failure> {
        let name = &teacher.name;
        let model = model_of(self.checked, name);
        let models: Vec<&Model> = models(self.finished, &model).collect();
        let first = *models.first().context("a run has a model of each teacher")?;
        let (versions, versions_trained_on) = versions(self.finished, teacher, audit);
        Ok(report::Teacher {
            name: name.clone(),
            parameters: first.export.card.parameters as u64,
            bytes: first.export.weights.len() as u64,
            flops_per_sample: first.export.card.spec().flops(),
            test_accuracy: metric(&models, |m| m.test.accuracy),
            test_nll: metric(&models, |m| m.test.nll),
            test_perplexity: self.perplexity(&models),
            test_bits_per_byte: self.bits_per_byte(&models),
            ece: metric(&models, |m| m.test.ece),
            churn: self.churn(&models)?,
            cost: self.cost(first),
            weights_blake3: digests(&models),
            versions,
            versions_trained_on,
        })
    }

    fn churn(&self, models: &[&Model]) -> Result<Option<f64>, Failure> {
        let tops = |m: &&Model| Ok(Logits::new(&m.logits, self.checked.dataset.classes())?.top_classes());
        let tops: Result<Vec<_>, MetricsError> = models.iter().map(tops).collect();
        Ok(metrics::churn(&tops.context("compare seeds")?))
    }

    fn cost(&self, model: &Model) -> Option<Cost> {
        cost::measure(&model.export, &self.test.inputs)
    }
}

/// A teacher's versions, summed over seeds: activated ones, and distinct ones that students trained on.
fn versions(finished: &[Finished], teacher: &Stream, audit: &Audit) -> (u64, u64) {
    let name = &teacher.name;
    let statuses = || {
        finished
            .iter()
            .flat_map(|f| f.status.teachers.iter().filter(|t| t.name == *name))
    };
    let trained_on = finished.iter().map(|f| {
        let by_student = audit.teacher_versions(&f.status.run, "student");
        by_student.get(name).map_or(0, |versions| versions.len() as u64)
    });
    // A teacher that nobody was taught by was not served: its versions are the published ones.
    let published = finished
        .iter()
        .flat_map(|f| f.status.groups.iter().filter(|g| g.name == *name));
    let versions = match &teacher.versions {
        Versions::Every(_) if statuses().next().is_none() => {
            published.filter_map(|g| g.version).map(|v| v + 1).sum()
        }
        _ => statuses().map(|t| t.activations).sum(),
    };
    (versions, trained_on.sum())
}

fn soft_targets(checked: &Checked, finished: &[Finished]) -> report::SoftTargets {
    let totals: Vec<pb::TrainingSums> = student_groups(finished)
        .filter_map(|g| g.totals.clone())
        .collect();
    let taught: u64 = totals.iter().map(|t| t.taught).sum();
    let has_teachers =
        |g: &&pb::GroupStatus| checked.job.group(&g.name).is_some_and(|g| !g.teachers.is_empty());
    let trained = student_groups(finished)
        .filter(has_teachers)
        .filter_map(|g| g.totals.as_ref());
    let trained: u64 = trained.map(|t| t.samples).sum();
    let used = checked.job.students.iter().any(|s| !s.teachers.is_empty());
    let encoding = checked.job.distillation.encoding(checked.dataset.classes());
    let bytes: u64 = totals.iter().map(|t| t.frame_bytes).sum();
    let targets = taught * checked.dataset.rows() as u64;
    report::SoftTargets {
        samples: taught,
        frames: totals.iter().map(|t| t.frames).sum(),
        bytes,
        bytes_per_target: (targets > 0).then(|| bytes as f64 / targets as f64),
        samples_without: trained.saturating_sub(taught),
        samples_by_staleness: std::array::from_fn(|i| {
            totals
                .iter()
                .map(|t| t.staleness.get(i).copied().unwrap_or(0))
                .sum()
        }),
        encoding: used.then(|| encoding.to_string()),
        temperature: used.then(|| checked.job.distillation.temperature.at(1.0)),
        max_staleness_seen: totals.iter().map(|t| t.max_staleness).max().filter(|_| used),
        teacher_gradient_share: (taught > 0)
            .then(|| totals.iter().map(|t| t.gradient_share).sum::<f64>() / taught as f64),
        rejected: student_groups(finished)
            .flat_map(|g| g.rejected_frames.values())
            .sum(),
    }
}

fn sync(finished: &[Finished]) -> report::Sync {
    let totals = || student_groups(finished).filter_map(|g| g.totals.as_ref());
    report::Sync {
        rounds: student_groups(finished).map(|g| g.round).sum(),
        bytes: totals().map(|t| t.exchanged_bytes).sum(),
        seconds: totals().map(|t| t.sync_seconds).sum(),
    }
}

pub(super) fn curves(finished: &[Finished]) -> Curves {
    let point = |p: &pb::CurvePoint| Point {
        step: p.step,
        positions: p.positions,
        epoch: p.epoch,
        hard_loss: p.hard_loss,
        kl: p.kl,
        feature_loss: p.feature_loss,
        held_out_loss: p.held_out_loss,
        held_out_accuracy: p.held_out_accuracy,
        alpha: p.alpha,
        teacher_version: p.teacher_version,
        gradient_share: p.gradient_share,
        samples_per_s: p.samples_per_s,
        replicas: p.replicas,
        staleness: p.staleness,
    };
    let groups = finished.iter().flat_map(|f| {
        f.status.groups.iter().map(move |g| GroupCurve {
            run: format!("seed {}", f.status.seed),
            group: g.name.clone(),
            kind: g.kind.clone(),
            points: g.curve.iter().map(point).collect(),
        })
    });
    Curves {
        groups: groups.collect(),
    }
}

pub(super) fn reliability(finished: &[Finished]) -> Vec<(String, Vec<Bin>)> {
    let names: BTreeSet<&str> = finished
        .iter()
        .flat_map(|f| f.models.iter().map(|m| m.name.as_str()))
        .collect();
    names
        .into_iter()
        .map(|name| {
            let bins: Vec<Vec<Bin>> = models(finished, name).map(|m| m.test.bins.clone()).collect();
            (name.to_owned(), metrics::pool(&bins))
        })
        .collect()
}

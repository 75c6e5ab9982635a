//! After the run: its models are fetched, evaluated on the test data, exported and reported.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use retort_data::{Dataset, Part};
use retort_job::{GroupKind, Source};
use retort_models::{Card, Choice, Classifier, Export};
use retort_proto::pb;
use tonic::transport::Channel;

use crate::check::Checked;
use crate::failure::{Failure, patiently};
use crate::report::metrics::{self, Bin, Comparison, Evaluation, Logits};
use crate::report::{self, ClassRow, Curves, GroupCurve, Metric, Point, Report, html};

/// One ended run with its final models.
pub(crate) struct Finished {
    status: pb::RunStatus,
    models: Vec<Model>,
}

/// A final model, measured on the test data.
struct Model {
    name: String,
    /// `None`: a fixed teacher, which no group trained.
    kind: Option<GroupKind>,
    export: Export,
    logits: Vec<f32>,
    test: Evaluation,
}

/// Inputs and labels of a part of the data, without augmentation.
pub(crate) fn samples(dataset: &Dataset, part: Part) -> (Vec<f32>, Vec<u32>) {
    let split = dataset.split(part);
    let len = dataset.shape().len();
    let mut inputs = vec![0f32; split.len() as usize * len];
    for (i, out) in (0..split.len()).zip(inputs.chunks_exact_mut(len)) {
        split.write(i, out);
    }
    (inputs, (0..split.len()).map(|i| split.label(i)).collect())
}

/// Fetches and measures the final models of a run.
pub(crate) async fn gather(
    coordinator: &str,
    checked: &Checked,
    status: pb::RunStatus,
) -> Result<Finished, Failure> {
    let channel = patiently(|| async { Ok(retort_client::reach(coordinator).await?) }).await?;
    let (inputs, labels) = samples(&checked.dataset, Part::Test);
    let mut models = Vec::new();
    for group in checked.job.groups() {
        let export = patiently(|| fetch(channel.clone(), &status.run, &group.name)).await?;
        models.push(measure(
            checked,
            (group.name, Some(group.kind)),
            export,
            (&inputs, &labels),
        )?);
    }
    for (name, export) in &checked.fixed {
        let export = Export {
            card: export.card.clone(),
            weights: export.weights.clone(),
        };
        models.push(measure(
            checked,
            (name.clone(), None),
            export,
            (&inputs, &labels),
        )?);
    }
    Ok(Finished { status, models })
}

async fn fetch(channel: Channel, run: &str, group: &str) -> Result<Export, Failure> {
    let mut client = retort_client::versions(channel);
    let card = retort_client::fetch(&mut client, (run, group), None, "model.json").await?;
    let weights = retort_client::fetch(&mut client, (run, group), None, "model.safetensors").await?;
    let card: Card = serde_json::from_slice(&card.bytes).context("model card")?;
    let export = Export {
        card,
        weights: weights.bytes.to_vec(),
    };
    Ok(export.without_projection().context("model weights")?)
}

fn measure(
    checked: &Checked,
    (name, kind): (String, Option<GroupKind>),
    mut export: Export,
    (inputs, labels): (&[f32], &[u32]),
) -> Result<Model, Failure> {
    let device = Choice::Flex.open().context("open device")?;
    let mut model =
        Classifier::from_parts(&export.card.spec(), &export.weights, &device).context("load model")?;
    let logits = model
        .logits(inputs, labels.len())
        .with_context(|| format!("evaluate {name}"))?;
    let test = Logits::new(&logits, checked.dataset.classes())
        .and_then(|l| l.evaluate(labels))
        .with_context(|| format!("evaluate {name}"))?;
    let (inputs, labels) = samples(&checked.dataset, Part::Validation);
    if !labels.is_empty() {
        let e = model
            .evaluate(&inputs, &labels)
            .with_context(|| format!("evaluate {name}"))?;
        export
            .card
            .metrics
            .insert("validation_accuracy".into(), e.accuracy);
    }
    export.card.metrics.insert("test_accuracy".into(), test.accuracy);
    export.card.metrics.insert("test_nll".into(), test.nll);
    export.card.metrics.insert("ece".into(), test.ece);
    Ok(Model {
        name,
        kind,
        export,
        logits,
        test,
    })
}

/// Copies a run's manifests (and newest files) from a standing fleet, so that `audit` works here.
pub(crate) async fn mirror(coordinator: &str, status: &pb::RunStatus, out: &Path) -> Result<(), Failure> {
    let channel = retort_client::reach(coordinator).await?;
    let mut client = retort_client::versions(channel);
    for group in &status.groups {
        let request = pb::ListVersionsRequest {
            run: status.run.clone(),
            group: group.name.clone(),
        };
        let versions = client.list(request).await?.into_inner().versions;
        let newest = versions.last().map(|v| v.version);
        for version in versions {
            let folder = retort_coordinator::checkpoint_dir(out, &status.run, &group.name, version.version);
            std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            write(&folder.join("manifest.json"), version.manifest_json.as_bytes())?;
            if Some(version.version) != newest {
                continue;
            }
            for file in ["model.safetensors", "model.json", "optimizer.bin"] {
                let at = (status.run.as_str(), group.name.as_str());
                let fetched = retort_client::fetch(&mut client, at, newest, file)
                    .await
                    .context("fetch version")?;
                write(&folder.join(file), &fetched.bytes)?;
            }
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    Ok(std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))?)
}

/// Writes exports and reports, and says the verdict.
pub(crate) fn finish(
    checked: &Checked,
    finished: Vec<Finished>,
    (out, wall_s): (&Path, f64),
    json: bool,
) -> Result<(), Failure> {
    export_models(&finished, out)?;
    let audit = report::audit(out).context("audit")?;
    let report = compose(checked, &finished, &audit, wall_s)?;
    let text = report.to_json();
    write(&out.join("report.json"), text.as_bytes())?;
    let page = html::render(&report, &curves(&finished), &reliability(&finished));
    write(&out.join("report.html"), page.as_bytes())?;
    say(&report, out, json.then_some(text.as_str()));
    if !audit.ok() {
        return Err(Failure::Run(anyhow::anyhow!("the audit found faults:\n{audit}")));
    }
    no_silence(checked, &report)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]
fn say(report: &Report, out: &Path, json: Option<&str>) {
    if let Some(json) = json {
        print!("{json}");
        return;
    }
    let row = |name: &str, accuracy: &Metric, parameters: u64| {
        let spread = if accuracy.values.len() > 1 {
            format!(" ± {:.2}", accuracy.sd * 100.0)
        } else {
            String::new()
        };
        println!(
            "  {name:20} {:6.2}{spread} %  {parameters:>9} parameters",
            accuracy.mean * 100.0
        );
    };
    println!("test accuracy");
    for t in &report.teachers {
        row(&t.name, &t.test_accuracy, t.parameters);
    }
    for s in report.students.iter().chain(&report.baselines) {
        row(&s.name, &s.test_accuracy, s.parameters);
    }
    println!("{}", report.verdict.text);
    let l = &report.ledger;
    println!(
        "audit: {} samples, {} committed, {} quarantined, {} duplicates, {} lost",
        l.samples, l.committed, l.quarantined, l.duplicates, l.lost
    );
    eprintln!("report: {}", out.join("report.html").display());
}

/// A run whose teachers' signal is missing fails loudly (P10).
fn no_silence(checked: &Checked, report: &Report) -> Result<(), Failure> {
    let taught = checked.job.students.iter().any(|s| !s.teachers.is_empty());
    if taught && report.soft_targets.samples == 0 {
        return Err(Failure::Run(anyhow::anyhow!(
            "students have teachers, but no soft target reached their loss"
        )));
    }
    Ok(())
}

fn export_models(finished: &[Finished], out: &Path) -> Result<(), Failure> {
    for (i, run) in finished.iter().enumerate() {
        for model in &run.models {
            let kind = match model.kind {
                Some(GroupKind::Student) => "students",
                Some(GroupKind::Baseline) => "baselines",
                Some(GroupKind::Teacher) | None => "teachers",
            };
            let folder = out.join(kind).join(&model.name);
            let mut folders = Vec::new();
            if i == 0 {
                folders.push(folder.clone());
            }
            if finished.len() > 1 {
                folders.push(folder.join(format!("seed-{}", run.status.seed)));
            }
            for folder in folders {
                std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
                model
                    .export
                    .save(&folder)
                    .with_context(|| format!("export {}", model.name))?;
            }
        }
    }
    Ok(())
}

fn compose(
    checked: &Checked,
    finished: &[Finished],
    audit: &report::Audit,
    wall_s: f64,
) -> Result<Report, Failure> {
    let (_, labels) = samples(&checked.dataset, Part::Test);
    let named = |kind: GroupKind| {
        let groups = checked.job.groups();
        groups
            .into_iter()
            .filter(move |g| g.kind == kind)
            .map(|g| g.name)
            .collect::<Vec<_>>()
    };
    let students = named(GroupKind::Student)
        .iter()
        .map(|n| student(checked, finished, n, &labels))
        .collect::<Result<Vec<_>, _>>()?;
    let baselines = named(GroupKind::Baseline)
        .iter()
        .map(|n| student(checked, finished, n, &labels))
        .collect::<Result<Vec<_>, _>>()?;
    let teachers: Vec<report::Teacher> = checked
        .job
        .teachers
        .iter()
        .map(|t| teacher(finished, t, audit))
        .collect();
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
        },
        dataset: report::Dataset {
            name: dataset.name().to_owned(),
            digest: dataset.digest().to_owned(),
            train: u64::from(dataset.train_len()),
            labelled: dataset.labelled().len() as u64,
            validation: u64::from(dataset.split(Part::Validation).len()),
            test: u64::from(dataset.split(Part::Test).len()),
            classes: dataset.classes() as u64,
        },
        verdict: report::Verdict::new(&teachers, &students, &baselines),
        soft_targets: soft_targets(checked, finished),
        ledger: report::Ledger::new(
            audit,
            ledgers().map(|l| l.redelivered).sum(),
            ledgers().map(|l| l.rolled_back).sum(),
        ),
        throughput: report::Throughput {
            samples_per_s: (train_s > 0.0 && trained > 0).then(|| trained as f64 / train_s),
        },
        teachers,
        students,
        baselines,
    })
}

/// Status of every student group of every seed.
fn student_groups(finished: &[Finished]) -> impl Iterator<Item = &pb::GroupStatus> {
    finished
        .iter()
        .flat_map(|f| f.status.groups.iter().filter(|g| g.kind == "student"))
}

fn models<'a>(finished: &'a [Finished], name: &'a str) -> impl Iterator<Item = &'a Model> {
    finished
        .iter()
        .filter_map(move |f| f.models.iter().find(|m| m.name == name))
}

fn metric<'a>(finished: &'a [Finished], name: &'a str, value: impl Fn(&Model) -> f64) -> Metric {
    models(finished, name).map(value).collect::<Vec<_>>().into()
}

fn student(
    checked: &Checked,
    finished: &[Finished],
    name: &str,
    labels: &[u32],
) -> Result<report::Student, Failure> {
    let base = name.split('@').next().unwrap_or(name);
    let config = checked
        .job
        .students
        .iter()
        .find(|s| s.name == base)
        .context("a group of a student")?;
    // Agreement is with the first teacher of the mixture, for the baseline as well.
    let teacher = config.teachers.first().map(|m| m.name.as_str());
    let classes = checked.dataset.classes();
    let mut comparisons: Vec<Comparison> = Vec::new();
    if let Some(teacher) = teacher {
        for (mine, theirs) in models(finished, name).zip(models(finished, teacher)) {
            let compared = Logits::new(&mine.logits, classes)
                .and_then(|m| m.compare(&Logits::new(&theirs.logits, classes)?, labels))
                .context("compare with the teacher")?;
            comparisons.push(compared);
        }
    }
    let compare = |value: fn(&Comparison) -> f64| Metric::of(comparisons.iter().map(|c| Some(value(c))));
    let first = models(finished, name)
        .next()
        .context("a run has a model of each group")?;
    let validation = |m: &Model| m.export.card.metrics.get("validation_accuracy").copied();
    let per_class = checked
        .dataset
        .class_names()
        .iter()
        .enumerate()
        .map(|(c, class)| ClassRow {
            class: class.clone(),
            accuracy: Metric::of(models(finished, name).map(|m| m.test.per_class[c].share)),
            agreement: Metric::of(comparisons.iter().map(|x| x.per_class[c].share)),
            support: first.test.per_class[c].support,
        });
    Ok(report::Student {
        name: name.to_owned(),
        parameters: first.export.card.parameters as u64,
        bytes: first.export.weights.len() as u64,
        test_accuracy: metric(finished, name, |m| m.test.accuracy),
        test_nll: metric(finished, name, |m| m.test.nll),
        ece: metric(finished, name, |m| m.test.ece),
        agreement_with_teacher: compare(|c| c.agreement),
        kl_to_teacher: compare(|c| c.kl),
        validation_accuracy: Metric::of(models(finished, name).map(validation)),
        per_class: per_class.collect(),
    })
}

fn teacher(finished: &[Finished], teacher: &retort_job::Teacher, audit: &report::Audit) -> report::Teacher {
    let name = &teacher.name;
    let statuses = || {
        finished
            .iter()
            .flat_map(|f| f.status.teachers.iter().filter(|t| t.name == *name))
    };
    let trained_on: u64 = finished
        .iter()
        .map(|f| {
            let by_student = audit.teacher_versions(&f.status.run, "student");
            let versions: BTreeSet<u64> = by_student
                .get(name)
                .into_iter()
                .flat_map(|v| v.keys().copied())
                .collect();
            versions.len() as u64
        })
        .sum();
    let first = models(finished, name).next();
    // A teacher that nobody was taught by was not served: its versions are the published ones.
    let published = finished
        .iter()
        .flat_map(|f| f.status.groups.iter().filter(|g| g.name == *name));
    let versions = match &teacher.source {
        Source::Trained { .. } if statuses().next().is_none() => {
            published.filter_map(|g| g.version).map(|v| v + 1).sum()
        }
        _ => statuses().map(|t| t.activations).sum(),
    };
    report::Teacher {
        name: name.clone(),
        parameters: first.map_or(0, |m| m.export.card.parameters as u64),
        bytes: first.map_or(0, |m| m.export.weights.len() as u64),
        test_accuracy: metric(finished, name, |m| m.test.accuracy),
        versions,
        versions_trained_on: trained_on,
    }
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
    report::SoftTargets {
        samples: taught,
        frames: totals.iter().map(|t| t.frames).sum(),
        bytes: totals.iter().map(|t| t.frame_bytes).sum(),
        samples_without: trained.saturating_sub(taught),
        samples_by_staleness: std::array::from_fn(|i| {
            totals
                .iter()
                .map(|t| t.staleness.get(i).copied().unwrap_or(0))
                .sum()
        }),
        encoding: used.then(|| encoding.to_string()),
        temperature: used.then_some(checked.job.distillation.temperature),
        max_staleness_seen: totals.iter().map(|t| t.max_staleness).max().filter(|_| used),
        teacher_gradient_share: (taught > 0)
            .then(|| totals.iter().map(|t| t.gradient_share).sum::<f64>() / taught as f64),
        rejected: student_groups(finished)
            .flat_map(|g| g.rejected_frames.values())
            .sum(),
    }
}

fn curves(finished: &[Finished]) -> Curves {
    let point = |p: &pb::CurvePoint| Point {
        step: p.step,
        positions: p.positions,
        epoch: p.epoch,
        hard_loss: p.hard_loss,
        kl: p.kl,
        held_out_loss: p.held_out_loss,
        held_out_accuracy: p.held_out_accuracy,
        alpha: p.alpha,
        teacher_version: p.teacher_version,
        gradient_share: p.gradient_share,
        samples_per_s: p.samples_per_s,
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

fn reliability(finished: &[Finished]) -> Vec<(String, Vec<Bin>)> {
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

//! After the run: its models are fetched, evaluated on the test data, exported and reported.

mod compose;

use std::path::Path;

use anyhow::Context;
use retort_client::Channel;
use retort_coordinator_core::manifest::Manifest;
use retort_data::{Dataset, HeldOut, Part};
use retort_job::{GroupKind, Versions};
use retort_models::foreign::RemoteError;
use retort_models::{Card, Classifier, ClassifierError, Export};
use retort_proto::pb;
use retort_teacher_server::classifier;

use crate::check::Checked;
use crate::coordinator::Coordinator;
use crate::cost;
use crate::failure::{Failure, patiently};
use crate::follow::{Ended, Measuring};
use crate::report::metrics::{Evaluation, Logits};
use crate::report::{self, Metric, Report, html, markdown};

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
    /// Of each target.
    logits: Vec<f32>,
    /// Of the validation data.
    validation: Vec<f32>,
    test: Evaluation,
    exits: Vec<Exit>,
}

/// The model that ends at an exit.
struct Exit {
    at: u32,
    parameters: usize,
    flops: Option<u64>,
    accuracy: f64,
}

/// A part of the data, without augmentation.
pub(crate) fn samples(dataset: &Dataset, part: Part) -> HeldOut {
    dataset.split(part).held_out(u32::MAX)
}

/// Bytes of text that the targets of the test data stand for, where a byte's worth can be told.
pub(crate) fn text_bytes(dataset: &Dataset) -> Option<u64> {
    dataset.split(Part::Test).text_bytes().filter(|bytes| *bytes > 0)
}

/// Fetches and measures the final models of a run.
pub(crate) async fn gather(
    coordinator: &Coordinator,
    checked: &Checked,
    ended: Ended,
) -> Result<Finished, Failure> {
    let Ended { status, shown } = ended;
    let measuring = Measuring::new(shown);
    let channel = patiently(|| async { Ok(coordinator.reach().await?) }).await?;
    let test = samples(&checked.dataset, Part::Test);
    let mut models = Vec::new();
    for group in checked.job.groups() {
        measuring.say(&group.name);
        let export = patiently(|| fetch(channel.clone(), &status.run, &group.name)).await?;
        models.push(measure(checked, (group.name, Some(group.kind)), export, &test)?);
    }
    for average in averages(checked) {
        measuring.say(&average);
        let export = patiently(|| fetch(channel.clone(), &status.run, &average)).await?;
        models.push(measure(checked, (average, None), export, &test)?);
    }
    for (name, export) in &checked.fixed {
        measuring.say(name);
        // A teacher may be a model on a server, which may be away.
        let measured = patiently(|| async {
            let export = export.clone();
            measure(checked, (name.clone(), None), export, &test)
        });
        models.push(measured.await?);
    }
    Ok(Finished { status, models })
}

fn unevaluated(name: &str, error: ClassifierError) -> Failure {
    let away = matches!(error, ClassifierError::Remote(RemoteError::Away(_)));
    let error = anyhow::Error::new(error).context(format!("evaluate {name}"));
    if away {
        Failure::Away(error)
    } else {
        Failure::Run(error)
    }
}

/// Averages that somebody learned from: the coordinator made them.
fn averages(checked: &Checked) -> Vec<String> {
    let groups = checked.job.groups();
    let learns = |name: &str| groups.iter().any(|g| g.teachers.iter().any(|m| m.name == name));
    let streams = checked.job.streams().into_iter();
    let made = streams.filter(|s| matches!(s.versions, Versions::Average { .. }) && learns(&s.name));
    made.map(|s| s.name).collect()
}

async fn fetch(channel: Channel, run: &str, group: &str) -> Result<Export, Failure> {
    let mut client = retort_client::versions(channel);
    let card = retort_client::fetch(&mut client, (run, group), None, "model.json").await?;
    let weights = retort_client::fetch(&mut client, (run, group), None, "model.safetensors").await?;
    let card: Card = serde_json::from_slice(&card.bytes).context("model card")?;
    let export = Export::new(card, weights.bytes.to_vec());
    Ok(export.without_projection().context("model weights")?)
}

fn measure(
    checked: &Checked,
    (name, kind): (String, Option<GroupKind>),
    mut export: Export,
    samples: &HeldOut,
) -> Result<Model, Failure> {
    export.tokenizer = checked.dataset.tokenizer().map(<[u8]>::to_vec);
    let device = cost::DEVICE.open().context("open device")?;
    let mut model = classifier(&export.card.spec(), &export.weights, &device).context("load model")?;
    let logits = model.counted(samples).map_err(|e| unevaluated(&name, e))?;
    let test = Logits::new(&logits, checked.dataset.classes())
        .and_then(|l| l.evaluate(&samples.labels))
        .with_context(|| format!("evaluate {name}"))?;
    let exits = export.card.model.exits_at().iter().copied();
    let exits = exits.map(|at| {
        let cut = export.cut(at)?;
        let mut model = Classifier::from_parts(&cut.card.spec(), &cut.weights, &device)?;
        Ok(Exit {
            at,
            parameters: cut.card.parameters,
            flops: cut.card.spec().flops(),
            accuracy: model.evaluate(samples)?.accuracy,
        })
    });
    let exits = exits.collect::<Result<Vec<_>, ClassifierError>>();
    let exits = exits.with_context(|| format!("evaluate the exits of {name}"))?;
    let held_out = self::samples(&checked.dataset, Part::Validation);
    let validation = model.counted(&held_out).map_err(|e| unevaluated(&name, e))?;
    if !held_out.labels.is_empty() {
        let e = retort_models::Evaluation::new(&validation, &held_out.labels, checked.dataset.classes());
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
        validation,
        test,
        exits,
    })
}

/// Copies a run's manifests (and newest files) from a standing fleet, so that `audit` works here.
pub(crate) async fn mirror(
    coordinator: &Coordinator,
    status: &pb::RunStatus,
    out: &Path,
) -> Result<(), Failure> {
    let channel = coordinator.reach().await?;
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
            let manifest: Manifest = serde_json::from_str(&version.manifest_json).context("manifest")?;
            for file in manifest.files.keys() {
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
    let measuring = Measuring::new(true);
    measuring.say("what the models cost");
    let (report, audit) = write_reports(checked, &finished, (out, wall_s))?;
    drop(measuring);
    say(&report, out, json.then(|| report.to_json()).as_deref());
    sound(checked, &report, &audit)
}

/// The report for people.
pub(crate) const REPORT_PAGE: &str = "report.html";
/// The same in Markdown.
pub(crate) const REPORT_TEXT: &str = "report.md";
/// What was measured while a run trained, for programs: [`report::Curves`].
pub(crate) const CURVES: &str = "curves.json";
/// The class that each model names for each target of the test data, seed by seed.
pub(crate) const PREDICTIONS: &str = "predictions.json";

/// Writes exports, `report.json`, `report.html` and `report.md`, and what these leave out: curves and predictions.
pub(crate) fn write_reports(
    checked: &Checked,
    finished: &[Finished],
    (out, wall_s): (&Path, f64),
) -> Result<(Report, report::Audit), Failure> {
    export_models(finished, out)?;
    let audit = report::audit(out).context("audit")?;
    let report = compose::report(checked, finished, &audit, wall_s)?;
    write(&out.join("report.json"), report.to_json().as_bytes())?;
    let curves = compose::curves(finished);
    for (name, value) in [
        (CURVES, serde_json::to_value(&curves)),
        (PREDICTIONS, serde_json::to_value(compose::predictions(finished))),
    ] {
        let value = value.with_context(|| format!("write {name}"))?;
        write(&out.join(name), value.to_string().as_bytes())?;
    }
    let page = html::render(&report, &curves, &compose::reliability(finished));
    write(&out.join(REPORT_PAGE), page.as_bytes())?;
    write(&out.join(REPORT_TEXT), markdown::render(&report).as_bytes())?;
    Ok((report, audit))
}

/// Refuses a run whose audit found faults or whose teachers were not heard.
pub(crate) fn sound(checked: &Checked, report: &Report, audit: &report::Audit) -> Result<(), Failure> {
    if !audit.ok() {
        return Err(Failure::Run(anyhow::anyhow!("the audit found faults:\n{audit}")));
    }
    no_silence(checked, report)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's answer")]
fn say(report: &Report, out: &Path, json: Option<&str>) {
    if let Some(json) = json {
        print!("{json}");
        return;
    }
    let row = |name: &str, accuracy: &Metric, of_text: [&Option<Metric>; 2], parameters: u64| {
        let spread = if accuracy.values.len() > 1 {
            format!(" ± {:.2}", accuracy.sd * 100.0)
        } else {
            String::new()
        };
        let [perplexity, bits] = of_text.map(Option::as_ref);
        let perplexity = perplexity.map(|p| format!("  perplexity {:.3}", p.mean));
        let bits = bits.map(|b| format!(", {:.3} bits a byte", b.mean));
        println!(
            "  {name:20} {:6.2}{spread} %{}{}  {parameters:>9} parameters",
            accuracy.mean * 100.0,
            perplexity.unwrap_or_default(),
            bits.unwrap_or_default()
        );
    };
    println!("test accuracy");
    for t in &report.teachers {
        let of_text = [&t.test_perplexity, &t.test_bits_per_byte];
        row(&t.name, &t.test_accuracy, of_text, t.parameters);
    }
    for s in report.students.iter().chain(&report.baselines) {
        let of_text = [&s.test_perplexity, &s.test_bits_per_byte];
        row(&s.name, &s.test_accuracy, of_text, s.parameters);
    }
    println!("{}", report.verdict.text);
    let l = &report.ledger;
    println!(
        "audit: {} samples, {} committed, {} quarantined, {} duplicates, {} lost",
        l.samples, l.committed, l.quarantined, l.duplicates, l.lost
    );
    eprintln!("report: {}", out.join(REPORT_PAGE).display());
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

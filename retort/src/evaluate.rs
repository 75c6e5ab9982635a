//! `retort evaluate`: the report's measures of one exported model.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use retort_data::{Dataset, DatasetConfig, HeldOut, Part};
use retort_models::Export;
use retort_teacher_server::classifier;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::report::metrics::{Evaluation, Logits, MetricsError, SharedErrors};
use crate::report::{Cost, Machine};
use crate::{check, collect, cost};

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// Folder with model.safetensors (or model.onnx) and model.json, such as RUN/students/small.
    model: PathBuf,
    /// Job file whose data set to use; the run's own (RUN/job.toml) or the model card's unless given.
    #[arg(long)]
    job: Option<PathBuf>,
    /// Folder of another model to compare with, such as RUN/teachers/wide.
    #[arg(long)]
    teacher: Option<PathBuf>,
    /// Temperature to compare with the teacher at, beside 1.
    #[arg(long, requires = "teacher", value_name = "T")]
    temperature: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is said of a model; the names are those of `report.json`.
struct Measured {
    export: Export,
    dataset: Dataset,
    samples: usize,
    /// Of a language model.
    perplexity: Option<f64>,
    /// Of one on a text that its tokens tell whole.
    bits_per_byte: Option<f64>,
    test: Evaluation,
    compared: Option<Compared>,
    cost: Option<Cost>,
    machine: Machine,
}

struct Compared {
    with: String,
    agreement: f64,
    kl: f64,
    /// A temperature and the divergence at it.
    softened: Option<(f64, f64)>,
    shared: SharedErrors,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: &Args) -> Result<(), Failure> {
    if let Some(t) = args.temperature.filter(|t| !(t.is_finite() && *t > 0.0)) {
        return Err(Failure::input(format!("--temperature {t}: expected more than 0")));
    }
    let measured = measure(args)?;
    if args.json {
        println!("{:#}", measured.json());
    } else {
        print!("{}", measured.text());
    }
    Ok(())
}

fn measure(args: &Args) -> Result<Measured, Failure> {
    let export = Export::load(&args.model).map_err(Failure::input)?;
    let dataset = dataset_of(&export, &args.model, args.job.as_deref())?;
    fits(&export, &args.model, &dataset)?;
    let samples = collect::samples(&dataset, Part::Test);
    let logits = logits(&export, &samples)?;
    let mine = Logits::new(&logits, dataset.classes()).context("evaluate")?;
    let test = mine.evaluate(&samples.labels).context("evaluate")?;
    let compared = match &args.teacher {
        Some(folder) => {
            let teacher = Export::load(folder).map_err(Failure::input)?;
            fits(&teacher, folder, &dataset)?;
            let theirs = self::logits(&teacher, &samples)?;
            let theirs = Logits::new(&theirs, dataset.classes()).map_err(Failure::input)?;
            Some(
                compare(
                    (&mine, &theirs),
                    &samples.labels,
                    teacher.card.name,
                    args.temperature,
                )
                .map_err(Failure::input)?,
            )
        }
        None => None,
    };
    let cost = cost::measure(&export, &samples.inputs);
    Ok(Measured {
        export,
        samples: dataset.split(Part::Test).len() as usize,
        perplexity: dataset.tells_next().then(|| test.perplexity()),
        bits_per_byte: collect::text_bytes(&dataset)
            .map(|bytes| test.bits_per_byte(samples.labels.len(), bytes)),
        dataset,
        test,
        compared,
        cost,
        machine: cost::machine(),
    })
}

/// Refuses a model that is for other data.
fn fits(export: &Export, folder: &Path, dataset: &Dataset) -> Result<(), Failure> {
    let problems = check::mismatch("model", export, dataset).into_iter();
    let problems: Vec<String> = problems.map(|p| format!("{}: {p}", folder.display())).collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Failure::Input(problems.join("\n")))
    }
}

/// Of each target.
fn logits(export: &Export, samples: &HeldOut) -> Result<Vec<f32>, Failure> {
    let device = cost::DEVICE.open().context("open device")?;
    let mut model = classifier(&export.card.spec(), &export.weights, &device).map_err(Failure::input)?;
    model
        .counted(samples)
        .map_err(|e| Failure::input(format!("{}: {e}", export.card.name)))
}

fn compare(
    (mine, theirs): (&Logits<'_>, &Logits<'_>),
    labels: &[u32],
    with: String,
    temperature: Option<f64>,
) -> Result<Compared, MetricsError> {
    let compared = mine.compare(theirs, labels)?;
    let softened = temperature.map(|t| Ok((t, mine.kl(theirs, t)?))).transpose()?;
    Ok(Compared {
        with,
        agreement: compared.agreement,
        kl: compared.kl,
        softened,
        shared: mine.shared_errors(theirs, labels)?.into_iter().sum(),
    })
}

impl Measured {
    fn json(&self) -> Value {
        let card = &self.export.card;
        let names = self.dataset.class_names().iter();
        let per_class: Vec<Value> = names
            .zip(&self.test.per_class)
            .map(
                |(class, score)| json!({ "class": class, "accuracy": score.share, "support": score.support }),
            )
            .collect();
        let compared = self.compared.as_ref();
        let softened = compared.and_then(|c| c.softened);
        json!({
            "model": card.name,
            "dataset": self.dataset.name(),
            "samples": self.samples,
            "parameters": card.parameters,
            "bytes": self.export.weights.len(),
            "flops_per_sample": self.export.card.spec().flops(),
            "test_accuracy": self.test.accuracy,
            "test_nll": self.test.nll,
            "test_perplexity": self.perplexity,
            "test_bits_per_byte": self.bits_per_byte,
            "ece": self.test.ece,
            "compared_with": compared.map(|c| &c.with),
            "agreement_with_teacher": compared.map(|c| c.agreement),
            "kl_to_teacher": compared.map(|c| c.kl),
            "kl_to_teacher_at_temperature": softened.map(|(_, kl)| kl),
            "temperature": softened.map(|(t, _)| t),
            "inherited": compared.map(|c| json!({
                "errors": c.shared.errors,
                "shared": c.shared.shared,
                "expected": c.shared.expected,
                "excess": c.shared.excess(),
            })),
            "per_class": per_class,
            "cost": self.cost,
            "machine": self.machine,
        })
    }

    fn text(&self) -> String {
        let (card, test) = (&self.export.card, &self.test);
        let mut text = format!(
            "{} on {} test samples of {}: accuracy {:.4}, NLL {:.4}, ECE {:.4}\n",
            card.name,
            self.samples,
            self.dataset.name(),
            test.accuracy,
            test.nll,
            test.ece
        );
        if let Some(perplexity) = self.perplexity {
            let bits = self.bits_per_byte.map(|bits| format!(", {bits:.3} bits a byte"));
            text += &format!("perplexity {perplexity:.3} a token{}\n", bits.unwrap_or_default());
        }
        if let Some(c) = &self.compared {
            let softened = c
                .softened
                .map(|(t, kl)| format!(" (at temperature {t}: {kl:.4})"));
            text += &format!(
                "beside {}: agreement {:.4}, KL {:.4}{}; {} of {} mistakes are shared, {:.1} would be by chance\n",
                c.with,
                c.agreement,
                c.kl,
                softened.unwrap_or_default(),
                c.shared.shared,
                c.shared.errors,
                c.shared.expected
            );
        }
        text += &format!(
            "{} parameters, {} bytes\n",
            card.parameters,
            self.export.weights.len()
        );
        let Some(cost) = &self.cost else {
            return text;
        };
        let energy = cost.joules_per_1000.map_or_else(
            || "energy: not available on this machine".to_owned(),
            |j| format!("{j:.4} J for 1,000 predictions"),
        );
        text += &format!(
            "one prediction: {:.3} ms (median of {}; 95th percentile {:.3} ms); {:.0} samples/s in calls with {}; {energy}\n",
            cost.latency_ms, cost.latency_calls, cost.latency_p95_ms, cost.samples_per_s, cost.batch
        );
        let machine = &self.machine;
        let processor = machine.processor.as_deref().unwrap_or("an unnamed processor");
        text += &format!(
            "measured on {processor}, device {}, up to {} threads\n",
            machine.device, machine.threads
        );
        text
    }
}

/// The data set a model was made on: by an explicit job, its run's job, or the card's name.
fn dataset_of(export: &Export, model: &Path, job: Option<&Path>) -> Result<Dataset, Failure> {
    let of_run = model
        .ancestors()
        .skip(1)
        .map(|a| a.join("job.toml"))
        .find(|p| p.is_file());
    let (config, base, from) = match job.map(Path::to_owned).or(of_run) {
        Some(file) => {
            let job = retort_job::read(&file, &[]).map_err(Failure::input)?;
            let base = file.parent().unwrap_or(Path::new(".")).to_owned();
            (job.dataset, base, file.display().to_string())
        }
        None if export.card.dataset.name.is_empty() => {
            return Err(Failure::input(format!(
                "{}: its card names no data set: name a job with --job, whose data set to use",
                model.display()
            )));
        }
        None => {
            let config = DatasetConfig {
                name: Some(export.card.dataset.name.clone()),
                ..DatasetConfig::default()
            };
            (config, PathBuf::from("."), "the model card".into())
        }
    };
    let dataset = retort_stores::load(&config, &base, 0)
        .map_err(|e| Failure::input(format!("{from}: {:#}", anyhow::Error::new(e))))?;
    let made_on = &export.card.dataset;
    if !made_on.name.is_empty() && dataset.digest() != made_on.digest {
        return Err(Failure::input(format!(
            "the data set of {from} has digest {}, the model was made on {}: name the right job with --job",
            dataset.digest(),
            made_on.digest
        )));
    }
    Ok(dataset)
}

#[cfg(test)]
mod tests {
    use retort_models::{Card, DatasetReference, Device, Net, Preprocessing, Spec};

    use super::*;

    /// An untrained classifier of the digits.
    fn export(folder: &Path, hidden: u32) {
        let config = DatasetConfig {
            name: Some("digits".into()),
            ..DatasetConfig::default()
        };
        let dataset = retort_data::load(&config, Path::new("."), 0).unwrap();
        let spec = Spec {
            model: toml::from_str(&format!("architecture = 'mlp'\nhidden = [{hidden}]")).unwrap(),
            input: dataset.shape(),
            classes: dataset.classes(),
            preprocessing: Preprocessing::none(1),
            tokens: None,
            rows: 1,
            projection: None,
        };
        let net = Net::new(&spec, 7, &Device::flex()).unwrap();
        let reference = DatasetReference {
            name: "digits".into(),
            digest: dataset.digest().into(),
        };
        let card = Card::new(format!("h{hidden}"), &spec, net.parameters(), reference);
        let weights = net.to_safetensors();
        Export::new(card, weights).save(folder).unwrap();
    }

    fn args(model: &Path, teacher: Option<&Path>, temperature: Option<f64>) -> Args {
        Args {
            model: model.to_owned(),
            job: None,
            teacher: teacher.map(Path::to_owned),
            temperature,
            json: true,
        }
    }

    #[test]
    fn an_export_is_measured_by_itself_and_beside_another() {
        let folder = tempfile::tempdir().unwrap();
        let (small, large) = (folder.path().join("small"), folder.path().join("large"));
        export(&small, 4);
        export(&large, 16);

        let alone = measure(&args(&small, None, None)).unwrap();
        let json = alone.json();
        assert_eq!(
            (&json["samples"], &json["parameters"]),
            (&json!(300), &json!(310))
        );
        assert!(json["cost"]["latency_ms"].as_f64().unwrap() > 0.0);
        assert_eq!(json["inherited"], Value::Null);
        assert_eq!(json["per_class"].as_array().unwrap().len(), 10);
        let text = alone.text();
        assert!(
            text.starts_with("h4 on 300 test samples of digits: accuracy 0."),
            "{text}"
        );
        assert!(
            text.contains("one prediction: ") && !text.contains("beside"),
            "{text}"
        );

        let itself = measure(&args(&small, Some(&small), Some(4.0))).unwrap().json();
        assert_eq!(itself["test_accuracy"], json["test_accuracy"]);
        for (key, value) in [
            ("agreement_with_teacher", 1.0),
            ("kl_to_teacher", 0.0),
            ("kl_to_teacher_at_temperature", 0.0),
        ] {
            assert_eq!(itself[key], json!(value), "{key}");
        }
        assert_eq!(itself["inherited"]["shared"], itself["inherited"]["errors"]);

        let other = measure(&args(&small, Some(&large), Some(4.0))).unwrap().json();
        assert_eq!(
            (&other["compared_with"], &other["temperature"]),
            (&json!("h16"), &json!(4.0))
        );
        let kl = |key: &str| other[key].as_f64().unwrap();
        assert!(
            kl("kl_to_teacher") > kl("kl_to_teacher_at_temperature"),
            "softer is nearer"
        );
    }

    #[test]
    fn a_temperature_must_be_above_zero() {
        let failure = command(&args(Path::new("none"), Some(Path::new("none")), Some(0.0)));
        assert!(matches!(failure, Err(Failure::Input(text)) if text.contains("--temperature 0")));
    }
}

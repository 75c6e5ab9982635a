//! A BERT of Hugging Face's as a classifier: the encoder as it is, and behind it one fitted to a job's labelled samples.

use std::path::Path;

use anyhow::bail;
use retort_data::{Dataset, Encoder, HeldOut, Part, TOKENIZER_FILE, Tokens};
use retort_models::bert::{Config, Ids};
use retort_models::probe::{self, Probe, Samples};
use retort_models::{Card, Classifier, DatasetReference, Export, Net, Preprocessing, Spec};

use super::Args;
use crate::collect;
use crate::failure::Failure;

/// The folder's content, checked, and what else to say of it.
pub(super) fn import(args: &Args) -> Result<(Export, String), Failure> {
    let folder = Path::new(&args.model);
    if let Some(card) = &args.card {
        return Err(Failure::input(format!(
            "--card {}: expected none, {} is a folder: its classifier comes of a job (--job JOB.toml)",
            card.display(),
            folder.display()
        )));
    }
    let Some(job) = &args.job else {
        return Err(Failure::input(format!(
            "--job: {} is an encoder without a classifier: expected a job with labelled texts to fit one to",
            folder.display()
        )));
    };
    let refused = |e: anyhow::Error| Failure::input(format!("{}: {e:#}", folder.display()));
    let read = |name: &str| {
        let file = folder.join(name);
        std::fs::read(&file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))
    };
    let config = Config::parse(&read("config.json")?).map_err(|e| refused(e.into()))?;
    let weights = read("model.safetensors")?;
    let dataset = dataset(job, &args.settings)?;
    let encoder = tokenizer(folder, job, &dataset)?;
    let spec = Spec {
        model: config.model(),
        input: dataset.shape(),
        classes: dataset.classes(),
        rows: dataset.rows(),
        preprocessing: Preprocessing::none(1),
        tokens: dataset.tokens().cloned(),
        projection: None,
    };
    let ids = Ids {
        count: encoder.tokens().vocabulary(),
        shift: encoder.shift() as usize,
    };
    let net = config
        .network(&spec, ids, &weights)
        .map_err(|e| refused(e.into()))?;
    let probe = fit(&net, &dataset, job).map_err(refused)?;
    let net = net
        .with_classifier(probe.weight, probe.bias)
        .map_err(|e| refused(e.into()))?;
    super::probe(&mut Classifier::from(&net)).map_err(|e| refused(anyhow::Error::msg(e)))?;
    let reference = DatasetReference {
        name: dataset.name().to_owned(),
        digest: dataset.digest().to_owned(),
    };
    let name = folder.canonicalize().ok();
    let name = name.as_deref().and_then(Path::file_name);
    let name = name.map_or_else(|| "bert".into(), |name| name.to_string_lossy().into_owned());
    let mut card = Card::new(name, &spec, net.parameters(), reference);
    card.class_names = dataset.class_names().to_vec();
    let accuracy = probe.validation.accuracy;
    card.metrics.insert("validation_accuracy".into(), accuracy);
    card.metrics.insert("probe_strength".into(), probe.strength);
    let more = format!(
        "; classifier fitted to {} labelled samples, regularised by {}: {:.1} % of {} validation samples",
        dataset.labelled().len(),
        probe.strength,
        accuracy * 100.0,
        probe.validation.samples,
    );
    let export = Export {
        tokenizer: dataset.tokenizer().map(<[u8]>::to_vec),
        ..Export::new(card, net.to_safetensors())
    };
    Ok((export, more))
}

/// The job's data, whatever its teachers are: one of them may be what is imported.
fn dataset(job: &Path, settings: &[String]) -> Result<Dataset, Failure> {
    let read = retort_job::read(job, settings).map_err(Failure::input)?;
    let base = job.parent().unwrap_or(Path::new("."));
    retort_stores::load(&read.dataset, base, read.run.seed)
        .map_err(|e| Failure::input(format!("{}: {:#}", job.display(), anyhow::Error::new(e))))
}

/// The folder's own, which must be the data set's.
fn tokenizer(folder: &Path, job: &Path, dataset: &Dataset) -> Result<Encoder, Failure> {
    let own = Tokens::Tokenizer {
        path: TOKENIZER_FILE.into(),
        blake3: None,
        ids: None,
        border: None,
    };
    let own = own
        .below(folder)
        .open(dataset.shape().width)
        .map_err(|e| Failure::input(format!("{:#}", anyhow::Error::new(e))))?;
    if dataset.tokens() == Some(own.tokens()) {
        return Ok(own);
    }
    let found = match dataset.tokens() {
        Some(tokens) => format!("{tokens:?}"),
        None => "numbers".to_owned(),
    };
    Err(Failure::input(format!(
        "{}: dataset.text.tokens is {found}, expected the encoder's own: {{ kind = \"tokenizer\", path = {:?} }}",
        job.display(),
        folder.join(TOKENIZER_FILE)
    )))
}

/// A classifier of what the network hands its own.
fn fit(net: &Net, dataset: &Dataset, job: &Path) -> anyhow::Result<Probe> {
    let HeldOut {
        inputs: held_out,
        labels: truth,
        ..
    } = collect::samples(dataset, Part::Validation);
    if truth.is_empty() || dataset.labelled().is_empty() {
        bail!(
            "{}: its data set has {} labelled training samples and dataset.validation is {}, expected some to fit the \
             classifier to and some to choose how strongly it is regularised",
            job.display(),
            dataset.labelled().len(),
            truth.len(),
        );
    }
    let len = dataset.shape().len();
    let mut inputs = vec![0f32; dataset.labelled().len() * len];
    for (&sample, out) in dataset.labelled().iter().zip(inputs.chunks_exact_mut(len)) {
        dataset.split(Part::Train).write(sample, out);
    }
    let labels: Vec<u32> = dataset
        .labelled()
        .iter()
        .filter_map(|&sample| dataset.label(sample))
        .collect();
    let mut model = Classifier::from(net);
    let mut features = |inputs: &[f32], samples: usize| {
        let pooled = model.pooled(inputs, samples)?;
        match pooled.iter().find(|value| !value.is_finite()) {
            None => Ok(pooled),
            Some(value) => bail!("puts out {value} for texts of the data set, expected finite numbers"),
        }
    };
    let (train, validation) = (
        features(&inputs, labels.len())?,
        features(&held_out, truth.len())?,
    );
    let train = Samples {
        features: &train,
        labels: &labels,
    };
    let validation = Samples {
        features: &validation,
        labels: &truth,
    };
    Ok(probe::fit(train, validation, dataset.classes()))
}

//! Everything that can be known to be wrong before a process starts.

mod advice;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use retort_data::{Dataset, Location, Shape, Tokens};
use retort_job::{Architecture, Job, Loss, Problem, Source};
use retort_models::{Choice, Export, Spec, SpecError};
use retort_teacher_server::{classifier, engine, kserve};
use serde::Serialize;
use serde_json::json;

use crate::cli::JobArgs;
use crate::failure::Failure;

/// Of a message, for what travels beside a frame.
const ROOM: usize = 64 << 10;

/// A job that can start, with what was read to know it.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) job: Job,
    pub(crate) dataset: Dataset,
    /// Folder that the job's relative paths start from.
    pub(crate) base: PathBuf,
    /// Fixed teachers by name.
    pub(crate) fixed: Vec<(String, Export)>,
}

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is said of a job that can start.
#[derive(Debug, Serialize)]
struct Answer {
    job: String,
    name: String,
    dataset: String,
    samples: u32,
    shape: String,
    classes: usize,
    labelled: usize,
    /// Of the samples, those whose source has no label for them.
    unlabelled: u32,
    teachers: usize,
    students: usize,
    bad_rows: u64,
    /// The first of them.
    left_out: Vec<String>,
    worth_a_look: Vec<String>,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: &Args) -> Result<(), Failure> {
    let checked = match file(&args.job) {
        Ok(checked) => checked,
        Err(failure) => {
            if args.json {
                println!("{:#}", problems_of(&args.job.job, &failure));
            }
            return Err(failure);
        }
    };
    let answer = Answer::new(&args.job.job, &checked);
    if args.json {
        println!("{:#}", serde_json::to_value(&answer).context("write JSON")?);
    } else {
        println!("{answer}");
    }
    Ok(())
}

/// What is wrong, for programs: `problems` where single keys are.
fn problems_of(file: &Path, failure: &Failure) -> serde_json::Value {
    let problems = match failure {
        Failure::Job(error) => match &**error {
            retort_job::Error::Invalid { problems, .. } => problems.as_slice(),
            _ => &[],
        },
        _ => &[],
    };
    let each = |p: &Problem| json!({ "key": p.key, "value": p.value, "expected": p.expected });
    json!({
        "job": file.display().to_string(),
        "error": failure.to_string(),
        "problems": problems.iter().map(each).collect::<Vec<_>>(),
    })
}

impl Answer {
    fn new(file: &Path, checked: &Checked) -> Self {
        let (job, data) = (&checked.job, &checked.dataset);
        Self {
            job: file.display().to_string(),
            name: job.run.name.clone(),
            dataset: data.name().to_owned(),
            samples: data.train_len(),
            shape: data.shape().to_string(),
            classes: data.classes(),
            labelled: data.labelled().len(),
            unlabelled: data.unlabelled(),
            teachers: job.teachers.len(),
            students: job.students.len(),
            bad_rows: data.bad_rows().count(),
            left_out: data.bad_rows().first().iter().map(ToString::to_string).collect(),
            worth_a_look: advice::of(checked),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            job, name, dataset, ..
        } = self;
        write!(
            f,
            "{job}: fine ({name} on {dataset}: {} samples of {}, ",
            self.samples, self.shape
        )?;
        write!(f, "{} labelled", self.labelled)?;
        if self.unlabelled > 0 {
            write!(f, ", {} without a label", self.unlabelled)?;
        }
        write!(f, "; {} teachers, {} students)", self.teachers, self.students)?;
        if self.bad_rows > 0 {
            write!(f, "\nleft out, since they cannot be used: {}", self.bad_rows)?;
            self.left_out.iter().try_for_each(|row| write!(f, "\n  {row}"))?;
            if self.bad_rows > self.left_out.len() as u64 {
                f.write_str("\n  ...")?;
            }
        }
        self.worth_a_look
            .iter()
            .try_for_each(|advice| write!(f, "\nworth a look: {advice}"))
    }
}

/// Says before a run what it goes without.
#[expect(clippy::print_stderr, reason = "for the user")]
pub(crate) fn say_bad_rows(checked: &Checked) {
    let bad = checked.dataset.bad_rows();
    if bad.count() > 0 {
        eprintln!("left out: {bad} (retort check names more)");
    }
}

/// Reads and checks a job file.
pub(crate) fn file(args: &JobArgs) -> Result<Checked, Failure> {
    file_in(args, None)
}

/// Reads and checks a job file whose relative paths are below `base`; its own folder unless given.
pub(crate) fn file_in(args: &JobArgs, base: Option<PathBuf>) -> Result<Checked, Failure> {
    let job = retort_job::read(&args.job, &args.settings)?;
    let base = base.unwrap_or_else(|| args.job.parent().unwrap_or(Path::new(".")).to_owned());
    job_in(job, base, &args.job)
}

/// Checks a job against its data, models and devices; `file` is named in errors.
pub(crate) fn job_in(job: Job, base: PathBuf, file: &Path) -> Result<Checked, Failure> {
    job_before(job, base, file, &[])
}

/// Checks a job whose fixed teachers in the `promised` folders will be there only when it starts.
pub(crate) fn job_before(
    job: Job,
    base: PathBuf,
    file: &Path,
    promised: &[PathBuf],
) -> Result<Checked, Failure> {
    let dataset = retort_stores::load(&job.dataset, &base, job.run.seed)
        .map_err(|e| Failure::input(format!("{}: {:#}", file.display(), anyhow::Error::new(e))))?;
    let mut checked = Checked {
        job,
        dataset,
        base,
        fixed: Vec::new(),
    };
    let mut problems = models(&checked);
    problems.extend(devices(&checked.job));
    for (i, teacher) in checked.job.teachers.iter().enumerate() {
        let Source::Checkpoint { path, store } = &teacher.source else {
            continue;
        };
        problems.extend(store.as_deref().and_then(|store| bucket(i, store)));
        if promised.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let key = format!("teachers.{i}.source.path");
        let folder = checked.base.join(path);
        match Export::load(&folder) {
            Ok(export) => {
                let mismatches = mismatch(&key, &export, &checked.dataset);
                problems.extend(processor(i, &teacher.device.0, &export));
                if mismatches.is_empty() {
                    problems.extend(worthless(&key, &export, &checked.dataset));
                }
                problems.extend(mismatches);
                checked.fixed.push((teacher.name.clone(), export));
            }
            Err(e) => problems.push(Problem::new(
                key,
                format!("{:?}", path.display().to_string()),
                e.to_string(),
            )),
        }
    }
    problems.extend(layers(&checked, &problems));
    problems.extend(shares(&checked));
    problems.extend(labels(&checked));
    problems.extend(frames(&checked));
    if checked.dataset.split(retort_data::Part::Validation).is_empty() && checked.job.is_gated() {
        problems.push(Problem::new(
            "dataset.validation",
            0,
            "at least 1 with distillation.gate = \"lead\", which measures on held-out samples",
        ));
    }
    if problems.is_empty() {
        Ok(checked)
    } else {
        let file = file.to_owned();
        Err(retort_job::Error::Invalid { file, problems }.into())
    }
}

fn models(checked: &Checked) -> Vec<Problem> {
    let job = &checked.job;
    let teachers = job
        .teachers
        .iter()
        .enumerate()
        .map(|(i, t)| (format!("teachers.{i}.model"), t.model.clone()));
    let students = job
        .students
        .iter()
        .enumerate()
        .map(|(i, s)| (format!("students.{i}.model"), Some(s.model.clone())));
    teachers
        .chain(students)
        .filter_map(|(key, model)| {
            let e = Spec::of(&checked.dataset, model?).validate().err()?;
            Some(Problem::new(
                key,
                "this model",
                format!("one for inputs of {}: {e}", checked.dataset.shape()),
            ))
        })
        .collect()
}

/// The layers that learn from one another must be there and fit.
fn layers(checked: &Checked, known: &[Problem]) -> Vec<Problem> {
    let job = &checked.job;
    if !known.is_empty() {
        return Vec::new(); // models may be unsound
    }
    let streams = job.streams();
    let sender = |stream: &str| {
        let versions = streams.iter().find(|s| s.name == stream).map(|s| &s.versions);
        match versions.and_then(|v| v.of()) {
            Some(group) => Some(Spec::of(&checked.dataset, job.group(group)?.model)),
            // Not there yet where it is promised.
            None => checked
                .fixed
                .iter()
                .find(|(name, _)| name == stream)
                .map(|(_, e)| e.card.spec()),
        }
    };
    let mut problems = Vec::new();
    for student in &job.students {
        let group = job.group(&student.name);
        let Some((model, features)) = group.and_then(|g| Some((g.model, g.features?))) else {
            continue;
        };
        let of = features.teacher.clone().unwrap_or_default();
        let mut problem = |key: &str, value: &str, whose: &str, e: SpecError| {
            let key = format!("distillation.features.{key}");
            problems.push(Problem::new(
                key,
                format!("{value:?}"),
                format!("a layer of {whose:?}: {e}"),
            ));
        };
        let Some(sender) = sender(&of) else { continue };
        match sender.layer(&features.teacher_layer) {
            Err(e) => problem("teacher_layer", &features.teacher_layer, &of, e),
            Ok((_, layer)) => {
                if let Err(e) = Spec::of(&checked.dataset, model).learning_from(&features, &layer) {
                    problem("student_layer", &features.student_layer, &student.name, e);
                }
            }
        }
    }
    problems
}

/// Whoever has a share of the samples must have something to train on.
fn shares(checked: &Checked) -> Vec<Problem> {
    let (job, data) = (&checked.job, &checked.dataset);
    let mut problems = Vec::new();
    for group in job.groups() {
        let order = group.order(job.run.seed, data.train_len(), data.labelled());
        if let (None, Some(share)) = (order, group.share) {
            let of = job
                .students
                .iter()
                .position(|s| group.name.split('@').next() == Some(&s.name));
            problems.push(Problem::new(
                format!("students.{}.share", of.unwrap_or(0)),
                format!("{} of {}", share.part, share.of),
                format!(
                    "a share that holds samples {:?} can train on, labelled ones where no teacher answers",
                    group.name
                ),
            ));
        }
    }
    problems
}

/// A loss may need every label, and data may lack some.
fn labels(checked: &Checked) -> Option<Problem> {
    let (loss, data) = (checked.job.distillation.loss, &checked.dataset);
    let missing = data.train_len() as usize - data.labelled().len();
    let expected =
        format!("another loss: dkd needs every sample's label, and {missing} training samples have none");
    (matches!(loss, Loss::Dkd { .. }) && missing > 0)
        .then(|| Problem::new("distillation.loss", "\"dkd\"", expected))
}

/// The soft targets of a block travel in one message.
fn frames(checked: &Checked) -> Option<Problem> {
    let (job, data) = (&checked.job, &checked.dataset);
    if job.students.iter().all(|student| student.teachers.is_empty()) {
        return None;
    }
    let block = job.dataset.block_samples.unwrap_or(job.run.batch_size);
    let samples = block.min(data.train_len()) as usize;
    let values = (samples * data.rows()) as u64 * data.classes() as u64;
    let encoding = job.distillation.encoding(data.classes());
    let bytes = encoding.frame_len(samples * data.rows(), data.classes());
    let fits = bytes < retort_client::MAX_MESSAGE - ROOM && values <= retort_codec::MAX_VALUES;
    (!fits).then(|| {
        let expected = format!(
            "fewer samples in a block (dataset.block_samples or run.batch_size), shorter windows or top-K: soft targets of a \
             block are {} x {} numbers, {bytes} bytes as {encoding}, of at most {} numbers and {} bytes",
            samples * data.rows(),
            data.classes(),
            retort_codec::MAX_VALUES,
            retort_client::MAX_MESSAGE - ROOM
        );
        Problem::new("dataset.block_samples", block, expected)
    })
}

fn devices(job: &Job) -> Vec<Problem> {
    let teachers = job
        .teachers
        .iter()
        .enumerate()
        .map(|(i, t)| (format!("teachers.{i}.device"), &t.device));
    let students = job
        .students
        .iter()
        .enumerate()
        .map(|(i, s)| (format!("students.{i}.device"), &s.device));
    teachers
        .chain(students)
        .filter_map(|(key, device)| {
            let e = device.0.parse::<Choice>().and_then(Choice::check).err()?;
            Some(Problem::new(key, format!("{:?}", device.0), e.to_string()))
        })
        .collect()
}

/// Recorded soft targets in a bucket need a program and an environment that know buckets.
fn bucket(i: usize, store: &Path) -> Option<Problem> {
    let url = store.to_string_lossy();
    let Ok(Location::S3 { .. }) = url.parse() else {
        return None;
    };
    #[cfg(feature = "object-store")]
    let why = retort_stores::Bucket::new(&url, retort_stores::variables())
        .err()?
        .to_string();
    #[cfg(not(feature = "object-store"))]
    let why = "a folder; or build with the cargo feature object-store".to_owned();
    Some(Problem::new(
        format!("teachers.{i}.source.store"),
        format!("{url:?}"),
        why,
    ))
}

/// An ONNX model runs nowhere else, and one on a server is none of this machine's devices' business.
fn processor(i: usize, device: &str, export: &Export) -> Option<Problem> {
    let elsewhere = !matches!(device.parse(), Ok(Choice::Auto | Choice::Flex));
    (export.card.model.architecture.is_foreign() && elsewhere).then(|| {
        let key = format!("teachers.{i}.device");
        Problem::new(
            key,
            format!("{device:?}"),
            "flex or auto: an ONNX model runs on the processor, one on a server where that is",
        )
    })
}

/// A teacher must give finite numbers on a few samples before students are made to wait for it.
fn worthless(key: &str, export: &Export, dataset: &Dataset) -> Option<Problem> {
    const PROBES: u32 = 16;
    let len = dataset.shape().len();
    let count = dataset.train_len().min(PROBES);
    let mut inputs = vec![0f32; count as usize * len];
    for (sample, out) in (0..count).zip(inputs.chunks_exact_mut(len)) {
        // The sample itself where there are no random views, and one of them elsewhere.
        dataset.view(sample, 0, out);
    }
    let device = Choice::Flex.open().ok()?;
    let logits = unchanged(export).and_then(|()| {
        let mut model = classifier(&export.card.spec(), &export.weights, &device)?;
        Ok(model.logits(&inputs, count as usize)?)
    });
    let reason = match logits {
        Ok(logits) if logits.iter().all(|value| value.is_finite()) => return None,
        Ok(_) => "its logits of training samples are not finite numbers".to_owned(),
        Err(e) => e.to_string(),
    };
    let expected = format!("a teacher that answers: {reason}");
    Some(Problem::new(key, "this model", expected))
}

/// A model on a server must still be the one that was imported.
fn unchanged(export: &Export) -> Result<(), engine::Error> {
    match export.card.model.architecture {
        Architecture::Kserve => Ok(kserve::verify(&export.card.spec(), &export.weights)?),
        _ => Ok(()),
    }
}

fn other_rows(key: &str, found: usize, expected: usize) -> Option<Problem> {
    let targets = |rows| match rows {
        1 => "one target a sample".to_owned(),
        rows => format!("{rows} targets a sample (dataset.text.next.targets)"),
    };
    (found != expected).then(|| {
        let expected = format!("a teacher of {} like the data set's", targets(expected));
        Problem::new(key, format!("a model of {}", targets(found)), expected)
    })
}

/// Class counts, targets of a sample and input shapes must agree between data, teacher and student, and the names of an
/// imported model's classes,
/// whose order nothing else vouches for.
pub(crate) fn mismatch(key: &str, export: &Export, dataset: &Dataset) -> Vec<Problem> {
    let card = &export.card;
    let mut problems = Vec::new();
    if card.classes != dataset.classes() {
        let expected = format!(
            "a teacher of {} classes like the data set {}",
            dataset.classes(),
            dataset.name()
        );
        problems.push(Problem::new(
            key,
            format!("a model of {} classes", card.classes),
            expected,
        ));
    }
    let (has, needs): (Shape, Shape) = (card.input, dataset.shape());
    if has != needs {
        let expected = format!(
            "a teacher for inputs of {needs} like the data set {}",
            dataset.name()
        );
        problems.push(Problem::new(
            key,
            format!("a model for inputs of {has}"),
            expected,
        ));
    } else if card.tokens.as_ref() != dataset.tokens() {
        let name = |tokens: Option<&Tokens>| tokens.map_or("numbers".to_owned(), |t| format!("{t:?}"));
        let expected = format!("a teacher for inputs of {}", name(dataset.tokens()));
        let found = format!("a model for inputs of {}", name(card.tokens.as_ref()));
        problems.push(Problem::new(key, found, expected));
    }
    if let (Some(theirs), Some(ours)) = (&card.audio, dataset.audio())
        && !theirs.hears_like(ours)
    {
        let expected = format!("a teacher of sounds in {ours}");
        let found = format!("a model of sounds in {theirs}");
        problems.push(Problem::new(key, found, expected));
    }
    problems.extend(other_rows(key, card.rows, dataset.rows()));
    let mut names = card.class_names.iter().zip(dataset.class_names()).enumerate();
    let imported = card.dataset.digest.is_empty() || card.model.architecture == Architecture::Bert;
    if imported
        && card.classes == dataset.classes()
        && let Some((class, (theirs, ours))) = names.find(|(_, (theirs, ours))| theirs != ours)
    {
        let expected = format!(
            "{ours:?} like the data set {}: import the model again with the data set's names, in the model's order",
            dataset.name()
        );
        problems.push(Problem::new(
            key,
            format!("a model whose class {class} is {theirs:?}"),
            expected,
        ));
    }
    problems
}

//! `retort predict`: classes of files by an exported model.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use retort_data::{Encoder, Shape, Tokens, read_image};
use retort_models::{Card, Choice, Export};
use retort_teacher_server::classifier;

use crate::failure::Failure;
use crate::report::metrics::log_softmax;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// Folder with model.safetensors (or model.onnx) and model.json.
    model: PathBuf,
    /// PNG, JPEG or PNM images; WAV files for a model of sounds; for signals of height 1: text files of numbers; for tokens:
    /// files of one text each, or any files where the model tells files apart.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Classes to show of each file.
    #[arg(long, default_value_t = 3)]
    top: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: &Args) -> Result<(), Failure> {
    let export = Export::load(&args.model).map_err(Failure::input)?;
    let Card { tokens, input, .. } = &export.card;
    let encoder = tokens
        .clone()
        .map(|tokens| tokens.below(&args.model).open(input.width));
    let encoder = encoder
        .transpose()
        .map_err(|e| Failure::input(format!("{:#}", anyhow::Error::new(e))))?;
    let mut inputs = Vec::new();
    // Of each file.
    let mut samples = Vec::new();
    for file in &args.files {
        let read = match &encoder {
            Some(encoder) if tells_next(&export.card) => vec![ending(file, encoder)?],
            Some(encoder) => {
                let ids = encoder.encode_file(file);
                vec![ids.map_err(|e| Failure::input(format!("{}: {e}", file.display())))?]
            }
            None => read(file, &export.card)?,
        };
        samples.push(read.len());
        inputs.extend(read.into_iter().flatten());
    }
    let device = Choice::Flex.open().context("open device")?;
    let mut model = classifier(&export.card.spec(), &export.weights, &device).map_err(Failure::input)?;
    let logits = model.logits(&inputs, samples.iter().sum()).context("predict")?;
    let card = &export.card;
    let inputs = inputs.chunks_exact(card.input.len());
    let each = inputs.zip(logits.chunks_exact(card.rows * card.classes));
    let mut rows = each.map(|(input, rows)| answer(input, rows, card));
    let mut answers = Vec::new();
    for (file, samples) in args.files.iter().zip(samples) {
        let probabilities = mean(rows.by_ref().take(samples), export.card.classes);
        let mut order: Vec<usize> = (0..probabilities.len()).collect();
        order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
        let name = |c: usize| {
            export
                .card
                .class_names
                .get(c)
                .cloned()
                .unwrap_or_else(|| c.to_string())
        };
        let top: Vec<(String, f64)> = order
            .iter()
            .take(args.top)
            .map(|c| (name(*c), probabilities[*c]))
            .collect();
        if args.json {
            let classes: Vec<_> = top
                .iter()
                .map(|(c, p)| serde_json::json!({ "class": c, "probability": p }))
                .collect();
            answers.push(serde_json::json!({ "file": file.display().to_string(), "classes": classes }));
        } else {
            let text: Vec<String> = top
                .iter()
                .map(|(c, p)| format!("{c} ({:.1} %)", p * 100.0))
                .collect();
            println!("{}: {}", file.display(), text.join(", "));
        }
    }
    if args.json {
        println!("{:#}", serde_json::Value::Array(answers));
    }
    Ok(())
}

/// The mean of what the model says of each of a file's samples.
fn mean<'a>(rows: impl Iterator<Item = &'a [f32]>, classes: usize) -> Vec<f64> {
    let mut mean = vec![0.0; classes];
    let mut count = 0.0;
    for row in rows {
        count += 1.0;
        for (mean, log_probability) in mean.iter_mut().zip(log_softmax(row)) {
            *mean += (log_probability.exp() - *mean) / count;
        }
    }
    mean
}

/// The row of logits that says what a file is, or what follows it: that of its last token.
fn answer<'a>(input: &[f32], rows: &'a [f32], card: &Card) -> &'a [f32] {
    let padding = input.iter().rev().take_while(|&&id| id == 0.0).count();
    let last = card.rows - 1 - padding.min(card.rows - 1);
    let last = if card.rows > 1 { last } else { 0 };
    &rows[last * card.classes..][..card.classes]
}

/// A file as the model's inputs, which are several only of a sound that the model hears in windows.
fn read(file: &Path, card: &Card) -> Result<Vec<Vec<f32>>, Failure> {
    let shape = card.input;
    if let Some(audio) = &card.audio {
        return audio.samples_of(file).map_err(why);
    }
    if shape.height == 1 {
        return Ok(vec![numbers(file, shape)?]);
    }
    match shape.channels {
        1 | 3 => Ok(vec![read_image(file, shape).map_err(why)?]),
        n => Err(Failure::input(format!(
            "the model takes images of {n} channels; files have 1 or 3"
        ))),
    }
}

/// An error with what caused it.
fn why(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::input(format!("{:#}", anyhow::Error::new(error)))
}

/// Whether it says what follows a text.
fn tells_next(card: &Card) -> bool {
    let of_documents = matches!(card.tokens, Some(Tokens::Tokenizer { border: Some(_), .. }));
    card.rows > 1 || of_documents
}

/// The last tokens of a text, after which a language model says what comes.
fn ending(file: &Path, encoder: &Encoder) -> Result<Vec<f32>, Failure> {
    let ids = encoder.ending(&text(file)?).map_err(why)?;
    if ids.iter().all(|id| *id == 0.0) {
        return Err(Failure::input(format!(
            "{}: no token: expected a text to go on with",
            file.display()
        )));
    }
    Ok(ids)
}

fn text(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))
}

fn numbers(file: &Path, shape: Shape) -> Result<Vec<f32>, Failure> {
    let text = text(file)?;
    let values: Result<Vec<f32>, _> = text
        .split(|c: char| c == ',' || c.is_whitespace())
        .filter(|t| !t.is_empty())
        .map(str::parse)
        .collect();
    let values = values.map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
    if values.len() != shape.len() || values.iter().any(|v| !v.is_finite()) {
        let found = values.len();
        let text = format!(
            "{}: {found} values: expected {} finite numbers",
            file.display(),
            shape.len()
        );
        return Err(Failure::input(text));
    }
    Ok(values)
}

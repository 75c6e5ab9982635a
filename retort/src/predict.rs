//! `retort predict`: classes of files by an exported model.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args as ClapArgs;
use image::imageops::FilterType;
use retort_data::Shape;
use retort_models::{Card, Choice, Classifier, Export};

use crate::failure::Failure;
use crate::report::metrics::log_softmax;

#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Args {
    /// Folder with model.safetensors (or model.onnx) and model.json.
    model: PathBuf,
    /// PNG or PNM images; for signals of height 1: text files of numbers; for tokens: files of one text each, or any files
    /// where the model tells files apart.
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
    let mut inputs = Vec::new();
    for file in &args.files {
        inputs.extend(read(file, &export.card)?);
    }
    let device = Choice::Flex.open().context("open device")?;
    let mut model =
        Classifier::from_parts(&export.card.spec(), &export.weights, &device).map_err(Failure::input)?;
    let logits = model.logits(&inputs, args.files.len()).context("predict")?;
    let mut answers = Vec::new();
    for (file, row) in args.files.iter().zip(logits.chunks_exact(export.card.classes)) {
        let probabilities: Vec<f64> = log_softmax(row).into_iter().map(f64::exp).collect();
        let mut order: Vec<usize> = (0..row.len()).collect();
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

/// A file as the model's input: images as grey or colour values 0..=1 of the model's size.
fn read(file: &Path, card: &Card) -> Result<Vec<f32>, Failure> {
    let shape = card.input;
    if let Some(tokens) = &card.tokens {
        let ids = tokens.encode_file(file, shape.width);
        return ids.map_err(|e| Failure::input(format!("{}: {e}", file.display())));
    }
    if shape.height == 1 {
        return numbers(file, shape);
    }
    let image = image::open(file).map_err(|e| Failure::input(format!("{}: {e}", file.display())))?;
    let (width, height) = (shape.width as u32, shape.height as u32);
    let image = if (image.width(), image.height()) == (width, height) {
        image
    } else {
        image.resize_exact(width, height, FilterType::Triangle)
    };
    let scale = |v: u8| f32::from(v) / 255.0;
    match shape.channels {
        1 => Ok(image.to_luma8().into_raw().into_iter().map(scale).collect()),
        3 => {
            let pixels = image.to_rgb8();
            // Channels first, as the model takes them.
            Ok((0..3)
                .flat_map(|c| pixels.pixels().map(move |p| scale(p.0[c])).collect::<Vec<_>>())
                .collect())
        }
        n => Err(Failure::input(format!(
            "the model takes images of {n} channels; files have 1 or 3"
        ))),
    }
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

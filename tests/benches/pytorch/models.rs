//! The networks that both sides have, by the names of `bench/pytorch/models.py`.

use retort_data::Shape;
use retort_job::{Architecture, Model};
use retort_models::{Preprocessing, Spec};

/// A network, and the one that teaches it where a teacher is in the same process.
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) teacher: &'static str,
    /// Steps of one turn.
    pub(crate) steps: usize,
}

const fn known(name: &'static str, teacher: &'static str, steps: usize) -> Known {
    Known { name, teacher, steps }
}

const WIDE: &str = "resnet20-wide-32";

const STUDENTS: [Known; 8] = [
    known("mlp-800", "mlp-teacher", 20),
    known("mlp-1200", "mlp-teacher", 12),
    known("cnn", "mlp-teacher", 12),
    known("cnn-32", "resnet20-32", 8),
    known("resnet20", "mlp-teacher", 3),
    known("resnet20-32", "resnet20-32", 3),
    known("transformer", "mlp-teacher", 8),
    known(WIDE, "resnet20-32", 10),
];

/// Those that are measured: on a GPU one more, which is wide enough to keep it busy.
pub(crate) fn students(cuda: bool) -> impl Iterator<Item = &'static Known> {
    STUDENTS.iter().filter(move |known| cuda || known.name != WIDE)
}

/// By name; the parameters are compared with PyTorch's before anything is measured.
pub(crate) fn spec(name: &str) -> Spec {
    let text = match name {
        "mlp-800" => "architecture = 'mlp'\nhidden = [800, 800]",
        "mlp-1200" => "architecture = 'mlp'\nhidden = [1200, 1200]",
        "mlp-teacher" => "architecture = 'mlp'\nhidden = [2160, 2160]",
        "cnn" | "cnn-32" => "architecture = 'cnn'\nwidth = 16\ndepth = 3",
        WIDE => "architecture = 'resnet'\nwidth = 128\ndepth = 20",
        "resnet20" | "resnet20-32" => "architecture = 'resnet'\nwidth = 16\ndepth = 20",
        _ => "architecture = 'transformer'\nwidth = 64\ndepth = 2\nheads = 4",
    };
    let model: Model = toml::from_str(text).expect("a model of this table");
    debug_assert!(name != "transformer" || model.architecture == Architecture::Transformer);
    let colour = name.ends_with("-32");
    let (channels, size) = if colour { (3, 32) } else { (1, 28) };
    Spec {
        model,
        input: Shape {
            channels,
            height: size,
            width: size,
        },
        classes: 10,
        preprocessing: if colour {
            Preprocessing {
                mean: vec![0.491, 0.482, 0.447],
                std: vec![0.247, 0.243, 0.262],
            }
        } else {
            Preprocessing {
                mean: vec![0.286],
                std: vec![0.353],
            }
        },
        tokens: None,
        rows: 1,
        projection: None,
    }
}

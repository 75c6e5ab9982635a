use super::{Error, Graph, ports};
use crate::Preprocessing;
use crate::foreign::Port;
use crate::net::fixture;

// `assets/onnx/make.py` made them, and says what they compute.
const TINY: &[u8] = include_bytes!("../../assets/onnx/tiny.onnx");
const ECHO: &[u8] = include_bytes!("../../assets/onnx/echo.onnx");
const STRANGE: &[u8] = include_bytes!("../../assets/onnx/strange.onnx");
const DIGITS: &[u8] = include_bytes!("../../assets/onnx/digits.onnx");

/// Layout, output and what it gives, for the input `x`.
type Use<'a> = (&'a str, &'a str, &'a str);

fn model((layout, output, gives): Use<'_>) -> String {
    format!(
        "architecture = 'onnx'\n[onnx]\ninput = 'x'\nlayout = '{layout}'\noutput = '{output}'\ngives = '{gives}'"
    )
}

fn graph(bytes: &[u8], of: Use<'_>, input: [usize; 3], classes: usize) -> Result<Graph, Error> {
    Graph::by(None, &fixture(&model(of), input, classes), bytes)
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
    }
}

#[test]
fn logits_are_those_by_hand() {
    let model = graph(TINY, ("flat", "logits", "logits"), [1, 2, 2], 2).unwrap();
    assert_eq!(model.parameters(), 4 * 3 + 3 + 3 * 2 + 2);
    // Hidden: (0, 6, 11) and (4, 0, 0).
    let logits = model.logits(&[1.0, 2.0, 3.0, 4.0, 2.0, 0.0, 1.0, -1.0]).unwrap();
    assert_eq!(logits, [12.5, 32.5, 4.5, -4.5]);
    assert!(model.logits(&[]).unwrap().is_empty());
}

#[test]
fn an_inner_layer_may_be_the_output() {
    let model = graph(TINY, ("flat", "hidden", "logits"), [1, 2, 2], 3).unwrap();
    assert_eq!(model.logits(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [0.0, 6.0, 11.0]);
}

#[test]
fn logarithms_of_probabilities_are_logits_with_a_floor() {
    let model = graph(TINY, ("flat", "probabilities", "probabilities"), [1, 2, 2], 2).unwrap();
    let logits = model
        .logits(&[2.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 100.0])
        .unwrap();
    let small = -(1.0 + 9f32.exp()).ln();
    close(&logits, &[9.0 + small, small, f32::MIN_POSITIVE.ln(), 0.0]);
    let model = graph(TINY, ("flat", "logits", "probabilities"), [1, 2, 2], 2).unwrap();
    let error = model.logits(&[1.0, 2.0, 3.0, 4.0]).unwrap_err().to_string();
    assert!(
        error.contains("output \"logits\" sums to 45, expected 1"),
        "{error}"
    );
}

/// Channels last, whole numbers, a batch that the file fixes, and preprocessing by channel.
#[test]
fn samples_arrive_as_the_file_wants_them() {
    let mut spec = fixture(&model(("nhwc", "y", "logits")), [2, 2, 1], 4);
    let samples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let plain = Graph::by(None, &spec, ECHO).unwrap();
    assert_eq!(
        plain.logits(&samples).unwrap(),
        [1.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 8.0]
    );
    spec.preprocessing = Preprocessing {
        mean: vec![0.0, 1.0],
        std: vec![0.4, 1.0],
    };
    let scaled = Graph::by(None, &spec, ECHO).unwrap();
    assert_eq!(scaled.logits(&samples[..4]).unwrap(), [3.0, 2.0, 5.0, 3.0]);
}

#[test]
fn logits_do_not_depend_on_the_company() {
    let model = graph(DIGITS, ("flat", "logits", "logits"), [1, 8, 8], 10).unwrap();
    let mut rng = retort_data::rng::Rng::new(5);
    let inputs: Vec<f32> = (0..5 * 64).map(|_| 16.0 * rng.uniform_f32()).collect();
    let together = model.logits(&inputs).unwrap();
    let alone: Vec<f32> = inputs.chunks(64).flat_map(|x| model.logits(x).unwrap()).collect();
    assert_eq!(together, alone);
}

#[test]
fn a_file_tells_its_ports() {
    let found = ports(ECHO).unwrap();
    let names = |ports: &[Port]| ports.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found.inputs), ["x", "bias"]);
    assert_eq!(found.inputs[0].shape, [3, 2, 1, 2].map(Some));
    assert_eq!(names(&found.outputs), ["y", "z"]);
    assert_eq!(ports(TINY).unwrap().inputs[0].shape, [None, Some(4)]);
}

#[test]
fn what_lies_off_the_way_does_not_matter() {
    let model = graph(STRANGE, ("flat", "y", "logits"), [1, 1, 2], 2).unwrap();
    assert_eq!(model.logits(&[-1.0, 2.0]).unwrap(), [0.0, 2.0]);
}

#[test]
fn refusals_name_what_is_wrong_and_what_was_expected() {
    let tiny = |of, input, classes| graph(TINY, of, input, classes);
    let logits = ("flat", "logits", "logits");
    for (refused, expected) in [
        (
            tiny(("flat", "y", "logits"), [1, 2, 2], 2),
            "output is \"y\", expected",
        ),
        (tiny(logits, [1, 2, 2], 3), "a number for each class"),
        (tiny(logits, [1, 1, 3], 2), "expected batch x 3"),
        (
            tiny(("nchw", "logits", "logits"), [1, 2, 2], 2),
            "expected batch x 1 x 2 x 2",
        ),
        (tiny(("flat", "a", "logits"), [1, 2, 2], 2), "needs the inputs []"),
        (
            graph(ECHO, ("nhwc", "z", "logits"), [2, 2, 1], 4),
            "needs the inputs [\"bias\", \"x\"], expected \"x\" alone",
        ),
        (
            graph(STRANGE, ("flat", "z", "logits"), [1, 1, 2], 2),
            "not supported here: Frobnicate",
        ),
        (
            graph(&TINY[..200], logits, [1, 2, 2], 2),
            "not a readable ONNX file",
        ),
        (graph(b"", logits, [1, 2, 2], 2), "it holds no graph"),
        (
            graph(b"plain text", logits, [1, 2, 2], 2),
            "not a readable ONNX file",
        ),
    ] {
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    let mut spec = fixture(&model(logits), [1, 2, 2], 2);
    let other = spec.model.onnx.as_mut().unwrap();
    other.input = "image".into();
    let message = Graph::by(None, &spec, TINY).unwrap_err().to_string();
    assert!(
        message.contains("input is \"image\", expected one of [\"x\"]"),
        "{message}"
    );
}

/// Whatever the bytes, there is an answer and no panic.
#[test]
fn damaged_files_are_refused_or_answer() {
    for i in 0..TINY.len() {
        let mut bytes = TINY.to_vec();
        bytes[i] ^= 1 << (i % 8);
        if let Ok(model) = graph(&bytes, ("flat", "logits", "logits"), [1, 2, 2], 2) {
            let _ = model.logits(&[1.0; 4]);
        }
    }
}

#[cfg(feature = "onnxruntime")]
mod by_the_users_library {
    use std::io::Write;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Named for tests, so that others keep to tract. Without one there is nothing to test, which is said.
    fn library() -> Option<PathBuf> {
        let library = std::env::var_os("RETORT_ONNXRUNTIME").map(PathBuf::from);
        if library.is_none() {
            let why = "RETORT_ONNXRUNTIME names no shared library of ONNX Runtime";
            let must = std::env::var_os("RETORT_NO_SKIP").is_some_and(|value| value == "1");
            assert!(!must, "RETORT_NO_SKIP=1, and {why}");
            // Past the capture of output, which hides what a passing test prints.
            writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
        }
        library
    }

    fn hosted(
        library: &Path,
        bytes: &[u8],
        of: Use<'_>,
        input: [usize; 3],
        classes: usize,
    ) -> Result<Graph, Error> {
        Graph::by(Some(library), &fixture(&model(of), input, classes), bytes)
    }

    #[test]
    fn logits_are_those_of_tract() {
        let Some(library) = library() else { return };
        let noise = |len: usize| {
            (0..len)
                .map(|i| ((i * 7919) % 31) as f32 - 12.0)
                .collect::<Vec<f32>>()
        };
        for (bytes, of, input, classes) in [
            (TINY, ("flat", "probabilities", "logits"), [1, 2, 2], 2),
            (TINY, ("flat", "probabilities", "probabilities"), [1, 2, 2], 2),
            (DIGITS, ("flat", "probabilities", "probabilities"), [1, 8, 8], 10),
        ] {
            let samples = noise(17 * input.iter().product::<usize>());
            let tract = graph(bytes, of, input, classes).unwrap();
            let theirs = hosted(&library, bytes, of, input, classes).unwrap();
            assert_eq!(theirs.parameters(), tract.parameters());
            let (expected, found) = (tract.logits(&samples).unwrap(), theirs.logits(&samples).unwrap());
            assert_eq!(found.len(), expected.len());
            // Where the numbers are probabilities, what is far below is next to nothing, and rounded differently.
            for (found, expected) in found
                .iter()
                .zip(&expected)
                .map(|(f, e)| (f.max(-60.0), e.max(-60.0)))
            {
                let bound = 1e-4 * (1.0 + expected.abs());
                assert!((found - expected).abs() < bound, "{found} is not {expected}");
            }
            let alone = theirs.logits(&samples[..input.iter().product()]).unwrap();
            assert_eq!(alone, found[..classes], "company matters");
            assert!(theirs.logits(&[]).unwrap().is_empty());
        }
    }

    #[test]
    fn what_it_cannot_give_is_left_to_tract() {
        let Some(library) = library() else { return };
        let tiny = |of, input, classes| hosted(&library, TINY, of, input, classes);
        let given = ("flat", "probabilities", "logits");
        for (refused, expected) in [
            (
                tiny(("flat", "hidden", "logits"), [1, 2, 2], 3),
                "output is \"hidden\", expected one of the file's outputs [",
            ),
            (
                tiny(("flat", "hidden", "logits"), [1, 2, 2], 3),
                "gives no inner tensors, tract does (unset ORT_DYLIB_PATH)",
            ),
            (
                hosted(&library, ECHO, ("nhwc", "y", "logits"), [2, 2, 1], 4),
                "wants a value for all inputs of the file, [\"x\", \"bias\"]; tract",
            ),
            (tiny(given, [1, 2, 2], 3), "a number for each class"),
            (tiny(given, [1, 1, 3], 2), "expected batch x 3"),
            (
                hosted(&library, STRANGE, ("flat", "y", "logits"), [1, 1, 2], 2),
                "ONNX Runtime: ",
            ),
        ] {
            let message = refused.unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

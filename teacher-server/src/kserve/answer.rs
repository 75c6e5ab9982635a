//! Reading what a server answered.

use half::f16;
use retort_proto::inference::{InferTensorContents, ModelInferResponse};

/// Output types that can be read.
pub(super) const FLOATS: [&str; 3] = ["FP32", "FP16", "FP64"];

/// What an answer must be.
pub(super) struct Expected<'a> {
    pub(super) model: &'a str,
    /// Empty: any.
    pub(super) version: &'a str,
    pub(super) output: &'a str,
    /// Rows, and numbers in each.
    pub(super) rows: usize,
    pub(super) classes: usize,
}

impl Expected<'_> {
    /// The output's numbers, row by row.
    ///
    /// # Errors
    ///
    /// In words, why the answer is not of the model that was asked, or of no use.
    pub(super) fn read(&self, answer: &ModelInferResponse) -> Result<Vec<f32>, String> {
        let (model, version) = (&answer.model_name, &answer.model_version);
        // Servers may leave both out.
        let other =
            |found: &str, expected: &str| !found.is_empty() && !expected.is_empty() && found != expected;
        if other(model, self.model) || other(version, self.version) {
            return Err(format!(
                "version {version:?} of {model:?} answered, expected {:?} of {:?}: import it again",
                self.version, self.model
            ));
        }
        let index = answer.outputs.iter().position(|o| o.name == self.output);
        let index = index.ok_or_else(|| format!("the answer has no output {:?}", self.output))?;
        let output = &answer.outputs[index];
        let numbers = match (answer.raw_output_contents.get(index), &output.contents) {
            (Some(raw), _) => raw_numbers(&output.datatype, raw),
            (None, Some(contents)) => typed_numbers(&output.datatype, contents),
            (None, None) => Some(Vec::new()),
        };
        let numbers = numbers.ok_or_else(|| {
            format!(
                "output {:?} is {}, expected {}",
                self.output,
                output.datatype,
                FLOATS.join(", ")
            )
        })?;
        let shape: Option<usize> = output.shape.iter().map(|&n| usize::try_from(n).ok()).product();
        let rows = output.shape.first().and_then(|&n| usize::try_from(n).ok());
        let size = self.rows * self.classes;
        if rows == Some(self.rows) && shape == Some(size) && numbers.len() == size {
            return Ok(numbers);
        }
        Err(format!(
            "output {:?} has the shape {:?} and {} numbers, expected {} x {}",
            self.output,
            output.shape,
            numbers.len(),
            self.rows,
            self.classes
        ))
    }
}

/// `None`: numbers of another type.
fn raw_numbers(datatype: &str, raw: &[u8]) -> Option<Vec<f32>> {
    match datatype {
        "FP32" => Some(raw.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        "FP64" => Some(
            raw.as_chunks()
                .0
                .iter()
                .map(|b| f64::from_le_bytes(*b) as f32)
                .collect(),
        ),
        "FP16" => Some(
            raw.as_chunks()
                .0
                .iter()
                .map(|b| f16::from_le_bytes(*b).to_f32())
                .collect(),
        ),
        _ => None,
    }
}

/// There is no field for half precision, which is always raw.
fn typed_numbers(datatype: &str, contents: &InferTensorContents) -> Option<Vec<f32>> {
    match datatype {
        "FP32" => Some(contents.fp32_contents.clone()),
        "FP64" => Some(contents.fp64_contents.iter().map(|&v| v as f32).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use retort_proto::inference::model_infer_response::InferOutputTensor;

    use super::*;

    const EXPECTED: Expected<'_> = Expected {
        model: "m",
        version: "2",
        output: "y",
        rows: 1,
        classes: 2,
    };

    fn answer(datatype: &str, raw: &[u8]) -> ModelInferResponse {
        let output = |name: &str| InferOutputTensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: vec![1, 2],
            ..Default::default()
        };
        ModelInferResponse {
            model_name: "m".into(),
            model_version: "2".into(),
            outputs: vec![output("x"), output("y")],
            raw_output_contents: vec![Vec::new().into(), raw.to_vec().into()],
            ..Default::default()
        }
    }

    #[test]
    fn numbers_are_read_raw_and_typed() {
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let wide: Vec<u8> = [1.5f64, -2.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let half: Vec<u8> = [1.5, -2.0]
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect();
        for (datatype, raw) in [("FP32", bytes(&[1.5, -2.0])), ("FP64", wide), ("FP16", half)] {
            assert_eq!(
                EXPECTED.read(&answer(datatype, &raw)).unwrap(),
                [1.5, -2.0],
                "{datatype}"
            );
        }
        let mut typed = answer("FP32", &[]);
        typed.raw_output_contents.clear();
        typed.outputs[1].contents = Some(InferTensorContents {
            fp32_contents: vec![1.5, -2.0],
            ..Default::default()
        });
        assert_eq!(EXPECTED.read(&typed).unwrap(), [1.5, -2.0]);
    }

    #[test]
    fn other_answers_are_refused() {
        let fine = || answer("FP32", &[0; 8]);
        let refuse = |change: &dyn Fn(&mut ModelInferResponse), expected: &str| {
            let mut answer = fine();
            change(&mut answer);
            let message = EXPECTED.read(&answer).unwrap_err();
            assert!(message.contains(expected), "{message}");
        };
        assert!(EXPECTED.read(&fine()).is_ok());
        refuse(
            &|a| a.model_version = "3".into(),
            "version \"3\" of \"m\" answered, expected \"2\"",
        );
        refuse(&|a| a.model_name = "n".into(), "of \"n\" answered");
        refuse(&|a| a.outputs[1].name = "z".into(), "no output \"y\"");
        refuse(&|a| a.outputs[1].datatype = "INT8".into(), "is INT8");
        refuse(&|a| a.outputs[1].shape = vec![2, 1], "shape [2, 1]");
        refuse(&|a| a.outputs[1].shape = vec![1, -2], "shape [1, -2]");
        refuse(
            &|a| a.raw_output_contents[1] = vec![0; 7].into(),
            "1 numbers, expected 1 x 2",
        );
        refuse(&|a| a.raw_output_contents.clear(), "0 numbers");
        let mut silent = fine();
        (silent.model_name, silent.model_version) = (String::new(), String::new());
        assert!(
            EXPECTED.read(&silent).is_ok(),
            "who says nothing says nothing wrong"
        );
    }
}

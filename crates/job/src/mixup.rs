//! What a job with mixed views (`dataset.views.mixup`) cannot have.

use crate::{Job, Loss, Problem, Weights};

impl Job {
    /// Losses and weights that know one label of a sample, and shares, which mixed samples would leak out of.
    pub(crate) fn check_mixup(&self, out: &mut Vec<Problem>) {
        if self.dataset.views.mixup == 0.0 {
            return;
        }
        let mut refuse = |key: String, value: String, expected: &str| {
            let expected = format!("{expected}, or dataset.views.mixup = 0");
            out.push(Problem::new(key, value, expected));
        };
        if matches!(self.distillation.loss, Loss::Dkd { .. }) {
            let expected =
                "kd, reverse-kl, jsd or mse: dkd knows one label of a sample, and a mixed one has two";
            refuse("distillation.loss".into(), "\"dkd\"".into(), expected);
        }
        if self.distillation.weights == Weights::LabelCrossEntropy {
            let value = "\"label-cross-entropy\"";
            let expected = "uniform, static, confidence or inverse-entropy: a mixed sample has two labels";
            refuse("distillation.weights".into(), value.into(), expected);
        }
        for (i, student) in self.students.iter().enumerate() {
            if student.share.is_some() {
                let expected = "nothing: samples are mixed with those of other shares";
                refuse(format!("students.{i}.share"), "set".into(), expected);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::parse;

    const JOB: &str = r#"
        [run]
        name = "j"
        epochs = 1

        [dataset]
        name = "digits"
        views = { mixup = 0.2 }

        [[teachers]]
        name = "big"
        model = { architecture = "mlp", hidden = [64] }
        source = { kind = "trained", learning_rate = 0.01 }

        [[students]]
        name = "small"
        model = { architecture = "mlp", hidden = [8] }
        learning_rate = 0.01
        teachers = [{ name = "big" }]
    "#;

    #[test]
    fn what_knows_one_label_or_a_share_is_refused_with_mixup_and_allowed_without() {
        assert!(parse(JOB, Path::new("j.toml"), &[]).is_ok());
        for (edit, expected) in [
            (
                "distillation.loss=dkd",
                "distillation.loss = \"dkd\": expected kd, ",
            ),
            (
                "distillation.weights=label-cross-entropy",
                "distillation.weights = \"label-cross-entropy\": expected uniform, ",
            ),
            (
                "students.0.share={ part = 0, of = 2 }",
                "students.0.share = set: expected nothing: samples are mixed",
            ),
        ] {
            let text = parse(JOB, Path::new("j.toml"), &[edit.to_owned()])
                .expect_err(edit)
                .to_string();
            assert!(
                text.contains(expected) && text.contains("dataset.views.mixup = 0"),
                "{text}"
            );
            let without = [edit.to_owned(), "dataset.views.mixup=0.0".to_owned()];
            assert!(parse(JOB, Path::new("j.toml"), &without).is_ok(), "{edit}");
        }
    }
}

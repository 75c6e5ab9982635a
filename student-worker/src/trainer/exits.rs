//! What the exits of a model learn, beside what its last classifier does.

use burn::tensor::Tensor;
use retort_job::Exits;
use retort_losses::{CrossEntropy, Distillation, Labels};
use retort_models::Outputs;

/// The loss of each exit, `[1]`: `(1 - alpha) CE(y, exit) + alpha T² KL(last || exit)`, the hard part over labelled samples,
/// the soft one over all, and `feature_weight` times the mean squared difference of its pooled features, brought to the
/// size of the last ones, from those. The last classifier and its features teach and do not learn from it.
///
/// Reference: Zhang et al., Be Your Own Teacher, 2019, <https://arxiv.org/abs/1905.08094>.
pub(super) fn loss(config: Option<&Exits>, outputs: &Outputs, labels: &Labels) -> Vec<Tensor<1>> {
    let Some(config) = config else {
        return Vec::new();
    };
    let kd = Distillation {
        temperature: config.temperature,
    };
    let teacher = kd.soften(outputs.logits.clone().detach());
    let features = outputs.pooled.clone().detach();
    let taught = outputs.exits.iter().map(|exit| {
        let hard = CrossEntropy.forward(exit.clone(), labels);
        let soft = kd.forward(exit.clone(), teacher.clone());
        hard * (1.0 - config.alpha) + soft * config.alpha
    });
    let hinted = outputs
        .hints
        .iter()
        .map(|hint| (hint.clone() - features.clone()).powi_scalar(2).mean() * config.feature_weight);
    taught.chain(hinted).collect()
}

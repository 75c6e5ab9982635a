//! What a job allows and hardly anybody means: said by `retort check`, refused by nobody.

use retort_data::{Dataset, Part};
use retort_job::{Gate, Group, GroupKind, Job, Loss, Model, Source, Teacher};
use retort_models::{Device, Net, Preprocessing, Spec};
use retort_teacher_server::classifier;

use super::Checked;
use crate::cost;
use crate::report::metrics::Logits;

/// Validation samples that a fixed teacher is measured on.
const SAMPLES: u32 = 256;
/// Labelled samples that the simplest of students is made of, at most.
const MEANS_OF: usize = 2_000;
/// Below this share the soft loss is an ornament.
const LITTLE: f64 = 0.05;
/// A distribution whose largest probability is beyond this in the mean says hardly more than its class.
const SATURATED: f64 = 0.98;
/// One that is so near to `1 / classes` (times this) says hardly anything.
const FLAT: f64 = 1.1;
/// A teacher should be right so many times as often as a guess.
const BETTER_THAN_GUESSING: f64 = 1.5;

/// A fixed teacher on validation samples.
#[derive(Debug, Clone, PartialEq)]
struct Measured {
    name: String,
    accuracy: f64,
    /// By temperature of the students that it teaches: mean over samples of the largest probability.
    largest: Vec<(f64, f64)>,
}

/// One sentence for each thing that is worth a second look.
pub(super) fn of(checked: &Checked) -> Vec<String> {
    let measured: Vec<Measured> = checked
        .fixed
        .iter()
        .filter_map(|(name, _)| measure(checked, name))
        .collect();
    let (job, data) = (&checked.job, &checked.dataset);
    let simplest = nearest_mean(data).filter(|_| !measured.is_empty());
    let all_labelled = data.labelled().len() == data.train_len() as usize;
    let mut told = advice(job, data.classes(), (&measured, simplest));
    told.extend(smaller(job, |model| parameters(data, model)));
    told.extend(open_gate(job).filter(|_| all_labelled));
    told
}

fn students(job: &Job) -> impl Iterator<Item = Group> {
    let groups = job.groups().into_iter();
    groups.filter(|g| g.kind == GroupKind::Student && !g.teachers.is_empty())
}

/// `simplest`: accuracy of [`nearest_mean`] on the same samples.
fn advice(job: &Job, classes: usize, (measured, simplest): (&[Measured], Option<f64>)) -> Vec<String> {
    let mut told = Vec::new();
    for group in students(job) {
        let name = &group.name;
        let (_, alpha) = group.alpha.bounds();
        if alpha < LITTLE {
            told.push(format!(
                "distillation.alpha is at most {alpha}: {name} learns from its labels, and its teachers hardly matter"
            ));
        }
        let (low, high) = group.temperature.bounds();
        if low < 1.0 && matches!(job.distillation.loss, Loss::Kd | Loss::ReverseKl) {
            told.push(format!(
                "{name} is taught at a temperature of {low}, below 1: targets are sharper than the teacher is; 2 to 8 is usual"
            ));
        }
        for teacher in measured
            .iter()
            .filter(|m| group.teachers.iter().any(|t| t.name == m.name))
        {
            let at = |t: f64| {
                teacher
                    .largest
                    .iter()
                    .find(|(of, _)| *of == t)
                    .map(|(_, largest)| *largest)
            };
            if let Some(largest) = at(high).filter(|largest| *largest > SATURATED) {
                told.push(format!(
                    "{}'s soft targets for {name} are nearly labels: its largest probability is {largest:.3} in the mean even at \
                     T = {high}; a higher distillation.temperature would show what else it sees",
                    teacher.name
                ));
            }
            if let Some(largest) = at(low).filter(|largest| *largest < FLAT / classes as f64) {
                told.push(format!(
                    "{}'s soft targets for {name} are nearly the same for all {classes} classes even at T = {low} (largest \
                     probability {largest:.3}): a lower distillation.temperature would show what it knows",
                    teacher.name
                ));
            }
        }
    }
    for Measured { name, accuracy, .. } in measured {
        if *accuracy < BETTER_THAN_GUESSING / classes as f64 {
            told.push(format!(
                "teacher {name} is right on {:.1} % of the validation samples, little more than a guess among {classes} classes: \
                 are its classes in the data set's order, and its inputs prepared as it wants them?",
                100.0 * accuracy
            ));
        } else if let Some(simplest) = simplest.filter(|s| s > accuracy) {
            told.push(format!(
                "teacher {name} is right on {:.1} % of the validation samples, the nearest mean of each class's labelled samples \
                 on {:.1} %: a student may well do better without it",
                100.0 * accuracy,
                100.0 * simplest
            ));
        }
    }
    for teacher in &job.teachers {
        let Some(model) = &teacher.model else { continue };
        let same = |g: &Group| g.model == *model && g.teachers.iter().any(|t| t.name == teacher.name);
        if let Some(student) = students(job).find(same) {
            told.push(format!(
                "{} and its student {} are the same model: nothing gets smaller",
                teacher.name, student.name
            ));
        }
    }
    told
}

/// Teachers that are trained here.
fn trained(job: &Job) -> impl Iterator<Item = &Teacher> {
    let teachers = job.teachers.iter();
    teachers.filter(|t| matches!(t.source, Source::Trained { .. }))
}

/// Trained teachers with fewer parameters than one of their students; `size` counts a model's.
fn smaller(job: &Job, size: impl Fn(&Model) -> Option<usize>) -> Vec<String> {
    let mut told = Vec::new();
    for teacher in trained(job) {
        let taught = students(job).filter(|g| g.teachers.iter().any(|t| t.name == teacher.name));
        let taught: Vec<Group> = taught.collect();
        let Some(model) = teacher.model.as_ref().filter(|_| !taught.is_empty()) else {
            continue;
        };
        let Some(own) = size(model) else { continue };
        for student in taught {
            if let Some(of_student) = size(&student.model).filter(|n| *n > own) {
                told.push(format!(
                    "{} has fewer parameters than its student {} ({own} against {of_student}): nothing gets smaller",
                    teacher.name, student.name
                ));
            }
        }
    }
    told
}

/// What a network of the model has for this data; `None`: it is no network of ours.
fn parameters(data: &Dataset, model: &Model) -> Option<usize> {
    let spec = Spec {
        model: model.clone(),
        input: data.shape(),
        classes: data.classes(),
        // Has no parameters, and to measure it takes all samples.
        preprocessing: Preprocessing::none(data.shape().channels),
        tokens: data.tokens().cloned(),
        rows: data.rows(),
        projection: None,
    };
    let net = Net::new(&spec, 0, &Device::flex()).ok()?;
    Some(net.parameters())
}

/// A gate that the job leaves open although a trained teacher begins as a beginner and alpha does not rise; where all
/// samples have labels, these would say more than it does.
fn open_gate(job: &Job) -> Option<String> {
    if job.distillation.gate != Some(Gate::None) {
        return None;
    }
    let beginner = |g: &Group| trained(job).find(|t| g.teachers.iter().any(|m| m.name == t.name));
    let mut at_once = students(job).filter(|g| g.alpha.at(0.0) >= LITTLE);
    let (student, teacher) = at_once.find_map(|g| Some((g.name.clone(), beginner(&g)?)))?;
    Some(format!(
        "distillation.gate is \"none\" and every sample has a label: {student} learns from {} from the first step on, when that \
         knows nothing; \"lead\", which holds where the key is unset, or an alpha that rises lets the labels speak first",
        teacher.name
    ))
}

/// `None`: there is nothing to measure it on, or it is on a server of somebody else's.
fn measure(checked: &Checked, name: &str) -> Option<Measured> {
    let (_, export) = checked.fixed.iter().find(|(n, _)| n == name)?;
    let samples = checked.dataset.split(Part::Validation).held_out(SAMPLES);
    if samples.labels.is_empty() || export.card.model.architecture == retort_job::Architecture::Kserve {
        return None;
    }
    let device = cost::DEVICE.open().ok()?;
    let mut model = classifier(&export.card.spec(), &export.weights, &device).ok()?;
    // What it cannot answer, `check` has refused.
    let logits = model.counted(&samples).ok()?;
    let classes = checked.dataset.classes();
    let accuracy = Logits::new(&logits, classes)
        .and_then(|l| l.evaluate(&samples.labels))
        .ok()?
        .accuracy;
    let taught = students(&checked.job).filter(|g| g.teachers.iter().any(|t| t.name == name));
    let temperatures = taught.flat_map(|g| <[f64; 2]>::from(g.temperature.bounds()));
    let largest = temperatures.map(|t| (t, largest(&logits, classes, t)));
    Some(Measured {
        name: name.to_owned(),
        accuracy,
        largest: largest.collect(),
    })
}

/// The simplest of students: each class is the mean of its labelled samples (the first [`MEANS_OF`] of all), each sample of
/// the class whose mean is nearest. `None`: it means nothing for such inputs, or there is too little.
fn nearest_mean(data: &Dataset) -> Option<f64> {
    let held_out = data.split(Part::Validation).held_out(SAMPLES);
    if data.tokens().is_some() || data.rows() > 1 || held_out.labels.is_empty() {
        return None;
    }
    let (train, len) = (data.split(Part::Train), data.shape().len());
    let mut sums = vec![(0u32, vec![0.0f32; len]); data.classes()];
    let mut sample = vec![0.0; len];
    for id in data.labelled().iter().take(MEANS_OF) {
        train.write(*id, &mut sample);
        let (count, sum) = sums.get_mut(data.label(*id)? as usize)?;
        *count += 1;
        sum.iter_mut().zip(&sample).for_each(|(s, x)| *s += x);
    }
    let means: Vec<(u32, Vec<f32>)> = (0u32..)
        .zip(sums)
        .filter(|(_, (count, _))| *count > 0)
        .map(|(class, (count, sum))| (class, sum.iter().map(|s| s / count as f32).collect()))
        .collect();
    let far = |mean: &[f32], x: &[f32]| mean.iter().zip(x).map(|(m, x)| (m - x).powi(2)).sum::<f32>();
    let right = held_out
        .inputs
        .chunks_exact(len)
        .zip(&held_out.labels)
        .filter(|(x, label)| {
            let nearest = means.iter().min_by(|a, b| far(&a.1, x).total_cmp(&far(&b.1, x)));
            nearest.is_some_and(|(class, _)| class == *label)
        });
    Some(right.count() as f64 / held_out.labels.len() as f64)
}

/// Mean over rows of the largest probability.
fn largest(logits: &[f32], classes: usize, temperature: f64) -> f64 {
    let mut soft = vec![0.0; logits.len()];
    retort_codec::soften(logits, classes, temperature as f32, &mut soft);
    let rows = soft.chunks_exact(classes);
    let count = rows.len().max(1) as f64;
    let most = |row: &[f32]| f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max)).exp();
    rows.map(most).sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const JOB: &str = r#"
[run]
name = "j"
epochs = 1
batch_size = 32

[dataset]
name = "digits"

[[teachers]]
name = "t"
source = { kind = "checkpoint", path = "somewhere" }

[[students]]
name = "s"
model = { architecture = "mlp", hidden = [8] }
learning_rate = 0.01
teachers = [{ name = "t" }]

[distillation]
temperature = 4.0
alpha = 0.9
"#;

    fn told(settings: &[&str], accuracy: f64, largest: f64) -> Vec<String> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        let job = retort_job::parse(JOB, Path::new("job.toml"), &settings).unwrap();
        let temperature = students(&job).next().unwrap().temperature.bounds().1;
        let measured = Measured {
            name: "t".into(),
            accuracy,
            largest: vec![(temperature, largest)],
        };
        advice(&job, 10, (&[measured], Some(0.7)))
    }

    #[test]
    fn an_ordinary_job_is_not_lectured() {
        assert_eq!(told(&[], 0.9, 0.5), Vec::<String>::new());
    }

    #[test]
    fn what_makes_a_teacher_useless_is_said() {
        for (settings, accuracy, largest, expected) in [
            (
                &["distillation.alpha=0.01"][..],
                0.9,
                0.5,
                "its teachers hardly matter",
            ),
            (
                &["distillation.temperature=0.5"],
                0.9,
                0.5,
                "sharper than the teacher is",
            ),
            (
                &[],
                0.9,
                0.995,
                "nearly labels: its largest probability is 0.995 in the mean even at T = 4",
            ),
            (&[], 0.9, 0.105, "nearly the same for all 10 classes"),
            (&[], 0.11, 0.5, "little more than a guess"),
            (
                &[],
                0.69,
                0.5,
                "right on 69.0 % of the validation samples, the nearest mean of each class's labelled samples on 70.0 %",
            ),
        ] {
            let told = told(settings, accuracy, largest);
            assert!(
                told.len() == 1 && told[0].contains(expected),
                "{expected}: {told:?}"
            );
        }
    }

    /// The job with a trained teacher of so many units; its student has 8.
    fn trained_job(units: usize, settings: &[&str]) -> Job {
        let source = format!(
            "model = {{ architecture = \"mlp\", hidden = [{units}] }}\nsource = {{ kind = \"trained\", learning_rate = 0.01 }}"
        );
        let job = JOB.replace(
            "source = { kind = \"checkpoint\", path = \"somewhere\" }",
            &source,
        );
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        retort_job::parse(&job, Path::new("job.toml"), &settings).unwrap()
    }

    #[test]
    fn a_student_that_is_its_teacher_is_pointed_out() {
        let told = advice(&trained_job(8, &[]), 10, (&[], None));
        assert!(
            told.len() == 1 && told[0].contains("t and its student s are the same model"),
            "{told:?}"
        );
    }

    #[test]
    fn a_trained_teacher_that_is_smaller_than_its_student_is_pointed_out() {
        let job = trained_job(4, &[]);
        let data = retort_data::load(&job.dataset, Path::new("."), 1).unwrap();
        let told = |job: &Job| smaller(job, |model| parameters(&data, model));
        // 64 inputs, 10 classes: 75 numbers for each unit and 10 biases.
        assert_eq!(
            told(&job),
            ["t has fewer parameters than its student s (310 against 610): nothing gets smaller"]
        );
        for units in [8, 16] {
            assert_eq!(told(&trained_job(units, &[])), Vec::<String>::new(), "{units}");
        }
    }

    #[test]
    fn an_open_gate_is_pointed_out_where_a_beginner_teaches_at_once() {
        let told = open_gate(&trained_job(16, &["distillation.gate=none"])).unwrap();
        assert!(told.contains("s learns from t from the first step on"), "{told}");
        for settings in [
            &["distillation.gate=lead"][..],
            &[],
            &[
                "distillation.gate=none",
                "distillation.alpha={ from = 0.0, to = 0.9, over = 0.5 }",
            ],
        ] {
            assert_eq!(open_gate(&trained_job(16, settings)), None, "{settings:?}");
        }
        let fixed =
            retort_job::parse(JOB, Path::new("job.toml"), &["distillation.gate=none".to_owned()]).unwrap();
        assert_eq!(open_gate(&fixed), None, "a fixed teacher is no beginner");
    }

    #[test]
    fn gates_are_pointed_out_where_all_samples_have_labels_only() {
        for (settings, said) in [
            (&["distillation.gate=none"][..], true),
            (&["distillation.gate=none", "dataset.labelled=100"], false),
        ] {
            let job = trained_job(16, settings);
            let checked = Checked {
                dataset: retort_data::load(&job.dataset, Path::new("."), 1).unwrap(),
                job,
                base: ".".into(),
                fixed: Vec::new(),
            };
            let told = of(&checked);
            assert_eq!(
                told.iter().any(|t| t.contains("distillation.gate")),
                said,
                "{told:?}"
            );
        }
    }

    #[test]
    fn the_nearest_mean_of_digits_is_right_on_most_of_them() {
        let job = retort_job::parse(JOB, Path::new("job.toml"), &[]).unwrap();
        let data = retort_data::load(&job.dataset, Path::new("."), 1).unwrap();
        let accuracy = nearest_mean(&data).unwrap();
        assert!((0.8..0.95).contains(&accuracy), "{accuracy}");
    }

    #[test]
    fn the_largest_probability_is_a_mean_over_rows() {
        let even = largest(&[0.0, 0.0, 0.0, 0.0], 2, 4.0);
        assert!((even - 0.5).abs() < 1e-6, "{even}");
        let mixed = largest(&[100.0, 0.0, 0.0, 0.0], 2, 1.0);
        assert!((mixed - 0.75).abs() < 1e-6, "{mixed}");
    }
}

//! Steps and evaluations, each arm in turn.

use retort_tests::bench::Table;
use serde_json::json;

use crate::Options;
use crate::models::{Known, students};
use crate::ours::Ours;
use crate::python::Arm;

pub(crate) const BATCH: usize = 128;
pub(crate) const TEMPERATURE: f32 = 4.0;
pub(crate) const ALPHA: f64 = 0.9;

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A student that learns from labels.
    Alone,
    /// A student and its teacher's forward pass.
    Taught,
    /// A student whose teacher answered before.
    Replayed,
    /// Loss and accuracy.
    Evaluate,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Alone, Self::Taught, Self::Replayed, Self::Evaluate];

    const fn name(self) -> &'static str {
        match self {
            Self::Alone => "step",
            Self::Taught => "kd",
            Self::Replayed => "replayed",
            Self::Evaluate => "evaluate",
        }
    }

    fn question(self, student: &Known) -> serde_json::Value {
        let (model, name, steps) = (student.name, self.name(), student.steps);
        match self {
            Self::Alone => json!({"do": name, "model": model, "batch": BATCH, "steps": steps}),
            Self::Evaluate => json!({"do": name, "model": model, "batch": BATCH, "batches": steps}),
            Self::Replayed => json!({
                "do": name, "model": model, "batch": BATCH, "steps": steps,
                "temperature": TEMPERATURE, "alpha": ALPHA
            }),
            Self::Taught => json!({
                "do": name, "model": model, "teacher": student.teacher, "batch": BATCH, "steps": steps,
                "temperature": TEMPERATURE, "alpha": ALPHA
            }),
        }
    }
}

pub(crate) fn run(table: &mut Table, options: &Options, mut python: Option<&mut Arm>) -> anyhow::Result<()> {
    let turns = if options.quick { 3 } else { 7 };
    for kind in Kind::ALL {
        table.head(&format!(
            "{}, batches of {BATCH}: ms by device and by PyTorch, and how many times as fast as PyTorch: median (quartiles) of {turns} turns",
            kind.name()
        ));
        for student in students(options.cuda) {
            let mut arms = options
                .devices
                .iter()
                .map(|device| Ours::new(kind, student.name, student.teacher, *device))
                .collect::<anyhow::Result<Vec<_>>>()?;
            if let Some(python) = python.as_deref() {
                let (ours, theirs) = (arms[0].parameters(), python.hello.parameters[student.name]);
                anyhow::ensure!(
                    ours == theirs,
                    "{}: {ours} parameters here, {theirs} in PyTorch",
                    student.name
                );
            }
            let mut times: Vec<Vec<f64>> = vec![Vec::new(); arms.len() + 1];
            for _ in 0..turns {
                for (arm, times) in arms.iter_mut().zip(&mut times) {
                    times.push(median(arm.seconds(student.steps)?));
                }
                if let Some(python) = python.as_deref_mut() {
                    let seconds = python.seconds(&kind.question(student))?;
                    times[arms.len()].push(median(seconds));
                }
            }
            report(table, options, kind, student, &times);
        }
    }
    Ok(())
}

fn report(table: &mut Table, options: &Options, kind: Kind, student: &Known, times: &[Vec<f64>]) {
    let theirs = times.last().filter(|t| !t.is_empty());
    let milliseconds = |times: &[f64]| 1e3 * median(times.to_vec());
    for (device, ours) in options.devices.iter().zip(times) {
        let name = format!("{}, {device}", student.name);
        let key = format!("{}_{}_{device}", kind.name(), student.name);
        table.keep(&format!("{key}_ms"), milliseconds(ours));
        let Some(theirs) = theirs else {
            table.note(name, format!("{:.2}", milliseconds(ours)));
            continue;
        };
        // Pairs of one turn: the machine changes between turns.
        let ratios: Vec<f64> = theirs.iter().zip(ours).map(|(t, o)| t / o).collect();
        let [low, middle, high] = quartiles(ratios);
        table.keep(&format!("{key}_speed"), middle);
        table.keep(
            &format!("{}_{}_pytorch_ms", kind.name(), student.name),
            milliseconds(theirs),
        );
        let text = format!(
            "{:.2} / {:.2}  {middle:.2} ({low:.2}..{high:.2})",
            milliseconds(ours),
            milliseconds(theirs)
        );
        match (device, kind) {
            (retort_models::Choice::Libtorch | retort_models::Choice::LibtorchCuda(_), Kind::Alone) => {
                table.check((name, text), ">= 1.0", middle >= 1.0);
            }
            _ => table.note(name, text),
        }
    }
    // Burn's own device beside LibTorch.
    if let ([_, _], [flex, libtorch, ..], Kind::Alone) = (&options.devices[..], times, kind) {
        let ratios: Vec<f64> = libtorch.iter().zip(flex).map(|(l, f)| l / f).collect();
        let [low, middle, high] = quartiles(ratios);
        let mlp = student.name.starts_with("mlp");
        let bound = if mlp { 0.8 } else { 0.6 };
        table.keep(&format!("flex_of_libtorch_{}", student.name), middle);
        table.check(
            (
                format!("{}, flex / libtorch", student.name),
                spread([low, middle, high]),
            ),
            if mlp { ">= 0.8" } else { ">= 0.6" },
            middle >= bound,
        );
    }
}

pub(crate) fn median(values: Vec<f64>) -> f64 {
    quartiles(values)[1]
}

/// Lower quartile, median and upper quartile.
pub(crate) fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}

pub(crate) fn spread([low, middle, high]: [f64; 3]) -> String {
    format!("{middle:.2} ({low:.2}..{high:.2})")
}

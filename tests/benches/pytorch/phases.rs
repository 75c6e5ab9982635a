//! Where a step's time goes: its forward pass, backward pass and optimizer, ours by the trainer's spans and PyTorch's by a
//! clock in its loop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use retort_tests::bench::Table;
use serde_json::json;
use tracing::span::{Attributes, Id};
use tracing::{Subscriber, subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Registry};

use crate::Options;
use crate::models::students;
use crate::ours::Ours;
use crate::python::Arm;
use crate::steps::{ALPHA, BATCH, Kind, TEMPERATURE, median};

const PHASES: [&str; 3] = ["forward", "backward", "optimizer"];

/// Seconds by the name of a span.
type Seconds = Arc<Mutex<BTreeMap<&'static str, Vec<f64>>>>;

/// Takes the time of every span. A layer's handlers cannot fail, so a poisoned lock is used as it is.
struct Stopwatch(Seconds);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Stopwatch {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Instant::now());
        }
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(began) = span.extensions().get::<Instant>()
        {
            let mut seconds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            seconds
                .entry(span.name())
                .or_default()
                .push(began.elapsed().as_secs_f64());
        }
    }
}

pub(crate) fn run(table: &mut Table, options: &Options, mut python: Option<&mut Arm>) -> anyhow::Result<()> {
    let turns = if options.quick { 2 } else { 5 };
    table.head(&format!(
        "Parts of a replayed step, ms (median): {} + ... = sum of the parts",
        PHASES.join(" + ")
    ));
    for student in students(options.cuda) {
        let mut arms = options
            .devices
            .iter()
            .map(|device| Ours::new(Kind::Replayed, student.name, student.teacher, *device))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut times: Vec<BTreeMap<String, Vec<f64>>> = vec![BTreeMap::new(); arms.len() + 1];
        for _ in 0..turns {
            for (arm, times) in arms.iter_mut().zip(&mut times) {
                for (phase, seconds) in timed(|| arm.seconds(student.steps))? {
                    times.entry(phase.to_owned()).or_default().extend(seconds);
                }
            }
            if let Some(python) = python.as_deref_mut() {
                let question = json!({
                    "do": "phases", "model": student.name, "batch": BATCH, "steps": student.steps,
                    "temperature": TEMPERATURE, "alpha": ALPHA
                });
                for step in python.phases(&question)? {
                    for (phase, seconds) in step {
                        times[arms.len()].entry(phase).or_default().push(seconds);
                    }
                }
            }
        }
        let names = options
            .devices
            .iter()
            .map(ToString::to_string)
            .chain(["pytorch".to_owned()]);
        for (arm, times) in names.zip(&times).filter(|(_, times)| !times.is_empty()) {
            let parts = PHASES.map(|phase| 1e3 * times.get(phase).map_or(0.0, |s| median(s.clone())));
            for (phase, part) in PHASES.iter().zip(parts) {
                table.keep(&format!("{phase}_{}_{arm}_ms", student.name), part);
            }
            let [forward, backward, optimizer] = parts;
            let sum: f64 = parts.iter().sum();
            let text = format!("{forward:.2} + {backward:.2} + {optimizer:.2} = {sum:.2}");
            table.note(format!("{}, {arm}", student.name), text);
        }
    }
    Ok(())
}

/// The seconds of each span that the work went through.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<BTreeMap<&'static str, Vec<f64>>> {
    let seconds = Seconds::default();
    subscriber::with_default(Registry::default().with(Stopwatch(Arc::clone(&seconds))), work)?;
    let mut seconds = seconds.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *seconds))
}

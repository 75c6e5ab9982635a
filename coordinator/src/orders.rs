//! What may be asked of a run that is under way, by whichever port. What was asked, and by whom, stays in its events.

use std::fmt;

use retort_coordinator_core::record::Retuned;
use serde::Deserialize;
use tonic::Status;
use tracing::info;

use crate::brain::Handle;
use crate::services::refusal;

/// An order, as JSON `{"order": "drain", "worker": "w1"}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "order", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Order {
    Pause {},
    Resume {},
    Stop {
        /// In words.
        reason: String,
    },
    Drain {
        worker: String,
    },
    Retune {
        alpha: Option<f64>,
        temperature: Option<f64>,
    },
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pause {} => f.write_str("pause"),
            Self::Resume {} => f.write_str("resume"),
            Self::Stop { reason } => write!(f, "stop ({reason})"),
            Self::Drain { worker } => write!(f, "drain {worker}"),
            Self::Retune { .. } => f.write_str("retune"),
        }
    }
}

/// Gives an order to a run (empty: the newest). A refused one leaves no trace.
pub(crate) async fn give(brain: &Handle, run: String, by: String, order: Order) -> Result<(), Status> {
    brain
        .ask(move |brain| {
            let now = brain.now();
            let run = &mut brain.entry(&run)?.run;
            let what = order.to_string();
            match order {
                Order::Pause {} => run.pause(now),
                Order::Resume {} => run.resume(now),
                Order::Stop { reason } => run.stop(&reason, now),
                Order::Drain { worker } => run.drain(&worker, now),
                Order::Retune { alpha, temperature } => run.retune(Retuned { alpha, temperature }, now),
            }
            .map_err(refusal)?;
            info!(run = run.spec.id, "{by} asks: {what}");
            run.asked(&by, &what, now);
            Ok(())
        })
        .await?
}

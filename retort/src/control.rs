//! `retort control`: orders to a run that is under way.

use clap::{Args as Arguments, Subcommand};
use retort_client::Channel;
use retort_proto::pb;
use retort_tls::ClientFlags;

use crate::failure::{Failure, block_on};
use crate::status::named_or_local;

#[derive(Debug, Arguments)]
pub(crate) struct Args {
    #[command(subcommand)]
    order: Order,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// The run that is meant.
#[derive(Debug, Arguments)]
struct Whose {
    /// The coordinator, http://host:port or, with --tls, https://host:port; the newest local run's unless given.
    #[arg(long, env = retort_runtime::env::COORDINATOR)]
    coordinator: Option<String>,
    #[command(flatten)]
    tls: ClientFlags,
    /// Its id; the newest unless given.
    #[arg(long, default_value = "")]
    run: String,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// No new work: replicas finish what they hold, and wait.
    #[command(after_help = "Example:\n  retort control pause")]
    Pause {
        #[command(flatten)]
        of: Whose,
    },
    /// Go on after a pause or a stop, with everybody who was drained.
    #[command(after_help = "Example:\n  retort control resume --run digits-1")]
    Resume {
        #[command(flatten)]
        of: Whose,
    },
    /// End the run in order, with a checkpoint; it can be resumed.
    #[command(after_help = "Example:\n  retort control stop --reason 'enough learned'")]
    Stop {
        /// Why, for the run's events.
        #[arg(long, default_value = "asked for by retort control")]
        reason: String,
        #[command(flatten)]
        of: Whose,
    },
    /// Ask a worker or a teacher server to hand over what it has and to leave.
    #[command(after_help = "Example:\n  retort control drain w1")]
    Drain {
        /// Its name, as retort status shows it.
        worker: String,
        #[command(flatten)]
        of: Whose,
    },
    /// Another alpha from the next round on, another temperature from the next lease on, until the run ends. What is not
    /// given is as the job says, also after an earlier order.
    #[command(after_help = "Example:\n  retort control retune --alpha 0.5 --temperature 2")]
    Retune {
        /// Share of the soft loss, within 0..=1.
        #[arg(long)]
        alpha: Option<f64>,
        /// Temperature of soft targets, 0.001 to 10000.
        #[arg(long)]
        temperature: Option<f64>,
        #[command(flatten)]
        of: Whose,
    },
}

/// What is asked of a run.
#[derive(Debug)]
pub(crate) enum Asked {
    Pause,
    Resume,
    /// Why.
    Stop(String),
    /// Name of a worker or a teacher server.
    Drain(String),
    Retune {
        alpha: Option<f64>,
        temperature: Option<f64>,
    },
}

impl Asked {
    fn verb(&self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Stop(_) => "stop",
            Self::Drain(_) => "drain",
            Self::Retune { .. } => "retune",
        }
    }
}

impl Order {
    fn split(self) -> (Whose, Asked) {
        match self {
            Self::Pause { of } => (of, Asked::Pause),
            Self::Resume { of } => (of, Asked::Resume),
            Self::Stop { reason, of } => (of, Asked::Stop(reason)),
            Self::Drain { worker, of } => (of, Asked::Drain(worker)),
            Self::Retune {
                alpha,
                temperature,
                of,
            } => (of, Asked::Retune { alpha, temperature }),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(Args { order, json }: Args) -> Result<(), Failure> {
    let (of, asked) = order.split();
    let coordinator = named_or_local(of.coordinator, &of.tls)?;
    let (verb, run) = (asked.verb(), of.run.clone());
    block_on(async move { Ok(give(coordinator.reach().await?, of.run, asked).await?) })?;
    if json {
        let run = (!run.is_empty()).then_some(run);
        println!("{:#}", serde_json::json!({ "order": verb, "run": run }));
    } else {
        println!("{verb}: done, retort status shows what comes of it");
    }
    Ok(())
}

/// Gives an order to a run; empty: the newest.
pub(crate) async fn give(channel: Channel, run: String, asked: Asked) -> Result<(), tonic::Status> {
    let mut runs = retort_client::runs(channel);
    match asked {
        Asked::Pause => runs.pause(pb::PauseRequest { run }).await.map(drop),
        Asked::Resume => runs.resume(pb::ResumeRequest { run }).await.map(drop),
        Asked::Stop(reason) => runs.stop(pb::StopRequest { run, reason }).await.map(drop),
        Asked::Drain(worker) => runs.drain(pb::DrainRequest { run, worker }).await.map(drop),
        Asked::Retune { alpha, temperature } => {
            let request = pb::RetuneRequest {
                run,
                alpha,
                temperature,
            };
            runs.retune(request).await.map(drop)
        }
    }
}

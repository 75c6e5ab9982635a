//! Ten thousand workers in one process: they register, hold a lease and beat; none may be lost.
//! A thousand have a connection each, the others share ninety.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use retort_client::fleet;
use retort_proto::pb;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::cluster::{Coordinator, Worker};
use retort_tests::bench::Table;

const HEARTBEAT: Duration = Duration::from_millis(500);
/// Replicas of one group.
const REPLICAS: usize = 1_000;
/// Workers that share a connection.
const SHARED: usize = 100;

struct Outcome {
    /// When the last worker had its session and its lease.
    registered: Duration,
    beats: u64,
    /// Longest time between two answers to one worker.
    silence: Duration,
    lost: usize,
}

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    let (workers, own, beating) = if quick {
        (1_000, 200, Duration::from_secs(3))
    } else {
        (10_000, 1_000, Duration::from_secs(20))
    };
    table.head(&format!(
        "{workers} workers over gRPC in one process, {own} of them with a connection each"
    ));
    let runtime = tokio::runtime::Runtime::new()?;
    let o = runtime.block_on(measure(workers, own, beating))?;
    let registered = o.registered.as_secs_f64();
    table.check(
        (
            "all have a session and a lease after".into(),
            format!("{registered:.2} s"),
        ),
        "<= 10 s",
        registered <= 10.0,
    );
    let expected = beating.as_secs_f64() / HEARTBEAT.as_secs_f64() * workers as f64;
    let share = o.beats as f64 / expected;
    table.note(
        format!("heartbeats answered in {} s, of those due", beating.as_secs()),
        format!("{:.1} %", share * 100.0),
    );
    table.note(
        "longest silence of one worker",
        format!("{} ms", o.silence.as_millis()),
    );
    table.check(("leases lost".into(), o.lost.to_string()), "0", o.lost == 0);
    table.keep("workers", workers);
    table.keep("registered_s", registered);
    table.keep("heartbeats_answered_share", share);
    table.keep("longest_silence_ms", o.silence.as_millis() as u64);
    table.keep("leases_lost", o.lost);
    Ok(())
}

async fn measure(count: usize, own: usize, beating: Duration) -> anyhow::Result<Outcome> {
    let coordinator = Coordinator::start()?;
    let groups = count.div_ceil(REPLICAS);
    let run = coordinator.submit(groups as u32, REPLICAS as u32).await?;
    let mut channels = Vec::new();
    for number in 0..count {
        let shares = number >= own && !(number - own).is_multiple_of(SHARED);
        let channel = match channels.last() {
            Some(last) if shares => Clone::clone(last),
            _ => coordinator.channel()?,
        };
        channels.push(channel);
    }
    let began = Instant::now();
    let mut joining = JoinSet::new();
    for (number, channel) in channels.into_iter().enumerate() {
        let run = run.clone();
        joining.spawn(async move {
            let mut worker = Worker::register(channel, &run, number).await?;
            worker.publish_if_asked().await?;
            let lease = worker.lease().await?;
            let registered = began.elapsed();
            let (beats, silence) = beat(&worker, began + beating).await?;
            anyhow::Ok((worker, lease, registered, beats, silence))
        });
    }
    let mut outcome = Outcome {
        registered: Duration::ZERO,
        beats: 0,
        silence: Duration::ZERO,
        lost: 0,
    };
    while let Some(done) = joining.join_next().await {
        let (worker, (epoch, positions), registered, beats, silence) = done??;
        outcome.registered = outcome.registered.max(registered);
        outcome.beats += beats;
        outcome.silence = outcome.silence.max(silence);
        // What is still leased can be given back.
        let request = pb::ReleaseRequest {
            session: Some(worker.session.clone()),
            epoch,
            positions: vec![positions],
            number: 0,
        };
        outcome.lost += usize::from(fleet(worker.channel.clone()).release(request).await.is_err());
    }
    ensure!(outcome.beats > 0, "no heartbeat was answered");
    Ok(outcome)
}

/// Beats until then; gives the answers and the longest time between two.
async fn beat(worker: &Worker, until: Instant) -> anyhow::Result<(u64, Duration)> {
    let message = pb::ControlUp {
        session: Some(worker.session.clone()),
        ..pb::ControlUp::default()
    };
    let (beats, stream) = tokio::sync::mpsc::channel(1);
    let mut due = tokio::time::interval(HEARTBEAT);
    beats.send(message.clone()).await?;
    let control = fleet(worker.channel.clone())
        .control(ReceiverStream::new(stream))
        .await?;
    let mut down = control.into_inner();
    let (mut answered, mut silence, mut heard) = (0, Duration::ZERO, Instant::now());
    while Instant::now() < until {
        // Both arms are cancel-safe: a message that was not taken stays in its stream.
        let message = tokio::select! {
            _ = due.tick() => {
                // One that waits already will do.
                let _ = beats.try_send(message.clone());
                continue;
            }
            message = down.message() => message?.context("the stream ended")?,
        };
        if matches!(message.command, Some(pb::control_down::Command::Alive(_))) {
            answered += 1;
            silence = silence.max(heard.elapsed());
            heard = Instant::now();
        }
    }
    Ok((answered, silence))
}

//! Leases and contributions over gRPC with the journal on, beside an empty request to the same
//! server: arms alternate within one run.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::cluster::{Coordinator, Worker};
use retort_tests::bench::Table;

/// Workers that ask at the same time, enough that nobody waits for the disk alone; each is alone in
/// its group, and publishes no version.
const WORKERS: usize = 256;
/// Leases per contribution.
const LEASES: usize = 16;

#[derive(Default)]
struct Arm {
    /// Requests or pairs per second, one figure per turn.
    rates: Vec<f64>,
    /// Seconds of each request.
    times: Vec<f64>,
}

impl Arm {
    fn median(&mut self) -> f64 {
        self.rates.sort_by(f64::total_cmp);
        self.rates[self.rates.len() / 2]
    }

    fn spread(&self) -> String {
        let ends = (self.rates.first(), self.rates.last());
        format!(
            "{:.0}..{:.0}",
            ends.0.copied().unwrap_or_default(),
            ends.1.copied().unwrap_or_default()
        )
    }

    fn p99_ms(&mut self) -> f64 {
        self.times.sort_by(f64::total_cmp);
        self.times[self.times.len() * 99 / 100] * 1e3
    }
}

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    table.head(&format!(
        "Requests over loopback gRPC: {WORKERS} workers, one contribution per {LEASES} leases, journal on"
    ));
    let (turns, turn) = if quick {
        (3, Duration::from_secs(1))
    } else {
        (7, Duration::from_secs(3))
    };
    let runtime = tokio::runtime::Runtime::new()?;
    let [mut empty, mut pairs, mut leases] = runtime.block_on(measure(turns, turn))?;
    let (of_empty, of_pairs) = (empty.median(), pairs.median());
    let ratio = of_pairs / of_empty;
    table.note(
        "empty requests/s, median",
        format!("{of_empty:.0} ({})", empty.spread()),
    );
    table.note("pairs/s, median", format!("{of_pairs:.0} ({})", pairs.spread()));
    table.check(("ratio".into(), format!("{ratio:.2}")), ">= 0.5", ratio >= 0.5);
    let p99 = [empty.p99_ms(), leases.p99_ms(), pairs.p99_ms()];
    table.note("p99 of an empty request", format!("{:.2} ms", p99[0]));
    table.note("p99 of a lease", format!("{:.2} ms", p99[1]));
    table.note("p99 of a contribution", format!("{:.2} ms", p99[2]));
    table.keep("empty_per_s", of_empty);
    table.keep("pairs_per_s", of_pairs);
    table.keep("pairs_to_empty", ratio);
    table.keep("p99_ms_empty_lease_contribution", p99.to_vec());
    Ok(())
}

async fn measure(turns: usize, turn: Duration) -> anyhow::Result<[Arm; 3]> {
    let coordinator = Coordinator::start()?;
    // One group per worker, and one for the teacher.
    let run = coordinator.submit(WORKERS as u32 - 1, 1).await?;
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let worker = Worker::register(coordinator.channel()?, &run, number).await?;
        worker.publish_if_asked().await?;
        workers.push(worker);
    }
    let [mut empty, mut pairs, mut leases] = [Arm::default(), Arm::default(), Arm::default()];
    for _ in 0..turns {
        let began = Instant::now();
        let mut asking = JoinSet::new();
        for worker in &workers {
            let mut client = HealthClient::new(worker.channel.clone());
            asking.spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < turn {
                    let asked = Instant::now();
                    client.check(HealthCheckRequest::default()).await?;
                    times.push(asked.elapsed().as_secs_f64());
                }
                anyhow::Ok(times)
            });
        }
        let before = empty.times.len();
        while let Some(times) = asking.join_next().await {
            empty.times.extend(times??);
        }
        let count = empty.times.len() - before;
        empty.rates.push(count as f64 / began.elapsed().as_secs_f64());

        let began = Instant::now();
        let mut working = JoinSet::new();
        for mut worker in workers.drain(..) {
            working.spawn(async move {
                let (mut asks, mut reports) = (Vec::new(), Vec::new());
                while began.elapsed() < turn {
                    let mut trained = Vec::new();
                    let mut epoch = 0;
                    for _ in 0..LEASES {
                        let asked = Instant::now();
                        let (of, positions) = worker.lease().await?;
                        asks.push(asked.elapsed().as_secs_f64());
                        epoch = of;
                        trained.push(positions);
                    }
                    let asked = Instant::now();
                    worker.contribute(epoch, trained).await?;
                    reports.push(asked.elapsed().as_secs_f64());
                    worker.publish_if_asked().await?;
                }
                anyhow::Ok((worker, asks, reports))
            });
        }
        let before = leases.times.len();
        while let Some(done) = working.join_next().await {
            let (worker, asks, reports) = done??;
            workers.push(worker);
            leases.times.extend(asks);
            pairs.times.extend(reports);
        }
        let count = leases.times.len() - before;
        pairs.rates.push(count as f64 / began.elapsed().as_secs_f64());
    }
    Ok([empty, pairs, leases])
}

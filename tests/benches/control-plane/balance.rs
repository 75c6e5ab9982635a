//! How long an epoch takes on workers of ten speeds, in virtual time: the core's leases beside two
//! simpler rules.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use retort_coordinator_core::ids::{Millis, Session};
use retort_coordinator_core::lease::Answer;
use retort_coordinator_core::round::{Sums, Work};
use retort_coordinator_core::run::{Command, Heartbeat, Message, Run};
use retort_data::ranges::RangeSet;

use crate::fleet::{BLOCK, register, spec};
use retort_tests::bench::Table;

/// Samples per second of the slowest worker; the others make two to ten times as many.
const SLOWEST: u64 = 100;
const WORKERS: u64 = 10;
const SAMPLES: u64 = 1_000_000;
/// Steps of the fastest in a round.
const ROUND_STEPS: u32 = 64;

struct Worker {
    session: Session,
    rate: u64,
    requests: u64,
    /// Steps of this round: taken, and to take.
    steps: u32,
    share: u32,
    /// Leased and not trained.
    left: RangeSet,
    trained: RangeSet,
    /// Its leases of this round were revoked: it joins the next merge.
    revoked: bool,
}

pub(crate) fn run(table: &mut Table) {
    table.head(&format!(
        "Makespan of an epoch in virtual time: {SAMPLES} samples, {WORKERS} workers of {SLOWEST} to {} samples/s",
        SLOWEST * WORKERS
    ));
    let speeds: u64 = (1..=WORKERS).sum();
    let ideal = SAMPLES as f64 / (SLOWEST * speeds) as f64;
    let block = f64::from(BLOCK) / SLOWEST as f64;
    table.note("ideal (all work until the end)", format!("{ideal:.2} s"));
    let leases = makespan(u32::MAX);
    table.check(
        ("leases by measured rate".into(), format!("{leases:.2} s")),
        "<= ideal + slowest block",
        leases <= ideal + block,
    );
    let rounds = makespan(ROUND_STEPS);
    table.note(
        format!("the same with a merge every {ROUND_STEPS} steps of the fastest"),
        format!("{rounds:.2} s"),
    );
    let equal = SAMPLES as f64 / WORKERS as f64 / SLOWEST as f64;
    table.note("equal split", format!("{equal:.2} s"));
    // Five readers with equal shares; each is given two of the ten, whatever their speed.
    let pair = (SLOWEST * (1 + 2)) as f64;
    let by_count = SAMPLES as f64 / (WORKERS / 2) as f64 / pair;
    table.note(
        "equal number of connections (EDL's rule)",
        format!("{by_count:.2} s"),
    );
    table.keep("makespan_ideal_s", ideal);
    table.keep("makespan_leases_s", leases);
    table.keep("makespan_rounds_s", rounds);
    table.keep("makespan_equal_split_s", equal);
    table.keep("makespan_by_connections_s", by_count);
}

/// Seconds of virtual time from the first lease to the last contribution.
fn makespan(round_steps: u32) -> f64 {
    let mut run = Run::new(spec(WORKERS as u32, SAMPLES, round_steps), 1, Millis(0));
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|i| Worker {
            session: register(&mut run, i as usize, Millis(0)).expect("a part is free"),
            rate: SLOWEST * (i + 1),
            requests: 0,
            steps: 0,
            share: round_steps,
            left: RangeSet::new(),
            trained: RangeSet::new(),
            revoked: false,
        })
        .collect();
    publish(&mut run, &workers[0].session, Millis(0));
    // When a worker has ended its step, in microseconds.
    let mut events: Events = (0..workers.len()).map(|i| Reverse((0, i))).collect();
    let mut end = 0;
    while let Some(Reverse((at, i))) = events.pop() {
        let now = Millis(at / 1_000);
        if run.poll_timeout().is_some_and(|t| t <= now) {
            // Nobody is silent here: workers beat whenever somebody looks.
            for worker in &workers {
                beat(&mut run, worker, now);
            }
            run.handle_timeout(now);
            carry_out(&mut run, &mut workers, &mut events, now);
        }
        end = at;
        let took = step(&mut run, &mut workers[i], now);
        events.extend(took.map(|took| Reverse((at + took, i))));
        carry_out(&mut run, &mut workers, &mut events, now);
        if run.state().0.ended() {
            break;
        }
    }
    end as f64 / 1e6
}

type Events = BinaryHeap<Reverse<(u64, usize)>>;

/// Tells the workers what the core decided.
fn carry_out(run: &mut Run, workers: &mut [Worker], events: &mut Events, now: Millis) {
    while let Some(command) = run.poll_command() {
        match command {
            Command::Send {
                worker,
                message: Message::Revoke { .. },
            } => {
                let late = workers.iter_mut().find(|w| w.session.worker == worker);
                late.expect("a worker").revoked = true;
            }
            Command::CloseRound(closed) => {
                if let Some(name) = &closed.publisher {
                    let publisher = workers.iter().find(|w| w.session.worker == *name);
                    publish(run, &publisher.expect("a worker").session, now);
                }
                for (i, worker) in workers.iter_mut().enumerate() {
                    let mut members = closed.members.iter();
                    if members.any(|m| m.worker == worker.session.worker) {
                        worker.share = closed.plan_of(&worker.session.worker).steps;
                        worker.steps = 0;
                        events.push(Reverse((now.0 * 1_000, i)));
                    }
                }
            }
            _ => {}
        }
    }
}

/// One optimizer step; gives its microseconds. `None`: it contributed and waits.
fn step(run: &mut Run, worker: &mut Worker, now: Millis) -> Option<u64> {
    if std::mem::take(&mut worker.revoked) {
        worker.left = RangeSet::new();
        worker.trained = RangeSet::new();
        let joins = Work {
            joining: true,
            ..Work::default()
        };
        run.contribute(&worker.session, joins, now).expect("it may join");
        return None;
    }
    if worker.steps < worker.share {
        beat(run, worker, now);
        if worker.left.is_empty() {
            let asked = (worker.requests + 1, worker.requests);
            worker.requests += 1;
            if let Ok(Answer::Granted { positions, .. }) = run.lease(&worker.session, asked, now) {
                worker.left.insert(positions);
            }
        }
        let batch = worker.left.take_first(u64::from(BLOCK));
        if !batch.is_empty() {
            for range in batch.iter() {
                worker.trained.insert(range);
            }
            worker.steps += 1;
            return Some(batch.len() * 1_000_000 / worker.rate);
        }
    }
    let group = &run.groups()[0];
    let (plan, epoch) = (group.plan(), group.ledger.epoch());
    let trained = std::mem::take(&mut worker.trained);
    let work = Work {
        generation: plan.generation,
        round: plan.round,
        epoch,
        steps: worker.steps,
        sums: Sums {
            samples: trained.len(),
            step_seconds: trained.len() as f64 / worker.rate as f64,
            ..Sums::default()
        },
        trained,
        ..Work::default()
    };
    run.contribute(&worker.session, work, now)
        .expect("its round is open");
    None
}

fn beat(run: &mut Run, worker: &Worker, now: Millis) {
    let heartbeat = Heartbeat {
        rate: worker.rate as f64,
        ..Heartbeat::default()
    };
    run.heartbeat(&worker.session, heartbeat, now)
        .expect("the session lives");
}

fn publish(run: &mut Run, session: &Session, now: Millis) {
    let plan = run.groups()[0].plan();
    let (generation, round) = (plan.generation, plan.round);
    let ticket = run
        .ticket(session, generation, round)
        .expect("it was asked to publish");
    run.published(&ticket, None, now);
}

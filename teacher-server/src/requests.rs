//! Where readers and the device meet: a want is answered from the cache, joins a forward pass that
//! is under way for the same block, or waits in the batcher for one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
// A lock: readers' tasks and the device thread, which may sleep on the condition, share the state. It
// is held for lookups only, never while anything is computed, encoded or awaited.
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Span;

use crate::batcher::{Batcher, Entry, Inputs};
use crate::cache::{Cache, Key};
use crate::device::{Control, ScoreError};
use crate::targets::Targets;

/// What a reader asks for, once its version is settled.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) key: Key,
    pub(crate) group: String,
    /// The stream that asks.
    pub(crate) reader: u64,
    pub(crate) samples: u64,
    pub(crate) inputs: Inputs,
    pub(crate) layer: Option<Arc<str>>,
    pub(crate) within: Duration,
    /// The answer's.
    pub(crate) span: Span,
}

pub(crate) type Scored = Result<Arc<Targets>, ScoreError>;

/// How a want is met.
pub(crate) enum Asked {
    /// It is here.
    Here(Arc<Targets>),
    /// The answer comes when the device has it. Dropping this frees its place.
    Later(oneshot::Receiver<Scored>),
    /// Too much waits; ask again after this.
    Overloaded(Duration),
}

/// What the device does next.
pub(crate) enum Work {
    Control(Control),
    /// Blocks of one version, with or without the output of one layer.
    Score(Vec<Entry>),
    /// All handles are gone.
    End,
}

/// Limits of one server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest number of samples of one forward pass.
    pub batch_samples: usize,
    /// How long an entry may wait for others to fill its batch.
    pub queue_delay: Duration,
    /// Samples that may wait, or one block of any size; what comes beyond is refused.
    pub queue_samples: u64,
    /// Bytes of the cache.
    pub cache_bytes: usize,
    /// Bytes of frames that one reader may leave unread.
    pub unread_bytes: u64,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) scored: u64,
    pub(crate) queued: u64,
    pub(crate) forwards: u64,
    pub(crate) hits: u64,
    pub(crate) replayed: u64,
    pub(crate) coalesced: u64,
    pub(crate) misses: u64,
    pub(crate) evicted: u64,
    pub(crate) cached_bytes: u64,
    pub(crate) overloaded: u64,
    pub(crate) abandoned: u64,
    /// Samples per second of the last forward passes; 0: none yet.
    pub(crate) capacity: f64,
}

struct Waiter {
    reader: u64,
    group: String,
    answer: oneshot::Sender<Scored>,
}

struct State {
    cache: Cache,
    queue: Batcher,
    /// Who waits for a block that is queued or at the device.
    flights: BTreeMap<Key, Vec<Waiter>>,
    control: VecDeque<Control>,
    /// Open streams.
    readers: BTreeSet<u64>,
    next_reader: u64,
    counters: Counters,
    closed: bool,
}

/// Shared by all streams and the device thread.
pub(crate) struct Requests {
    limits: Limits,
    state: Mutex<State>,
    work: Condvar,
}

impl Requests {
    pub(crate) fn new(limits: Limits, groups: BTreeSet<String>) -> Self {
        let cache = Cache::new(limits.cache_bytes, groups);
        Self {
            limits,
            state: Mutex::new(State {
                cache,
                queue: Batcher::default(),
                flights: BTreeMap::new(),
                control: VecDeque::new(),
                readers: BTreeSet::new(),
                next_reader: 0,
                counters: Counters::default(),
                closed: false,
            }),
            work: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream opened; its number.
    pub(crate) fn open(&self) -> u64 {
        let mut state = self.state();
        state.next_reader += 1;
        let reader = state.next_reader;
        state.readers.insert(reader);
        reader
    }

    /// A stream closed.
    pub(crate) fn close(&self, reader: u64) {
        self.state().readers.remove(&reader);
        self.work.notify_one();
    }

    pub(crate) fn ask(&self, ask: Ask, now: Instant) -> Asked {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(targets) = state.cache.read(&ask.key, &ask.group, now) {
            state.counters.hits += 1;
            ask.span.record("met", "cache");
            return Asked::Here(targets);
        }
        if let Some(waiters) = state.flights.get_mut(&ask.key) {
            state.counters.coalesced += 1;
            ask.span.record("met", "another's forward pass");
            let (answer, later) = oneshot::channel();
            waiters.push(Waiter {
                reader: ask.reader,
                group: ask.group,
                answer,
            });
            return Asked::Later(later);
        }
        let waiting = state.queue.samples();
        if waiting > 0 && waiting + ask.samples > self.limits.queue_samples {
            state.counters.overloaded += 1;
            let rate = state.counters.capacity.max(1.0);
            let wait = Duration::from_secs_f64((waiting as f64 / rate).clamp(0.02, 5.0));
            return Asked::Overloaded(wait);
        }
        state.counters.misses += 1;
        ask.span.record("met", "forward pass");
        let (answer, later) = oneshot::channel();
        let entry = Entry {
            key: ask.key,
            samples: ask.samples,
            inputs: ask.inputs,
            layer: ask.layer,
            due: now + ask.within,
            arrived: now,
            span: ask.span,
        };
        state.queue.push(&ask.group, entry);
        let waiter = Waiter {
            reader: ask.reader,
            group: ask.group,
            answer,
        };
        state.flights.insert(ask.key, vec![waiter]);
        drop(guard);
        self.work.notify_one();
        Asked::Later(later)
    }

    /// A reader made a frame of a block that may be in the cache.
    pub(crate) fn grown(&self, key: &Key) {
        self.state().cache.grown(key);
    }

    /// A want was answered from the store.
    pub(crate) fn replayed(&self) {
        self.state().counters.replayed += 1;
    }

    pub(crate) fn control(&self, control: Control) {
        self.state().control.push_back(control);
        self.work.notify_one();
    }

    /// No more work comes.
    pub(crate) fn end(&self) {
        self.state().closed = true;
        self.work.notify_one();
    }

    /// Blocks until there is work: control first, then the next batch.
    pub(crate) fn next(&self, batch_samples: u64) -> Work {
        let mut guard = self.state();
        loop {
            let state = &mut *guard;
            if state.closed {
                return Work::End;
            }
            if let Some(control) = state.control.pop_front() {
                return Work::Control(control);
            }
            let held = self.held(state, batch_samples);
            match (state.queue.oldest(), held) {
                (None, _) => guard = self.work.wait(guard).unwrap_or_else(PoisonError::into_inner),
                (Some(_), Some(rest)) => {
                    let waited = self.work.wait_timeout(guard, rest);
                    guard = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                (Some(_), None) => {
                    let flights = &state.flights;
                    let wanted = |e: &Entry| {
                        let waiters = flights.get(&e.key).into_iter().flatten();
                        waiters.into_iter().any(|w| !w.answer.is_closed())
                    };
                    let (batch, abandoned) = state.queue.take(batch_samples, wanted);
                    state.counters.abandoned += abandoned;
                    if abandoned > 0 {
                        state
                            .flights
                            .retain(|_, waiters| waiters.iter().any(|w| !w.answer.is_closed()));
                    }
                    if !batch.is_empty() {
                        return Work::Score(batch);
                    }
                }
            }
        }
    }

    /// How much longer the batch is held open: not at all by default, or where it is full, or where
    /// every open stream waits for something in it already.
    fn held(&self, state: &State, batch_samples: u64) -> Option<Duration> {
        let oldest = state.queue.oldest()?;
        if self.limits.queue_delay.is_zero() || state.queue.samples() >= batch_samples {
            return None;
        }
        let waiters = state.flights.values().flatten();
        let waiting: BTreeSet<u64> = waiters.map(|w| w.reader).collect();
        if state.readers.is_subset(&waiting) {
            return None;
        }
        let rest = self.limits.queue_delay.saturating_sub(oldest.elapsed());
        (!rest.is_zero()).then_some(rest)
    }

    /// The device has an answer for a block.
    pub(crate) fn scored(&self, key: Key, scored: &Scored, now: Instant) {
        let mut guard = self.state();
        let state = &mut *guard;
        let waiters = state.flights.remove(&key).unwrap_or_default();
        if let Ok(targets) = scored {
            let read = waiters.iter().map(|w| w.group.clone()).collect();
            state.cache.insert(key, targets.clone(), read, now);
        }
        drop(guard);
        for waiter in waiters {
            let _ = waiter.answer.send(scored.clone()); // a reader that has gone
        }
    }

    /// Versions below this one are not served any more.
    pub(crate) fn keep_from(&self, version: u64) {
        self.state().cache.keep_from(version);
    }

    /// A forward pass took so long.
    pub(crate) fn computed(&self, samples: u64, took: Duration) {
        /// Weight of the newest measurement.
        const NEWEST: f64 = 0.1;
        let mut state = self.state();
        state.counters.scored += samples;
        state.counters.forwards += 1;
        // Seconds are averaged, not rates: a device that stands still now and then is slow.
        let seconds = took.as_secs_f64().max(1e-9) / samples.max(1) as f64;
        let capacity = &mut state.counters.capacity;
        let before = if *capacity > 0.0 {
            capacity.recip()
        } else {
            seconds
        };
        *capacity = (before + NEWEST * (seconds - before)).recip();
    }

    /// What the start-up sweep found.
    pub(crate) fn set_capacity(&self, samples_per_s: f64) {
        self.state().counters.capacity = samples_per_s;
    }

    pub(crate) fn counters(&self) -> Counters {
        let state = self.state();
        Counters {
            queued: state.queue.samples(),
            evicted: state.cache.evicted(),
            cached_bytes: state.cache.bytes() as u64,
            ..state.counters
        }
    }
}

#[cfg(test)]
mod tests;

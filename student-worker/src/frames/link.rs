//! One server of one teacher: a stream that is opened again whenever it breaks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use retort_client::{Backoff, Dialer};
use retort_codec::{Features, FeaturesError};
use retort_proto::pb;
use retort_runtime::{TaskGroup, block_span, trace};
use retort_tls::Role;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{Span, debug, warn};

use super::load::Load;
use super::{RETRY, Terms, WANTS, Want, send_later};
use crate::replica::Event;
use crate::thread::Frame;

/// A stream that is not accepted in this time counts as broken.
const OPEN: Duration = Duration::from_secs(2);
/// Longest pause between two attempts: training goes on soon after a server came back.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How often outstanding wants are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A link that answers nothing for this long, and for several times as long as its work should take,
/// has stalled: what it holds is asked of another server.
const STALL: Duration = Duration::from_millis(700);
const STALL_FACTOR: f64 = 4.0;

/// A want at the server.
struct Outstanding {
    want: Want,
    asked: Instant,
    /// Another server was asked meanwhile; a late answer is as welcome.
    given_up: bool,
    /// From here until the block is trained on.
    block: Span,
    /// Until the answer was checked.
    ask: Span,
}

pub(super) struct Link {
    pub(super) terms: Arc<Terms>,
    pub(super) dialer: Dialer,
    pub(super) teacher: String,
    pub(super) address: String,
    pub(super) load: Arc<Load>,
    /// The teacher has other servers.
    pub(super) several: Arc<AtomicBool>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) tasks: TaskGroup,
}

type Wants = BTreeMap<u64, Outstanding>;

impl Link {
    /// Streams until the session drops its sender; a broken stream fails its wants at once.
    pub(super) async fn run(self, mut inbox: mpsc::Receiver<Want>) -> anyhow::Result<()> {
        let channel = self.dialer.connect(&self.address, Role::Teacher)?;
        let mut backoff = Backoff::new(self.address.len() as u64);
        let mut outstanding = Wants::new();
        loop {
            let mut client = retort_client::teacher(channel.clone());
            let (requests, stream) = mpsc::channel(WANTS);
            let _ = requests.send(self.open()).await;
            let opened = tokio::select! {
                opened = tokio::time::timeout(OPEN, client.distill(ReceiverStream::new(stream))) => opened,
                () = self.events.closed() => return Ok(()),
            };
            let opened = opened.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("it does not open")));
            let ended = match opened {
                Ok(frames) => {
                    backoff.reset();
                    self.load.set_down(false, Instant::now());
                    self.relay(&mut inbox, &mut outstanding, requests, frames.into_inner())
                        .await
                }
                Err(status) => Err(status),
            };
            let Err(status) = ended else {
                // The server has left the routing: what it was asked for is asked elsewhere.
                self.fail(std::mem::take(&mut outstanding)).await;
                return Ok(());
            };
            debug!(
                teacher = self.teacher,
                address = self.address,
                "stream: {}",
                status.message()
            );
            self.load.set_down(true, Instant::now());
            self.give_back(&mut inbox, &mut outstanding).await;
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay().min(LONGEST_PAUSE)) => {}
                () = self.events.closed() => return Ok(()),
            }
            if inbox.is_closed() {
                // What it was asked for during the pause.
                self.give_back(&mut inbox, &mut outstanding).await;
                return Ok(());
            }
        }
    }

    /// Fails what the server has not answered, and what it has not been asked for yet.
    async fn give_back(&self, inbox: &mut mpsc::Receiver<Want>, outstanding: &mut Wants) {
        while let Ok(want) = inbox.try_recv() {
            let key = u64::MAX - outstanding.len() as u64;
            outstanding.insert(key, self.asked(want));
        }
        self.fail(std::mem::take(outstanding)).await;
    }

    async fn fail(&self, wants: Wants) {
        for (_, Outstanding { want, given_up, .. }) in wants {
            let failed = Event::FrameFailed {
                teacher: want.teacher,
                id: want.id,
            };
            if !given_up && self.events.send(failed).await.is_err() {
                return; // the replica is gone
            }
        }
    }

    pub(super) fn open(&self) -> pb::DistillRequest {
        let t = &self.terms;
        // Room for every block that the machine may want, and one to spare.
        let samples = (t.prefetch + 1) * u64::from(t.grid.block);
        let frame = t.frame_len(&self.teacher, t.grid.block.into());
        let open = pb::Open {
            run: t.run.clone(),
            teacher: self.teacher.clone(),
            dataset_digest: t.dataset_digest.clone(),
            temperature: t.temperature.at(0.0).max(f64::MIN_POSITIVE),
            encoding: t.encoding.to_string(),
            credit_samples: samples,
            credit_bytes: (t.prefetch + 1) * frame,
            reader: t.reader.clone(),
            group: t.group.clone(),
            layer: t
                .layer_of(&self.teacher)
                .map(|l| l.name.clone())
                .unwrap_or_default(),
        };
        pb::DistillRequest {
            part: Some(pb::distill_request::Part::Open(open)),
        }
    }

    /// `Ok`: nobody asks this server any more.
    async fn relay(
        &self,
        inbox: &mut mpsc::Receiver<Want>,
        outstanding: &mut Wants,
        requests: mpsc::Sender<pb::DistillRequest>,
        mut frames: Streaming<pb::SoftTargets>,
    ) -> Result<(), tonic::Status> {
        let gone = || tonic::Status::unavailable("the stream is closed");
        let mut next_id = 0;
        let mut heard = Instant::now();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Cancel-safe: receivers, streams and intervals keep what was not taken.
            tokio::select! {
                want = inbox.recv() => {
                    let Some(want) = want else { return Ok(()) };
                    next_id += 1;
                    let asked = self.asked(want);
                    let part = Some(pb::distill_request::Part::Want(self.request(next_id, &asked)));
                    outstanding.insert(next_id, asked);
                    requests.send(pb::DistillRequest { part }).await.map_err(|_| gone())?;
                }
                frame = frames.message() => {
                    let frame = frame?.ok_or_else(gone)?;
                    heard = Instant::now();
                    let Some(Outstanding { want, block, ask, .. }) = outstanding.remove(&frame.id) else { continue };
                    let samples = self.terms.samples(want.id);
                    let credit = pb::Credit {
                        samples,
                        bytes: self.terms.frame_len(&self.teacher, samples),
                    };
                    let part = Some(pb::distill_request::Part::Credit(credit));
                    requests.send(pb::DistillRequest { part }).await.map_err(|_| gone())?;
                    if frame.error.is_some() {
                        self.load.given_up(samples, heard);
                    } else {
                        self.load.answered(samples, heard);
                    }
                    let event = self.receive(want, &frame, block);
                    drop(ask);
                    let pause = frame.error.as_ref().map_or(Duration::ZERO, retry_after);
                    if !self.pass_on(event, pause).await {
                        return Ok(());
                    }
                }
                _ = looks.tick() => self.look(outstanding, heard).await,
            }
        }
    }

    /// Asks others for what this server leaves unanswered.
    async fn look(&self, outstanding: &mut Wants, heard: Instant) {
        let now = Instant::now();
        let patience = STALL.as_secs_f64().max(STALL_FACTOR * self.load.backlog());
        let waits = |since: Instant| now.duration_since(since).as_secs_f64() >= patience;
        let stuck = outstanding.values().any(|o| !o.given_up && waits(o.asked));
        if !stuck || !waits(heard) || !self.several.load(Ordering::Relaxed) {
            return;
        }
        warn!(
            teacher = self.teacher,
            address = self.address,
            "no answer for {patience:.1} s: other servers are asked"
        );
        self.load.set_stalled();
        for held in outstanding.values_mut().filter(|o| !o.given_up) {
            held.given_up = true;
            let failed = Event::FrameFailed {
                teacher: self.teacher.clone(),
                id: held.want.id,
            };
            if self.events.send(failed).await.is_err() {
                return;
            }
        }
    }

    /// `false`: the replica is gone.
    async fn pass_on(&self, event: Event, pause: Duration) -> bool {
        if pause.is_zero() {
            return self.events.send(event).await.is_ok();
        }
        // Other answers must not wait for this one's pause.
        send_later(&self.tasks, self.events.clone(), event, pause);
        true
    }

    /// Checks a frame; one that can't be trusted is refused, counted and asked again.
    pub(super) fn receive(&self, want: Want, answer: &pb::SoftTargets, block: Span) -> Event {
        let refuse = |want: Want, reason: &'static str, detail: String| {
            warn!(
                teacher = want.teacher,
                block = want.id.block,
                "frame refused ({reason}): {detail}"
            );
            Event::FrameRefused {
                teacher: want.teacher,
                id: want.id,
                reason,
            }
        };
        if let Some(error) = &answer.error {
            if error.code() == pb::item_error::Code::NotFinite {
                return refuse(want, "not finite", error.message.clone());
            }
            debug!(teacher = want.teacher, "no frame: {}", error.message);
            return Event::FrameFailed {
                teacher: want.teacher,
                id: want.id,
            };
        }
        let frame = match retort_codec::decode(&answer.frame) {
            Ok(frame) => frame,
            Err(e) => {
                use retort_codec::Error;
                let reason = match e {
                    Error::NotFinite { .. } | Error::Tail { .. } | Error::Mass { .. } => "not finite",
                    _ => "corrupt",
                };
                return refuse(want, reason, e.to_string());
            }
        };
        let samples = self.terms.samples(want.id) as usize;
        let rows = samples * self.terms.rows;
        let temperature = self.terms.temperature(&want) as f32;
        if frame.rows != rows || frame.classes != self.terms.classes || frame.temperature != temperature {
            let detail = format!(
                "{} x {} at T = {} instead of {rows} x {} at T = {temperature}",
                frame.rows, frame.classes, frame.temperature, self.terms.classes
            );
            return refuse(want, "wrong shape", detail);
        }
        let features = match self.features(samples, &answer.features) {
            Ok(features) => features,
            Err((reason, detail)) => return refuse(want, reason, detail),
        };
        Event::Frame {
            teacher: want.teacher,
            id: want.id,
            version: answer.version,
            unreadable: answer.unreadable.clone(),
            frame: Arc::new(Frame {
                targets: frame.targets,
                temperature,
                features,
                bytes: (answer.frame.len() + answer.features.len()) as u64,
                span: block,
            }),
        }
    }

    fn asked(&self, want: Want) -> Outstanding {
        let block = block_span!(
            &Span::none(),
            "block",
            run = self.terms.run,
            group = self.terms.group,
            worker = self.terms.reader,
            teacher = self.teacher,
            epoch = want.id.epoch,
            block = want.id.block,
        );
        Outstanding {
            want,
            asked: Instant::now(),
            given_up: false,
            ask: block_span!(&block, "ask", address = self.address),
            block,
        }
    }

    fn request(&self, id: u64, Outstanding { want, ask, .. }: &Outstanding) -> pb::Want {
        pb::Want {
            id,
            epoch: want.id.epoch,
            block: want.id.block,
            floor: want.floor,
            exact: want.exact,
            within_ms: u32::try_from(want.within.as_millis()).unwrap_or(u32::MAX),
            inputs: None,
            temperature: Some(self.terms.temperature(want)),
            traceparent: trace::context(ask),
        }
    }

    /// Checks the features that came with a frame, if this teacher is to send any.
    fn features(&self, samples: usize, bytes: &[u8]) -> Result<Option<Features>, (&'static str, String)> {
        let Some(layer) = self.terms.layer_of(&self.teacher) else {
            return Ok(None);
        };
        let features = Features::decode(bytes).map_err(|e| {
            let reason = match e {
                FeaturesError::NotFinite { .. } => "not finite",
                _ => "corrupt",
            };
            (reason, e.to_string())
        })?;
        let found = (features.rows, features.channels, features.positions);
        let expected = (samples, layer.channels, layer.positions);
        if found == expected {
            Ok(Some(features))
        } else {
            let detail = format!(
                "features of layer {}: {found:?} instead of {expected:?}",
                layer.name
            );
            Err(("wrong shape", detail))
        }
    }
}

/// How long a refused want rests before it is asked again.
fn retry_after(error: &pb::ItemError) -> Duration {
    match error.code() {
        pb::item_error::Code::Overloaded | pb::item_error::Code::Away => {
            Duration::from_millis(error.retry_after_ms.into())
        }
        _ => RETRY,
    }
}

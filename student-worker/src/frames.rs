//! Streams of soft targets: one link for each server of each teacher.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use retort_client::Backoff;
use retort_coordinator_core::run::Endpoints;
use retort_data::order::Grid;
use retort_proto::pb;
use retort_runtime::{OnError, TaskGroup};
use retort_student_worker_core::BlockId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tracing::{debug, warn};

use crate::replica::Event;
use crate::thread::Frame;

/// Wants waiting for one link; the machine wants `prefetch` blocks at most.
const WANTS: usize = 2_048;
/// A refused or unanswered want is asked again after this pause.
const RETRY: Duration = Duration::from_millis(100);

/// What every stream of a session asks for.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) run: String,
    pub(crate) reader: String,
    pub(crate) dataset_digest: String,
    pub(crate) temperature: f64,
    pub(crate) encoding: String,
    pub(crate) grid: Grid,
    pub(crate) classes: usize,
    pub(crate) prefetch: u64,
}

/// One want, as the machine gave it.
#[derive(Debug, Clone)]
pub(crate) struct Want {
    pub(crate) teacher: String,
    pub(crate) id: BlockId,
    pub(crate) floor: u64,
    pub(crate) exact: Option<u64>,
}

/// The links of a session.
pub(crate) struct Frames {
    terms: Arc<Terms>,
    events: mpsc::Sender<Event>,
    tasks: TaskGroup,
    addresses: BTreeMap<String, Vec<String>>,
    links: BTreeMap<(String, String), mpsc::Sender<Want>>,
}

impl Frames {
    pub(crate) fn new(terms: Terms, events: mpsc::Sender<Event>, tasks: TaskGroup) -> Self {
        Self {
            terms: Arc::new(terms),
            events,
            tasks,
            addresses: BTreeMap::new(),
            links: BTreeMap::new(),
        }
    }

    /// Servers of a teacher changed; links to others end.
    pub(crate) fn endpoints(&mut self, endpoints: &Endpoints) {
        self.links
            .retain(|(t, a), _| *t != endpoints.teacher || endpoints.addresses.contains(a));
        self.addresses
            .insert(endpoints.teacher.clone(), endpoints.addresses.clone());
    }

    /// Sends a want to the server that all students ask for this block.
    pub(crate) fn want(&mut self, want: Want) {
        let Some(address) = self.route(&want) else {
            self.fail_later(want);
            return;
        };
        let key = (want.teacher.clone(), address);
        let link = self.links.entry(key).or_insert_with_key(|(teacher, address)| {
            let (wants, inbox) = mpsc::channel(WANTS);
            let link = Link {
                terms: self.terms.clone(),
                teacher: teacher.clone(),
                address: address.clone(),
                events: self.events.clone(),
            };
            self.tasks.spawn("frames", OnError::Log, link.run(inbox));
            wants
        });
        if let Err(failed) = link.try_send(want) {
            let (mpsc::error::TrySendError::Full(want) | mpsc::error::TrySendError::Closed(want)) = failed;
            let key = (want.teacher.clone(), self.route(&want).unwrap_or_default());
            self.links.remove(&key);
            self.fail_later(want);
        }
    }

    /// Highest random weight: every student sends the same block to the same server, and the loss
    /// of a server moves its blocks only.
    fn route(&self, want: &Want) -> Option<String> {
        let weight = |address: &String| {
            let name: Vec<u64> = address.bytes().map(u64::from).collect();
            let place = [
                retort_data::rng::key(&name),
                u64::from(want.id.epoch),
                want.id.block,
            ];
            retort_data::rng::key(&place)
        };
        self.addresses
            .get(&want.teacher)?
            .iter()
            .max_by_key(|a| weight(a))
            .cloned()
    }

    fn fail_later(&self, want: Want) {
        let events = self.events.clone();
        self.tasks.spawn("retry", OnError::Log, async move {
            tokio::time::sleep(RETRY).await;
            let _ = events
                .send(Event::FrameFailed {
                    teacher: want.teacher,
                    id: want.id,
                })
                .await;
            Ok(())
        });
    }
}

/// One server of one teacher.
struct Link {
    terms: Arc<Terms>,
    teacher: String,
    address: String,
    events: mpsc::Sender<Event>,
}

impl Link {
    /// Streams until the session drops its sender; a broken stream fails its wants and is opened
    /// again for the next one.
    async fn run(self, mut inbox: mpsc::Receiver<Want>) -> anyhow::Result<()> {
        let channel = retort_client::connect(&self.address)?;
        let mut backoff = Backoff::new(self.address.len() as u64);
        let mut outstanding: BTreeMap<u64, Want> = BTreeMap::new();
        loop {
            let mut client = retort_client::teacher(channel.clone());
            let (requests, stream) = mpsc::channel(WANTS);
            let _ = requests.send(self.open()).await;
            let opened = tokio::select! {
                opened = client.distill(ReceiverStream::new(stream)) => opened,
                () = self.events.closed() => return Ok(()),
            };
            let ended = match opened {
                Ok(frames) => {
                    backoff.reset();
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
            // A server may be gone for good: whoever waits for it asks elsewhere.
            while let Ok(want) = inbox.try_recv() {
                outstanding.insert(u64::MAX - outstanding.len() as u64, want);
            }
            tokio::time::sleep(backoff.next_delay()).await;
            self.fail(std::mem::take(&mut outstanding)).await;
        }
    }

    async fn fail(&self, wants: BTreeMap<u64, Want>) {
        for (_, want) in wants {
            let failed = Event::FrameFailed {
                teacher: want.teacher,
                id: want.id,
            };
            if self.events.send(failed).await.is_err() {
                return; // the replica is gone
            }
        }
    }

    fn open(&self) -> pb::DistillRequest {
        let t = &self.terms;
        let open = pb::Open {
            run: t.run.clone(),
            teacher: self.teacher.clone(),
            dataset_digest: t.dataset_digest.clone(),
            temperature: t.temperature,
            encoding: t.encoding.clone(),
            // Room for every block that the machine may want, and one to spare.
            credit_samples: (t.prefetch + 1) * u64::from(t.grid.block),
            reader: t.reader.clone(),
        };
        pb::DistillRequest {
            part: Some(pb::distill_request::Part::Open(open)),
        }
    }

    /// `Ok`: nobody asks this server any more.
    async fn relay(
        &self,
        inbox: &mut mpsc::Receiver<Want>,
        outstanding: &mut BTreeMap<u64, Want>,
        requests: mpsc::Sender<pb::DistillRequest>,
        mut frames: Streaming<pb::SoftTargets>,
    ) -> Result<(), tonic::Status> {
        let gone = || tonic::Status::unavailable("the stream is closed");
        let mut next_id = 0;
        loop {
            // Cancel-safe: receivers and streams keep what was not taken.
            tokio::select! {
                want = inbox.recv() => {
                    let Some(want) = want else { return Ok(()) };
                    next_id += 1;
                    let request = pb::Want {
                        id: next_id,
                        epoch: want.id.epoch,
                        block: want.id.block,
                        floor: want.floor,
                        exact: want.exact,
                    };
                    outstanding.insert(next_id, want);
                    let part = Some(pb::distill_request::Part::Want(request));
                    requests.send(pb::DistillRequest { part }).await.map_err(|_| gone())?;
                }
                frame = frames.message() => {
                    let frame = frame?.ok_or_else(gone)?;
                    let Some(want) = outstanding.remove(&frame.id) else { continue };
                    let range = self.terms.grid.range(want.id.block);
                    let credit = pb::Credit { samples: range.end - range.start };
                    let part = Some(pb::distill_request::Part::Credit(credit));
                    requests.send(pb::DistillRequest { part }).await.map_err(|_| gone())?;
                    if self.events.send(self.receive(want, &frame)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Checks a frame; one that can't be trusted is refused, counted and asked again.
    fn receive(&self, want: Want, answer: &pb::SoftTargets) -> Event {
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
                let reason = match e {
                    retort_codec::Error::NotFinite { .. } | retort_codec::Error::Mass { .. } => "not finite",
                    _ => "corrupt",
                };
                return refuse(want, reason, e.to_string());
            }
        };
        let range = self.terms.grid.range(want.id.block);
        let rows = (range.end - range.start) as usize;
        let temperature = self.terms.temperature as f32;
        if frame.rows != rows || frame.classes != self.terms.classes || frame.temperature != temperature {
            let detail = format!(
                "{} x {} at T = {} instead of {rows} x {} at T = {temperature}",
                frame.rows, frame.classes, frame.temperature, self.terms.classes
            );
            return refuse(want, "wrong shape", detail);
        }
        Event::Frame {
            teacher: want.teacher,
            id: want.id,
            version: answer.version,
            unreadable: answer.unreadable.clone(),
            frame: Arc::new(Frame {
                log_probs: frame.log_probs,
                bytes: answer.frame.len() as u64,
            }),
        }
    }
}

#[cfg(test)]
mod tests;

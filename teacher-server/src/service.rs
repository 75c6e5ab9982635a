//! Answers students: one task a stream, which reads wants, spends credit and sends frames.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use retort_data::order::Order;
use retort_proto::pb;
use retort_runtime::{OnError, TaskGroup, block_span, trace};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Span, debug};

use crate::batcher::Inputs;
use crate::blocks::name_key;
use crate::cache::Key;
use crate::config::DRAIN;
use crate::device::{KEPT_LOGITS, ScoreError};
use crate::requests::{Ask, Asked};
use crate::serving::{Current, Serving};
use crate::targets::{Targets, Terms};
use crate::unread::{self, Unread};

/// Wants of one stream that wait for credit; a reader that asks for more is broken.
const MAX_WANTS: usize = 4_096;
/// A want for a version that does not come is answered as unavailable after this.
const VERSION_WAIT: Duration = Duration::from_secs(30);
/// Log-probabilities that are made on the reader's own task: some 200 microseconds.
const INLINE_VALUES: usize = 32_768;
/// How often a want is asked again whose version was dropped while it waited.
const VERSION_TRIES: usize = 3;
/// When to ask again for what a server that is away did not answer.
const AWAY: Duration = Duration::from_millis(500);

pub(crate) struct TeacherService {
    pub(crate) current: Current,
    pub(crate) tasks: TaskGroup,
    /// Bytes of frames that one reader may leave unread.
    pub(crate) max_unread: u64,
}

#[tonic::async_trait]
impl pb::teacher_server::Teacher for TeacherService {
    type DistillStream = unread::Frames;

    async fn distill(
        &self,
        request: Request<Streaming<pb::DistillRequest>>,
    ) -> Result<Response<Self::DistillStream>, Status> {
        let mut wants = request.into_inner();
        let first = wants.message().await?.and_then(|m| m.part);
        let Some(pb::distill_request::Part::Open(open)) = first else {
            return Err(Status::invalid_argument("the first message must be `open`"));
        };
        let (serving, terms) = self.terms(&open)?;
        let order = serving.device.blocks.order_of(&open.group).clone();
        debug!(reader = open.reader, "stream opened");
        let (unread, frames) = unread::channel(self.max_unread);
        let stream = Stream {
            reader: serving.device.requests.open(),
            group: if open.group.is_empty() {
                open.reader
            } else {
                open.group
            },
            source: serving.device.blocks.source(&serving.teacher, &order),
            order,
            layer: (!open.layer.is_empty()).then(|| open.layer.into()),
            serving,
            terms,
        };
        let mut reader = Reader {
            stream: Arc::new(stream),
            credit: Credit {
                samples: open.credit_samples,
                bytes: (open.credit_bytes > 0).then_some(open.credit_bytes),
            },
            waiting: VecDeque::new(),
            unread,
        };
        let token = self.tasks.token().clone();
        let current = self.current.clone();
        let stream = reader.stream.clone();
        self.tasks.spawn("distill", OnError::Log, async move {
            let ended = tokio::select! {
                ended = reader.serve(wants, &token) => ended,
                () = stream.serving.superseded(current) => Ok(()),
                () = async { token.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
            };
            if let Err(status) = ended {
                reader.unread.fail(status).await;
            }
            Ok(())
        });
        Ok(Response::new(frames))
    }

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Result<Response<pb::DescribeReply>, Status> {
        let serving = self.current.borrow().clone();
        let Some(s) = serving else {
            return Ok(Response::new(pb::DescribeReply::default()));
        };
        let versions = s.device.versions.borrow().clone();
        let counters = s.device.requests.counters();
        Ok(Response::new(pb::DescribeReply {
            run: s.run.clone(),
            teacher: s.teacher.clone(),
            classes: u32::try_from(versions.classes).unwrap_or(u32::MAX),
            rows: u32::try_from(versions.rows).unwrap_or(u32::MAX),
            active: versions.active,
            staged: versions.staged.into_iter().collect(),
            scored_samples: counters.scored,
            queued_samples: counters.queued,
            device: s.device_name.clone(),
            capacity_samples_per_s: counters.capacity,
            forwards: counters.forwards,
            hits: counters.hits,
            replayed: counters.replayed,
            coalesced: counters.coalesced,
            misses: counters.misses,
            evicted: counters.evicted,
            cached_bytes: counters.cached_bytes,
            overloaded: counters.overloaded,
            abandoned: counters.abandoned,
        }))
    }
}

impl TeacherService {
    fn terms(&self, open: &pb::Open) -> Result<(Arc<Serving>, Terms), Status> {
        let serving = self
            .current
            .borrow()
            .clone()
            .ok_or_else(|| Status::unavailable("this server has no run yet"))?;
        let other = |field: &str, asked: &str, here: &str| {
            Err(Status::failed_precondition(format!(
                "{field} = {asked:?}: this server has {here:?}"
            )))
        };
        if open.run != serving.run {
            return other("run", &open.run, &serving.run);
        }
        if open.teacher != serving.teacher {
            return other("teacher", &open.teacher, &serving.teacher);
        }
        if open.dataset_digest != serving.dataset_digest {
            return other("dataset_digest", &open.dataset_digest, &serving.dataset_digest);
        }
        let temperature = open.temperature as f32;
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(Status::invalid_argument(format!(
                "temperature = {}: finite and > 0",
                open.temperature
            )));
        }
        if open.credit_samples == 0 {
            return Err(Status::invalid_argument(
                "credit_samples = 0: a reader can hold at least one",
            ));
        }
        let encoding = open
            .encoding
            .parse()
            .map_err(|e: retort_codec::UnknownEncoding| Status::invalid_argument(format!("encoding: {e}")))?;
        Ok((serving, Terms::new(temperature, encoding)))
    }
}

/// What a reader has room for.
struct Credit {
    samples: u64,
    /// `None`: it does not count bytes.
    bytes: Option<u64>,
}

impl Credit {
    fn add(&mut self, credit: &pb::Credit) -> Result<(), Status> {
        let overflow = |field: &str| Status::invalid_argument(format!("credit.{field} overflows"));
        let samples = self.samples.checked_add(credit.samples);
        self.samples = samples.ok_or_else(|| overflow("samples"))?;
        if let Some(bytes) = &mut self.bytes {
            *bytes = bytes.checked_add(credit.bytes).ok_or_else(|| overflow("bytes"))?;
        }
        Ok(())
    }

    fn spend(&mut self, samples: u64, bytes: u64) -> bool {
        if samples > self.samples || self.bytes.is_some_and(|b| bytes > b) {
            return false;
        }
        self.samples -= samples;
        if let Some(b) = &mut self.bytes {
            *b -= bytes;
        }
        true
    }
}

/// One open stream, as its answers see it.
struct Stream {
    serving: Arc<Serving>,
    terms: Terms,
    reader: u64,
    group: String,
    /// Which sample stands where for this group.
    order: Order,
    source: u64,
    /// Whose output comes with the soft targets.
    layer: Option<Arc<str>>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.serving.device.requests.close(self.reader);
    }
}

/// Reads wants and spends credit.
struct Reader {
    stream: Arc<Stream>,
    credit: Credit,
    waiting: VecDeque<pb::Want>,
    unread: Unread,
}

impl Reader {
    /// Until the stream ends, or all is answered that was asked for before `token` was cancelled. `Err`: it is broken.
    ///
    /// # Cancel safety
    ///
    /// Dropping it ends the stream and frees what its wants hold.
    async fn serve(
        &mut self,
        mut wants: Streaming<pb::DistillRequest>,
        token: &CancellationToken,
    ) -> Result<(), Status> {
        let mut answers = FuturesUnordered::new();
        let mut open = true;
        while open || !answers.is_empty() || !self.waiting.is_empty() {
            // Nothing is computed without credit, nor beyond what may lie here unread.
            while let Some(want) = self.waiting.front() {
                let samples = self.stream.samples(want);
                let bytes = self.stream.frame_len(samples);
                if !self.unread.has_room(bytes) || !self.credit.spend(samples, bytes) {
                    break;
                }
                if let Some(want) = self.waiting.pop_front() {
                    let lease = self.unread.reserve(bytes);
                    let stream = self.stream.clone();
                    answers.push(async move { (stream.answer(&want, samples).await, lease) });
                }
            }
            // Cancel-safe: tonic keeps a message that was not taken, and so do the other two.
            tokio::select! {
                message = wants.message(), if open => match message {
                    Ok(Some(pb::DistillRequest { part: Some(part) })) => self.take(part)?,
                    Ok(Some(pb::DistillRequest { part: None })) => {
                        return Err(Status::invalid_argument("a message without `want` or `credit`"));
                    }
                    // A reader that asks for nothing more still reads.
                    Ok(None) => open = false,
                    // A message that can't be read, or a reader that has gone and does not hear of it.
                    Err(status) => return Err(status),
                },
                Some((answer, lease)) = answers.next() => {
                    if !self.unread.send(answer, lease).await {
                        return Ok(());
                    }
                }
                () = self.unread.changed(), if !self.waiting.is_empty() => {}
                () = token.cancelled(), if open => open = false,
                () = self.unread.closed() => return Ok(()),
            }
            if !open && answers.is_empty() && !self.credit_suffices() {
                return Ok(()); // no credit can come any more
            }
        }
        Ok(())
    }

    fn credit_suffices(&self) -> bool {
        self.waiting.front().is_none_or(|want| {
            let samples = self.stream.samples(want);
            let bytes = self.stream.frame_len(samples);
            samples <= self.credit.samples && self.credit.bytes.is_none_or(|b| bytes <= b)
        })
    }

    fn take(&mut self, part: pb::distill_request::Part) -> Result<(), Status> {
        use pb::distill_request::Part;
        match part {
            Part::Open(_) => Err(Status::invalid_argument("`open` comes once, first")),
            Part::Credit(credit) => self.credit.add(&credit),
            Part::Want(_) if self.waiting.len() >= MAX_WANTS => Err(Status::resource_exhausted(format!(
                "more than {MAX_WANTS} wants without credit"
            ))),
            Part::Want(want) => {
                self.waiting.push_back(want);
                Ok(())
            }
        }
    }
}

impl Stream {
    /// Samples of a want; 0: there is no such block.
    fn samples(&self, want: &pb::Want) -> u64 {
        match &want.inputs {
            Some(inputs) => u64::from(inputs.samples),
            None => self.serving.device.blocks.samples(want.block),
        }
    }

    /// Bytes of a frame of so many samples, and of the features with it.
    fn frame_len(&self, samples: u64) -> u64 {
        let versions = self.serving.device.versions.borrow();
        let soft = self
            .terms
            .encoding
            .frame_len(samples as usize * versions.rows.max(1), versions.classes.max(1));
        let layer = self.layer.as_deref();
        let layer = layer.and_then(|name| versions.layers.iter().find(|l| l.name == name));
        let features = layer.map_or(0, |l| {
            retort_codec::features::frame_len(samples as usize, l.channels, l.positions)
        });
        (soft + features) as u64
    }

    /// Of an answer, as part of the reader's trace.
    fn span(&self, want: &pb::Want, samples: u64) -> Span {
        use tracing::field::Empty;
        let (met, version) = (Empty, Empty);
        let span = block_span!(
            &Span::none(),
            "answer",
            teacher = self.serving.teacher,
            samples,
            met,
            version
        );
        trace::set_parent(&span, &want.traceparent);
        span
    }

    async fn answer(&self, want: &pb::Want, samples: u64) -> pb::SoftTargets {
        let mut answer = pb::SoftTargets {
            id: want.id,
            epoch: want.epoch,
            block: want.block,
            ..Default::default()
        };
        let span = self.span(want, samples);
        match self.score(want, samples, &span).await {
            Ok((targets, frame)) => {
                span.record("version", targets.version);
                answer.version = targets.version;
                answer.unreadable.clone_from(&targets.unreadable);
                answer.frame = frame;
                answer.features = targets.features.clone();
            }
            Err(error) => answer.error = Some(error),
        }
        answer
    }

    async fn score(
        &self,
        want: &pb::Want,
        samples: u64,
        span: &Span,
    ) -> Result<(Arc<Targets>, bytes::Bytes), pb::ItemError> {
        use pb::item_error::Code;
        let inputs = self.check(want, samples)?;
        let terms = self.terms_of(want)?;
        for _ in 0..VERSION_TRIES {
            let version = self.version(want).await?;
            if inputs.is_none()
                && self.layer.is_none()
                && let Some(targets) = self.replay(want, version, terms).await
            {
                span.record("met", "store");
                return self.frame(targets, terms, None, span).await;
            }
            let logits = {
                let versions = self.serving.device.versions.borrow();
                versions.rows * versions.classes
            };
            let key = Key {
                epoch: want.epoch,
                block: want.block,
                source: match inputs {
                    None => self.source,
                    // Nobody else's samples are these.
                    Some(_) => retort_data::rng::key(&[self.source, self.reader, want.id]),
                },
                version,
                terms: (logits > KEPT_LOGITS).then_some(terms),
                layer: self.layer.as_deref().map(name_key),
            };
            let ask = Ask {
                key,
                group: self.group.clone(),
                reader: self.reader,
                samples,
                inputs: match &inputs {
                    Some(sent) => Inputs::Sent(sent.clone()),
                    None => Inputs::Placed(self.order.clone()),
                },
                layer: self.layer.clone(),
                within: Duration::from_millis(want.within_ms.into()),
                span: span.clone(),
            };
            let later = match self.serving.device.requests.ask(ask, Instant::now()) {
                Asked::Here(targets) => return self.frame(targets, terms, Some(key), span).await,
                Asked::Later(later) => later,
                Asked::Overloaded(wait) => {
                    return Err(pb::ItemError {
                        code: Code::Overloaded.into(),
                        message: "too many samples wait to be scored".into(),
                        retry_after_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
                    });
                }
            };
            match later.await {
                Ok(Ok(targets)) => return self.frame(targets, terms, Some(key), span).await,
                // It was dropped while the want waited: the one that serves now answers.
                Ok(Err(ScoreError::Version(_))) if want.exact.is_none() => {}
                Ok(Err(e)) => {
                    let code = match e {
                        ScoreError::Version(_) => Code::VersionUnavailable,
                        ScoreError::Worthless(_) => Code::NotFinite,
                        ScoreError::Away(_) => Code::Away,
                        ScoreError::Engine(_) => Code::Internal,
                        ScoreError::Layer(_) => Code::Invalid,
                    };
                    let mut error = failed(code, e.to_string());
                    if code == Code::Away {
                        error.retry_after_ms = u32::try_from(AWAY.as_millis()).unwrap_or(u32::MAX);
                    }
                    return Err(error);
                }
                Err(_) => return Err(failed(Code::Internal, "the device thread has ended".into())),
            }
        }
        Err(failed(
            Code::VersionUnavailable,
            format!("{VERSION_TRIES} versions were dropped while the want waited"),
        ))
    }

    /// Refuses what is wrong by itself; the samples that came with the want.
    fn check(&self, want: &pb::Want, samples: u64) -> Result<Option<Arc<[f32]>>, pb::ItemError> {
        use pb::item_error::Code;
        let blocks = &self.serving.device.blocks;
        let Some(inputs) = &want.inputs else {
            return match samples {
                0 => Err(failed(
                    Code::OutOfRange,
                    format!("block = {}: the grid has {}", want.block, blocks.grid.blocks()),
                )),
                _ => Ok(None),
            };
        };
        let expected = samples * blocks.dataset.shape().len() as u64 * size_of::<f32>() as u64;
        if samples == 0 || inputs.values.len() as u64 != expected {
            return Err(failed(
                Code::Invalid,
                format!(
                    "inputs.values: {} bytes for inputs.samples = {samples} (at least 1), expected {expected}",
                    inputs.values.len()
                ),
            ));
        }
        let values = inputs.values.as_chunks().0.iter().map(|v| f32::from_le_bytes(*v));
        Ok(Some(values.collect()))
    }

    /// How the answer is softened and encoded.
    fn terms_of(&self, want: &pb::Want) -> Result<Terms, pb::ItemError> {
        let Some(temperature) = want.temperature else {
            return Ok(self.terms);
        };
        let softens = temperature as f32;
        if softens.is_finite() && softens > 0.0 {
            return Ok(Terms::new(softens, self.terms.encoding));
        }
        let text = format!("temperature = {temperature}: finite and > 0");
        Err(failed(pb::item_error::Code::Invalid, text))
    }

    /// The version that answers, once it is here.
    async fn version(&self, want: &pb::Want) -> Result<u64, pb::ItemError> {
        let mut versions = self.serving.device.versions.clone();
        let available = versions.wait_for(|v| match want.exact {
            // A version that was dropped already is answered at once.
            Some(exact) => v.staged.contains(&exact) || v.active > Some(exact),
            None => v.active >= Some(want.floor),
        });
        let found = match tokio::time::timeout(VERSION_WAIT, available).await {
            Ok(Ok(versions)) => want.exact.or(versions.active),
            _ => None,
        };
        found.ok_or_else(|| {
            let text = format!("version {:?} (floor {}) did not come", want.exact, want.floor);
            failed(pb::item_error::Code::VersionUnavailable, text)
        })
    }

    /// What an earlier run recorded.
    async fn replay(&self, want: &pb::Want, version: u64, terms: Terms) -> Option<Arc<Targets>> {
        let store = self.serving.store.get()?.clone();
        let (blocks, order) = (self.serving.device.blocks.clone(), self.order.clone());
        let (epoch, block) = (want.epoch, want.block);
        let gathered = tokio::task::spawn_blocking(move || {
            let places = blocks.places(&order, epoch, block);
            store.gather(terms, places.map(|(_, sample)| sample))
        });
        // A read that panicked is said by its hook; the rows count as absent.
        let frame = gathered.await.ok()??;
        self.serving.device.requests.replayed();
        let classes = self.serving.device.versions.borrow().classes;
        Some(Arc::new(Targets::replayed(version, classes, terms, frame)))
    }

    /// Keeps a fresh frame for later epochs and runs; what the disk has no time for is scored again.
    fn record(&self, targets: &Arc<Targets>, (key, terms): (&Key, Terms), frame: &bytes::Bytes) {
        if key.source != self.source || self.serving.store.get().is_none() {
            return;
        }
        let Ok(room) = self.serving.recording.clone().try_acquire_owned() else {
            return;
        };
        let (serving, targets, frame) = (self.serving.clone(), targets.clone(), frame.clone());
        let order = self.order.clone();
        let (epoch, block) = (key.epoch, key.block);
        tokio::task::spawn_blocking(move || {
            if let Some(store) = serving.store.get() {
                let places = serving.device.blocks.places(&order, epoch, block);
                let readable =
                    |(position, sample)| (!targets.unreadable.contains(&position)).then_some(sample);
                store.record(terms, &frame, places.map(readable));
            }
            drop(room);
        });
    }

    /// The block's frame on these terms.
    async fn frame(
        &self,
        targets: Arc<Targets>,
        terms: Terms,
        key: Option<Key>,
        span: &Span,
    ) -> Result<(Arc<Targets>, bytes::Bytes), pb::ItemError> {
        let encode = block_span!(span, "encode");
        let made = if targets.work(terms) <= INLINE_VALUES {
            targets.frame(terms)
        } else {
            let shared = targets.clone();
            let made = tokio::task::spawn_blocking(move || shared.frame(terms)).await;
            made.unwrap_or_else(|e| Err(e.to_string()))
        };
        drop(encode);
        let (frame, fresh) = made.map_err(|e| failed(pb::item_error::Code::Internal, e))?;
        if fresh && let Some(key) = key {
            self.serving.device.requests.grown(&key);
            self.record(&targets, (&key, terms), &frame);
        }
        Ok((targets, frame))
    }
}

fn failed(code: pb::item_error::Code, message: String) -> pb::ItemError {
    pb::ItemError {
        code: code.into(),
        message,
        retry_after_ms: 0,
    }
}

#[cfg(test)]
mod tests;

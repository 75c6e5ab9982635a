//! Answers students: one task a stream, one small task a want.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use retort_codec::Encoding;
use retort_proto::pb;
use retort_runtime::{OnError, TaskGroup};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

use crate::device::{Device, Score, ScoreError};

/// Wants of one stream that wait for credit; a reader that asks for more is broken.
const MAX_WANTS: usize = 4_096;
/// Frames waiting for one reader; credit keeps it far below.
const FRAMES: usize = 256;
/// A want for a version that does not come is answered as unavailable after this.
const VERSION_WAIT: Duration = Duration::from_secs(30);

/// What this process serves at present.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) run: String,
    pub(crate) teacher: String,
    pub(crate) dataset_digest: String,
    pub(crate) device_name: String,
    pub(crate) device: Device,
}

pub(crate) type Current = watch::Receiver<Option<Arc<Serving>>>;

pub(crate) struct TeacherService {
    pub(crate) current: Current,
    pub(crate) tasks: TaskGroup,
}

/// One reader's terms, fixed by its first message.
struct Terms {
    serving: Arc<Serving>,
    temperature: f32,
    encoding: Encoding,
}

type Frames = mpsc::Sender<Result<pb::SoftTargets, Status>>;

#[tonic::async_trait]
impl pb::teacher_server::Teacher for TeacherService {
    type DistillStream = ReceiverStream<Result<pb::SoftTargets, Status>>;

    async fn distill(
        &self,
        request: Request<Streaming<pb::DistillRequest>>,
    ) -> Result<Response<Self::DistillStream>, Status> {
        let mut wants = request.into_inner();
        let first = wants.message().await?.and_then(|m| m.part);
        let Some(pb::distill_request::Part::Open(open)) = first else {
            return Err(Status::invalid_argument("the first message must be `open`"));
        };
        let terms = Arc::new(self.terms(&open)?);
        debug!(reader = open.reader, "stream opened");
        let (frames, stream) = mpsc::channel(FRAMES);
        let tasks = self.tasks.clone();
        let mut current = self.current.clone();
        self.tasks.spawn("distill", OnError::Log, async move {
            let mut reader = Reader {
                terms,
                credit: open.credit_samples,
                waiting: VecDeque::new(),
                frames,
                tasks: tasks.clone(),
            };
            loop {
                // Cancel-safe: tonic keeps a message that was not taken.
                let message = tokio::select! {
                    message = wants.message() => message,
                    () = reader.frames.closed() => return Ok(()),
                    () = reader.superseded(&mut current) => return Ok(()),
                    () = tasks.token().cancelled() => return Ok(()),
                };
                let Ok(Some(pb::DistillRequest { part: Some(part) })) = message else {
                    return Ok(());
                };
                if let Err(status) = reader.take(part) {
                    let _ = reader.frames.send(Err(status)).await;
                    return Ok(());
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Result<Response<pb::DescribeReply>, Status> {
        let serving = self.current.borrow().clone();
        let Some(s) = serving else {
            return Ok(Response::new(pb::DescribeReply::default()));
        };
        let versions = s.device.versions.borrow().clone();
        Ok(Response::new(pb::DescribeReply {
            run: s.run.clone(),
            teacher: s.teacher.clone(),
            classes: u32::try_from(s.device.blocks.dataset.classes()).unwrap_or(u32::MAX),
            active: versions.active,
            staged: versions.staged.into_iter().collect(),
            scored_samples: s.device.counters.scored.load(Ordering::Relaxed),
            queued_samples: s.device.counters.queued.load(Ordering::Relaxed),
            device: s.device_name.clone(),
        }))
    }
}

impl TeacherService {
    fn terms(&self, open: &pb::Open) -> Result<Terms, Status> {
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
            .map_err(|_| Status::invalid_argument(format!("encoding = {:?}: f32 or f16", open.encoding)))?;
        Ok(Terms {
            serving,
            temperature,
            encoding,
        })
    }
}

/// One open stream.
struct Reader {
    terms: Arc<Terms>,
    credit: u64,
    waiting: VecDeque<pb::Want>,
    frames: Frames,
    tasks: TaskGroup,
}

impl Reader {
    /// Ends when this server serves another run.
    async fn superseded(&self, current: &mut Current) {
        let mine = &self.terms.serving;
        let other = |s: &Option<Arc<Serving>>| !s.as_ref().is_some_and(|s| Arc::ptr_eq(s, mine));
        let _ = current.wait_for(other).await;
    }

    fn take(&mut self, part: pb::distill_request::Part) -> Result<(), Status> {
        use pb::distill_request::Part;
        match part {
            Part::Open(_) => return Err(Status::invalid_argument("`open` comes once, first")),
            Part::Credit(credit) => {
                self.credit = self
                    .credit
                    .checked_add(credit.samples)
                    .ok_or_else(|| Status::invalid_argument("credit.samples overflows"))?;
            }
            Part::Want(_) if self.waiting.len() >= MAX_WANTS => {
                return Err(Status::resource_exhausted(format!(
                    "more than {MAX_WANTS} wants without credit"
                )));
            }
            Part::Want(want) => self.waiting.push_back(want),
        }
        // Nothing is computed without credit.
        while let Some(want) = self.waiting.front() {
            let samples = self.samples(want.block);
            if samples > self.credit {
                break;
            }
            self.credit -= samples;
            if let Some(want) = self.waiting.pop_front() {
                self.answer(want, samples);
            }
        }
        Ok(())
    }

    fn samples(&self, block: u64) -> u64 {
        let grid = self.terms.serving.device.blocks.grid;
        if block >= grid.blocks() {
            return 0;
        }
        let range = grid.range(block);
        range.end - range.start
    }

    fn answer(&self, want: pb::Want, samples: u64) {
        let terms = self.terms.clone();
        let frames = self.frames.clone();
        let token = self.tasks.token().clone();
        self.tasks.spawn("want", OnError::Log, async move {
            let answer = tokio::select! {
                answer = score(&terms, &want, samples) => answer,
                () = frames.closed() => return Ok(()),
                () = token.cancelled() => return Ok(()),
            };
            let _ = frames.send(Ok(answer)).await;
            Ok(())
        });
    }
}

async fn score(terms: &Terms, want: &pb::Want, samples: u64) -> pb::SoftTargets {
    use pb::item_error::Code;
    let mut answer = pb::SoftTargets {
        id: want.id,
        epoch: want.epoch,
        block: want.block,
        ..Default::default()
    };
    let mut fail = |code: Code, message: String| {
        answer.error = Some(pb::ItemError {
            code: code.into(),
            message,
        });
        answer.clone()
    };
    if samples == 0 {
        let blocks = terms.serving.device.blocks.grid.blocks();
        return fail(
            Code::OutOfRange,
            format!("block = {}: the grid has {blocks}", want.block),
        );
    }
    let mut versions = terms.serving.device.versions.clone();
    let available = versions.wait_for(|v| match want.exact {
        // A version that was dropped already is answered at once.
        Some(exact) => v.staged.contains(&exact) || v.active > Some(exact),
        None => v.active >= Some(want.floor),
    });
    if !matches!(tokio::time::timeout(VERSION_WAIT, available).await, Ok(Ok(_))) {
        let text = format!("version {:?} (floor {}) did not come", want.exact, want.floor);
        return fail(Code::VersionUnavailable, text);
    }
    let (reply, scored) = oneshot::channel();
    let score = Score {
        epoch: want.epoch,
        block: want.block,
        exact: want.exact,
        temperature: terms.temperature,
        encoding: terms.encoding,
        reply,
    };
    terms.serving.device.score(score, samples).await;
    match scored.await {
        Ok(Ok(frame)) => {
            answer.version = frame.version;
            answer.frame = frame.bytes;
            answer.unreadable = frame.unreadable;
            answer
        }
        Ok(Err(e)) => {
            let code = match e {
                ScoreError::Version(_) => Code::VersionUnavailable,
                ScoreError::NotFinite { .. } => Code::NotFinite,
                ScoreError::Engine(_) => Code::Internal,
            };
            fail(code, e.to_string())
        }
        Err(_) => fail(Code::Internal, "the device thread has ended".into()),
    }
}

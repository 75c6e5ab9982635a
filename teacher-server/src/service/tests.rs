use std::collections::{BTreeMap, BTreeSet};

use pb::distill_request::Part;
use pb::item_error::Code as Item;
use pb::teacher_client::TeacherClient;
use retort_codec::Encoding;
use retort_data::DatasetConfig;
use retort_data::order::{Grid, Order};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::server::TcpIncoming;

use super::*;
use crate::blocks::Blocks;
use crate::device::Device;
use crate::engine::{Error, Layer, TeacherEngine};
use crate::requests::Limits;
use crate::serving::RECORDING;
use crate::store::{Identity, Place, Store};

const CLASSES: usize = 10;
const BLOCK: u32 = 32;

/// Logits that anyone can compute who knows the version and the sample.
struct Engine {
    version: u64,
    pause: Duration,
}

fn row(version: u64, input: &[f32]) -> Vec<f32> {
    let mix = |c: usize| {
        let weight = |i: usize| ((i * 31 + c * 17 + version as usize * 7) % 19) as f32 - 9.0;
        input.iter().enumerate().map(|(i, x)| x * weight(i)).sum::<f32>() / 10.0
    };
    (0..CLASSES).map(mix).collect()
}

impl TeacherEngine for Engine {
    fn input_len(&self) -> usize {
        64
    }

    fn classes(&self) -> usize {
        CLASSES
    }

    fn logits(&mut self, inputs: &[f32], samples: usize) -> Result<Vec<f32>, Error> {
        assert_eq!(inputs.len(), samples * self.input_len());
        std::thread::sleep(self.pause);
        Ok(inputs.chunks(64).flat_map(|x| row(self.version, x)).collect())
    }

    fn layers(&self) -> Vec<Layer> {
        let layer = |name: &str, channels, positions| Layer {
            name: name.into(),
            channels,
            positions,
        };
        vec![layer("corner", 2, 3), layer("row", 1, 8)]
    }

    fn features(
        &mut self,
        inputs: &[f32],
        samples: usize,
        name: &str,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let len = match name {
            "corner" => 6,
            "row" => 8,
            _ => return Err(Error::Layer(format!("no layer {name:?}, expected corner or row"))),
        };
        let features = inputs.chunks(64).flat_map(|x| x[..len].to_vec()).collect();
        Ok((self.logits(inputs, samples)?, features))
    }
}

/// Half of the samples.
fn half(samples: u32) -> Order {
    let ids: Vec<u32> = retort_data::order::share(5, samples, 1, 2).collect();
    Order::new_cycle(0, samples.into(), ids)
}

/// Answers with NaN.
struct Broken;

impl TeacherEngine for Broken {
    fn input_len(&self) -> usize {
        64
    }

    fn classes(&self) -> usize {
        CLASSES
    }

    fn logits(&mut self, _: &[f32], samples: usize) -> Result<Vec<f32>, Error> {
        let mut logits = vec![0.0; samples * CLASSES];
        logits[3] = f32::NAN;
        Ok(logits)
    }
}

/// Panics in its first passes.
struct Fragile {
    left: u32,
}

impl TeacherEngine for Fragile {
    fn input_len(&self) -> usize {
        64
    }

    fn classes(&self) -> usize {
        CLASSES
    }

    fn logits(&mut self, inputs: &[f32], _: usize) -> Result<Vec<f32>, Error> {
        if self.left > 0 {
            self.left -= 1;
            panic!("out of memory");
        }
        Ok(inputs.chunks(64).flat_map(|x| row(0, x)).collect())
    }
}

struct Server {
    serving: Arc<Serving>,
    channel: retort_client::Channel,
    tasks: TaskGroup,
    /// Streams end when it is gone.
    _current: watch::Sender<Option<Arc<Serving>>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

fn limits() -> Limits {
    Limits {
        batch_samples: 256,
        queue_delay: Duration::ZERO,
        queue_samples: 1_024,
        cache_bytes: 4 << 20,
        unread_bytes: 1 << 20,
    }
}

fn blocks() -> Arc<Blocks> {
    let config = DatasetConfig {
        name: Some("digits".into()),
        ..Default::default()
    };
    let dataset =
        retort_data::load(&config, std::path::Path::new("."), 0).expect("it comes with the program");
    Arc::new(Blocks {
        order: Order::new_all(0, dataset.train_len()),
        orders: BTreeMap::from([("half".to_owned(), half(dataset.train_len()))]),
        grid: Grid {
            positions: u64::from(dataset.train_len()),
            block: BLOCK,
        },
        dataset: Arc::new(dataset),
    })
}

fn engine(version: u64) -> Box<dyn TeacherEngine> {
    Box::new(Engine {
        version,
        pause: Duration::ZERO,
    })
}

async fn start(engine: Box<dyn TeacherEngine>, limits: Limits) -> Server {
    let groups: BTreeSet<String> = ["a", "b"].map(String::from).into();
    let max_unread = limits.unread_bytes;
    let device = Device::start(blocks(), limits, groups).unwrap();
    device.stage(0, engine);
    device.activate(0, 0);
    let at = ("r".to_owned(), "t".to_owned());
    let serving = Arc::new(Serving::new(at, "flex".into(), device));
    let (sender, current) = watch::channel(Some(serving.clone()));
    let tasks = TaskGroup::new(CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TeacherService {
        current,
        tasks: tasks.clone(),
        max_unread,
    };
    let service = pb::teacher_server::TeacherServer::new(service).max_decoding_message_size(1 << 20);
    let token = tasks.token().clone();
    tasks.spawn("serve", OnError::Log, async move {
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), token.cancelled_owned())
            .await?;
        Ok(())
    });
    Server {
        serving,
        channel: retort_client::connect(&format!("http://{address}")).unwrap(),
        tasks,
        _current: sender,
    }
}

impl Server {
    fn open(&self) -> pb::Open {
        pb::Open {
            run: "r".into(),
            teacher: "t".into(),
            dataset_digest: self.serving.dataset_digest.clone(),
            temperature: 2.0,
            encoding: "f32".into(),
            credit_samples: 1_000,
            credit_bytes: 0,
            reader: "w".into(),
            group: "a".into(),
            layer: String::new(),
        }
    }

    async fn send(&self, first: Part) -> Result<Talk, Status> {
        let (requests, stream) = mpsc::channel(64);
        let part = Some(first);
        requests.send(pb::DistillRequest { part }).await.unwrap();
        let mut client = TeacherClient::new(self.channel.clone());
        let frames = client.distill(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Talk { requests, frames })
    }

    async fn talk(&self, change: impl FnOnce(&mut pb::Open)) -> Result<Talk, Status> {
        let mut open = self.open();
        change(&mut open);
        self.send(Part::Open(open)).await
    }

    async fn describe(&self) -> pb::DescribeReply {
        let mut client = TeacherClient::new(self.channel.clone());
        client
            .describe(pb::DescribeRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    /// What a frame of this block by this version has to be.
    fn expected(&self, block: u64, version: u64, temperature: f32, encoding: Encoding) -> Vec<u8> {
        let inputs = self.inputs(block, &self.serving.device.blocks.order);
        let logits: Vec<f32> = inputs.chunks(64).flat_map(|x| row(version, x)).collect();
        let mut soft = vec![0f32; logits.len()];
        retort_codec::soften(&logits, CLASSES, temperature, &mut soft);
        let mut bytes = Vec::new();
        retort_codec::encode(&soft, CLASSES, temperature, encoding, &mut bytes);
        bytes
    }

    fn inputs(&self, block: u64, order: &Order) -> Vec<f32> {
        let blocks = &self.serving.device.blocks;
        let samples = blocks.samples(block) as usize;
        let mut inputs = vec![0f32; samples * 64];
        let key = Key {
            epoch: 0,
            block,
            source: 0,
            version: 0,
            terms: None,
            layer: None,
        };
        assert!(blocks.read(&key, order, &mut inputs).is_empty());
        inputs
    }
}

struct Talk {
    requests: mpsc::Sender<pb::DistillRequest>,
    frames: Streaming<pb::SoftTargets>,
}

impl Talk {
    async fn say(&self, part: Part) {
        let part = Some(part);
        // A stream that has failed takes nothing more; its status says why.
        let _ = self.requests.send(pb::DistillRequest { part }).await;
    }

    async fn want(&self, want: pb::Want) {
        self.say(Part::Want(want)).await;
    }

    async fn hear(&mut self) -> Result<pb::SoftTargets, Status> {
        let message = tokio::time::timeout(Duration::from_secs(20), self.frames.message()).await;
        message
            .expect("an answer in time")?
            .ok_or_else(|| Status::aborted("the stream ended"))
    }

    async fn is_silent(&mut self) -> bool {
        let message = tokio::time::timeout(Duration::from_millis(200), self.frames.message()).await;
        message.is_err()
    }
}

fn block(block: u64) -> pb::Want {
    pb::Want {
        id: block + 1,
        block,
        ..Default::default()
    }
}

fn refusal(talk: Result<Talk, Status>) -> (Code, String) {
    let status = talk.err().expect("it must be refused");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn a_stream_that_asks_for_what_is_not_here_is_refused_with_the_fields_name() {
    let server = start(engine(0), limits()).await;
    type Change = fn(&mut pb::Open);
    let cases: [(Change, Code, &str); 8] = [
        (|o| o.run = "x".into(), Code::FailedPrecondition, "run = \"x\""),
        (
            |o| o.teacher = "x".into(),
            Code::FailedPrecondition,
            "teacher = \"x\"",
        ),
        (
            |o| o.dataset_digest = "x".into(),
            Code::FailedPrecondition,
            "dataset_digest = \"x\"",
        ),
        (
            |o| o.temperature = 0.0,
            Code::InvalidArgument,
            "temperature = 0: finite and > 0",
        ),
        (
            |o| o.temperature = -2.0,
            Code::InvalidArgument,
            "temperature = -2",
        ),
        (
            |o| o.temperature = f64::NAN,
            Code::InvalidArgument,
            "temperature = NaN",
        ),
        (
            |o| o.encoding = "f8".into(),
            Code::InvalidArgument,
            "encoding: unknown encoding \"f8\"",
        ),
        (
            |o| o.credit_samples = 0,
            Code::InvalidArgument,
            "credit_samples = 0",
        ),
    ];
    for (change, code, text) in cases {
        let (got, message) = refusal(server.talk(change).await);
        assert_eq!(got, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
    let (code, message) = refusal(server.send(Part::Want(block(0))).await);
    assert_eq!(
        (code, message.as_str()),
        (Code::InvalidArgument, "the first message must be `open`")
    );
    // The server goes on.
    let mut talk = server.talk(|_| ()).await.unwrap();
    talk.want(block(0)).await;
    assert_eq!(
        talk.hear().await.unwrap().frame,
        server.expected(0, 0, 2.0, Encoding::F32)
    );
}

#[tokio::test]
async fn a_broken_stream_ends_with_a_status_and_spares_the_others() {
    let server = start(engine(0), limits()).await;
    let mut good = server.talk(|_| ()).await.unwrap();
    let credit = |samples, bytes| Part::Credit(pb::Credit { samples, bytes });
    let large = pb::Want {
        inputs: Some(pb::Inputs {
            samples: 8_192,
            values: vec![0; 2 << 20].into(),
        }),
        ..block(0)
    };
    let cases = [
        (
            credit(u64::MAX, 0),
            Code::InvalidArgument,
            "credit.samples overflows",
        ),
        (
            credit(1, u64::MAX),
            Code::InvalidArgument,
            "credit.bytes overflows",
        ),
        (
            Part::Open(server.open()),
            Code::InvalidArgument,
            "`open` comes once, first",
        ),
        (Part::Want(large), Code::OutOfRange, "message length too large"),
    ];
    for (part, code, text) in cases {
        let mut talk = server.talk(|o| o.credit_bytes = 1_000_000).await.unwrap();
        talk.say(part).await;
        let status = talk.hear().await.expect_err(text);
        assert_eq!(status.code(), code, "{text}: {status}");
        assert!(status.message().contains(text), "{status}");
    }
    let mut talk = server.talk(|o| o.credit_samples = 1).await.unwrap();
    for i in 0..=MAX_WANTS as u64 + 1 {
        talk.want(block(i % 10)).await;
    }
    let status = talk.hear().await.expect_err("too many wants");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    good.want(block(3)).await;
    assert_eq!(
        good.hear().await.unwrap().frame,
        server.expected(3, 0, 2.0, Encoding::F32)
    );
}

#[tokio::test]
async fn one_items_failure_is_a_field_of_that_item() {
    let server = start(engine(0), limits()).await;
    let mut talk = server.talk(|_| ()).await.unwrap();
    let inputs = |samples, bytes| pb::Want {
        inputs: Some(pb::Inputs {
            samples,
            values: vec![0; bytes].into(),
        }),
        ..block(7)
    };
    let cases = [
        (block(10_000), Item::OutOfRange, "block = 10000: the grid has"),
        (
            inputs(2, 2 * 64 * 4 - 1),
            Item::Invalid,
            "inputs.values: 511 bytes",
        ),
        (inputs(0, 0), Item::Invalid, "inputs.samples = 0"),
    ];
    for (want, code, text) in cases {
        talk.want(want).await;
        let error = talk.hear().await.unwrap().error.expect(text);
        assert_eq!(error.code(), code, "{error:?}");
        assert!(error.message.contains(text), "{}", error.message);
    }
    // A version that was served and dropped does not come again.
    server.serving.device.stage(3, engine(3));
    server.serving.device.activate(3, 3);
    let exact = Some(0);
    talk.want(pb::Want { exact, ..block(1) }).await;
    // It may have been asked for before the switch.
    let first = talk.hear().await.unwrap();
    assert!(first.error.is_none() || first.error.unwrap().code() == Item::VersionUnavailable);
    talk.want(pb::Want { floor: 3, ..block(1) }).await;
    assert_eq!(talk.hear().await.unwrap().version, 3);
    talk.want(pb::Want { exact, ..block(1) }).await;
    assert_eq!(
        talk.hear().await.unwrap().error.unwrap().code(),
        Item::VersionUnavailable
    );
}

/// P4: each frame is what the version that it names says, bit for bit, while versions change.
#[tokio::test(flavor = "multi_thread")]
async fn frames_are_wholly_of_the_version_that_they_name() {
    let server = start(engine(0), limits()).await;
    let terms = [
        ("a", 2.0, "f32"),
        ("a", 1.0, "f16"),
        ("b", 4.0, "u8"),
        ("b", 2.0, "top-3"),
    ];
    let mut talks = Vec::new();
    for (group, temperature, encoding) in terms {
        let talk = server.talk(|o| {
            o.group = group.into();
            o.temperature = f64::from(temperature);
            o.encoding = encoding.into();
        });
        talks.push((
            talk.await.unwrap(),
            temperature,
            encoding.parse::<Encoding>().unwrap(),
        ));
    }
    let mut versions = BTreeSet::new();
    for round in 0..12u64 {
        for (talk, ..) in &talks {
            for i in 0..4 {
                talk.want(block((round * 4 + i) % 36)).await;
            }
        }
        // In the midst of it.
        server.serving.device.stage(round + 1, engine(round + 1));
        server.serving.device.activate(round + 1, round);
        for (talk, temperature, encoding) in &mut talks {
            for _ in 0..4 {
                let answer = talk.hear().await.unwrap();
                assert_eq!(answer.error, None);
                let expected = server.expected(answer.block, answer.version, *temperature, *encoding);
                assert_eq!(
                    answer.frame, expected,
                    "block {} of version {}",
                    answer.block, answer.version
                );
                versions.insert(answer.version);
                let samples = u64::from(BLOCK);
                talk.say(Part::Credit(pb::Credit { samples, bytes: 0 })).await;
            }
        }
    }
    assert!(versions.len() > 6, "{versions:?}");
}

#[tokio::test]
async fn a_frame_is_not_older_than_its_floor_and_of_the_exact_version_if_asked() {
    let server = start(engine(0), limits()).await;
    let mut talk = server.talk(|_| ()).await.unwrap();
    talk.want(pb::Want { floor: 1, ..block(0) }).await;
    talk.want(pb::Want {
        exact: Some(2),
        ..block(1)
    })
    .await;
    assert!(talk.is_silent().await, "neither is there");
    server.serving.device.stage(2, engine(2));
    let staged = talk.hear().await.unwrap();
    assert_eq!(
        (staged.id, staged.version),
        (2, 2),
        "it is loaded beside the serving one"
    );
    assert!(talk.is_silent().await);
    server.serving.device.stage(1, engine(1));
    server.serving.device.activate(1, 0);
    let floor = talk.hear().await.unwrap();
    assert_eq!((floor.id, floor.version), (1, 1));
    talk.want(pb::Want {
        exact: Some(0),
        ..block(1)
    })
    .await;
    assert_eq!(talk.hear().await.unwrap().version, 0, "the one before is kept");
}

#[tokio::test]
async fn nothing_is_computed_without_credit() {
    let server = start(engine(0), limits()).await;
    let mut talk = server
        .talk(|o| o.credit_samples = u64::from(BLOCK))
        .await
        .unwrap();
    for i in 0..3 {
        talk.want(block(i)).await;
    }
    talk.hear().await.unwrap();
    assert!(talk.is_silent().await);
    assert_eq!(server.describe().await.scored_samples, u64::from(BLOCK));
    let samples = 2 * u64::from(BLOCK);
    talk.say(Part::Credit(pb::Credit { samples, bytes: 0 })).await;
    talk.hear().await.unwrap();
    talk.hear().await.unwrap();
    // Credit in bytes binds as well.
    let frame = Encoding::F32.frame_len(BLOCK as usize, CLASSES) as u64;
    let mut talk = server.talk(|o| o.credit_bytes = frame).await.unwrap();
    talk.want(block(4)).await;
    talk.want(block(5)).await;
    talk.hear().await.unwrap();
    assert!(talk.is_silent().await);
    talk.say(Part::Credit(pb::Credit {
        samples: 0,
        bytes: frame,
    }))
    .await;
    talk.hear().await.unwrap();
}

#[tokio::test]
async fn readers_of_one_order_share_one_forward_pass() {
    let server = start(engine(0), limits()).await;
    let mut a = server.talk(|o| o.temperature = 1.0).await.unwrap();
    let mut b = server
        .talk(|o| {
            o.group = "b".into();
            o.temperature = 5.0;
        })
        .await
        .unwrap();
    for i in 0..20 {
        a.want(block(i)).await;
        assert_eq!(
            a.hear().await.unwrap().frame,
            server.expected(i, 0, 1.0, Encoding::F32)
        );
    }
    for i in 0..20 {
        b.want(block(i)).await;
        assert_eq!(
            b.hear().await.unwrap().frame,
            server.expected(i, 0, 5.0, Encoding::F32)
        );
    }
    let counters = server.describe().await;
    assert_eq!(
        (counters.misses, counters.hits, counters.scored_samples),
        (20, 20, 20 * 32)
    );
    assert_eq!((counters.evicted, counters.cached_bytes), (0, 0));
}

#[tokio::test]
async fn samples_sent_along_are_answered_like_those_named_by_block() {
    let server = start(engine(0), limits()).await;
    let blocks = &server.serving.device.blocks;
    let mut inputs = vec![0f32; BLOCK as usize * 64];
    let key = Key {
        epoch: 0,
        block: 2,
        source: 0,
        version: 0,
        terms: None,
        layer: None,
    };
    blocks.read(&key, &blocks.order, &mut inputs);
    let values: Vec<u8> = inputs.iter().flat_map(|x| x.to_le_bytes()).collect();
    let inline = pb::Inputs {
        samples: BLOCK,
        values: values.into(),
    };
    // The block named beside them is echoed only, and the answer is nobody else's.
    let want = pb::Want {
        inputs: Some(inline),
        ..block(9)
    };
    let mut talk = server.talk(|_| ()).await.unwrap();
    talk.want(want).await;
    let answer = talk.hear().await.unwrap();
    assert_eq!((answer.block, answer.error), (9, None));
    assert_eq!(answer.frame, server.expected(2, 0, 2.0, Encoding::F32));
    talk.want(block(9)).await;
    assert_eq!(
        talk.hear().await.unwrap().frame,
        server.expected(9, 0, 2.0, Encoding::F32)
    );
}

#[tokio::test]
async fn a_model_that_gives_nan_is_named_and_its_server_is_unhealthy() {
    let server = start(Box::new(Broken), limits()).await;
    let mut talk = server.talk(|_| ()).await.unwrap();
    talk.want(block(0)).await;
    let error = talk.hear().await.unwrap().error.unwrap();
    assert_eq!(error.code(), Item::NotFinite);
    assert!(
        error
            .message
            .contains("version 0 gave a value that is not finite"),
        "{}",
        error.message
    );
    assert_eq!(server.serving.device.versions.borrow().unhealthy, error.message);
}

#[tokio::test]
async fn a_pass_that_panics_fails_its_want_and_the_device_goes_on() {
    // At the start-up sweep, and at the first want.
    let server = start(Box::new(Fragile { left: 2 }), limits()).await;
    let mut talk = server.talk(|_| ()).await.unwrap();
    talk.want(block(0)).await;
    let error = talk.hear().await.unwrap().error.unwrap();
    assert_eq!(error.code(), Item::Internal);
    assert_eq!(error.message, "the model panicked: out of memory");
    talk.want(block(0)).await;
    assert_eq!(
        talk.hear().await.unwrap().frame,
        server.expected(0, 0, 2.0, Encoding::F32)
    );
}

#[tokio::test]
async fn what_the_disk_has_no_time_for_is_scored_again() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(engine(0), limits()).await;
    let serving = &server.serving;
    let blocks = &serving.device.blocks;
    let identity = Identity {
        teacher: "t".into(),
        weights: "w".into(),
        dataset_digest: blocks.dataset.digest().into(),
        samples: blocks.dataset.train_len(),
        classes: CLASSES,
        rows: None,
    };
    let place = Place::of(folder.path(), std::path::Path::new(".")).unwrap();
    let terms = Terms::new(2.0, Encoding::F32);
    let store = Arc::new(Store::open(&place, &identity, [terms]).unwrap());
    serving.store.set(store.clone()).unwrap();
    let recorded = |block| {
        let places = blocks.places(&blocks.order, 0, block);
        store.gather(terms, places.map(|(_, sample)| sample)).is_some()
    };
    let mut talk = server.talk(|_| ()).await.unwrap();
    let all = RECORDING as u32;
    let busy = serving.recording.clone().try_acquire_many_owned(all).unwrap();
    talk.want(block(0)).await;
    talk.hear().await.unwrap();
    drop(busy);
    talk.want(block(1)).await;
    talk.hear().await.unwrap();
    let began = Instant::now();
    while !recorded(1) {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!recorded(0), "64 frames waited before it");
    for number in 0..2 {
        talk.want(block(number)).await;
        assert_eq!(
            talk.hear().await.unwrap().frame,
            server.expected(number, 0, 2.0, Encoding::F32)
        );
    }
    assert_eq!(serving.device.requests.counters().replayed, 1);
}

#[tokio::test]
async fn overload_is_answered_with_a_time_and_a_reader_that_leaves_frees_its_place() {
    let slow = Engine {
        version: 0,
        pause: Duration::from_millis(100),
    };
    let few = Limits {
        batch_samples: 32,
        queue_samples: 96,
        ..limits()
    };
    let server = start(Box::new(slow), few).await;
    let mut talk = server.talk(|_| ()).await.unwrap();
    let wants = 12;
    for i in 0..wants {
        talk.want(block(i)).await;
    }
    let (mut frames, mut refused) = (0, 0);
    for _ in 0..wants {
        match talk.hear().await.unwrap().error {
            None => frames += 1,
            Some(error) => {
                assert_eq!(error.code(), Item::Overloaded, "{error:?}");
                assert!(error.retry_after_ms > 0);
                refused += 1;
            }
        }
    }
    assert!(frames >= 3 && refused >= 1, "{frames} frames, {refused} refused");
    assert_eq!(server.describe().await.overloaded, refused);
    // Three blocks wait; their reader leaves. They cost no forward pass.
    let scored = server.describe().await.scored_samples;
    let leaves = server.talk(|_| ()).await.unwrap();
    for i in 20..24 {
        leaves.want(block(i)).await;
    }
    while server.describe().await.queued_samples < 64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(leaves);
    let began = Instant::now();
    while server.describe().await.abandoned < 2 {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let more = server.describe().await.scored_samples - scored;
    assert!(
        more <= 2 * u64::from(BLOCK),
        "{more} samples for a reader that has gone"
    );
}

#[tokio::test]
async fn a_layer_comes_with_the_soft_targets_of_the_same_samples() {
    let server = start(engine(0), limits()).await;
    let mut plain = server.talk(|_| ()).await.unwrap();
    let mut corner = server.talk(|o| o.layer = "corner".into()).await.unwrap();
    let mut again = server
        .talk(|o| (o.layer, o.group) = ("corner".into(), "b".into()))
        .await
        .unwrap();
    for number in [3, 0] {
        let soft = server.expected(number, 0, 2.0, Encoding::F32);
        plain.want(block(number)).await;
        let answer = plain.hear().await.unwrap();
        assert_eq!((&answer.frame[..], &answer.features[..]), (&soft[..], &[][..]));
        let inputs = server.inputs(number, &server.serving.device.blocks.order);
        for talk in [&mut corner, &mut again] {
            talk.want(block(number)).await;
            let answer = talk.hear().await.unwrap();
            assert_eq!(answer.frame, soft);
            let features = retort_codec::Features::decode(&answer.features).unwrap();
            let sizes = (features.rows, features.channels, features.positions);
            assert_eq!(sizes, (BLOCK as usize, 2, 3));
            for (found, input) in features.values.chunks(6).zip(inputs.chunks(64)) {
                for (found, expected) in found.iter().zip(input) {
                    assert!((found - expected).abs() < 1e-3, "{found} {expected}");
                }
            }
        }
    }
    // One pass with the layer and one without it, for each block.
    let counters = server.serving.device.requests.counters();
    assert_eq!((counters.misses, counters.hits), (4, 2));
}

#[tokio::test]
async fn an_unknown_layer_fails_the_want_with_the_names_of_those_there_are() {
    let server = start(engine(0), limits()).await;
    let mut talk = server.talk(|o| o.layer = "logits".into()).await.unwrap();
    talk.want(block(0)).await;
    let error = talk.hear().await.unwrap().error.expect("no such layer");
    assert_eq!(error.code(), Item::Invalid);
    assert!(error.message.contains("corner or row"), "{}", error.message);
    assert_eq!(server.serving.device.versions.borrow().unhealthy, "");
    // Features count as bytes of credit, 20 + 32 (4 + 2 x 6).
    let frame = Encoding::F32.frame_len(BLOCK as usize, CLASSES) as u64;
    let mut talk = server
        .talk(|o| (o.layer, o.credit_bytes) = ("corner".into(), frame + 531))
        .await
        .unwrap();
    talk.want(block(0)).await;
    assert!(talk.is_silent().await, "one byte is missing");
    talk.say(Part::Credit(pb::Credit { samples: 0, bytes: 1 })).await;
    assert_eq!(talk.hear().await.unwrap().error, None);
}

#[tokio::test]
async fn a_group_with_a_share_is_answered_in_its_own_order() {
    let server = start(engine(0), limits()).await;
    let mut all = server.talk(|_| ()).await.unwrap();
    let mut half = server.talk(|o| o.group = "half".into()).await.unwrap();
    let order = server.serving.device.blocks.order_of("half").clone();
    for number in [0, 40] {
        all.want(block(number)).await;
        let whole = all.hear().await.unwrap().frame;
        assert_eq!(whole, server.expected(number, 0, 2.0, Encoding::F32));
        half.want(block(number)).await;
        let found = half.hear().await.unwrap().frame;
        let inputs = server.inputs(number, &order);
        let logits: Vec<f32> = inputs.chunks(64).flat_map(|x| row(0, x)).collect();
        let mut soft = vec![0f32; logits.len()];
        retort_codec::soften(&logits, CLASSES, 2.0, &mut soft);
        let mut expected = Vec::new();
        retort_codec::encode(&soft, CLASSES, 2.0, Encoding::F32, &mut expected);
        assert_eq!(found, expected);
        assert_ne!(found, whole);
    }
}

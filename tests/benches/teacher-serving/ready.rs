//! A teacher server whose model costs nothing or a known time, and readers that count what they get.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use retort_client::{Bearer, Channel};
use retort_data::DatasetConfig;
use retort_data::order::{Grid, Order};
use retort_proto::pb;
use retort_proto::pb::distill_request::Part;
use retort_runtime::TaskGroup;
use retort_teacher_server::engine::{Error, TeacherEngine};
use retort_teacher_server::{Blocks, Limits, Standalone};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tonic::transport::server::{Router, TcpIncoming};

/// Numbers of one sample of the data set that comes with the program.
pub(crate) const INPUT: usize = 64;
pub(crate) const RUN: &str = "bench";
pub(crate) const TEACHER: &str = "ready";

/// Logits that are there already, after a fixed time of computing.
pub(crate) struct Ready {
    pub(crate) classes: usize,
    pub(crate) logits: Arc<[f32]>,
    /// Of the processor, per forward pass.
    pub(crate) compute: Duration,
}

impl Ready {
    pub(crate) fn new(rows: usize, classes: usize, compute: Duration) -> Box<Self> {
        let value = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7 & 0xfff) as f32 / 300.0;
        Box::new(Self {
            classes,
            logits: (0..rows * classes).map(value).collect(),
            compute,
        })
    }
}

impl TeacherEngine for Ready {
    fn input_len(&self) -> usize {
        INPUT
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn logits(&mut self, _: &[f32], samples: usize) -> Result<Vec<f32>, Error> {
        let began = Instant::now();
        while began.elapsed() < self.compute {
            std::hint::spin_loop();
        }
        let mut logits = Vec::with_capacity(samples * self.classes);
        while logits.len() < samples * self.classes {
            let missing = samples * self.classes - logits.len();
            logits.extend_from_slice(&self.logits[..missing.min(self.logits.len())]);
        }
        Ok(logits)
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        batch_samples: 1_024,
        queue_delay: Duration::ZERO,
        queue_samples: 1 << 20,
        cache_bytes: 256 << 20,
        unread_bytes: 64 << 20,
    }
}

/// How clients reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Tcp,
    Unix,
}

/// A server on a thread of its own; it ends when this is dropped.
pub(crate) struct Server {
    pub(crate) digest: String,
    endpoint: Endpoint,
    tasks: TaskGroup,
    _runtime: Runtime,
    _socket: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

/// One thread for a server, and one for its readers: two cores are what there is.
pub(crate) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

impl Server {
    /// The service of the product.
    pub(crate) fn retort(
        engine: Box<dyn TeacherEngine>,
        block: u32,
        groups: &[&str],
        limits: Limits,
        link: Link,
    ) -> anyhow::Result<Self> {
        let blocks = blocks(block)?;
        let digest = blocks.dataset.digest().to_owned();
        let standalone = Standalone {
            run: RUN.into(),
            teacher: TEACHER.into(),
            blocks: Arc::new(blocks),
            engine,
            groups: groups.iter().map(|g| (*g).to_owned()).collect::<BTreeSet<_>>(),
            limits,
        };
        Self::start(digest, link, |tasks| Ok(standalone.router(tasks)?))
    }

    pub(crate) fn start(
        digest: String,
        link: Link,
        router: impl FnOnce(&TaskGroup) -> anyhow::Result<Router>,
    ) -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let tasks = TaskGroup::new(CancellationToken::new());
        let token = tasks.token().clone();
        let entered = runtime.enter();
        let router = router(&tasks)?;
        let (address, socket) = match link {
            Link::Tcp => {
                let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
                let address = format!("http://{}", listener.local_addr()?);
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                tasks.spawn("serve", retort_runtime::OnError::Log, async move {
                    router
                        .serve_with_incoming_shutdown(incoming, token.cancelled_owned())
                        .await?;
                    Ok(())
                });
                (address, None)
            }
            Link::Unix => {
                let folder = tempfile::tempdir()?;
                let path = folder.path().join("teacher.sock");
                let incoming = UnixListenerStream::new(UnixListener::bind(&path)?);
                tasks.spawn("serve", retort_runtime::OnError::Log, async move {
                    router
                        .serve_with_incoming_shutdown(incoming, token.cancelled_owned())
                        .await?;
                    Ok(())
                });
                (format!("unix://{}", path.display()), Some(folder))
            }
        };
        let endpoint = retort_client::tuned(Endpoint::from_shared(address)?);
        drop(entered);
        Ok(Self {
            digest,
            endpoint,
            tasks,
            _runtime: runtime,
            _socket: socket,
        })
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<Channel> {
        let channel = self.endpoint.connect().await.context("connect")?;
        Ok(InterceptedService::new(channel, Bearer::default()))
    }

    pub(crate) fn open(&self, group: &str, temperature: f64, encoding: &str) -> pb::Open {
        pb::Open {
            run: RUN.into(),
            teacher: TEACHER.into(),
            dataset_digest: self.digest.clone(),
            temperature,
            encoding: encoding.into(),
            credit_samples: 1 << 40,
            credit_bytes: 0,
            reader: group.into(),
            group: group.into(),
            layer: String::new(),
        }
    }

    pub(crate) async fn describe(&self) -> anyhow::Result<pb::DescribeReply> {
        let mut client = retort_client::teacher(self.connect().await?);
        Ok(client.describe(pb::DescribeRequest {}).await?.into_inner())
    }
}

pub(crate) fn blocks(block: u32) -> anyhow::Result<Blocks> {
    let config = DatasetConfig {
        name: Some("digits".into()),
        ..Default::default()
    };
    let dataset = retort_data::load(&config, Path::new("."), 0)?;
    Ok(Blocks {
        order: Order::new_all(0, dataset.train_len()),
        orders: Default::default(),
        grid: Grid {
            // Whole blocks only.
            positions: u64::from(dataset.train_len() / block * block),
            block,
        },
        dataset: Arc::new(dataset),
    })
}

/// One stream as a student has it: wants and credit up, frames down.
pub(crate) struct Reader {
    requests: mpsc::Sender<pb::DistillRequest>,
    frames: tonic::Streaming<pb::SoftTargets>,
}

impl Reader {
    pub(crate) async fn open(channel: Channel, open: pb::Open) -> anyhow::Result<Self> {
        let (requests, stream) = mpsc::channel(4_096);
        let part = Some(Part::Open(open));
        requests.send(pb::DistillRequest { part }).await?;
        let frames = retort_client::teacher(channel)
            .distill(ReceiverStream::new(stream))
            .await?
            .into_inner();
        Ok(Self { requests, frames })
    }

    pub(crate) async fn say(&self, part: Part) -> anyhow::Result<()> {
        let part = Some(part);
        self.requests.send(pb::DistillRequest { part }).await?;
        Ok(())
    }

    pub(crate) async fn want(&self, epoch: u32, block: u64) -> anyhow::Result<()> {
        let want = pb::Want {
            id: block,
            epoch,
            block,
            ..Default::default()
        };
        self.say(Part::Want(want)).await
    }

    pub(crate) async fn frame(&mut self) -> anyhow::Result<pb::SoftTargets> {
        let frame = self.frames.message().await?.context("the stream ended")?;
        anyhow::ensure!(frame.error.is_none(), "{:?}", frame.error);
        Ok(frame)
    }

    /// Reads so many frames, `depth` asked for ahead, with credit for each as a student gives it.
    pub(crate) async fn read(&mut self, blocks: u64, frames: u64, depth: u64) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for i in 0..depth.min(frames) {
            self.want(0, i % blocks).await?;
        }
        for i in depth..depth + frames {
            let frame = self.frame().await?;
            bytes += frame.frame.len() as u64;
            if i < frames {
                let samples = 1;
                self.say(Part::Credit(pb::Credit { samples, bytes: 0 })).await?;
                self.want(0, i % blocks).await?;
            }
        }
        Ok(bytes)
    }
}

/// Median, and the ends.
pub(crate) fn spread(figures: &[f64]) -> (f64, String) {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    (
        median,
        format!("{median:.2} ({:.2}..{:.2})", sorted[0], sorted[sorted.len() - 1]),
    )
}

/// Seconds of processor time that this process has used in user and system mode.
pub(crate) fn processor_s() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0.0))
        .collect();
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; two are before the bracket.
    let at = |i: usize| fields.get(i).copied().unwrap_or(0.0) / 100.0;
    (at(11), at(12))
}

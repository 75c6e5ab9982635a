//! Large frames that are ready, against raw TCP and a bare tonic stream of the same bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use retort_tests::bench::Table;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::bare;
use crate::ready::{Link, Reader, Ready, Server, limits, processor_s, runtime, spread};

/// Bytes asked for ahead: twice the window of a stream, so that the window bounds both arms.
const AHEAD: u64 = 16 << 20;
/// The group that reads, the one that has read before, and one that never does: frames stay ready.
const GROUPS: [&str; 3] = ["reads", "warm", "absent"];
const TERMS: (f64, &str) = (2.0, "f16");

struct Size {
    name: &'static str,
    rows: u32,
    classes: usize,
    encoding: &'static str,
}

const SIZES: [Size; 3] = [
    Size {
        name: "256 KiB",
        rows: 128,
        classes: 1_024,
        encoding: "f16",
    },
    Size {
        name: "1 MiB",
        rows: 128,
        classes: 4_096,
        encoding: "f16",
    },
    Size {
        name: "top-64 of 152,064",
        rows: 128,
        classes: 152_064,
        encoding: "top-64",
    },
];

/// One way of sending the same bytes.
#[derive(Default)]
struct Arm {
    gb_per_s: Vec<f64>,
    /// User and system seconds per GB.
    processor: Vec<(f64, f64)>,
}

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    let (turns, megabytes) = if quick { (3, 128) } else { (9, 768) };
    for size in &SIZES {
        for connections in [1, 4] {
            if connections == 4 && size.encoding != TERMS.1 {
                continue;
            }
            let total = (megabytes << 20) / if size.encoding == TERMS.1 { 1 } else { 8 };
            measure(table, size, connections, Link::Tcp, (turns, total))?;
        }
    }
    measure(table, &SIZES[0], 1, Link::Unix, (turns, megabytes << 20))
}

fn measure(
    table: &mut Table,
    size: &Size,
    connections: u64,
    link: Link,
    (turns, total): (usize, u64),
) -> anyhow::Result<()> {
    let engine = Ready::new(size.rows as usize, size.classes, Duration::ZERO);
    let retort = Server::retort(engine, size.rows, &GROUPS, limits(), link)?;
    let readers = runtime()?;
    let blocks = 10;
    let ready: Arc<[Bytes]> = readers.block_on(async {
        let open = retort.open("warm", TERMS.0, size.encoding);
        let mut reader = Reader::open(retort.connect().await?, open).await?;
        let mut frames = Vec::new();
        for block in 0..blocks {
            reader.want(0, block).await?;
            frames.push(reader.frame().await?.frame);
        }
        Ok::<_, anyhow::Error>(frames.into())
    })?;
    let frame = ready[0].clone();
    let tonic = Server::start(String::new(), link, |_| Ok(bare::router(ready.clone())))?;
    let pours = runtime()?;
    let frames = total / connections / frame.len() as u64;

    let mut arms: [Arm; 3] = Default::default();
    for _ in 0..turns {
        if link == Link::Tcp {
            arms[0].measure(|| raw(&pours, &readers, &ready, connections, frames))?;
        }
        arms[1].measure(|| push(&readers, &tonic, connections, frames))?;
        arms[2].measure(|| {
            wanted(
                &readers,
                &retort,
                size.encoding,
                (connections, frames, AHEAD / frame.len() as u64),
                blocks,
            )
        })?;
    }

    let over = if link == Link::Tcp {
        "loopback TCP"
    } else {
        "a Unix socket"
    };
    table.head(&format!(
        "Ready frames of {} ({} bytes) over {over}, {connections} connection(s): GB/s, median of {turns} (range)",
        size.name,
        frame.len()
    ));
    let names = [
        "raw TCP",
        "bare tonic stream of the same bytes",
        "teacher server, wants and credit",
    ];
    let [_, _, ours] = [0, 1, 2].map(|i| {
        if arms[i].gb_per_s.is_empty() {
            return 0.0;
        }
        let (median, text) = spread(&arms[i].gb_per_s);
        let (user, system) = arms[i].per_gb();
        table.note(names[i], text);
        table.note(
            "  processor seconds per GB, user + system",
            format!("{user:.2} + {system:.2}"),
        );
        median
    });
    let key = format!("{} x {connections} {over}", size.name);
    let (of_bare, text) = arms[2].beside(&arms[1]);
    // Small frames have their own bound.
    let large = size.encoding == TERMS.1;
    if large {
        table.check(("of bare tonic".into(), text), ">= 0.90", of_bare >= 0.90);
    } else {
        table.note("of bare tonic", text);
        table.note("frames/s", format!("{:.0}", ours * 1e9 / frame.len() as f64));
    }
    table.keep(&format!("{key}: of bare"), of_bare);
    if link == Link::Tcp {
        let (of_raw, text) = arms[2].beside(&arms[0]);
        let (bound, least) = if connections == 1 {
            (">= 0.55", 0.55)
        } else {
            (">= 0.60", 0.60)
        };
        if large {
            table.check(("of raw TCP".into(), text), bound, of_raw >= least);
        }
        table.keep(&format!("{key}: of raw"), of_raw);
    }
    table.keep(&format!("{key}: GB/s"), ours);
    Ok(())
}

impl Arm {
    fn measure(&mut self, run: impl FnOnce() -> anyhow::Result<u64>) -> anyhow::Result<()> {
        let (user, system) = processor_s();
        let began = Instant::now();
        let bytes = run()? as f64 / 1e9;
        self.gb_per_s.push(bytes / began.elapsed().as_secs_f64());
        let after = processor_s();
        self.processor
            .push(((after.0 - user) / bytes, (after.1 - system) / bytes));
        Ok(())
    }

    /// Ratios to another arm, each of one turn: the machine changes between turns.
    fn beside(&self, other: &Self) -> (f64, String) {
        let pairs = self.gb_per_s.iter().zip(&other.gb_per_s);
        spread(&pairs.map(|(mine, theirs)| mine / theirs).collect::<Vec<_>>())
    }

    /// Means: ticks are too coarse for single turns.
    fn per_gb(&self) -> (f64, f64) {
        let turns = self.processor.len() as f64;
        let sum = |of: fn(&(f64, f64)) -> f64| self.processor.iter().map(of).sum::<f64>() / turns;
        (sum(|p| p.0), sum(|p| p.1))
    }
}

fn raw(
    pours: &Runtime,
    readers: &Runtime,
    ready: &Arc<[Bytes]>,
    connections: u64,
    frames: u64,
) -> anyhow::Result<u64> {
    let buffer = ready[0].len();
    let mut addresses = Vec::new();
    for _ in 0..connections {
        let listener = pours.block_on(TcpListener::bind("127.0.0.1:0"))?;
        addresses.push(listener.local_addr()?);
        pours.spawn(bare::pour(listener, ready.clone(), frames));
    }
    let tasks: Vec<_> = addresses
        .into_iter()
        .map(|address| {
            readers.spawn(async move { bare::drain(TcpStream::connect(address).await?, buffer).await })
        })
        .collect();
    readers.block_on(sum(tasks))
}

fn push(readers: &Runtime, server: &Server, connections: u64, frames: u64) -> anyhow::Result<u64> {
    readers.block_on(async {
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let mut open = server.open(bare::PUSH, TERMS.0, TERMS.1);
            open.credit_samples = frames;
            let mut reader = Reader::open(server.connect().await?, open).await?;
            tasks.push(readers.spawn(async move {
                let mut bytes = 0;
                for _ in 0..frames {
                    bytes += reader.frame().await?.frame.len() as u64;
                }
                Ok(bytes)
            }));
        }
        sum(tasks).await
    })
}

fn wanted(
    readers: &Runtime,
    server: &Server,
    encoding: &str,
    (connections, frames, depth): (u64, u64, u64),
    blocks: u64,
) -> anyhow::Result<u64> {
    readers.block_on(async {
        let mut tasks = Vec::new();
        for _ in 0..connections {
            let open = server.open("reads", TERMS.0, encoding);
            let mut reader = Reader::open(server.connect().await?, open).await?;
            tasks.push(readers.spawn(async move { reader.read(blocks, frames, depth).await }));
        }
        sum(tasks).await
    })
}

async fn sum(tasks: Vec<tokio::task::JoinHandle<anyhow::Result<u64>>>) -> anyhow::Result<u64> {
    let mut total = 0;
    for task in tasks {
        total += task.await??;
    }
    Ok(total)
}

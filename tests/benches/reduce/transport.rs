//! Whole rounds: members in this process, the coordinator in one of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use futures_util::future::join_all;
use retort_tests::bench::Table;

use crate::cluster::{Coordinator, Worker};
use crate::{NUMBERS, quartiles, spread};

const BYTES: usize = 4 * NUMBERS;

/// Gives the seconds that a gigabyte takes to the coordinator, or from it, with as many members as were tried.
pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<f64> {
    let rounds = if quick { 3 } else { 7 };
    table.head("Rounds of 50 MB over loopback (f32 up, the mean down), beside the same bytes over TCP");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut transport = 0.0;
    for members in if quick { vec![2] } else { vec![1, 2, 4, 8] } {
        let mut replicas = runtime.block_on(Replicas::start(members))?;
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        for round in 0..=rounds {
            let (one, other) = (tcp(members)?, runtime.block_on(replicas.round())?);
            if round > 0 {
                bare.push(one);
                ours.push(other);
            }
        }
        let ratios = quartiles(bare.iter().zip(&ours).map(|(b, o)| b / o).collect());
        let moved = 2.0 * (members * BYTES) as f64;
        let seconds = quartiles(ours)[1];
        let name = format!("{members} members: round, GB/s of all bytes");
        table.note(name, format!("{:.2} ({seconds:.2} s)", moved / seconds / 1e9));
        table.note(format!("{members} members: round / TCP, speed"), spread(ratios));
        table.keep(&format!("round_{members}_s"), seconds);
        table.keep(&format!("round_{members}_of_tcp"), ratios[1]);
        transport = seconds / (moved / 1e9);
    }
    Ok(transport)
}

/// Members of one student.
struct Replicas {
    workers: Vec<Worker>,
    weights: Bytes,
    _coordinator: Coordinator,
}

impl Replicas {
    async fn start(members: usize) -> anyhow::Result<Self> {
        let coordinator = Coordinator::start()?;
        // A lone replica exchanges nothing, so that there is a place for another, which does not come.
        let run = coordinator.submit(1, u32::try_from(members.max(2))?).await?;
        let mut workers = Vec::new();
        // The first registration is the teacher's group.
        for number in 0..=members {
            workers.push(Worker::register(coordinator.channel()?, &run, number).await?);
        }
        workers.remove(0);
        for worker in &workers {
            worker.publish_if_asked().await?;
        }
        Ok(Self {
            workers,
            weights: vec![1; BYTES].into(),
            _coordinator: coordinator,
        })
    }

    /// Seconds from the first contribution to the last merge.
    async fn round(&mut self) -> anyhow::Result<f64> {
        let mut work = Vec::new();
        for worker in &mut self.workers {
            work.push(worker.lease().await?);
        }
        let began = Instant::now();
        let weights = &self.weights;
        let exchanges = self
            .workers
            .iter_mut()
            .zip(work)
            .map(|(worker, (epoch, positions))| async move {
                let received = worker.exchange(epoch, vec![positions], weights).await?;
                anyhow::ensure!(received == BYTES, "{received} bytes came back, of {BYTES}");
                Ok(())
            });
        let done: Vec<anyhow::Result<()>> = join_all(exchanges).await;
        done.into_iter().collect::<anyhow::Result<()>>()?;
        let seconds = began.elapsed().as_secs_f64();
        for worker in &self.workers {
            worker.publish_if_asked().await?;
        }
        Ok(seconds)
    }
}

/// Seconds that as many bytes take up and down over bare connections, all at once, with nothing done in between.
fn tcp(members: usize) -> anyhow::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let serve = |mut stream: TcpStream| -> std::io::Result<()> {
            let mut buffer = vec![0; BYTES];
            stream.read_exact(&mut buffer)?;
            stream.write_all(&buffer)
        };
        let threads: Vec<_> = (0..members)
            .map(|_| {
                listener
                    .accept()
                    .map(|(stream, _)| std::thread::spawn(move || serve(stream)))
            })
            .collect::<std::io::Result<_>>()?;
        threads.into_iter().try_for_each(|t| t.join().unwrap_or(Ok(())))
    });
    let began = Instant::now();
    let clients: Vec<_> = (0..members)
        .map(|_| {
            std::thread::spawn(move || -> std::io::Result<()> {
                let mut stream = TcpStream::connect(address)?;
                stream.write_all(&vec![1; BYTES])?;
                stream.read_exact(&mut vec![0; BYTES])
            })
        })
        .collect();
    for client in clients {
        client.join().ok().context("a client's thread")??;
    }
    let seconds = began.elapsed().as_secs_f64();
    server.join().ok().context("the server's thread")??;
    Ok(seconds)
}

//! Small frames: how many per second, how much later than computed, and what samples sent along cost.

use std::time::{Duration, Instant};

use retort_proto::pb;
use retort_proto::pb::distill_request::Part;
use retort_tests::bench::Table;

use crate::bare;
use crate::ready::{INPUT, Link, Reader, Ready, Server, limits, runtime, spread};

const ROWS: u32 = 128;
const CLASSES: usize = 100;
/// Frames asked for ahead.
const DEPTH: u64 = 16;
const COMPUTE: Duration = Duration::from_millis(2);

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    rate(table, quick)?;
    latency(table, quick)?;
    inputs(table, quick)
}

fn rate(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    let (turns, frames) = if quick { (3, 10_000) } else { (9, 40_000) };
    let engine = Ready::new(ROWS as usize, CLASSES, Duration::ZERO);
    let groups = ["reads", "warm", "absent"];
    let retort = Server::retort(engine, ROWS, &groups, limits(), Link::Tcp)?;
    let readers = runtime()?;
    let frame = readers.block_on(async {
        let mut warm = Reader::open(retort.connect().await?, retort.open("warm", 2.0, "f16")).await?;
        warm.read(10, 10, 1).await?;
        warm.want(0, 0).await?;
        Ok::<_, anyhow::Error>(warm.frame().await?.frame)
    })?;
    let size = frame.len() as u64;
    let tonic = Server::start(String::new(), Link::Tcp, |_| Ok(bare::router([frame].into())))?;
    let (mut echo, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..turns {
        for (server, rates) in [(&tonic, &mut echo), (&retort, &mut ours)] {
            rates.push(readers.block_on(async {
                let open = server.open("reads", 2.0, "f16");
                let mut reader = Reader::open(server.connect().await?, open).await?;
                let began = Instant::now();
                let bytes = reader.read(10, frames, DEPTH).await?;
                anyhow::ensure!(bytes == frames * size, "every frame is whole");
                Ok(frames as f64 / began.elapsed().as_secs_f64())
            })?);
        }
    }
    table.head(&format!(
        "Ready frames of {ROWS} x {CLASSES} f16 (25 KB), one stream, {DEPTH} wants ahead: frames/s, median of {turns}"
    ));
    table.note("bare tonic stream that answers each want", spread(&echo).1);
    let (of_ours, text) = spread(&ours);
    table.note("teacher server", text);
    // Pairs of one turn: the machine changes between turns.
    let pairs: Vec<f64> = ours.iter().zip(&echo).map(|(ours, echo)| ours / echo).collect();
    let (ratio, text) = spread(&pairs);
    table.check(("ratio".into(), text), ">= 0.80", ratio >= 0.80);
    table.keep("small: frames/s", of_ours);
    table.keep("small: of bare", ratio);
    Ok(())
}

/// One want at a time, each computed.
fn latency(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    let wants = if quick { 200 } else { 2_000 };
    let engine = Ready::new(ROWS as usize, CLASSES, COMPUTE);
    let server = Server::retort(engine, ROWS, &["reads"], limits(), Link::Tcp)?;
    let mut times = runtime()?.block_on(async {
        let open = server.open("reads", 2.0, "f16");
        let mut reader = Reader::open(server.connect().await?, open).await?;
        let mut times = Vec::new();
        for i in 0..wants {
            let began = Instant::now();
            reader.want(i / 10, u64::from(i % 10)).await?;
            reader.frame().await?;
            times.push((began.elapsed().as_secs_f64() - COMPUTE.as_secs_f64()) * 1e3);
        }
        anyhow::Ok(times)
    })?;
    times.sort_by(f64::total_cmp);
    let [p50, p99] = [50, 99].map(|p| times[times.len() * p / 100]);
    table.head(&format!(
        "One want at a time, each scored in {COMPUTE:?}: time beyond it"
    ));
    table.check(
        ("added, median".into(), format!("{p50:.2} ms")),
        "<= 1 ms",
        p50 <= 1.0,
    );
    table.note("added, p99", format!("{p99:.2} ms"));
    table.keep("added_ms_p50_p99", vec![p50, p99]);
    Ok(())
}

/// Samples named by block, and the same number of samples sent along.
fn inputs(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    let (turns, wants) = if quick { (3, 1_000) } else { (9, 5_000) };
    let engine = Ready::new(ROWS as usize, CLASSES, Duration::ZERO);
    let server = Server::retort(engine, ROWS, &["reads"], limits(), Link::Tcp)?;
    let values = bytes::Bytes::from(vec![0u8; ROWS as usize * INPUT * 4]);
    let want = |i: u64, along: bool| pb::Want {
        id: i,
        epoch: (i / 10) as u32,
        block: i % 10,
        inputs: along.then(|| pb::Inputs {
            samples: ROWS,
            values: values.clone(),
        }),
        ..Default::default()
    };
    let (mut named, mut sent) = (Vec::new(), Vec::new());
    runtime()?.block_on(async {
        for _ in 0..turns {
            for (along, rates) in [(false, &mut named), (true, &mut sent)] {
                let open = server.open("reads", 2.0, "f16");
                let mut reader = Reader::open(server.connect().await?, open).await?;
                let began = Instant::now();
                for i in 0..wants + DEPTH {
                    if i < wants {
                        reader.say(Part::Want(want(i, along))).await?;
                    }
                    if i >= DEPTH {
                        reader.frame().await?;
                    }
                }
                rates.push(wants as f64 / began.elapsed().as_secs_f64());
            }
        }
        anyhow::Ok(())
    })?;
    table.head(&format!(
        "{ROWS} samples of {INPUT} numbers, scored at no cost, softened and encoded each time: blocks/s, median of {turns}"
    ));
    let (by_id, text) = spread(&named);
    table.note("named by block (the server reads and orders them)", text);
    let (along, text) = spread(&sent);
    table.note(format!("sent along ({} bytes up per block)", values.len()), text);
    table.note("ratio", format!("{:.2}", along / by_id));
    table.keep("inline_to_named", along / by_id);
    Ok(())
}

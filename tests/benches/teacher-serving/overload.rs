//! A reader that stops reading, under ten times the load that a stream may hold: what it costs.

use std::time::{Duration, Instant};

use retort_tests::bench::Table;

use crate::ready::{Link, Reader, Ready, Server, limits, runtime};

const ROWS: u32 = 128;
const CLASSES: usize = 1_024;
/// Kernel and HTTP/2 buffers of a connection, and the allocator's slack.
const SLACK: f64 = 64.0;

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0.0);
    kib / 1024.0
}

pub(crate) fn run(table: &mut Table, quick: bool) -> anyhow::Result<()> {
    let watch = Duration::from_secs(if quick { 3 } else { 15 });
    let engine = Ready::new(ROWS as usize, CLASSES, Duration::ZERO);
    let limits = limits();
    let cap = (limits.unread_bytes >> 20) as f64;
    let server = Server::retort(engine, ROWS, &["stops", "reads"], limits, Link::Tcp)?;
    let readers = runtime()?;
    let (before, samples, unaffected) = readers.block_on(async {
        let rate = async |seconds: f64| {
            let open = server.open("reads", 2.0, "f16");
            let mut reader = Reader::open(server.connect().await?, open).await?;
            let (began, mut frames) = (Instant::now(), 0u32);
            while began.elapsed().as_secs_f64() < seconds {
                reader.want(1_000 + frames, 0).await?;
                reader.frame().await?;
                frames += 1;
            }
            anyhow::Ok(f64::from(frames) / began.elapsed().as_secs_f64())
        };
        let alone = rate(1.0).await?;
        let before = resident_mib();
        // 2,560 frames of 256 KiB: ten times what may lie unread.
        let stopped = Reader::open(server.connect().await?, server.open("stops", 2.0, "f16")).await?;
        for i in 0..2_560u32 {
            stopped.want(i / 10, u64::from(i % 10)).await?;
        }
        let (began, mut samples) = (Instant::now(), Vec::new());
        while began.elapsed() < watch {
            tokio::time::sleep(Duration::from_millis(200)).await;
            samples.push(resident_mib());
        }
        let beside = rate(1.0).await?;
        drop(stopped);
        anyhow::Ok((before, samples, beside / alone))
    })?;
    let most = samples.iter().copied().fold(0.0, f64::max) - before;
    let half = samples.len() / 2;
    let grown = samples[samples.len() - 1] - samples[half];
    table.head(&format!(
        "A reader that asks for 640 MiB and reads nothing, {} s; a stream may leave {cap} MiB unread",
        watch.as_secs()
    ));
    table.check(
        (
            "resident memory beyond that before".into(),
            format!("{most:.0} MiB"),
        ),
        "<= cap + 64 MiB",
        most <= cap + SLACK,
    );
    table.check(
        ("grown in the second half".into(), format!("{grown:.1} MiB")),
        "<= 1 MiB",
        grown <= 1.0,
    );
    table.note(
        "rate of another reader, of that before",
        format!("{unaffected:.2}"),
    );
    table.keep("stopped_reader_mib", most);
    table.keep("stopped_reader_grown_mib", grown);
    table.keep("other_reader_ratio", unaffected);
    Ok(())
}

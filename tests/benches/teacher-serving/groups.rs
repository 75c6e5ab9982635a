//! Sixteen groups on one order, each at its own temperature and speed: how often a block is scored.

use std::time::Duration;

use retort_tests::bench::Table;

use crate::ready::{Link, Reader, Ready, Server, limits, runtime};

const GROUPS: usize = 16;
const ROWS: u32 = 32;
const CLASSES: usize = 100;
const EPOCHS: u32 = 5;
const COMPUTE: Duration = Duration::from_millis(1);

pub(crate) fn run(table: &mut Table) -> anyhow::Result<()> {
    let names: Vec<String> = (0..GROUPS).map(|i| format!("group-{i:02}")).collect();
    let groups: Vec<&str> = names.iter().map(String::as_str).collect();
    let engine = Ready::new(ROWS as usize, CLASSES, COMPUTE);
    let server = Server::retort(engine, ROWS, &groups, limits(), Link::Tcp)?;
    let blocks = u64::from(crate::ready::blocks(ROWS)?.dataset.train_len() / ROWS);
    let readers = runtime()?;
    let counters = readers.block_on(async {
        let mut tasks = Vec::new();
        for (i, group) in (0u64..).zip(&names) {
            let open = server.open(group, 1.0 + i as f64 * 0.5, "f16");
            let mut reader = Reader::open(server.connect().await?, open).await?;
            tasks.push(readers.spawn(async move {
                for epoch in 0..EPOCHS {
                    for block in 0..blocks {
                        reader.want(epoch, block).await?;
                        reader.frame().await?;
                        // From as fast as it goes to some 3 ms a block.
                        tokio::time::sleep(Duration::from_micros(200 * i)).await;
                    }
                }
                anyhow::Ok(())
            }));
        }
        for task in tasks {
            task.await??;
        }
        server.describe().await
    })?;
    let all = blocks * u64::from(EPOCHS);
    let per_block = counters.scored_samples as f64 / (all * u64::from(ROWS)) as f64;
    table.head(&format!(
        "{GROUPS} groups at {GROUPS} temperatures, 1x to some 4x slower, {all} blocks of one order"
    ));
    table.check(
        ("times that a block was scored".into(), format!("{per_block:.3}")),
        "<= 1.1",
        per_block <= 1.1,
    );
    let shared = counters.hits + counters.coalesced;
    let asked = shared + counters.misses;
    table.check(
        (
            "wants met by the cache or another's forward pass".into(),
            format!("{:.1} %", 100.0 * shared as f64 / asked as f64),
        ),
        ">= 90 % of 15/16",
        shared as f64 >= 0.9 * asked as f64 * 15.0 / 16.0,
    );
    table.note(
        "hits, joined, scored",
        format!("{}, {}, {}", counters.hits, counters.coalesced, counters.misses),
    );
    table.keep("forwards_per_block_16_groups", per_block);
    Ok(())
}

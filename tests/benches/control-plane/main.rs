//! What the control plane costs: instructions, requests, workers, memory, and how evenly it balances.
//!
//!   cargo bench -p retort-tests --bench control-plane -- [--quick]

#![expect(
    clippy::print_stdout,
    reason = "parts that run on their own print for the bench to read"
)]

mod balance;
mod cluster;
mod fleet;
mod instructions;
mod memory;
mod requests;
mod workers;

use retort_tests::bench::Table;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [instructions::PART, rest @ ..] => return instructions::part(rest),
        [memory::PART, rest @ ..] => return memory::part(rest),
        [] | ["--quick"] => {}
        other => anyhow::bail!("{other:?}: expected nothing or --quick"),
    }
    let quick = !args.is_empty();
    let mut table = Table::default();
    table.keep("quick", quick);

    instructions::run(&mut table, quick)?;
    requests::run(&mut table, quick)?;
    workers::run(&mut table, quick)?;
    memory::run(&mut table, quick)?;
    balance::run(&mut table);
    table.result("control-plane")
}

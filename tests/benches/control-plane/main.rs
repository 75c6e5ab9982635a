//! What the control plane costs: instructions, requests, workers, memory, and how evenly it balances.
//!
//!   cargo bench -p retort-tests --bench control-plane -- [--quick]

#![expect(clippy::print_stdout, reason = "the table is what the bench is for")]

mod balance;
mod cluster;
mod fleet;
mod instructions;
mod memory;
mod requests;
mod workers;

use serde_json::{Map, Value, json};

/// One row of the table.
pub(crate) struct Row {
    name: String,
    value: String,
    bound: &'static str,
    holds: Option<bool>,
}

/// Prints the figures of one part as they come and keeps them for the last line.
#[derive(Default)]
pub(crate) struct Table {
    figures: Map<String, Value>,
}

impl Table {
    fn head(&self, title: &str) {
        println!("\n{title}");
    }

    fn row(&self, row: &Row) {
        let verdict = match row.holds {
            Some(true) => "holds",
            Some(false) => "MISSED",
            None => "",
        };
        println!(
            "  {:<58} {:>22}  {:<26} {verdict}",
            row.name, row.value, row.bound
        );
    }

    /// A figure without a bound.
    pub(crate) fn note(&self, name: impl Into<String>, value: impl Into<String>) {
        self.row(&Row {
            name: name.into(),
            value: value.into(),
            bound: "",
            holds: None,
        });
    }

    /// A figure with its bound.
    pub(crate) fn check(&mut self, (name, value): (String, String), bound: &'static str, holds: bool) {
        self.row(&Row {
            name,
            value,
            bound,
            holds: Some(holds),
        });
    }

    /// A figure for the last line.
    pub(crate) fn keep(&mut self, key: &str, value: impl Into<Value>) {
        self.figures.insert(key.to_owned(), value.into());
    }
}

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
    println!(
        "\nRESULT {}",
        json!({ "bench": "control-plane", "figures": table.figures })
    );
    Ok(())
}

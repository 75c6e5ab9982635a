//! The table that each bench prints.

#![expect(clippy::print_stdout, reason = "the table is what a bench is for")]

use anyhow::ensure;
use serde_json::{Map, Value, json};

/// Whether the bench was called with `--quick`; it takes nothing else.
///
/// # Errors
///
/// What else there is.
pub fn quick() -> anyhow::Result<bool> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => Ok(false),
        ["--quick"] => Ok(true),
        other => anyhow::bail!("{other:?}: expected nothing or --quick"),
    }
}

/// One row of the table.
struct Row {
    name: String,
    value: String,
    bound: &'static str,
    holds: Option<bool>,
}

/// Prints the figures of one part as they come and keeps them for the last line.
#[derive(Default)]
pub struct Table {
    figures: Map<String, Value>,
    missed: usize,
}

impl Table {
    /// What the next rows are about.
    pub fn head(&self, title: &str) {
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
    pub fn note(&self, name: impl Into<String>, value: impl Into<String>) {
        self.row(&Row {
            name: name.into(),
            value: value.into(),
            bound: "",
            holds: None,
        });
    }

    /// A figure with its bound.
    pub fn check(&mut self, (name, value): (String, String), bound: &'static str, holds: bool) {
        self.missed += usize::from(!holds);
        self.row(&Row {
            name,
            value,
            bound,
            holds: Some(holds),
        });
    }

    /// A figure for the last line.
    pub fn keep(&mut self, key: &str, value: impl Into<Value>) {
        self.figures.insert(key.to_owned(), value.into());
    }

    /// The last line: all that was kept.
    ///
    /// # Errors
    ///
    /// Bounds were missed, so that the bench ends with 1.
    pub fn result(&self, bench: &str) -> anyhow::Result<()> {
        println!("\nRESULT {}", json!({ "bench": bench, "figures": self.figures }));
        ensure!(self.missed == 0, "{bench}: bounds MISSED: {}", self.missed);
        Ok(())
    }
}

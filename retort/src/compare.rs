//! `retort compare`: the reports of ended runs side by side.

use std::path::{Path, PathBuf};

use clap::Args as Arguments;

use crate::failure::Failure;
use crate::report::Report;
use crate::report::compare::Compared;

#[derive(Debug, Arguments)]
pub(crate) struct Args {
    /// Folders of ended runs; the others are held against the first.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn command(args: &Args) -> Result<(), Failure> {
    let reports = args
        .runs
        .iter()
        .map(|run| Ok((run.display().to_string(), read(run)?)));
    let compared = Compared::new(&reports.collect::<Result<Vec<_>, Failure>>()?);
    if args.json {
        let json = serde_json::to_string_pretty(&compared).map_err(anyhow::Error::from)?;
        println!("{json}");
    } else {
        println!("{compared}");
    }
    Ok(())
}

fn read(run: &Path) -> Result<Report, Failure> {
    let file = run.join("report.json");
    let hint = "a run has one once it has ended";
    let text = std::fs::read_to_string(&file)
        .map_err(|e| Failure::input(format!("{}: {e}; {hint}", file.display())))?;
    serde_json::from_str(&text).map_err(|e| {
        let hint = "it is not of this version of Retort";
        Failure::input(format!("{}: {e}; {hint}", file.display()))
    })
}

//! The `simulate` command.

use std::process::ExitCode;

use crate::{Counts, Options, Plant, history};

const USAGE: &str = "usage: simulate (--seed N | --seeds A..B) [--plant BUG | --plant list]";

/// Plays what the arguments ask for; 0: nothing was violated, 1: something was, 2: bad arguments.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    match parse(args) {
        Ok(Asked::Plants) => {
            for plant in Plant::ALL {
                print(plant.name());
            }
            ExitCode::SUCCESS
        }
        Ok(Asked::Histories {
            seeds,
            plant,
            verbose,
        }) => play(seeds, plant, verbose),
        Err(e) => {
            complain(&format!("{e}\n{USAGE}"));
            ExitCode::from(2)
        }
    }
}

enum Asked {
    Plants,
    Histories {
        seeds: std::ops::Range<u64>,
        plant: Option<Plant>,
        verbose: bool,
    },
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut seeds = None;
    let mut plant = None;
    let mut verbose = false;
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} wants a value"))?;
        let number = |text: &str| text.parse::<u64>().map_err(|e| format!("{arg} {value}: {e}"));
        match arg.as_str() {
            "--seed" => {
                let seed = number(&value)?;
                seeds = Some(seed..seed.saturating_add(1));
                verbose = true;
            }
            "--seeds" => {
                let (from, to) = value
                    .split_once("..")
                    .ok_or_else(|| format!("--seeds {value}: expected A..B"))?;
                seeds = Some(number(from)?..number(to)?);
                verbose = false;
            }
            "--plant" if value == "list" => return Ok(Asked::Plants),
            "--plant" => plant = Some(value.parse()?),
            _ => return Err(format!("unknown argument {arg}")),
        }
    }
    let seeds = seeds.ok_or("no seed was given")?;
    if seeds.is_empty() {
        return Err(format!("--seeds {}..{} is empty", seeds.start, seeds.end));
    }
    Ok(Asked::Histories {
        seeds,
        plant,
        verbose,
    })
}

fn play(seeds: std::ops::Range<u64>, plant: Option<Plant>, verbose: bool) -> ExitCode {
    let mut counts = Counts::default();
    let mut histories = 0u64;
    for seed in seeds {
        let options = Options {
            seed,
            plant,
            verbose,
            print,
        };
        match history(options) {
            Ok(more) => counts.add(&more),
            Err(failure) => {
                complain(&format!("violated: {failure}"));
                let plant = plant.map_or(String::new(), |p| format!(" --plant {p}"));
                complain(&format!(
                    "again: cargo run --release -p retort-tests --bin simulate -- --seed {seed}{plant}"
                ));
                return ExitCode::FAILURE;
            }
        }
        histories += 1;
    }
    print(&format!("{histories} histories, nothing violated: {counts}"));
    ExitCode::SUCCESS
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the command's complaint")]
fn complain(text: &str) {
    eprintln!("{text}");
}

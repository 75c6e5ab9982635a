//! Our steps, evaluations and epochs beside PyTorch's: the same networks, batches, optimizer, cores. `bench/pytorch/run.sh`
//! builds it with LibTorch where that is installed, and calls it.
//!
//!   bench/pytorch/run.sh [--quick] [--device DEVICE] [--part steps|phases|epochs|service]
//!
//! Without PyTorch only our side is shown. A device other than the processor's (`libtorch:cuda:0`) is compared with PyTorch
//! on the same GPU, and epochs of the service are left out.

mod epochs;
mod models;
mod ours;
mod phases;
mod python;
mod service;
mod steps;

use std::path::PathBuf;

use anyhow::{Context, bail};
use retort_models::Choice;
use retort_tests::bench::Table;

use python::Arm;

const PARTS: [&str; 4] = ["steps", "phases", "epochs", "service"];

/// What was asked for on the command line.
pub(crate) struct Options {
    pub(crate) quick: bool,
    /// Only this one of [`PARTS`].
    part: Option<String>,
    /// Devices of our side.
    pub(crate) devices: Vec<Choice>,
    /// PyTorch's device.
    pub(crate) cuda: bool,
    pub(crate) threads: usize,
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let mut table = Table::default();
    table.keep("quick", options.quick);
    table.keep("threads", options.threads);
    let names: Vec<String> = options.devices.iter().map(Choice::to_string).collect();
    table.keep("devices", names.clone());
    let mut python = Arm::start(&options)?;
    let them = match &python {
        Some(arm) => format!("PyTorch {} on {}", arm.hello.torch, arm.hello.device),
        None => "PyTorch is not installed (pip install -r bench/pytorch/requirements.txt): only our side"
            .to_owned(),
    };
    table.head(&format!(
        "{} threads; ours on {}; {them}",
        options.threads,
        names.join(" and ")
    ));
    let wanted = |part: &str| options.part.as_deref().is_none_or(|only| only == part);
    if wanted("steps") {
        steps::run(&mut table, &options, python.as_mut())?;
    }
    if wanted("phases") {
        phases::run(&mut table, &options, python.as_mut())?;
    }
    if options.cuda {
        table.head("Epochs of the service: left out, they compare what runs on the processor");
    } else {
        if wanted("epochs") {
            epochs::run(&mut table, &options, python.as_mut())?;
        }
        if wanted("service") {
            service::run(&mut table, &options)?;
        }
    }
    table.result("pytorch")
}

fn options() -> anyhow::Result<Options> {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let mut quick = false;
    let (mut device, mut part) = (None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => quick = true,
            "--device" => device = Some(args.next().context("--device wants a name")?.parse::<Choice>()?),
            "--part" => {
                let name = args.next().filter(|name| PARTS.contains(&name.as_str()));
                part = Some(name.with_context(|| format!("--part wants one of {}", PARTS.join(", ")))?);
            }
            other => bail!("{other:?}: expected --quick, --device DEVICE or --part PART"),
        }
    }
    let devices = match device {
        Some(device) => vec![device],
        None => [Choice::Flex, Choice::Libtorch]
            .into_iter()
            .filter(|device| device.check().is_ok())
            .collect(),
    };
    for device in &devices {
        device.open()?;
    }
    Ok(Options {
        quick,
        part,
        cuda: matches!(device, Some(Choice::LibtorchCuda(_) | Choice::Cuda(_))),
        devices,
        threads: std::thread::available_parallelism()?.get(),
    })
}

/// A file of PyTorch's side.
pub(crate) fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "bench", "pytorch", name]
        .iter()
        .collect()
}

/// The interpreter that has PyTorch: `PYTHON`, or what `python3` is.
pub(crate) fn interpreter() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

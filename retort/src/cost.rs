//! What an exported model costs on this machine: time and, where the processor counts it, energy.
//!
//! Half a second for a model bounds it, but a model that needs longer for three passes. A measurement
//! that fails is left out of the report: no run fails for it.

mod energy;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use retort_models::{Choice, Classifier, Effort, Export};

use crate::report::{Cost, Machine, stats};
use energy::Counter;

/// First calls allocate, fill caches and wake the processor: they are not counted.
const WARM_UP: Effort = Effort {
    calls: 50,
    at_most: Duration::from_millis(50),
};

/// Enough calls for a percentile; large models get through fewer, and the report says how many.
const LATENCY: Effort = Effort {
    calls: 1_000,
    at_most: Duration::from_millis(250),
};

/// By time: energy counters tick every millisecond.
const THROUGHPUT: Effort = Effort {
    calls: usize::MAX,
    at_most: Duration::from_millis(150),
};

/// The device that exports are measured on.
pub(crate) const DEVICE: Choice = Choice::Flex;

/// Where Linux has the energy counters of Intel's and AMD's processors.
const POWERCAP: &str = "/sys/class/powercap";

/// Times a model on samples of the data it is for (at least one). A model on a server costs another machine.
pub(crate) fn measure(export: &Export, inputs: &[f32]) -> Option<Cost> {
    if export.card.model.kserve.is_some() {
        return None;
    }
    match timed(export, inputs) {
        Ok(cost) => Some(cost),
        Err(error) => {
            tracing::warn!(model = export.card.name, "no cost was measured: {error:#}");
            None
        }
    }
}

fn timed(export: &Export, inputs: &[f32]) -> anyhow::Result<Cost> {
    let device = DEVICE.open().context("open device")?;
    let mut model = Classifier::from_parts(&export.card.spec(), &export.weights, &device)?;
    let len = model.spec().input_len();
    let one = inputs.get(..len).context("no sample to time")?;
    let batch: Vec<f32> = inputs
        .chunks_exact(len)
        .cycle()
        .take(Classifier::PASS)
        .flatten()
        .copied()
        .collect();
    model.time(one, 1, WARM_UP)?;
    let calls: Vec<f64> = model
        .time(one, 1, LATENCY)?
        .iter()
        .map(|call| call.as_secs_f64() * 1e3)
        .collect();
    let quantile = |share| stats::quantile(&calls, share).context("no call");
    let counter = Counter::open(Path::new(POWERCAP));
    let before = counter.as_ref().and_then(Counter::read);
    let began = Instant::now();
    let batches = model.time(&batch, Classifier::PASS, THROUGHPUT)?.len();
    let seconds = began.elapsed().as_secs_f64();
    let after = counter.as_ref().and_then(Counter::read);
    let samples = (batches * Classifier::PASS) as f64;
    let joules = before
        .zip(after)
        .and_then(|(before, after)| counter?.joules(&before, &after));
    Ok(Cost {
        latency_ms: quantile(0.5)?,
        latency_p95_ms: quantile(0.95)?,
        latency_calls: calls.len() as u64,
        batch: Classifier::PASS as u64,
        samples_per_s: samples / seconds,
        joules_per_1000: joules.map(|j| j / samples * 1e3),
    })
}

/// The machine that this process runs on.
pub(crate) fn machine() -> Machine {
    Machine {
        device: DEVICE.to_string(),
        processor: std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| processor(&text)),
        threads: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
    }
}

/// The first name in `/proc/cpuinfo`, which not every architecture has.
fn processor(cpuinfo: &str) -> Option<String> {
    let (_, name) = cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use retort_models::{Card, DatasetReference, Device, Net, Preprocessing, Spec};

    use super::*;

    #[test]
    fn a_model_is_timed_and_what_cannot_be_is_left_out() {
        let spec = Spec {
            model: toml::from_str("architecture = 'mlp'\nhidden = [4]").unwrap(),
            input: retort_data::Shape {
                channels: 1,
                height: 2,
                width: 2,
            },
            classes: 3,
            preprocessing: Preprocessing::none(1),
            tokens: None,
            rows: 1,
            projection: None,
        };
        let net = Net::new(&spec, 0, &Device::flex()).unwrap();
        let dataset = DatasetReference {
            name: "none".into(),
            digest: "0".into(),
        };
        let card = Card::new("tiny", &spec, net.parameters(), dataset);
        let export = Export::new(card, net.to_safetensors());
        let cost = measure(&export, &[0.5; 12]).unwrap();
        assert!(cost.latency_ms > 0.0 && cost.latency_ms <= cost.latency_p95_ms);
        assert!(cost.samples_per_s.is_finite() && cost.samples_per_s > 0.0);
        assert_eq!(cost.batch, 64);
        assert!((1..=1_000).contains(&cost.latency_calls));
        assert_eq!(measure(&export, &[]), None, "no sample");
    }

    #[test]
    fn the_processor_has_its_name_where_there_is_one() {
        let text = "processor\t: 0\nvendor_id\t: X\nmodel name\t: Some: CPU @ 2 GHz\nmodel name\t: other\n";
        assert_eq!(processor(text).as_deref(), Some("Some: CPU @ 2 GHz"));
        assert_eq!(processor("processor\t: 0\nBogoMIPS : 50\n"), None);
    }
}

//! `retort` with an architecture, `sines`, and a data set, `rings`: `docs/custom.md` goes through it.

use std::{path::Path, process::ExitCode};

use retort::custom::burn::{self, module::Module, nn::Linear, tensor::Tensor};
use retort::custom::{Custom, Dropout, Init, Input, Network, Program, Sample, Set, Shape, rng::Rng};

/// What a job says of it: `custom = { name = "sines", width = 64 }`.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Waves {
    width: usize,
}

/// Sines of linear functions of the inputs.
#[derive(Module, Debug)]
struct Sines {
    waves: Linear,
}

impl Network for Sines {
    const NAME: &'static str = "sines";
    type Parameters = Waves;

    fn output(waves: &Waves, _: &Input) -> Result<[usize; 2], String> {
        match waves.width {
            width @ 1..=4096 => Ok([width, 1]),
            width => Err(format!("width = {width}: expected 1..=4096")),
        }
    }

    fn new(waves: &Waves, input: &Input, init: &mut Init<'_>) -> Self {
        let waves = init.linear(input.shape.len(), waves.width);
        Self { waves }
    }

    fn forward(&self, inputs: Tensor<4>, dropout: &mut Dropout<'_>) -> Tensor<3> {
        let waves = self.waves.forward(inputs.flatten::<2>(1, 3)) * 3.0;
        dropout.apply(waves.sin()).unsqueeze_dim(2)
    }
}

/// Points of the plane, by which of three rings around the origin they lie in.
fn rings(_: &Custom, _: Option<&Path>) -> Result<Set, String> {
    let mut rng = Rng::new(7);
    let mut point = |_| {
        let [x, y] = [(); 2].map(|()| 6.0 * rng.uniform_f32() - 3.0);
        let ring = (x * x + y * y).sqrt() as u32;
        Sample::new([x, y], Some(ring.min(2)))
    };
    let pool = (0..2_000).map(&mut point).collect();
    let test = (0..500).map(&mut point).collect();
    let classes = ["inner", "middle", "outer"];
    Ok(Set::new(Shape::new(1, 1, 2), classes, pool, test))
}

fn main() -> ExitCode {
    Program::new().network::<Sines>().dataset("rings", rings).main()
}

//! Devices by name: `flex | libtorch | libtorch:cuda:N | cuda:N | wgpu | auto`.

use std::fmt;
use std::panic::catch_unwind;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};
use thiserror::Error;

/// A device as a job file names it. Parsing touches no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// The best that is compiled in and here: a GPU by LibTorch, LibTorch, flex.
    #[default]
    Auto,
    /// Burn's own CPU backend; always there.
    Flex,
    /// LibTorch on the CPU.
    Libtorch,
    /// LibTorch on the CUDA device of this number.
    LibtorchCuda(usize),
    /// CubeCL on the CUDA device of this number.
    Cuda(usize),
    /// CubeCL on what WebGPU finds.
    Wgpu,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    #[error("{0:?} is no device: expected flex, libtorch, libtorch:cuda:N, cuda:N, wgpu or auto")]
    Unknown(String),
    #[error("device {choice} is not compiled in: build with the cargo feature `{feature}`")]
    NotCompiledIn { choice: Choice, feature: &'static str },
    #[error("device {choice} does not work: {reason}")]
    Broken { choice: Choice, reason: String },
}

impl FromStr for Choice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::Unknown(text.into());
        let number = |digits: &str| digits.parse().map_err(|_| unknown());
        match text {
            "auto" => Ok(Self::Auto),
            "flex" => Ok(Self::Flex),
            "libtorch" => Ok(Self::Libtorch),
            "wgpu" => Ok(Self::Wgpu),
            _ => {
                if let Some(digits) = text.strip_prefix("libtorch:cuda:") {
                    number(digits).map(Self::LibtorchCuda)
                } else if let Some(digits) = text.strip_prefix("cuda:") {
                    number(digits).map(Self::Cuda)
                } else {
                    Err(unknown())
                }
            }
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Flex => f.write_str("flex"),
            Self::Libtorch => f.write_str("libtorch"),
            Self::LibtorchCuda(n) => write!(f, "libtorch:cuda:{n}"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
            Self::Wgpu => f.write_str("wgpu"),
        }
    }
}

impl Choice {
    /// The choice that `auto` stands for in this build and on this machine.
    pub fn resolve(self) -> Self {
        match self {
            Self::Auto if libtorch_gpus() > 0 => Self::LibtorchCuda(0),
            Self::Auto if cfg!(feature = "libtorch") => Self::Libtorch,
            Self::Auto => Self::Flex,
            other => other,
        }
    }

    /// Whether its tensors lie in the processor's memory.
    pub fn on_host(self) -> bool {
        matches!(self.resolve(), Self::Flex | Self::Libtorch)
    }

    /// Says whether the device is compiled in, without touching it.
    pub fn check(self) -> Result<(), Error> {
        let (compiled_in, feature) = match self {
            Self::Auto | Self::Flex => return Ok(()),
            Self::Libtorch | Self::LibtorchCuda(_) => (cfg!(feature = "libtorch"), "libtorch"),
            Self::Cuda(_) => (cfg!(feature = "cuda"), "cuda"),
            Self::Wgpu => (cfg!(feature = "wgpu"), "wgpu"),
        };
        if compiled_in {
            Ok(())
        } else {
            Err(Error::NotCompiledIn {
                choice: self,
                feature,
            })
        }
    }

    /// The device, without autodiff, after a first computation on it.
    pub fn open(self) -> Result<Device, Error> {
        self.check()?;
        let broken = |reason| Error::Broken { choice: self, reason };
        if let Self::LibtorchCuda(gpu) = self.resolve()
            && gpu >= libtorch_gpus()
        {
            let found = libtorch_gpus();
            return Err(broken(format!(
                "LibTorch finds {found} GPUs here, counted from 0"
            )));
        }
        // Backends report a missing driver or GPU by panicking on first use.
        let probe = catch_unwind(move || {
            let device = self.device();
            let sum = Tensor::<1>::ones([2], &device).sum();
            sum.try_into_vec_as::<f32>().map(|sum| (device, sum))
        });
        match probe {
            Ok(Ok((device, sum))) if sum == [2.0] => Ok(device),
            Ok(Ok((_, sum))) => Err(broken(format!("1 + 1 gave {sum:?}"))),
            Ok(Err(error)) => Err(broken(error.to_string())),
            Err(panic) => Err(broken(panic_text(panic.as_ref()))),
        }
    }

    #[cfg_attr(
        feature = "libtorch",
        expect(
            deprecated,
            reason = "the libtorch backend is deprecated upstream, and the one this project offers"
        )
    )]
    fn device(self) -> Device {
        match self.resolve() {
            #[cfg(feature = "libtorch")]
            Self::Libtorch => Device::libtorch(),
            #[cfg(feature = "libtorch")]
            Self::LibtorchCuda(n) => Device::libtorch_cuda(n),
            #[cfg(feature = "cuda")]
            Self::Cuda(n) => Device::cuda(n),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
            _ => Device::flex(),
        }
    }
}

/// GPUs that LibTorch finds; without the feature it finds none.
fn libtorch_gpus() -> usize {
    #[cfg(feature = "libtorch")]
    let found = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
    #[cfg(not(feature = "libtorch"))]
    let found = 0;
    found
}

/// Every device that could be tried here, flex first: whether one works [`Choice::open`] tells.
pub fn candidates() -> Vec<Choice> {
    let gpus = (0..libtorch_gpus().max(1)).map(Choice::LibtorchCuda);
    [Choice::Flex, Choice::Libtorch]
        .into_iter()
        .chain(gpus)
        .chain([Choice::Cuda(0), Choice::Wgpu])
        .collect()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    let text = text.unwrap_or("it panicked on first use");
    // LibTorch's errors go on with a stack, its line breaks perhaps escaped.
    let line = text.lines().next().unwrap_or(text);
    line.split("\\n").next().unwrap_or(line).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["auto", "flex", "libtorch", "libtorch:cuda:1", "cuda:0", "wgpu"] {
            assert_eq!(name.parse::<Choice>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "cpu",
            "cuda",
            "cuda:",
            "cuda:-1",
            "libtorch:cuda:x",
            "Flex",
            "flex ",
        ] {
            assert_eq!(name.parse::<Choice>(), Err(Error::Unknown(name.into())));
        }
    }

    #[test]
    fn of_a_panic_the_first_line_is_told() {
        for text in ["Torch(\"no driver\\nframe #0: c10\")", "Torch(\"no driver\nframe"] {
            assert_eq!(panic_text(&text.to_owned()), "Torch(\"no driver");
        }
    }

    #[test]
    fn flex_opens_and_auto_resolves() {
        assert_eq!(Choice::Flex.open().unwrap(), Device::flex());
        assert_ne!(Choice::Auto.resolve(), Choice::Auto);
        assert!(Choice::Auto.open().is_ok());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_is_not_compiled_in_names_its_feature() {
        let error = Choice::Cuda(1).open().unwrap_err();
        assert_eq!(
            error.to_string(),
            "device cuda:1 is not compiled in: build with the cargo feature `cuda`"
        );
    }
}

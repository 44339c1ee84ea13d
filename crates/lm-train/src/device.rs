//! Where tensors live.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use candle_core::Device;
use ffn_variants::Recipe;

/// A device a user can ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The first CUDA device.
    Cuda,
}

impl DeviceChoice {
    /// Every device.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Cuda];

    /// Opens the device.
    ///
    /// # Errors
    /// When this build has no CUDA or the machine has no usable GPU.
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda if !candle_core::utils::cuda_is_available() => {
                bail!(
                    "this build has no CUDA support; build with `cargo build --release --features cuda`, or use --device cpu"
                )
            }
            Self::Cuda => match Device::new_cuda(0) {
                Ok(device) => Ok(device),
                Err(error) => bail!("no usable CUDA device ({error}); use --device cpu"),
            },
        }
    }
}

/// Whether `recipe` can be computed on `device`: low precision is emulated on the CPU only.
///
/// # Errors
/// When it cannot, with what to do.
pub fn check_recipe(device: &Device, recipe: &Recipe) -> Result<()> {
    if recipe.is_full() || device.is_cpu() {
        return Ok(());
    }
    bail!(
        "precision {} is computed on the CPU only; use --device cpu, or precision.preset = \"fp32\"",
        recipe.name
    )
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|d| d.to_string() == text)
            .ok_or_else(|| format!("`{text}` is not one of cpu, cuda"))
    }
}

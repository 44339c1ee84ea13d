//! Which implementation of an operation runs.

use candle_core::{DType, Tensor};
use std::{error::Error, fmt, str::FromStr};

/// Which implementation of an operation runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// Plain differentiable Candle calls: every device, every floating-point type, slow.
    Reference,
    /// This crate's custom operations for `f32` on the CPU; tensors of any other kind take the reference.
    #[default]
    Portable,
}

impl Kernels {
    /// Every implementation, the reference first.
    pub const ALL: [Self; 2] = [Self::Reference, Self::Portable];

    /// The name used in configs and records; [`FromStr`] reads it back.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Portable => "portable",
        }
    }

    /// The implementation that runs on these tensors: the reference unless all of them are `f32` on the CPU.
    pub fn for_tensors(self, tensors: &[&Tensor]) -> Self {
        let fits = |t: &&Tensor| t.device().is_cpu() && t.dtype() == DType::F32;
        if tensors.iter().all(fits) { self } else { Self::Reference }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kernels {
    type Err = UnknownKernels;

    fn from_str(name: &str) -> Result<Self, UnknownKernels> {
        Self::ALL
            .into_iter()
            .find(|kernels| kernels.name() == name)
            .ok_or_else(|| UnknownKernels(name.to_owned()))
    }
}

/// A name that is none of [`Kernels::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKernels(pub String);

impl fmt::Display for UnknownKernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Kernels::ALL.map(Kernels::name).join(", ");
        write!(f, "unknown kernels {:?}, expected one of {names}", self.0)
    }
}

impl Error for UnknownKernels {}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn names_read_back() {
        for kernels in Kernels::ALL {
            assert_eq!(kernels.to_string().parse(), Ok(kernels));
        }
        assert_eq!(Kernels::default(), Kernels::Portable);
        let error = "fast".parse::<Kernels>().unwrap_err().to_string();
        assert_eq!(error, "unknown kernels \"fast\", expected one of reference, portable");
    }

    #[test]
    fn only_f32_runs_portable() -> candle_core::Result<()> {
        let single = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        let double = Tensor::zeros(2, DType::F64, &Device::Cpu)?;
        let portable = Kernels::Portable;
        assert_eq!(portable.for_tensors(&[&single, &single]), Kernels::Portable);
        assert_eq!(portable.for_tensors(&[&single, &double]), Kernels::Reference);
        assert_eq!(Kernels::Reference.for_tensors(&[&single]), Kernels::Reference);
        Ok(())
    }
}

//! What this machine can do at best: the rates that a floor for the time of a step is computed from.

use std::time::{Duration, Instant};

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use kernels::Kernels;
use kernels::profile::Work;
use rayon::prelude::*;
use serde::Serialize;

/// Side of the square matrices whose product is timed.
pub const SIDE: usize = 1024;
/// Floats in each of the two buffers of a pass over memory: 128 MiB, several times the last-level cache of most
/// machines.
const BUFFER: usize = 32 << 20;
/// Floats of one task.
const TASK: usize = 64 << 10;
/// How long each measurement is repeated, at least.
const PATIENCE: Duration = Duration::from_secs(1);

/// A rate over many runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// What the machine can do: other load can only slow a run down.
    pub best: f64,
    /// Far below the best, it says that there was such load.
    pub median: f64,
}

/// Measured rates, on all threads of this process.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// 10⁹ floating-point operations a second in products of f32 matrices.
    pub gflops: Rate,
    /// 10⁹ bytes a second, read or written, in a pass that scales one buffer into another.
    pub gb_per_s: Rate,
}

impl Machine {
    /// Measures, in two seconds; needs memory for two buffers.
    ///
    /// # Errors
    /// When a product fails.
    pub fn measure() -> Result<Self> {
        let x = Tensor::ones((SIDE, SIDE), DType::F32, &Device::Cpu)?;
        let gflops = rate(Work::matmul([SIDE; 3]).flops, || kernels::linear(Kernels::Portable, &x, &x))?;
        let from = vec![1f32; BUFFER];
        let mut to = vec![2f32; BUFFER];
        let gb_per_s = rate((2 * size_of::<f32>() * BUFFER) as f64, || {
            let tasks = to.par_chunks_mut(TASK).zip(from.par_chunks(TASK));
            tasks.for_each(|(to, from)| scale(to, from));
            Ok(std::hint::black_box(&mut to)[0])
        })?;
        Ok(Self { gflops, gb_per_s })
    }

    /// The least time that the work takes here, in seconds.
    pub fn floor(&self, work: Work) -> f64 {
        (work.flops / self.gflops.best).max(work.bytes / self.gb_per_s.best) / 1e9
    }
}

/// STREAM's second test (McCalpin 1995). A plain copy would be a call of memcpy, whose string instructions are several times
/// slower on some processors when the two buffers lie unluckily.
fn scale(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = 3.0 * from;
    }
}

/// 10⁹ of `amount` a second, the first run apart, which warms up.
fn rate<R>(amount: f64, mut run: impl FnMut() -> candle_core::Result<R>) -> Result<Rate> {
    run()?;
    let begun = Instant::now();
    let mut rates = Vec::new();
    while rates.is_empty() || begun.elapsed() < PATIENCE {
        let started = Instant::now();
        std::hint::black_box(run()?);
        rates.push(amount / started.elapsed().as_secs_f64() / 1e9);
    }
    rates.sort_by(f64::total_cmp);
    Ok(Rate { best: rates[rates.len() - 1], median: rates[rates.len() / 2] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_what_takes_longer() {
        let rate = |best| Rate { best, median: best / 2.0 };
        let machine = Machine { gflops: rate(100.0), gb_per_s: rate(10.0) };
        let floor = |flops, bytes| machine.floor(Work { flops, bytes });
        assert_eq!(floor(1e9, 0.0), 0.01);
        assert_eq!(floor(1e9, 2e8), 0.02);
        assert_eq!(floor(0.0, 0.0), 0.0);
    }
}

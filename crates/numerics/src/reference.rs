//! Quantisation written for reading: one element after another, through codes. The fast path must equal it
//! bit for bit; `ffnlab` shows its codes.

use crate::averages::{CHUNK, LANES, MIN_AVERAGE};
use crate::check::QuantError;
use crate::format::NumericFormat;
use crate::operand::{Operand, OuterScale};
use crate::rounding::Rounding;
use crate::scale::{Scale, ScaleRule, nvfp4_tensor_scale};
use crate::scaling::{Contraction, QuantSpec, Scaling};

/// The scales of a matrix as they are stored, one per rectangle that shares one, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredScales {
    /// There are none.
    None,
    /// fp32 scales.
    Fp32(Vec<f32>),
    /// Codes of E8M0 scales (MX).
    E8m0(Vec<u8>),
    /// Codes of E4M3 scales (NVFP4), relative to the tensor's scale.
    E4m3(Vec<u8>),
}

/// A quantised matrix with its codes.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedMatrix {
    /// Codes of the elements, row-major, each in the lowest bits of its word. NaN has code 0 where the format
    /// has no code for it.
    pub codes: Vec<u32>,
    /// Decoded elements, before any scale; NaN stays NaN. Those of MX int8 are in units of 1, where the
    /// standard counts in units of 2^-6.
    pub elements: Vec<f32>,
    /// The scales.
    pub scales: StoredScales,
    /// Rows of the rectangles that share a scale.
    pub tile_rows: usize,
    /// Columns of the rectangles that share a scale.
    pub tile_cols: usize,
    /// The tensor's fp32 scale on top of the block scales (NVFP4), otherwise 1.
    pub tensor_scale: f32,
    /// What the codes and scales stand for: elements times scales, as `f32`.
    pub values: Vec<f32>,
    /// The same matrix in the form that products use.
    pub operand: Operand,
}

/// Quantises a row-major `[rows, cols]` matrix, and keeps its codes. Arguments and result are those of
/// [`quantize`](crate::quantize).
pub fn encode_matrix(
    x: &[f32],
    rows: usize,
    cols: usize,
    contraction: Contraction,
    spec: &QuantSpec,
    key: u64,
    given_scale: Option<f32>,
) -> Result<EncodedMatrix, QuantError> {
    spec.check_input(x.len(), rows, cols, contraction, given_scale)?;
    let (tile_rows, tile_cols) = spec.scaling.tile(rows, cols, contraction);
    let tiles_across = cols / tile_cols;
    let tile_of = |i: usize| (i / cols / tile_rows) * tiles_across + (i % cols) / tile_cols;

    let mut tile_amax = vec![0.0f32; (rows / tile_rows) * tiles_across];
    for (i, x) in x.iter().enumerate().filter(|(_, x)| x.is_finite()) {
        let amax = &mut tile_amax[tile_of(i)];
        *amax = amax.max(x.abs());
    }
    let amax = tile_amax.iter().copied().fold(0.0, f32::max);

    let tensor_scale = match spec.scaling {
        Scaling::Nvfp4 | Scaling::Nvfp4Weight => nvfp4_tensor_scale(amax, spec.scale),
        Scaling::Absmean => spec.scale.round_up(mean_abs(x).max(MIN_AVERAGE)),
        Scaling::Absmedian => spec.scale.round_up(median_abs(x).max(MIN_AVERAGE)),
        Scaling::Delayed { .. } => spec.scale.round_up(given_scale.ok_or(QuantError::MissingScale)?),
        Scaling::None | Scaling::Tensor | Scaling::Row | Scaling::Mx => 1.0,
        Scaling::Block { .. } | Scaling::Block2d { .. } => 1.0,
    };
    let rule = ScaleRule::new(spec, tensor_scale);
    let scales: Vec<Scale> = tile_amax.iter().map(|&amax| rule.scale(amax)).collect();

    let rounding = Rounding { mode: spec.rounding, key };
    let round = |(i, &x): (usize, &f32)| {
        let quotient = x / scales[tile_of(i)].divisor;
        // Only infinities count as infinite, not finite numbers that a small scale takes out of range.
        let quotient = if x.is_finite() { quotient.clamp(f32::MIN, f32::MAX) } else { quotient };
        spec.format.encode_at(quotient, rounding, i as u64, spec.overflow)
    };
    let encoded: Vec<_> = x.iter().enumerate().map(round).collect();
    let elements: Vec<f32> = encoded.iter().map(|encoded| encoded.value).collect();

    let folded = elements.iter().enumerate().map(|(i, element)| element * scales[tile_of(i)].fold).collect();
    let divisors = scales.iter().map(|scale| scale.divisor).collect();
    let operand = Operand {
        values: folded,
        outer: OuterScale::from_tiles(spec, (rows, cols), contraction, divisors, tensor_scale),
        amax,
        non_finite: x.iter().filter(|x| !x.is_finite()).count() as u64,
    };
    Ok(EncodedMatrix {
        codes: encoded.iter().map(|encoded| encoded.code).collect(),
        elements,
        scales: StoredScales::new(spec.scaling, &scales),
        tile_rows,
        tile_cols,
        tensor_scale: if spec.scaling.is_nvfp4() { tensor_scale } else { 1.0 },
        values: operand.dequantize(rows, cols, contraction),
        operand,
    })
}

impl StoredScales {
    fn new(scaling: Scaling, scales: &[Scale]) -> Self {
        let bytes = || scales.iter().map(|scale| scale.code as u8).collect();
        match scaling {
            Scaling::None => Self::None,
            Scaling::Mx => Self::E8m0(bytes()),
            Scaling::Nvfp4 | Scaling::Nvfp4Weight => Self::E4m3(bytes()),
            Scaling::Tensor
            | Scaling::Delayed { .. }
            | Scaling::Row
            | Scaling::Block { .. }
            | Scaling::Block2d { .. }
            | Scaling::Absmean
            | Scaling::Absmedian => {
                Self::Fp32(scales.iter().map(|scale| f32::from_bits(scale.code)).collect())
            }
        }
    }
}

/// [`round_slice`](crate::round_slice), one element after another.
pub fn round_slice(values: &mut [f32], format: NumericFormat, rounding: Rounding, overflow: crate::Overflow) {
    for (i, x) in values.iter_mut().enumerate() {
        *x = format.encode_at(*x, rounding, i as u64, overflow).value;
    }
}

/// The mean of |x| in the documented order of additions.
fn mean_abs(x: &[f32]) -> f32 {
    let sum_chunk = |chunk: &[f32]| -> f64 {
        let sum_lane = |lane| -> f64 {
            let finite = chunk.iter().skip(lane).step_by(LANES).filter(|x| x.is_finite());
            finite.map(|x| f64::from(x.abs())).sum()
        };
        (0..LANES).map(sum_lane).sum()
    };
    let sum: f64 = x.chunks(CHUNK).map(sum_chunk).sum();
    let finite = x.iter().filter(|x| x.is_finite()).count();
    if finite == 0 { 0.0 } else { (sum / finite as f64) as f32 }
}

/// The lower median of |x|.
fn median_abs(x: &[f32]) -> f32 {
    let mut finite: Vec<f32> = x.iter().filter(|x| x.is_finite()).map(|x| x.abs()).collect();
    finite.sort_by(f32::total_cmp);
    if finite.is_empty() { 0.0 } else { finite[(finite.len() - 1) / 2] }
}

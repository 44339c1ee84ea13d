//! `ffnlab quantize`: any tensors in a number format, with codes and scales, to be held against hardware.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use clap::{Args, ValueEnum};
use ffn_variants::precision::{OperandSection, ScalingName};
use lm_train::record::{read_tensors, write_atomic_with, write_tensors};
use numerics::{
    Contraction, EncodedMatrix, Health, NumericFormat, Overflow, QuantSpec, RoundingMode, StoredScales,
};
use serde::Serialize;

use crate::output::{plain_table, print, print_json};

/// Quantise the tensors of a safetensors file: values, codes and scales
///
/// Every floating-point tensor of the input becomes, in the output: NAME (f32, what codes and scales stand for),
/// NAME.codes (u8 or u32, one code per element in the lowest bits), NAME.scales (f32; or u8, the codes of E8M0 scales for
/// mx and of E4M3 scales for nvfp4; none without scaling), and for nvfp4 NAME.tensor_scale (f32). A tensor counts as a
/// matrix whose columns are its last dimension; scales run along the index that a product would sum over.
#[derive(Debug, Args)]
pub struct Quantize {
    /// Number format of the elements, such as e4m3 (see `ffnlab formats`)
    format: NumericFormat,
    /// How scales are chosen: none, tensor, row, block, block2d, mx, nvfp4, nvfp4_weight, absmean or absmedian
    #[arg(long, default_value = "none", value_name = "SCALING", value_parser = scaling)]
    scaling: ScalingName,
    /// Values per block, for block and block2d [default: 128]
    #[arg(long, value_name = "N")]
    block: Option<usize>,
    /// nearest_even, toward_zero or stochastic
    #[arg(long, default_value_t = RoundingMode::NearestEven, value_name = "ROUNDING")]
    rounding: RoundingMode,
    /// Numbers beyond the range: saturate, or propagate as infinity (NaN where the format has none)
    #[arg(long, default_value_t = Overflow::Saturate, value_name = "OVERFLOW")]
    overflow: Overflow,
    /// The index that a product would sum over
    #[arg(long, value_enum, default_value_t = Along::Columns)]
    along: Along,
    /// Key of the random bits of stochastic rounding
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Input (safetensors)
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Output (safetensors)
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
    /// Print what became of the tensors as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Along {
    /// Scales run along rows, as for the weight of x W^T
    Columns,
    /// Scales run down columns
    Rows,
}

fn scaling(name: &str) -> Result<ScalingName, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}

/// What became of a tensor.
#[derive(Serialize)]
struct Row {
    tensor: String,
    shape: Vec<usize>,
    amax: f32,
    saturated: f64,
    flushed: f64,
    non_finite: u64,
    sqnr_db: Option<f64>,
}

impl Quantize {
    pub fn run(&self) -> Result<ExitCode> {
        let spec = self.spec()?;
        let mut tensors: Vec<(String, Tensor)> =
            read_tensors(&self.input, &Device::Cpu)?.into_iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut out, mut rows) = (Vec::new(), Vec::new());
        for (name, tensor) in &tensors {
            if !tensor.dtype().is_float() || tensor.elem_count() == 0 {
                continue;
            }
            let (encoded, health) =
                self.encode(tensor, &spec).with_context(|| format!("{}: {name}", self.input.display()))?;
            rows.push(Row {
                tensor: name.clone(),
                shape: tensor.dims().to_vec(),
                amax: health.amax,
                saturated: health.saturated_share(),
                flushed: health.flushed_share(),
                non_finite: health.non_finite,
                sqnr_db: Some(health.sqnr_db()).filter(|db| db.is_finite()),
            });
            push(&mut out, name, tensor, encoded, self.format)?;
        }
        if rows.is_empty() {
            bail!("{} holds no floating-point tensor", self.input.display());
        }
        write_atomic_with(&self.output, |file| write_tensors(file, &out))?;
        if self.json {
            print_json(&rows)?
        } else {
            print(&table(&rows))?
        }
        Ok(ExitCode::SUCCESS)
    }

    fn spec(&self) -> Result<QuantSpec> {
        let section = OperandSection {
            format: Some(self.format),
            scaling: Some(self.scaling),
            block: self.block,
            rounding: Some(self.rounding),
            overflow: Some(self.overflow),
            ..OperandSection::default()
        };
        if self.scaling == ScalingName::Delayed {
            bail!("delayed scaling takes its scales from earlier tensors; use --scaling tensor");
        }
        let spec = section.resolve()?;
        spec.validate()?;
        Ok(spec)
    }

    fn encode(&self, tensor: &Tensor, spec: &QuantSpec) -> Result<(EncodedMatrix, Health)> {
        let values = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let cols = tensor.dims().last().copied().unwrap_or(1);
        let rows = values.len() / cols;
        let contraction = match self.along {
            Along::Columns => Contraction::Columns,
            Along::Rows => Contraction::Rows,
        };
        let encoded = numerics::encode_matrix(&values, rows, cols, contraction, spec, self.seed, None)?;
        let health = numerics::health(&values, rows, cols, contraction, spec, &encoded.operand);
        Ok((encoded, health))
    }
}

fn push(
    out: &mut Vec<(String, Tensor)>,
    name: &str,
    tensor: &Tensor,
    encoded: EncodedMatrix,
    format: NumericFormat,
) -> Result<()> {
    let (shape, cpu) = (tensor.shape(), &Device::Cpu);
    let cols = tensor.dims().last().copied().unwrap_or(1);
    let scales_shape = (tensor.elem_count() / cols / encoded.tile_rows, cols / encoded.tile_cols);
    out.push((name.to_owned(), Tensor::from_vec(encoded.values, shape, cpu)?));
    let codes = Tensor::from_vec(encoded.codes, shape, cpu)?;
    let codes = if format.bits() <= 8 { codes.to_dtype(DType::U8)? } else { codes };
    out.push((format!("{name}.codes"), codes));
    let scales = match encoded.scales {
        StoredScales::None => None,
        StoredScales::Fp32(scales) => Some(Tensor::from_vec(scales, scales_shape, cpu)?),
        StoredScales::E8m0(codes) => Some(Tensor::from_vec(codes, scales_shape, cpu)?),
        StoredScales::E4m3(codes) => {
            out.push((format!("{name}.tensor_scale"), Tensor::new(&[encoded.tensor_scale], cpu)?));
            Some(Tensor::from_vec(codes, scales_shape, cpu)?)
        }
    };
    out.extend(scales.map(|scales| (format!("{name}.scales"), scales)));
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let mut table =
        plain_table(&["tensor", "shape", "largest", "saturated", "flushed to 0", "not finite", "SQNR dB"]);
    for row in rows {
        let shape = row.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ");
        table.add_row([
            row.tensor.clone(),
            shape,
            format!("{:.4e}", row.amax),
            format!("{:.3} %", 100.0 * row.saturated),
            format!("{:.3} %", 100.0 * row.flushed),
            row.non_finite.to_string(),
            row.sqnr_db.map_or("exact".to_owned(), |db| format!("{db:.2}")),
        ]);
    }
    table.trim_fmt()
}

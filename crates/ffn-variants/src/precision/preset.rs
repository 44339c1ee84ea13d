//! Published precision recipes by name.

use std::fmt;
use std::str::FromStr;

use numerics::{NumericFormat, Overflow, QuantSpec, RoundingMode, ScaleKind, Scaling};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipe::Recipe;
use super::section::{ActivationType, Component, LossScaling, StoredType};

/// A recipe by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PrecisionPreset {
    /// Everything in f32.
    #[serde(rename = "fp32")]
    Fp32,
    /// Operands rounded to TF32, everything else in f32.
    #[serde(rename = "tf32")]
    Tf32,
    /// Mixed precision: operands and intermediate results in bf16, master weights and residual stream in f32.
    #[serde(rename = "bf16")]
    Bf16,
    /// bf16 throughout: weights (rounded stochastically), moments and residual stream too.
    #[serde(rename = "bf16_pure")]
    Bf16Pure,
    /// Mixed precision in fp16 with dynamic loss scaling.
    #[serde(rename = "fp16")]
    Fp16,
    /// FP8: E4M3 forward, E5M2 gradients, one scale per tensor from its own maximum.
    #[serde(rename = "fp8_current")]
    Fp8Current,
    /// FP8: E4M3 forward, E5M2 gradients, one scale per tensor from the maxima of earlier steps.
    #[serde(rename = "fp8_delayed")]
    Fp8Delayed,
    /// FP8: E4M3 throughout, a power of two per row of every operand.
    #[serde(rename = "fp8_rowwise")]
    Fp8Rowwise,
    /// FP8: E4M3 throughout, blocks of 1 x 128 for activations and gradients, 128 x 128 for weights.
    #[serde(rename = "fp8_block")]
    Fp8Block,
    /// OCP MXFP8: E4M3 with a power of two per 32 values.
    #[serde(rename = "mxfp8")]
    Mxfp8,
    /// OCP MXFP6: E2M3 forward, E3M2 gradients.
    #[serde(rename = "mxfp6")]
    Mxfp6,
    /// OCP MXFP4: E2M1, gradients rounded stochastically.
    #[serde(rename = "mxfp4")]
    Mxfp4,
    /// NVFP4: E2M1 with an E4M3 scale per 16 values, weights in blocks of 16 x 16, gradients rounded stochastically.
    #[serde(rename = "nvfp4")]
    Nvfp4,
    /// Weights and inputs in int8, one scale per row; gradients in bf16, straight through.
    #[serde(rename = "int8")]
    Int8,
    /// BitNet b1.58: ternary weights, int8 inputs per token, straight-through gradients, SubLN.
    #[serde(rename = "bitnet_b158")]
    BitnetB158,
}

impl PrecisionPreset {
    /// Every preset, from wide to narrow.
    pub const ALL: [Self; 15] = [
        Self::Fp32,
        Self::Tf32,
        Self::Bf16,
        Self::Bf16Pure,
        Self::Fp16,
        Self::Fp8Current,
        Self::Fp8Delayed,
        Self::Fp8Rowwise,
        Self::Fp8Block,
        Self::Mxfp8,
        Self::Mxfp6,
        Self::Mxfp4,
        Self::Nvfp4,
        Self::Int8,
        Self::BitnetB158,
    ];

    /// Its name in configs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
            Self::Bf16Pure => "bf16_pure",
            Self::Fp16 => "fp16",
            Self::Fp8Current => "fp8_current",
            Self::Fp8Delayed => "fp8_delayed",
            Self::Fp8Rowwise => "fp8_rowwise",
            Self::Fp8Block => "fp8_block",
            Self::Mxfp8 => "mxfp8",
            Self::Mxfp6 => "mxfp6",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
            Self::Int8 => "int8",
            Self::BitnetB158 => "bitnet_b158",
        }
    }

    /// What it does, in one line.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Fp32 => "everything in f32",
            Self::Tf32 => "operands rounded to TF32, everything else in f32",
            Self::Bf16 => {
                "mixed precision: operands and intermediate results in bf16; weights and residual stream in f32"
            }
            Self::Bf16Pure => {
                "bf16 throughout: weights (rounded stochastically), moments and residual stream too"
            }
            Self::Fp16 => "mixed precision in fp16 with dynamic loss scaling",
            Self::Fp8Current => "E4M3 forward, E5M2 gradients, one scale per tensor from its own maximum",
            Self::Fp8Delayed => {
                "E4M3 forward, E5M2 gradients, one scale per tensor from the maxima of earlier steps"
            }
            Self::Fp8Rowwise => "E4M3 throughout, a power of two per row of every operand",
            Self::Fp8Block => {
                "E4M3 throughout, blocks of 1 x 128 for activations and gradients, 128 x 128 for weights"
            }
            Self::Mxfp8 => "E4M3 with a power of two per 32 values",
            Self::Mxfp6 => "E2M3 forward, E3M2 gradients, a power of two per 32 values",
            Self::Mxfp4 => "E2M1 with a power of two per 32 values, gradients rounded stochastically",
            Self::Nvfp4 => {
                "E2M1 with an E4M3 scale per 16 values (weights 16 x 16), gradients rounded stochastically"
            }
            Self::Int8 => {
                "weights and inputs in int8, one scale per row; gradients in bf16, straight through"
            }
            Self::BitnetB158 => "ternary weights, int8 inputs per token, straight-through gradients, SubLN",
        }
    }

    /// Where the recipe comes from.
    pub const fn source(self) -> &'static str {
        match self {
            Self::Fp32 => "IEEE 754 binary32",
            Self::Tf32 => "NVIDIA A100 whitepaper (2020)",
            Self::Bf16 => "Kalamkar et al. 2019, arXiv 1905.12322",
            Self::Bf16Pure => "Zamirai et al. 2020, arXiv 2010.06192 (stochastic rounding of weights)",
            Self::Fp16 => "Micikevicius et al. 2018, arXiv 1710.03740",
            Self::Fp8Current => {
                "Micikevicius et al. 2022, arXiv 2209.05433 (formats); Transformer Engine (current scaling)"
            }
            Self::Fp8Delayed => "Transformer Engine (hybrid format, delayed scaling)",
            Self::Fp8Rowwise => "torchao (row-wise scaling)",
            Self::Fp8Block => "DeepSeek-V3, arXiv 2412.19437",
            Self::Mxfp8 | Self::Mxfp6 | Self::Mxfp4 => {
                "OCP Microscaling Formats v1.0; Rouhani et al. 2023, arXiv 2310.10537"
            }
            Self::Nvfp4 => "NVIDIA 2025, arXiv 2509.25149",
            Self::Int8 => "per-token and per-channel absmax; Wortsman et al. 2023, arXiv 2304.13013",
            Self::BitnetB158 => "Ma et al. 2024, arXiv 2402.17764; 2025, arXiv 2504.12285",
        }
    }

    /// The recipe in full.
    pub fn recipe(self) -> Recipe {
        let mut recipe = self.formats();
        recipe.name = self.name().to_owned();
        recipe
    }

    fn formats(self) -> Recipe {
        match self {
            Self::Fp32 => full(),
            Self::Tf32 => with_operands(full(), [QuantSpec::unscaled(NumericFormat::Tf32); 3]),
            Self::Bf16 => mixed(StoredType::Bf16),
            Self::Bf16Pure => {
                let stored = QuantSpec::unscaled(NumericFormat::Bf16);
                Recipe {
                    residual: StoredType::Bf16,
                    master: QuantSpec { rounding: RoundingMode::Stochastic, ..stored },
                    first_moment: stored,
                    second_moment: stored,
                    ..mixed(StoredType::Bf16)
                }
            }
            Self::Fp16 => Recipe { loss_scaling: LossScaling::Dynamic, ..mixed(StoredType::Fp16) },
            Self::Fp8Current => fp8_hybrid(Scaling::Tensor),
            Self::Fp8Delayed => fp8_hybrid(Scaling::Delayed { history: 1024, margin: 0 }),
            Self::Fp8Rowwise => {
                let row =
                    QuantSpec { scale: ScaleKind::PowerOfTwo, ..scaled(NumericFormat::E4m3, Scaling::Row) };
                low([row; 3])
            }
            Self::Fp8Block => {
                let line = scaled(NumericFormat::E4m3, Scaling::Block { size: 128 });
                low([scaled(NumericFormat::E4m3, Scaling::Block2d { rows: 128, cols: 128 }), line, line])
            }
            Self::Mxfp8 => low([scaled(NumericFormat::E4m3, Scaling::Mx); 3]),
            Self::Mxfp6 => {
                let forward = scaled(NumericFormat::E2m3, Scaling::Mx);
                low([forward, forward, scaled(NumericFormat::E3m2, Scaling::Mx)])
            }
            Self::Mxfp4 => {
                let forward = scaled(NumericFormat::E2m1, Scaling::Mx);
                low([forward, forward, QuantSpec { rounding: RoundingMode::Stochastic, ..forward }])
            }
            Self::Nvfp4 => {
                let line = scaled(NumericFormat::E2m1, Scaling::Nvfp4);
                let weight = scaled(NumericFormat::E2m1, Scaling::Nvfp4Weight);
                low([weight, line, QuantSpec { rounding: RoundingMode::Stochastic, ..line }])
            }
            Self::Int8 => {
                let row = scaled(NumericFormat::Int8, Scaling::Row);
                low([row, row, QuantSpec::unscaled(NumericFormat::Bf16)])
            }
            Self::BitnetB158 => {
                let weight = scaled(NumericFormat::Ternary, Scaling::Absmean);
                let input = scaled(NumericFormat::Int8, Scaling::Row);
                let recipe = low([weight, input, QuantSpec::unscaled(NumericFormat::Bf16)]);
                Recipe { sub_norm: true, ..recipe }
            }
        }
    }
}

fn scaled(format: NumericFormat, scaling: Scaling) -> QuantSpec {
    QuantSpec { scaling, overflow: Overflow::Saturate, ..QuantSpec::unscaled(format) }
}

/// Operands of one kind of product, in the order weight, input, gradient.
fn with_operands(recipe: Recipe, [weight, input, grad]: [QuantSpec; 3]) -> Recipe {
    Recipe { weight, input, down_input: input, grad, ..recipe }
}

fn full() -> Recipe {
    let fp32 = QuantSpec::unscaled(NumericFormat::Fp32);
    Recipe {
        name: String::new(),
        weight: fp32,
        input: fp32,
        down_input: fp32,
        grad: fp32,
        compute: StoredType::Fp32,
        residual: StoredType::Fp32,
        activation: ActivationType::Fp32,
        skip: Vec::new(),
        master: fp32,
        first_moment: fp32,
        second_moment: fp32,
        loss_scaling: LossScaling::None,
        sub_norm: false,
        smooth: false,
    }
}

fn mixed(compute: StoredType) -> Recipe {
    with_operands(Recipe { compute, ..full() }, [QuantSpec::unscaled(compute.format()); 3])
}

/// Operands below 16 bits: bf16 between operations, the output head left out.
fn low(operands: [QuantSpec; 3]) -> Recipe {
    let recipe = Recipe { compute: StoredType::Bf16, skip: vec![Component::LmHead], ..full() };
    with_operands(recipe, operands)
}

/// E4M3 forward, E5M2 backward.
fn fp8_hybrid(scaling: Scaling) -> Recipe {
    let forward = scaled(NumericFormat::E4m3, scaling);
    low([forward, forward, scaled(NumericFormat::E5m2, scaling)])
}

impl fmt::Display for PrecisionPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for PrecisionPreset {
    type Err = UnknownPrecision;

    fn from_str(name: &str) -> Result<Self, UnknownPrecision> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| UnknownPrecision(name.to_owned()))
    }
}

/// A name that is none of [`PrecisionPreset::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPrecision(pub String);

impl fmt::Display for UnknownPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = PrecisionPreset::ALL.map(PrecisionPreset::name).join(", ");
        write!(f, "no precision is called \"{}\"; there are {names}", self.0)
    }
}

impl std::error::Error for UnknownPrecision {}

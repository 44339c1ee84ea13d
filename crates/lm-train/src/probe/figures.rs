//! The figures of one feed-forward block, and taking them from a model.

use anyhow::Result;
use candle_core::{Device, Tensor};
use ffn_variants::{Ffn, FfnInside};
use serde::{Deserialize, Serialize};

use super::bins::Bins;
use super::saturation::{Saturation, SaturationCount};
use super::stats::TensorStats;
use crate::data::TokenStream;
use crate::evaluate::passes;
use crate::model::{BlockProbe, Transformer};

/// Figures of the hidden activations of one block: what enters its down projection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FfnFigures {
    /// The block, such as `model.layers.0.mlp`.
    pub layer: String,
    /// Tokens looked at.
    pub tokens: u64,
    /// Hidden units; 0 in lines of runs that did not log it.
    #[serde(default)]
    pub units: u64,
    /// Units that are exactly zero on all tokens; null where no function of the block can be zero for every input (see
    /// [`Activation::can_die`](ffn_variants::Activation::can_die)), and in lines of runs that did not log it.
    #[serde(default)]
    pub dead_units: Option<u64>,
    /// Share of activations that are exactly zero.
    pub zero_share: f64,
    /// Size below which an activation counts as small.
    pub eps: f64,
    /// Share of activations h with |h| < eps, zeros included.
    pub small_share: f64,
    /// Root of the mean square.
    pub rms: f64,
    /// Largest |h|.
    pub max_abs: f64,
    /// Fourth standardised moment, 3 for a normal distribution; null for a constant.
    pub kurtosis: Option<f64>,
    /// (k, number of activations with 2^k <= |h| < 2^(k + 1)), by ascending k; zeros are in none.
    pub octaves: Vec<(i32, u64)>,
    /// The negative ones among `octaves`, counted in the same way; absent where an older version of ffnlab wrote them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub negative_octaves: Option<Vec<(i32, u64)>>,
    /// How often the derivatives of the activations have vanished, by branch.
    pub saturated: Vec<Saturation>,
}

impl FfnFigures {
    /// Share of activations below zero; `None` where the signs were not counted.
    pub fn negative_share(&self) -> Option<f64> {
        let sum = |octaves: &[(i32, u64)]| octaves.iter().map(|(_, count)| count).sum::<u64>() as f64;
        let negative = sum(self.negative_octaves.as_deref()?);
        // Zeros are in no octave.
        Some(if negative > 0.0 { (1.0 - self.zero_share) * negative / sum(&self.octaves) } else { 0.0 })
    }
}

/// Why a block has no figures.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{count} of the hidden activations of {layer} are NaN or infinite, so there is nothing to measure; look at an \
     earlier checkpoint"
)]
pub struct NonFinite {
    /// The block.
    pub layer: String,
    /// How many.
    pub count: u64,
}

/// What counts as small.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// |h| below this number.
    Absolute(f64),
    /// |h| below this share of the block's root mean square, rounded down to an edge of [`Bins`] (by less than 1.6 %),
    /// so that one pass over the data suffices and the share is exact for the number stated.
    OfRms(f64),
}

impl Default for Threshold {
    /// A thousandth of the root mean square: activations of another scale, as other functions have, are compared alike.
    fn default() -> Self {
        Self::OfRms(1e-3)
    }
}

/// Sums over the inside of one block.
pub struct FfnSums {
    layer: String,
    threshold: Threshold,
    hidden: TensorStats,
    below_absolute: u64,
    saturation: Vec<SaturationCount>,
}

impl FfnSums {
    /// Nothing seen of the block of a layer (from 0).
    pub fn new(layer: usize, threshold: Threshold, inside: &FfnInside) -> Result<Self, candle_core::Error> {
        let width = inside.hidden.dim(candle_core::D::Minus1)?;
        let count = |branch: &ffn_variants::Branch| SaturationCount::new(branch.name, branch.activation);
        Ok(Self {
            layer: layer_name(layer),
            threshold,
            hidden: TensorStats::new(width),
            below_absolute: 0,
            saturation: inside.branches.iter().map(count).collect(),
        })
    }

    /// Adds one pass: the inside of the block, and its hidden activations as [`elements`] gives them.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub fn add(&mut self, inside: &FfnInside, hidden: &[f32]) -> candle_core::Result<()> {
        self.hidden.add(hidden);
        if let Threshold::Absolute(eps) = self.threshold {
            self.below_absolute += hidden.iter().filter(|h| f64::from(h.abs()) < eps).count() as u64;
        }
        for (count, branch) in self.saturation.iter_mut().zip(&inside.branches) {
            count.add(&elements(&branch.preactivation)?);
        }
        Ok(())
    }

    /// What is known of the hidden activations.
    pub fn hidden(&self) -> &TensorStats {
        &self.hidden
    }

    /// The figures of what was seen.
    ///
    /// # Errors
    /// NaN or infinities among the hidden activations: shares and moments would say nothing.
    pub fn figures(&self) -> Result<FfnFigures, NonFinite> {
        let hidden = &self.hidden;
        if hidden.non_finite() > 0 {
            return Err(NonFinite { layer: self.layer.clone(), count: hidden.non_finite() });
        }
        let rms = hidden.moments().rms();
        let (eps, small_share) = match self.threshold {
            Threshold::Absolute(eps) => {
                (eps, self.below_absolute as f64 / hidden.moments().count().max(1) as f64)
            }
            Threshold::OfRms(share) => {
                let bin = Bins::of(share * rms);
                // Below the first edge lie the zeros, if anything, of a block that is zero throughout.
                let small = if bin == 0 { hidden.zero_share() } else { hidden.magnitudes().share_below(bin) };
                (Bins::edge(bin), small)
            }
        };
        let can_die = self.saturation.iter().any(|branch| branch.activation().can_die());
        let dead = hidden.channel_max().iter().filter(|max| **max == 0.0).count() as u64;
        Ok(FfnFigures {
            layer: self.layer.clone(),
            tokens: hidden.rows(),
            units: hidden.channel_max().len() as u64,
            dead_units: can_die.then_some(dead),
            zero_share: hidden.zero_share(),
            eps,
            small_share,
            rms,
            max_abs: hidden.max_abs(),
            kurtosis: hidden.moments().kurtosis(),
            octaves: hidden.magnitudes().by_octave(),
            negative_octaves: Some(hidden.negatives().by_octave()),
            saturated: self.saturation.iter().map(SaturationCount::share).collect(),
        })
    }
}

/// What the feed-forward block of a layer (from 0) is called in records and checkpoints.
pub fn layer_name(layer: usize) -> String {
    format!("model.layers.{layer}.mlp")
}

/// The elements of a tensor, row by row.
pub fn elements(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// Sums over every block and all tokens of a stream, in windows of the context length side by side. Call it with a
/// detached model; nothing of the model or its precision changes. `progress` hears the number of tokens just seen.
///
/// # Errors
/// A stream of fewer than two tokens; whatever the model fails with.
pub fn sample(
    model: &Transformer,
    stream: &TokenStream,
    threshold: Threshold,
    device: &Device,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<FfnSums>> {
    let mut sampler = Sampler { threshold, blocks: Vec::new() };
    for pass in passes(stream, model.seq_len(), model.seq_len(), device)? {
        let pass = pass?;
        model.forward_probed(&pass.ids_bt, &mut sampler)?;
        progress(pass.ids_bt.elem_count() as u64);
    }
    Ok(sampler.blocks)
}

struct Sampler {
    threshold: Threshold,
    blocks: Vec<FfnSums>,
}

impl BlockProbe for Sampler {
    fn ffn(&mut self, layer: usize, _: &Ffn, inside: &FfnInside) -> candle_core::Result<Option<Tensor>> {
        if layer == self.blocks.len() {
            self.blocks.push(FfnSums::new(layer, self.threshold, inside)?);
        }
        self.blocks[layer].add(inside, &elements(&inside.hidden)?)?;
        Ok(None)
    }

    fn residual(&mut self, _: usize, _: &Tensor) -> candle_core::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLDER: &str = r#"{"layer":"model.layers.0.mlp","tokens":4,"zero_share":0.5,"eps":0.001,"small_share":0.5,"rms":1.0,
        "max_abs":2.0,"kurtosis":3.0,"octaves":[[-1,3],[1,1]],"saturated":[]}"#;

    #[test]
    fn lines_of_older_versions_are_read_and_say_nothing_of_signs() {
        let figures: FfnFigures = serde_json::from_str(OLDER).unwrap();
        assert_eq!((figures.negative_octaves.as_deref(), figures.negative_share()), (None, None));
        assert!(!serde_json::to_string(&figures).unwrap().contains("negative"), "and stay as they were");
    }

    #[test]
    fn shares_of_negatives_are_of_all_activations() {
        let older: FfnFigures = serde_json::from_str(OLDER).unwrap();
        let with = |negative| FfnFigures { negative_octaves: Some(negative), ..older.clone() };
        assert_eq!(with(vec![(-1, 1)]).negative_share(), Some(0.125), "one of four that are half of all");
        assert_eq!(with(Vec::new()).negative_share(), Some(0.0));
        let silent = FfnFigures { octaves: Vec::new(), zero_share: 1.0, ..with(Vec::new()) };
        assert_eq!(silent.negative_share(), Some(0.0));
    }
}

//! A feed-forward block with its norm and its residual connection.

use super::ffn_rows::FfnRows;
use super::ffn_tiles::KeptTiles;
use super::projection::{Backward, Projection, State, weight_gradients};
use super::residual_blocks::{Gradients, Link, OnSlices, ResidualBlock, residual_blocks};
use super::{Formats, Norm, Saving, norm_again, norm_backward, round_in_place, rounded};
use crate::Pointwise;
use crate::pointwise;
use crate::profile::{Part, Work, span};
use crate::round::round_rows;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// One way into the hidden state: a projection and the function its result goes through.
#[derive(Clone, Debug)]
pub struct Branch {
    /// \[d_ff, d_model\].
    pub projection: Projection,
    /// Its activation.
    pub function: Arc<dyn Pointwise>,
}

/// x + down(sub_norm(hidden)), hidden = gate_fn(gate(n)) * up_fn(up(n)) or up_fn(up(n)), n = norm(x).
#[derive(Clone, Debug)]
pub struct FfnBlock {
    /// Norm in front, over d_model.
    pub norm: Norm,
    /// The gate of a gated block.
    pub gate: Option<Branch>,
    /// The other branch, or the only one.
    pub up: Branch,
    /// Norm before the down projection, over d_ff.
    pub sub_norm: Option<Norm>,
    /// \[d_model, d_ff\].
    pub down: Projection,
    /// Types between the operations.
    pub formats: Formats,
}

impl FfnBlock {
    /// The block on x \[.., d_model\], f32 on the CPU.
    ///
    /// # Errors
    /// When shapes do not fit, a tensor is of another kind, or a product below f32 would have to be made again.
    pub fn forward(&self, x: &Tensor, saving: Saving) -> Result<Tensor> {
        residual_blocks(x, [ResidualBlock::Ffn(self.clone())], saving)
    }

    /// The block with its weights in order.
    pub(super) fn link(self) -> Link {
        let mut weights = vec![&self.norm.weight];
        weights.extend(self.gate.iter().map(|gate| &gate.projection.weight));
        weights.push(&self.up.projection.weight);
        weights.extend(self.sub_norm.iter().map(|norm| &norm.weight));
        weights.push(&self.down.weight);
        let weights = weights.into_iter().cloned().collect();
        let low = self.is_low();
        Link::new(self, weights, low)
    }

    /// Whether any product is below f32.
    pub(super) fn is_low(&self) -> bool {
        self.branches().into_iter().chain([&self.down]).any(|product| product.low.is_some())
    }
}

/// Values of the forward pass, `n` tokens each.
#[derive(Default)]
pub(super) struct Kept {
    /// \[n\], of the norm.
    pub(super) rstd: Vec<f32>,
    /// \[n, d_ff\], before its function.
    pub(super) gate: Option<Vec<f32>>,
    /// \[n, d_ff\], before its function.
    pub(super) up: Vec<f32>,
    /// \[n\], of the norm before the down projection.
    pub(super) sub_rstd: Vec<f32>,
    /// In place of gate and up, where these never lay in memory.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "there are no tiles"))]
    pub(super) tiles: Option<KeptTiles>,
    /// One for each branch.
    pub(super) branch_states: Vec<State>,
    pub(super) down_state: State,
    /// Whether tasks took rows through the block.
    pub(super) by_rows: bool,
}

/// The weights of a block by name.
pub(super) struct Weights<'a> {
    pub(super) norm: &'a [f32],
    pub(super) gate: &'a [f32],
    pub(super) up: &'a [f32],
    pub(super) sub_norm: &'a [f32],
    pub(super) down: &'a [f32],
}

impl OnSlices for FfnBlock {
    type Kept = Kept;

    fn run(&self, x: &[f32], weights: &[&[f32]], keep: bool) -> Result<(Vec<f32>, Kept)> {
        let w = self.weights(weights);
        if let Some(block) = FfnRows::new(self, x, &w).filter(|block| !block.is_looked_at()) {
            return block.run(keep);
        }
        let FfnBlock { norm, sub_norm, down, formats, .. } = self;
        let (n, rstd) = norm.forward(x, w.norm, formats.compute);
        let branches = Projection::forward_each(&self.branches(), &n, &w.branches(), keep)?;
        drop(n);
        let (mut branches, branch_states): (Vec<_>, _) = branches.into_iter().unzip();
        let up = branches.pop().unwrap_or_default();
        let gate = branches.pop();
        let mut hidden = self.hidden(gate.as_deref(), &up);
        let mut sub_rstd = vec![];
        if let Some(norm) = sub_norm {
            (hidden, sub_rstd) = norm.forward(&hidden, w.sub_norm, formats.compute);
        }
        let (mut y, down_state) = down.forward_onto(x, &hidden, w.down, keep)?;
        round_in_place(&mut y, formats.residual);
        Ok((y, Kept { rstd, gate, up, sub_rstd, tiles: None, branch_states, down_state, by_rows: false }))
    }

    fn back(&self, x: &[f32], weights: &[&[f32]], kept: &Kept, grad: &[f32]) -> Result<Gradients> {
        let w = self.weights(weights);
        if let (true, Some(block)) = (kept.by_rows, FfnRows::new(self, x, &w)) {
            return block.back(kept, grad);
        }
        let Self { sub_norm, down, formats, .. } = self;
        let grad = rounded(grad, formats.residual);
        let mut outward = Backward::new(&[down], &[&kept.down_state], &[w.down], &[&grad])?;
        // The gradient first, so that the hidden state is made again in the pass that goes on from it.
        let (mut dy, mut of_sub_norm, mut normed) = (outward.input_gradient()?, None, vec![]);
        if sub_norm.is_some() {
            let hidden = self.hidden(kept.gate.as_deref(), &kept.up);
            if outward.reads_input() {
                normed = norm_again(&hidden, w.sub_norm, &kept.sub_rstd, formats.compute);
            }
            let parts = [&hidden[..], w.sub_norm, &kept.sub_rstd];
            let of_norm;
            (dy, of_norm) = norm_backward(parts, dy, None, formats.compute);
            of_sub_norm = Some(of_norm);
        }
        let (hidden, of_gate, of_up) = self.hidden_and_gradients(kept, dy);
        let x_of_down = if sub_norm.is_some() { normed } else { hidden };
        let branches = self.branches();
        let states: Vec<_> = kept.branch_states.iter().collect();
        let dys: Vec<_> = of_gate.iter().chain([&of_up]).map(|dy| &dy[..]).collect();
        let mut inward = Backward::new(&branches, &states, &w.branches(), &dys)?;
        let of_n = inward.input_gradient()?;
        let mut n = vec![];
        if inward.reads_input() {
            n = norm_again(x, w.norm, &kept.rstd, formats.compute);
        }
        let mut of_products = weight_gradients(&[(&inward, &n), (&outward, &x_of_down)])?;
        let parts = [x, w.norm, &kept.rstd];
        let (of_x, of_norm) = norm_backward(parts, of_n, Some(&grad), formats.compute);
        let of_down = of_products.pop();
        let mut of_weights = vec![of_norm];
        of_weights.extend(of_products);
        of_weights.extend(of_sub_norm);
        of_weights.extend(of_down);
        Ok(Gradients { of_x, of_weights })
    }
}

impl<'a> Weights<'a> {
    /// Those of [`FfnBlock::branches`].
    pub(super) fn branches(&self) -> Vec<&'a [f32]> {
        [self.gate, self.up].into_iter().filter(|w| !w.is_empty()).collect()
    }
}

impl FfnBlock {
    /// The projections into the hidden state.
    pub(super) fn branches(&self) -> Vec<&Projection> {
        self.gate.iter().chain([&self.up]).map(|branch| &branch.projection).collect()
    }

    /// Takes apart what [`FfnBlock::forward`] put together.
    fn weights<'a>(&self, all: &[&'a [f32]]) -> Weights<'a> {
        let mut all = all.iter().copied();
        let mut next = |there: bool| if there { all.next().unwrap_or_default() } else { &[] };
        Weights {
            norm: next(true),
            gate: next(self.gate.is_some()),
            up: next(true),
            sub_norm: next(self.sub_norm.is_some()),
            down: next(true),
        }
    }

    /// The hidden state, rounded.
    fn hidden(&self, gate: Option<&[f32]>, up: &[f32]) -> Vec<f32> {
        let FfnBlock { gate: gate_branch, up: up_branch, formats, .. } = self;
        let inputs = if gate.is_some() { 2 } else { 1 };
        span(Part::Activation, Work::floats((inputs + 1) * up.len()), || {
            let round = |values: &mut [f32]| round_rows(values, formats.compute);
            match (gate, gate_branch) {
                (Some(gate), Some(branch)) => {
                    pointwise::product([gate, up], [&*branch.function, &*up_branch.function], round)
                }
                _ => pointwise::value(&*up_branch.function, up, round),
            }
        })
    }

    /// The hidden state again, rounded, and the gradients of gate and up.
    fn hidden_and_gradients(&self, kept: &Kept, dy: Vec<f32>) -> (Vec<f32>, Option<Vec<f32>>, Vec<f32>) {
        let FfnBlock { gate: gate_branch, up: up_branch, formats, .. } = self;
        let inputs = if kept.gate.is_some() { 2 } else { 1 };
        span(Part::Activation, Work::floats((2 * inputs + 2) * dy.len()), || {
            let round = |values: &mut [f32]| round_rows(values, formats.compute);
            match (&kept.gate, gate_branch) {
                (Some(gate), Some(branch)) => {
                    let functions = [&*branch.function, &*up_branch.function];
                    let [hidden, of_gate, of_up] =
                        pointwise::product_and_gradients([gate, &kept.up], functions, dy, round);
                    (hidden, Some(of_gate), of_up)
                }
                _ => {
                    let [hidden, of_up] =
                        pointwise::value_and_gradient(&*up_branch.function, &kept.up, dy, round);
                    (hidden, None, of_up)
                }
            }
        })
    }
}

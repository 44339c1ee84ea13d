//! CETT, the cumulative error of tail truncation: what is lost when the least of a block's neurons are dropped.
//!
//! The output of a feed-forward block is the sum of its neurons' outputs, n_i = h_i w_i with w_i the column of the down
//! projection. Drop for every token the neurons with ||n_i|| = |h_i| ||w_i|| < eps. The CETT of the token is the length
//! of their sum over that of the whole output (Zhang et al. 2024, arXiv 2402.03804, section 3); the CETT of a block at
//! eps is the mean over tokens. The sparsity at a CETT level is the share of neurons dropped with the largest eps whose
//! CETT stays within the level: one eps per block, as in the code of Luo et al. 2024 (arXiv 2411.02335).
//!
//! Instead of searching eps again and again on kept activations, one pass takes the CETT of every token at all edges of
//! [`Bins`] at once: sorted by magnitude, the neurons' outputs are added up, and between two occupied bins the error is
//! constant. So the mean CETT and the share dropped are exact at every edge, and eps is an edge.

use rayon::prelude::*;
use serde::Serialize;

use super::bins::Bins;

/// Tokens per parallel task; fixed, so that sums do not depend on the number of threads.
const TOKENS_PER_TASK: usize = 32;

/// The down projection of a block, neuron by neuron.
#[derive(Clone, Debug)]
pub struct Neurons {
    /// [d_ff, d_model]: the output of neuron i per unit of h_i.
    outputs: Vec<f64>,
    /// Length of each.
    norms: Vec<f64>,
    d_model: usize,
}

impl Neurons {
    /// From the weight of a down projection, `[d_model, d_ff]` row by row.
    pub fn new(weight: &[f32], d_model: usize) -> Self {
        let d_ff = weight.len() / d_model;
        let column = |i| (0..d_model).map(move |row| f64::from(weight[row * d_ff + i]));
        let outputs: Vec<f64> = (0..d_ff).flat_map(column).collect();
        let norms = outputs.chunks_exact(d_model).map(length).collect();
        Self { outputs, norms, d_model }
    }

    /// Number of neurons.
    pub fn d_ff(&self) -> usize {
        self.norms.len()
    }

    /// ||h_i w_i|| of neuron i.
    fn magnitude(&self, i: usize, h: f32) -> f64 {
        f64::from(h).abs() * self.norms[i]
    }

    /// Sets the hidden activations (rows of d_ff) of neurons with an output below `eps` to zero, and returns how many
    /// neurons were below it, those that were zero already included.
    pub fn drop_below(&self, eps: f64, hidden: &mut [f32]) -> u64 {
        let drop = |row: &mut [f32]| {
            let mut dropped = 0;
            for (i, h) in row.iter_mut().enumerate() {
                if self.magnitude(i, *h) < eps {
                    *h = 0.0;
                    dropped += 1;
                }
            }
            dropped
        };
        hidden.par_chunks_mut(self.d_ff()).map(drop).sum()
    }

    /// What one token adds to the curve: for every occupied bin the number of neurons in it, and by how much the CETT
    /// rises when they are dropped too.
    fn steps(&self, hidden: &[f32], steps: &mut Vec<Step>) {
        let mut order: Vec<(usize, usize)> =
            hidden.iter().enumerate().map(|(i, &h)| (Bins::of(self.magnitude(i, h)), i)).collect();
        order.sort_unstable();
        let mut sum = vec![0.0; self.d_model];
        let first = steps.len();
        for group in order.chunk_by(|(a, _), (b, _)| a == b) {
            for &(_, i) in group.iter().filter(|(_, i)| hidden[*i] != 0.0) {
                let h = f64::from(hidden[i]);
                let output = &self.outputs[i * self.d_model..(i + 1) * self.d_model];
                sum.iter_mut().zip(output).for_each(|(sum, w)| *sum += h * w);
            }
            steps.push(Step { bin: group[0].0, neurons: group.len() as u64, rise: length(&sum) });
        }
        let whole = length(&sum);
        let mut before = 0.0;
        for step in &mut steps[first..] {
            // Nothing is lost of an output that is zero.
            let error = if whole > 0.0 { step.rise / whole } else { 0.0 };
            step.rise = error - before;
            before = error;
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Step {
    bin: usize,
    neurons: u64,
    rise: f64,
}

/// How much of a block can be dropped at a threshold.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sparsity {
    /// Largest CETT allowed.
    pub level: f64,
    /// Mean CETT over tokens at the threshold.
    pub cett: f64,
    /// Neurons with an output shorter than this are dropped.
    pub threshold: f64,
    /// Share of neurons below the threshold, mean over tokens.
    pub sparsity: f64,
}

/// Mean CETT and share dropped of one block at every threshold.
#[derive(Clone, Debug, Default)]
pub struct CettCurve {
    /// Neurons by the bin of their output's length.
    magnitudes: Bins,
    /// By bin: sum over tokens of what dropping its neurons adds to the CETT.
    rises: Vec<f64>,
    tokens: u64,
}

impl CettCurve {
    /// Adds the tokens of `hidden`, rows of d_ff.
    pub fn add(&mut self, neurons: &Neurons, hidden: &[f32]) {
        let tasks = hidden.par_chunks(TOKENS_PER_TASK * neurons.d_ff()).map(|tokens| {
            let mut steps = Vec::new();
            tokens.chunks_exact(neurons.d_ff()).for_each(|token| neurons.steps(token, &mut steps));
            steps
        });
        for step in tasks.collect::<Vec<_>>().into_iter().flatten() {
            self.magnitudes.add(step.bin, step.neurons);
            if step.bin >= self.rises.len() {
                self.rises.resize(step.bin + 1, 0.0);
            }
            self.rises[step.bin] += step.rise;
        }
        self.tokens += (hidden.len() / neurons.d_ff()) as u64;
    }

    /// The largest threshold up to which the mean CETT stays within `level`.
    pub fn at(&self, level: f64) -> Sparsity {
        let tokens = self.tokens.max(1) as f64;
        let (mut sum, mut within) = (0.0, (0, 0.0));
        for (bin, rise) in self.rises.iter().enumerate() {
            sum += rise;
            // Rounding of a sum of differences.
            let cett = (sum / tokens).max(0.0);
            if cett > level {
                break;
            }
            within = (bin + 1, cett);
        }
        let (bin, cett) = within;
        Sparsity { level, cett, threshold: Bins::edge(bin), sparsity: self.magnitudes.share_below(bin) }
    }
}

fn length(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word: mean CETT and share dropped at a threshold.
    fn defined(weight: &[f32], d_model: usize, hidden: &[f32], eps: f64) -> (f64, f64) {
        let d_ff = weight.len() / d_model;
        let (mut cett, mut dropped) = (0.0, 0);
        for token in hidden.chunks(d_ff) {
            let (mut tail, mut output) = (vec![0.0; d_model], vec![0.0; d_model]);
            for (i, &h) in token.iter().enumerate() {
                let neuron: Vec<f64> =
                    (0..d_model).map(|row| f64::from(h) * f64::from(weight[row * d_ff + i])).collect();
                let small = neuron.iter().map(|x| x * x).sum::<f64>().sqrt() < eps;
                dropped += usize::from(small);
                for (row, x) in neuron.iter().enumerate() {
                    output[row] += x;
                    tail[row] += if small { *x } else { 0.0 };
                }
            }
            let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
            cett += norm(&tail) / norm(&output);
        }
        let tokens = hidden.len() / d_ff;
        (cett / tokens as f64, dropped as f64 / hidden.len() as f64)
    }

    fn curve(weight: &[f32], d_model: usize, hidden: &[f32]) -> CettCurve {
        let neurons = Neurons::new(weight, d_model);
        let mut curve = CettCurve::default();
        // In two parts, the first of one token.
        let (first, rest) = hidden.split_at(neurons.d_ff());
        curve.add(&neurons, first);
        curve.add(&neurons, rest);
        curve
    }

    #[test]
    fn three_neurons_by_hand() {
        // One output dimension; neurons put out 1, -2, 7 and 0, 3, 3.
        let curve = curve(&[1.0, 1.0, 1.0], 1, &[1.0, -2.0, 7.0, 0.0, 3.0, 3.0]);
        // Below 2: 1/6 and 0; below 3: 1/6 and 0; below 7: 1/6 and 1; all: 1 and 1.
        let at = |level| {
            let found = curve.at(level);
            (found.sparsity * 6.0, found.threshold, found.cett * 12.0)
        };
        assert_eq!(at(0.0), (1.0, 1.0, 0.0), "only what is zero");
        let (dropped, threshold, cett) = at(0.09);
        assert!(dropped == 3.0 && threshold == 3.0 && (cett - 1.0).abs() < 1e-12, "{:?}", at(0.09));
        assert_eq!(at(0.6).0, 5.0);
        assert_eq!(at(1.0).0, 6.0);
    }

    #[test]
    fn a_block_that_puts_out_nothing_loses_nothing() {
        let nothing = curve(&[1.0, 2.0], 1, &[0.0; 6]).at(0.0);
        assert_eq!((nothing.sparsity, nothing.cett), (1.0, 0.0));
        let no_weights = curve(&[0.0, 0.0], 1, &[1.0; 6]).at(0.2);
        assert_eq!((no_weights.sparsity, no_weights.cett), (1.0, 0.0));
    }

    proptest! {
        #[test]
        fn the_curve_is_the_definition(
            values in prop::collection::vec(-3.0..3.0f32, 5 * 7 + 9 * 7),
            zeros in prop::collection::vec(any::<bool>(), 9 * 7),
            level in 0.01..1.2f64,
        ) {
            let (weight, hidden) = values.split_at(5 * 7);
            let hidden: Vec<f32> =
                hidden.iter().zip(zeros).map(|(&h, zero)| if zero { 0.0 } else { h }).collect();
            prop_assume!(hidden.chunks(7).all(|token| token.iter().any(|&h| h != 0.0)));
            let found = curve(weight, 5, &hidden).at(level);
            let (cett, sparsity) = defined(weight, 5, &hidden, found.threshold);
            prop_assert!((found.cett - cett).abs() < 1e-12 && cett <= level + 1e-12);
            prop_assert_eq!(found.sparsity, sparsity);
            // It is the largest: at the next edge that drops one more, the level is exceeded.
            let edges = (Bins::of(found.threshold) + 1..).map(Bins::edge).take_while(|&edge| edge < 1e3);
            let beyond = edges.map(|eps| defined(weight, 5, &hidden, eps)).find(|(_, share)| *share > sparsity);
            prop_assert_eq!(beyond.is_none(), sparsity == 1.0);
            prop_assert!(beyond.is_none_or(|(beyond, _)| beyond > level - 1e-12));
            // What is dropped in the model is what was counted.
            let mut pruned = hidden.clone();
            let dropped = Neurons::new(weight, 5).drop_below(found.threshold, &mut pruned);
            prop_assert_eq!(dropped as f64 / hidden.len() as f64, sparsity);
            prop_assert!(pruned.iter().zip(&hidden).all(|(p, h)| p == h || *p == 0.0));
        }
    }
}

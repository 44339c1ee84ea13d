//! What activation functions cost: times taken on this machine when a verdict is asked for.
//!
//! One thread takes the functions through the loops that training uses (`kernels::Pointwise`), forward and backward, block
//! by block as the fused operations do, on data that fit a cache: what is compared is arithmetic, not memory. The functions
//! take turns within a round, so that a machine that slows down slows all of them; only ratios within a round are used,
//! and of several turns in it the fastest, since whatever interrupts a turn only adds to it.

use std::hint::black_box;
use std::time::Instant;

use ffn_variants::Activation;
use kernels::{Pointwise, multiversion};
use serde::{Deserialize, Serialize};

use super::comparison::{Contrast, Quantity};
use super::judge::Claimed;
use crate::stats::paired_differences;

/// Elements of the input: four arrays of them fit a cache of 256 KiB.
const ELEMENTS: usize = 8192;
/// Elements that go through forward or backward at once, as in the fused operations.
const BLOCK: usize = 1024;
/// Turns of every function in a round, of which the fastest counts.
const TURNS: usize = 5;
/// Passes over the input in a turn.
const PASSES: usize = 4;

/// Functions whose times are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivationCost {
    /// The functions, the cheapest first: each is claimed to take longer than the one before it.
    pub rising: Vec<Activation>,
    /// Rounds, in each of which every function is timed.
    pub rounds: u64,
    /// Smallest excess of interest of the ratio of two times over 1.
    pub smallest_effect: f64,
}

impl ActivationCost {
    /// Times the functions and sets each against the one before it: a moment's work, on as idle a machine as can be had.
    pub(super) fn measure(&self) -> Vec<Contrast> {
        self.contrasts(&rounds(&self.rising, self.rounds))
    }

    /// The ratios of `rounds`, each of which holds a time per function.
    fn contrasts(&self, rounds: &[Vec<f64>]) -> Vec<Contrast> {
        let zeros: Vec<(u64, f64)> = (0..rounds.len() as u64).map(|round| (round, 0.0)).collect();
        let neighbours = (1..self.rising.len()).map(|i| (i - 1, i));
        neighbours
            .filter_map(|(cheap, dear)| {
                let ratio = |round: &Vec<f64>| round[dear] / round[cheap];
                let ratios: Vec<(u64, f64)> = (0..).zip(rounds.iter().map(ratio)).collect();
                Some(Contrast {
                    label: format!("{} / {}", self.rising[dear], self.rising[cheap]),
                    measured: "time per element, forward and backward".to_owned(),
                    quantity: Quantity::Ratio,
                    unit: String::new(),
                    counted: false,
                    claimed: Claimed::Above { confirm: 1.0, refute: 1.0 + self.smallest_effect },
                    paired: paired_differences(&zeros, &ratios)?,
                    diverged: Vec::new(),
                })
            })
            .collect()
    }

    /// What is wrong with its numbers; `None` if nothing is.
    pub(super) fn mistake(&self) -> Option<String> {
        if self.rising.len() < 2 {
            Some("rising needs at least two activations".to_owned())
        } else if !(5..=10_000).contains(&self.rounds) {
            Some(format!("rounds = {} must lie between 5 and 10000", self.rounds))
        } else if !(self.smallest_effect.is_finite() && self.smallest_effect > 0.0) {
            Some(format!("smallest_effect = {} must be above 0", self.smallest_effect))
        } else {
            None
        }
    }
}

/// Seconds of the fastest turn, by round and function. A first round warms caches and clocks up and is not kept.
fn rounds(functions: &[Activation], rounds: u64) -> Vec<Vec<f64>> {
    let mut bench = Bench::new();
    let mut round = |_| {
        let mut fastest = vec![f64::INFINITY; functions.len()];
        for _ in 0..TURNS {
            for (fastest, function) in fastest.iter_mut().zip(functions) {
                *fastest = fastest.min(bench.turn(function));
            }
        }
        fastest
    };
    (0..=rounds).map(&mut round).skip(1).collect()
}

/// Arrays that functions are taken over.
struct Bench {
    x: Vec<f32>,
    dy: Vec<f32>,
    y: Vec<f32>,
    dx: Vec<f32>,
}

impl Bench {
    /// Inputs from -4 to 4, where all pieces of the functions lie, in no order.
    fn new() -> Self {
        let x: Vec<f32> =
            (0..ELEMENTS).map(|i| (i * 7919 % ELEMENTS) as f32 / ELEMENTS as f32 * 8.0 - 4.0).collect();
        Self {
            dy: x.iter().map(|x| 1.0 - 0.1 * x).collect(),
            y: vec![0.0; ELEMENTS],
            dx: vec![0.0; ELEMENTS],
            x,
        }
    }

    /// Seconds of a turn.
    fn turn(&mut self, function: &dyn Pointwise) -> f64 {
        let started = Instant::now();
        for _ in 0..PASSES {
            for (x, y) in black_box(&self.x).chunks(BLOCK).zip(self.y.chunks_mut(BLOCK)) {
                function.value(x, y);
            }
            black_box(&self.y);
            let blocks = self.x.chunks(BLOCK).zip(self.dy.chunks(BLOCK));
            for ((x, dy), (y, dx)) in blocks.zip(self.y.chunks_mut(BLOCK).zip(self.dx.chunks_mut(BLOCK))) {
                function.value_and_derivative(x, y, dx);
                multiply(dx, dy);
            }
            black_box(&self.dx);
        }
        started.elapsed().as_secs_f64()
    }
}

multiversion! {
    /// The chain rule: y <- y * factor.
    fn multiply(y: &mut [f32], factor: &[f32]) {
        for (y, factor) in y.iter_mut().zip(factor) {
            *y *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::comparison::Outcome;
    use crate::claims::judge::judge;

    fn cost(rounds: u64) -> ActivationCost {
        let rising = vec![Activation::Relu6, Activation::Hardswish, Activation::Silu];
        ActivationCost { rising, rounds, smallest_effect: 0.02 }
    }

    #[test]
    fn ratios_within_rounds_are_judged() {
        // The machine is twice as slow in every other round; the second function takes 1.5 times as long as the first, the
        // third as long as the second, but for a little noise.
        let round = |i: u64| {
            let (slow, noise) = (1.0 + (i % 2) as f64, 0.001 * (i as f64).sin());
            [1.0, 1.5 + noise, 1.5].map(|time| slow * time).to_vec()
        };
        let contrasts = cost(40).contrasts(&(0..40).map(round).collect::<Vec<_>>());
        let found = judge(&contrasts, 0.05).unwrap();
        assert_eq!(
            found.iter().map(|c| c.label.as_str()).collect::<Vec<_>>(),
            ["hardswish / relu6", "silu / hardswish"]
        );
        assert!((found[0].difference - 1.5).abs() < 0.001 && found[0].n == 40, "{found:?}");
        assert_eq!([found[0].outcome, found[1].outcome], [Outcome::Confirmed, Outcome::Refuted]);
    }

    #[test]
    fn every_function_is_timed_in_every_round() {
        let times = rounds(&cost(5).rising, 5);
        assert_eq!(times.len(), 5);
        assert!(times.iter().all(|round| round.len() == 3), "{times:?}");
        assert!(times.iter().flatten().all(|time| *time > 0.0 && time.is_finite()), "{times:?}");
    }

    #[test]
    fn a_turn_does_the_work() {
        let mut bench = Bench::new();
        bench.turn(&Activation::Silu);
        for i in [0, 1, BLOCK, ELEMENTS - 1] {
            let x = f64::from(bench.x[i]);
            let expected = Activation::Silu.derivative_f64(x) * f64::from(bench.dy[i]);
            assert!((f64::from(bench.dx[i]) - expected).abs() < 1e-5, "{x}");
            assert!((f64::from(bench.y[i]) - Activation::Silu.value_f64(x)).abs() < 1e-5, "{x}");
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_refused() {
        assert_eq!(cost(40).mistake(), None);
        assert!(cost(4).mistake().is_some_and(|wrong| wrong.contains("rounds = 4")));
        let one = ActivationCost { rising: vec![Activation::Silu], ..cost(40) };
        assert!(one.mistake().is_some_and(|wrong| wrong.contains("at least two activations")));
        assert!(ActivationCost { smallest_effect: 0.0, ..cost(40) }.mistake().is_some());
    }
}

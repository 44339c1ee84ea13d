//! Integer-weighted choices: exact to sample, exact to evaluate, the same on every platform.

use rand::RngCore;

use crate::rng::below;

/// A distribution over members of a class. All distributions have the same total, [`Weights::TOTAL`], so that a mixture of
/// them needs no division.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// Members with a positive weight, ascending.
    support: Vec<u16>,
    /// Running sums of their weights; the last is the total.
    cumulative: Vec<u32>,
}

impl Weights {
    /// Sum of the weights of one distribution.
    pub(super) const TOTAL: u32 = 1 << 16;

    /// Rounds positive weights to integers that sum to the total. Every member keeps at least 1; what rounding leaves
    /// over goes to the heaviest.
    pub(super) fn new(weights: impl IntoIterator<Item = (u16, f64)>) -> Self {
        let mut weights: Vec<(u16, f64)> = weights.into_iter().collect();
        weights.sort_by_key(|&(member, _)| member);
        let sum: f64 = weights.iter().map(|&(_, w)| w).sum();
        let room = f64::from(Self::TOTAL - weights.len() as u32);
        let mut rounded: Vec<u32> =
            weights.iter().map(|&(_, w)| 1 + (w / sum * room).floor() as u32).collect();
        let heaviest = (0..rounded.len()).max_by_key(|&i| rounded[i]).expect("a distribution has members");
        rounded[heaviest] += Self::TOTAL - rounded.iter().sum::<u32>();
        let mut running = 0;
        let cumulative = rounded.iter().map(|w| {
            running += w;
            running
        });
        Self {
            cumulative: cumulative.collect(),
            support: weights.into_iter().map(|(member, _)| member).collect(),
        }
    }

    /// The weight of a member; 0 outside the support.
    pub(super) fn get(&self, member: u16) -> u32 {
        match self.support.binary_search(&member) {
            Ok(i) => self.cumulative[i] - if i == 0 { 0 } else { self.cumulative[i - 1] },
            Err(_) => 0,
        }
    }

    /// The member that owns `ticket`, one of `0..TOTAL`.
    fn at(&self, ticket: u32) -> u16 {
        self.support[self.cumulative.partition_point(|&c| c <= ticket)]
    }
}

/// One part of a mixture.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// A distribution.
    Table(&'a Weights),
    /// Always this member.
    Only(u16),
}

/// A mixture of up to [`Mixture::PARTS`] distributions over the same class, with small integer shares. A member may be
/// supported by several parts; its probability is the sum, so the mixture leaves no hidden choice behind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mixture<'a> {
    parts: [(u32, Part<'a>); Mixture::PARTS],
    len: usize,
    shares: u32,
}

impl<'a> Mixture<'a> {
    const PARTS: usize = 4;

    /// A mixture with these shares.
    pub(super) fn new<const N: usize>(parts: [(u32, Part<'a>); N]) -> Self {
        const { assert!(N > 0 && N <= Mixture::PARTS) };
        let mut padded = [(0, Part::Only(0)); Self::PARTS];
        padded[..N].copy_from_slice(&parts);
        Self { parts: padded, len: N, shares: parts.iter().map(|&(share, _)| share).sum() }
    }

    /// The parts and their shares.
    pub(super) fn parts(&self) -> &[(u32, Part<'a>)] {
        &self.parts[..self.len]
    }

    /// The probability of a member.
    pub(super) fn probability(&self, member: u16) -> f64 {
        let weight = |part: &Part| match part {
            Part::Table(weights) => weights.get(member),
            Part::Only(only) => {
                if *only == member {
                    Weights::TOTAL
                } else {
                    0
                }
            }
        };
        let sum: u64 =
            self.parts().iter().map(|(share, part)| u64::from(*share) * u64::from(weight(part))).sum();
        sum as f64 / (f64::from(self.shares) * f64::from(Weights::TOTAL))
    }

    /// Draws a member.
    pub(super) fn sample(&self, rng: &mut impl RngCore) -> u16 {
        let ticket = below(rng, u64::from(self.shares) * u64::from(Weights::TOTAL));
        let (mut share, ticket) =
            ((ticket / u64::from(Weights::TOTAL)) as u32, (ticket % u64::from(Weights::TOTAL)) as u32);
        for (size, part) in self.parts() {
            if share < *size {
                return match part {
                    Part::Table(weights) => weights.at(ticket),
                    Part::Only(member) => *member,
                };
            }
            share -= size;
        }
        unreachable!("shares sum to {}", self.shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Key, Purpose};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn weights_sum_to_the_total_and_sampling_owns_each_ticket(raw in prop::collection::btree_map(0_u16..500, 1e-9_f64..1e6, 1..200)) {
            let weights = Weights::new(raw.clone());
            prop_assert!((0..500).all(|member| raw.contains_key(&member) == (weights.get(member) > 0)));
            let mut counts = vec![0_u32; 500];
            for ticket in 0..Weights::TOTAL {
                counts[usize::from(weights.at(ticket))] += 1;
            }
            prop_assert!((0..500).all(|member| counts[usize::from(member)] == weights.get(member)));
        }
    }

    #[test]
    fn a_mixture_adds_what_its_parts_share() {
        let (a, b) = (Weights::new([(0, 1.0), (1, 1.0)]), Weights::new([(1, 3.0), (2, 1.0)]));
        let mixture = Mixture::new([(2, Part::Table(&a)), (1, Part::Table(&b)), (1, Part::Only(2))]);
        let expected = [0.25, 0.25 + 0.25 * 0.75, 0.25 * 0.25 + 0.25];
        let mut counts = [0_u32; 3];
        let mut rng = Key::new(0, Purpose::Sampling).rng();
        for _ in 0..40_000 {
            counts[usize::from(mixture.sample(&mut rng))] += 1;
        }
        for member in 0..3 {
            let p = mixture.probability(member);
            assert!((p - expected[usize::from(member)]).abs() < 1e-4, "{member}: {p}");
            let deviation = f64::from(counts[usize::from(member)]) / 40_000.0 - p;
            assert!(deviation.abs() < 4.0 * (p * (1.0 - p) / 40_000.0).sqrt(), "{member}: {deviation}");
        }
        assert_eq!(mixture.probability(3), 0.0);
    }
}

//! The words that may follow, with integer weights.

use rand::RngCore;

use super::lexicon::{Class, Word};
use super::weights::Mixture;
use crate::rng::below;

/// What may follow, with weights.
#[derive(Debug, Default)]
pub(super) struct Menu<'a> {
    branches: Vec<Branch<'a>>,
    total: u32,
}

#[derive(Debug)]
struct Branch<'a> {
    weight: u32,
    words: Words<'a>,
}

#[derive(Debug)]
enum Words<'a> {
    One(Word),
    Of(Class, Mixture<'a>),
}

impl<'a> Menu<'a> {
    /// The probability of a word.
    pub(super) fn probability(&self, word: Word) -> f64 {
        let given_branch = |words: &Words| match (words, word) {
            (Words::One(one), word) => f64::from(u8::from(*one == word)),
            (Words::Of(class, mixture), Word::Of(of, member)) if *class == of => mixture.probability(member),
            (Words::Of(..), _) => 0.0,
        };
        let weighted = |branch: &Branch| f64::from(branch.weight) * given_branch(&branch.words);
        self.branches.iter().map(weighted).sum::<f64>() / f64::from(self.total)
    }

    /// Draws a word.
    pub(super) fn sample(&self, rng: &mut impl RngCore) -> Word {
        let mut ticket = below(rng, u64::from(self.total)) as u32;
        for branch in &self.branches {
            if ticket < branch.weight {
                return match &branch.words {
                    Words::One(word) => *word,
                    Words::Of(class, mixture) => Word::Of(*class, mixture.sample(rng)),
                };
            }
            ticket -= branch.weight;
        }
        unreachable!("branches sum to {}", self.total)
    }

    /// Takes everything off.
    pub(super) fn clear(&mut self) {
        self.branches.clear();
        self.total = 0;
    }

    fn push(&mut self, weight: u32, words: Words<'a>) {
        self.total += weight;
        self.branches.push(Branch { weight, words });
    }

    /// Offers one word.
    pub(super) fn word(&mut self, weight: u32, word: Word) {
        self.push(weight, Words::One(word));
    }

    /// Offers the members of a class.
    pub(super) fn class(&mut self, weight: u32, class: Class, mixture: Mixture<'a>) {
        self.push(weight, Words::Of(class, mixture));
    }
}

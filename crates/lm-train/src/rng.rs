//! Keyed, stateless randomness.
//!
//! Nothing in this workspace draws from a generator that remembers: every draw names what it is for. A [`Key`] is derived
//! from the run's seed, a [`Purpose`], names and indices, and always gives the same numbers. Hence two runs of one seed that
//! differ in their feed-forward block share the data order and every weight both have (common random numbers), a resumed run
//! equals an uninterrupted one, and nothing depends on the number of threads or on the order in which things are drawn.
//!
//! The derivation is BLAKE3, the generator ChaCha8, the permutation of [`Permutation`] a Feistel network; all three are
//! integer-only and the same on every platform.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// What random numbers are for. Keys of different purposes are independent although they share the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Initial weights, named by tensor.
    Init,
    /// The order and offset of the training windows.
    DataOrder,
    /// Dropout masks.
    Dropout,
    /// Sampling text from a model.
    Sampling,
    /// The built-in synthetic language and its documents.
    Language,
    /// Splitting data into parts.
    Split,
    /// Stochastic rounding.
    Rounding,
    /// Bootstrap resamples and permutations in statistics over runs.
    Resampling,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 8] = [
        Self::Init,
        Self::DataOrder,
        Self::Dropout,
        Self::Sampling,
        Self::Language,
        Self::Split,
        Self::Rounding,
        Self::Resampling,
    ];

    /// Part of the key derivation: changing a name changes every run.
    const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::DataOrder => "data-order",
            Self::Dropout => "dropout",
            Self::Sampling => "sampling",
            Self::Language => "language",
            Self::Split => "split",
            Self::Rounding => "rounding",
            Self::Resampling => "resampling",
        }
    }
}

/// A 256-bit key: names one stream of random numbers and derives the keys below it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The root key of a seed for one purpose.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let root = blake3::derive_key("ffnlab keyed randomness, version 1", &seed.to_le_bytes());
        Self(root).named(purpose.name())
    }

    /// The child key with this name. Names and indices never collide with each other.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        self.derive(b"name", name.as_bytes())
    }

    /// The child key with this index.
    #[must_use]
    pub fn index(&self, index: u64) -> Self {
        self.derive(b"indx", &index.to_le_bytes())
    }

    /// The generator of this key, at its beginning.
    pub fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.0)
    }

    /// One uniform 64-bit number, independent of what [`Key::rng`] gives.
    pub fn u64(&self) -> u64 {
        let Self(bytes) = self.derive(b"u64 ", &[]);
        u64::from_le_bytes(bytes[..8].try_into().expect("a key has 32 bytes"))
    }

    /// `n` independent draws from the normal distribution with mean 0 and standard deviation `std`.
    pub fn normal_f32(&self, n: usize, std: f64) -> Vec<f32> {
        let mut rng = self.rng();
        let mut draw = || -> f64 { StandardNormal.sample(&mut rng) };
        (0..n).map(|_| (draw() * std) as f32).collect()
    }

    /// The four-byte tag keeps the kinds of children apart.
    fn derive(&self, tag: &[u8; 4], data: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(tag).update(data);
        Self(*hasher.finalize().as_bytes())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({:02x}{:02x}{:02x}{:02x}..)", self.0[0], self.0[1], self.0[2], self.0[3])
    }
}

/// A number below `n`, by multiply-and-shift: uniform up to a relative error of n / 2^64. Needs n > 0.
///
/// `rand`'s own range sampling may change with its version; this may not.
pub fn below(rng: &mut impl RngCore, n: u64) -> u64 {
    debug_assert!(n > 0, "nothing to draw from");
    ((u128::from(rng.next_u64()) * u128::from(n)) >> 64) as u64
}

/// A keyed permutation of `0..n` in constant memory: the shuffle of an epoch without its list.
///
/// A balanced Feistel network permutes the smallest domain of 4^k >= n values; a value that lands outside `0..n` is sent
/// through again until it lands inside (cycle walking; Black and Rogaway 2002), which takes fewer than 4 rounds on average
/// once n exceeds `MIN_DOMAIN`.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    round_keys: [u64; Self::ROUNDS],
}

impl Permutation {
    const ROUNDS: usize = 10;
    /// Feistel networks on very few bits reach only some permutations, so small `n` walk inside this larger domain.
    const MIN_DOMAIN: u64 = 1 << 10;

    /// The permutation of `0..n` that belongs to `key`.
    pub fn new(key: &Key, n: u64) -> Self {
        let bits = u64::BITS - (n.max(Self::MIN_DOMAIN) - 1).leading_zeros();
        let mut rng = key.rng();
        Self { n, half_bits: bits.div_ceil(2), round_keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    /// How many values are permuted.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there is nothing to permute.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// The image of `i`. Panics unless `i < len()`.
    pub fn get(&self, i: u64) -> u64 {
        assert!(i < self.n, "index {i} is outside a permutation of {} values", self.n);
        let mut x = self.encipher(i);
        while x >= self.n {
            x = self.encipher(x);
        }
        x
    }

    /// One pass of the network over 2 * half_bits bits, a bijection of that domain.
    fn encipher(&self, x: u64) -> u64 {
        let mask = (1_u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.round_keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::{Key, Permutation, Purpose, below};
    use proptest::prelude::*;
    use rand::RngCore;
    use std::collections::{HashMap, HashSet};

    #[test]
    fn keys_differ_by_seed_purpose_name_and_index() {
        let mut seen = HashSet::new();
        for seed in [0, 1, u64::MAX] {
            for purpose in Purpose::ALL {
                let root = Key::new(seed, purpose);
                let children =
                    [root, root.named(""), root.named("a"), root.named("a").named("b"), root.named("ab")];
                let indexed =
                    [root.index(0), root.index(1), root.index(0).index(0), root.named("\0\0\0\0\0\0\0\0")];
                for key in children.into_iter().chain(indexed) {
                    assert!(seen.insert(key.u64()), "{key:?} appeared twice");
                    assert!(seen.insert(key.rng().next_u64()), "the generator of {key:?} appeared twice");
                }
            }
        }
    }

    #[test]
    fn draws_are_pinned() {
        // A change of these numbers changes every run ever recorded.
        let key = Key::new(42, Purpose::Init).named("model.norm.weight").index(7);
        assert_eq!(key.u64(), 15505881668420322008);
        assert_eq!(key.rng().next_u64(), 1984185874745239690);
        assert_eq!(key.normal_f32(2, 0.02), [-0.023043567, -0.023758015]);
    }

    #[test]
    fn normal_draws_have_the_moments_asked_for() {
        let n = 100_000;
        let draws = Key::new(3, Purpose::Init).normal_f32(n, 0.5);
        let mean = draws.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
        let variance = draws.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 5.0 * 0.5 / (n as f64).sqrt(), "mean {mean}");
        assert!((variance.sqrt() - 0.5).abs() < 0.01, "standard deviation {}", variance.sqrt());
        assert_eq!(
            Key::new(3, Purpose::Init).normal_f32(10, 0.5),
            draws[..10],
            "a prefix does not depend on n"
        );
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut rng = Key::new(5, Purpose::Sampling).rng();
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7) as usize] += 1;
        }
        assert!(chi_square(&counts) < 22.46, "{counts:?}"); // 0.999 quantile, 6 degrees of freedom
        assert_eq!(below(&mut rng, 1), 0);
    }

    fn is_bijection(key: &Key, n: u64) -> bool {
        let permutation = Permutation::new(key, n);
        let images: HashSet<u64> = (0..n).map(|i| permutation.get(i)).collect();
        images.len() as u64 == n && images.iter().all(|&x| x < n)
    }

    #[test]
    fn permutations_are_bijections_around_powers_of_two() {
        let powers = (1..=14).map(|k| 1_u64 << k);
        for n in powers.flat_map(|p| [p - 1, p, p + 1]).chain([3, 6, 100, 5000]) {
            assert!(is_bijection(&Key::new(n, Purpose::DataOrder), n), "n = {n}");
        }
        assert!(Permutation::new(&Key::new(0, Purpose::DataOrder), 0).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn permutations_are_bijections(seed: u64, n in 1_u64..5000) {
            prop_assert!(is_bijection(&Key::new(seed, Purpose::DataOrder), n));
        }

        #[test]
        fn large_permutations_stay_in_range_and_are_injective(seed: u64, n in 1_u64 << 40..1 << 62, i: u64, j: u64) {
            let permutation = Permutation::new(&Key::new(seed, Purpose::DataOrder), n);
            let (i, j) = (i % n, j % n);
            prop_assert!(permutation.get(i) < n);
            prop_assert_eq!(permutation.get(i) == permutation.get(j), i == j);
        }
    }

    #[test]
    fn small_permutations_are_uniform_over_all_orders() {
        // (n, n!, 0.9999 quantile of chi-square with n! - 1 degrees of freedom)
        for (n, orders, quantile) in [(2, 2, 15.14), (3, 6, 25.74), (4, 24, 56.1), (5, 120, 187.5)] {
            let mut counts: HashMap<Vec<u64>, u32> = HashMap::new();
            for k in 0..orders * 200 {
                let permutation = Permutation::new(&Key::new(1, Purpose::DataOrder).index(k), n);
                *counts.entry((0..n).map(|i| permutation.get(i)).collect()).or_default() += 1;
            }
            assert_eq!(counts.len() as u64, orders, "some order of {n} never appears");
            let counts: Vec<u32> = counts.into_values().collect();
            assert!(chi_square(&counts) < quantile, "n = {n}: {counts:?}");
        }
    }

    #[test]
    fn neighbours_are_torn_apart() {
        // In a uniform permutation of n values, i + 1 follows i once on average.
        let permutation = Permutation::new(&Key::new(9, Purpose::DataOrder), 10_000);
        let kept = (1..10_000).filter(|&i| permutation.get(i) == permutation.get(i - 1) + 1).count();
        assert!(kept < 10, "{kept} neighbours stayed together");
    }

    fn chi_square(counts: &[u32]) -> f64 {
        let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
        counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum()
    }
}

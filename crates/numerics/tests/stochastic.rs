//! Stochastic rounding: probabilities, reproducibility, independence.

use numerics::{NumericFormat, Overflow, Rounding, round_slice};
use proptest::prelude::*;
use proptest::sample::select;

/// Formats with numbers between which something lies.
const FORMATS: [NumericFormat; 9] = [
    NumericFormat::Tf32,
    NumericFormat::Bf16,
    NumericFormat::Fp16,
    NumericFormat::E4m3,
    NumericFormat::E5m2,
    NumericFormat::E3m2,
    NumericFormat::E2m1,
    NumericFormat::Int8,
    NumericFormat::Ternary,
];

fn rounded(x: &[f32], format: NumericFormat, key: u64) -> Vec<f32> {
    let mut out = x.to_vec();
    round_slice(&mut out, format, Rounding::stochastic(key), Overflow::Saturate);
    out
}

/// How often k/16 of the way between two neighbours is rounded up, against the binomial distribution: 5
/// standard deviations, for draws that differ by index and for draws that differ by key.
#[test]
fn probabilities_are_the_distances() {
    const DRAWS: usize = 40_000;
    for format in FORMATS {
        let [lower, upper] = [1, 2].map(|magnitude| {
            // Below and above the smallest normal number of a narrow format, or 1 and its neighbour.
            if format.bits() <= 8 {
                format.decode(magnitude)
            } else {
                1.0 + (magnitude - 1) as f32 * ulp(format)
            }
        });
        let [lower, upper] = if format == NumericFormat::Ternary { [0.0, 1.0] } else { [lower, upper] };
        for k in 0..=16 {
            let x = lower + (upper - lower) * k as f32 / 16.0;
            let p = f64::from(k) / 16.0;
            let by_index = rounded(&vec![x; DRAWS], format, 11);
            let by_key: Vec<f32> = (0..DRAWS as u64)
                .map(|key| format.encode_at(x, Rounding::stochastic(key), 3, Overflow::Saturate).value)
                .collect();
            for values in [by_index, by_key] {
                let ups = values.iter().filter(|value| **value == upper).count();
                assert!(values.iter().all(|value| *value == lower || *value == upper), "{format} {k}");
                let deviation = (ups as f64 - p * DRAWS as f64).abs();
                let sigma = (p * (1.0 - p) * DRAWS as f64).sqrt();
                assert!(deviation <= 5.0 * sigma, "{format} {k}/16: {ups} of {DRAWS}");
            }
        }
    }
}

fn ulp(format: NumericFormat) -> f32 {
    2f32.powi(-(format.spec().mantissa_bits as i32))
}

/// The 24 random bits, exactly: over all thresholds, the value goes up for as many as its distance says.
#[test]
fn the_smallest_distances_count() {
    // 2^-20 of a step, in a million draws, is one on average; 2^-30 is less than the bits resolve, and never
    // goes up.
    let draws = 1 << 22;
    let step = NumericFormat::E4m3.min_positive();
    let ups = |x: f32| rounded(&vec![x; draws], NumericFormat::E4m3, 5).iter().filter(|x| **x > 0.0).count();
    let expected = 4.0;
    let found = ups(step * 2f32.powi(-20)) as f64;
    assert!(found > 0.0 && (found - expected).abs() < 5.0 * f64::sqrt(expected), "{found}");
    assert_eq!(ups(step * 2f32.powi(-30)), 0);
}

/// The mean over many draws is the value itself, within its standard error, for values all over the range.
#[test]
fn the_mean_is_unbiased() {
    const DRAWS: u64 = 400;
    let x: Vec<f32> =
        (0..500u32).map(|i| (i.wrapping_mul(0x9e37_79b1) as i32 as f32) / 2f32.powi(31) * 7.0).collect();
    for format in
        FORMATS.into_iter().filter(|format| format.max_finite() >= 7.0 || *format == NumericFormat::E2m1)
    {
        let x: Vec<f32> = x.iter().map(|x| x.clamp(-format.max_finite(), format.max_finite())).collect();
        let (mut error, mut variance) = (0.0, 0.0);
        for key in 0..DRAWS {
            for (value, x) in rounded(&x, format, key).iter().zip(&x) {
                let difference = f64::from(*value) - f64::from(*x);
                error += difference;
                variance += difference * difference;
            }
        }
        assert!(
            variance > 0.0 && error.abs() <= 5.0 * variance.sqrt(),
            "{format}: {error} {}",
            variance.sqrt()
        );
    }
}

/// Neighbouring indices, and keys that differ in one bit, do not go up together.
#[test]
fn draws_are_independent() {
    const DRAWS: usize = 1 << 16;
    let half = vec![0.5; DRAWS + 1];
    let bits =
        |key| -> Vec<bool> { rounded(&half, NumericFormat::Int8, key).iter().map(|x| *x == 1.0).collect() };
    let base = bits(0);
    let agreement = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64;
    let fair = |agreements: f64, what: &str| {
        let deviation = (agreements - DRAWS as f64 / 2.0).abs();
        assert!(deviation < 5.0 * (DRAWS as f64 / 4.0).sqrt(), "{what}: {agreements} of {DRAWS}");
    };
    for lag in [1, 2, 3, 4, 8, 64, 1024] {
        fair(agreement(&base[..DRAWS - lag], &base[lag..DRAWS]) + lag as f64 / 2.0, &format!("lag {lag}"));
    }
    for bit in 0..64 {
        let other = bits(1 << bit);
        fair(agreement(&base[..DRAWS], &other[..DRAWS]), &format!("key bit {bit}"));
        fair(agreement(&base[..DRAWS], &other[1..]), &format!("key bit {bit}, next index"));
    }
}

proptest! {
    #[test]
    fn representable_numbers_never_move(
        format in select(FORMATS.to_vec()),
        key in any::<u64>(),
        codes in prop::collection::vec(any::<u32>(), 1..100),
    ) {
        let exact: Vec<f32> = codes.iter().map(|code| format.decode(*code)).collect();
        let exact: Vec<f32> = exact.into_iter().filter(|x| x.abs() <= format.max_finite()).collect();
        prop_assert_eq!(rounded(&exact, format, key), exact);
    }

    #[test]
    fn the_same_key_gives_the_same_numbers_wherever_a_slice_begins(key in any::<u64>(), n in 1usize..200) {
        let x: Vec<f32> = (0..n).map(|i| i as f32 * 0.37).collect();
        let long = rounded(&x, NumericFormat::E4m3, key);
        let first_half = rounded(&x[..n / 2], NumericFormat::E4m3, key);
        prop_assert_eq!(&long[..n / 2], &first_half[..]);
        let other = Rounding::stochastic(key);
        for (i, (x, value)) in x.iter().zip(&long).enumerate() {
            prop_assert_eq!(NumericFormat::E4m3.encode_at(*x, other, i as u64, Overflow::Saturate).value, *value);
        }
    }
}

//! Formats and scalings against independent implementations: `scripts/golden/formats.py`, which says which.

use numerics::{
    Contraction, EncodedMatrix, NumericFormat, Overflow, QuantSpec, Rounding, RoundingMode, ScaleKind,
    Scaling, StoredScales, encode_matrix, round_slice,
};
use serde_json::Value;

fn goldens() -> Value {
    serde_json::from_str(include_str!("data/golden_formats.json")).unwrap()
}

/// The lowbias32 integer hash.
fn hash32(x: u64) -> u64 {
    let mut x = x as u32;
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    u64::from(x ^ (x >> 16))
}

/// x 2^exponent for any exponent that f32 knows.
fn ldexp(x: f64, exponent: i64) -> f32 {
    (x * f64::from_bits(((exponent + 1023) as u64) << 52)) as f32
}

/// The script's `inputs`.
fn inputs(format: NumericFormat, count: u64) -> Vec<f32> {
    let mantissa = i64::from(format.spec().mantissa_bits);
    let low = (i64::from(format.spec().min_exponent) - mantissa - 3).max(-149);
    let high = (i64::from(format.max_exponent()) + 2).min(127);
    let input = |i| {
        let [a, b, c] = [0, 1, 2].map(|k| hash32(3 * i + k));
        let exponent = low + (a >> 8) as i64 % (high - low + 1);
        let dropped = 23 - (mantissa + (c % 4) as i64).min(23);
        let fraction = (b & 0x7f_ffff) >> dropped << dropped;
        let x = ldexp(1.0 + fraction as f64 / 2f64.powi(23), exponent);
        if a % 2 == 1 && format != NumericFormat::E8m0 { -x } else { x }
    };
    let kept = |x: &f32| format != NumericFormat::E8m0 || *x >= 2f32.powi(-127);
    (0..count).map(input).filter(kept).collect()
}

/// The script's `matrix`.
fn matrix(rows: u64, cols: u64, spread: u64) -> Vec<f32> {
    let element = |i| {
        let u = [0, 1, 2, 3].map(|k| hash32(4 * i + k) as f64 / 2f64.powi(32));
        let power = hash32(i / cols + (1 << 20)) % spread;
        ldexp((u[0] + u[1]) + (u[2] + u[3]) - 2.0, power as i64)
    };
    (0..rows * cols).map(element).collect()
}

/// Codes as the script writes them.
fn hex(codes: impl IntoIterator<Item = u32>, bits: u32) -> String {
    let digits = bits.div_ceil(4) as usize;
    codes.into_iter().map(|code| format!("{code:0digits$x}")).collect()
}

fn assert_same(what: &str, bits: u32, ours: &str, golden: &Value) {
    let golden = golden.as_str().unwrap_or_else(|| panic!("no golden for {what}"));
    let digits = bits.div_ceil(4) as usize;
    assert_eq!(ours.len(), golden.len(), "{what}");
    for (i, (ours, golden)) in
        ours.as_bytes().chunks(digits).zip(golden.as_bytes().chunks(digits)).enumerate()
    {
        let [ours, golden] = [ours, golden].map(|code| std::str::from_utf8(code).unwrap());
        assert_eq!(ours, golden, "{what}, number {i}");
    }
}

#[test]
fn every_code_decodes_as_elsewhere() {
    let goldens = goldens();
    for (name, golden) in goldens["formats"].as_object().unwrap() {
        let format: NumericFormat = name.parse().unwrap();
        let words = (0..format.code_count() as u32).map(|code| {
            let value = format.decode(code);
            if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() }
        });
        let words: Vec<u32> = words.collect();
        let fnv1a = |h: u64, word: &u32| (h ^ u64::from(*word)).wrapping_mul(0x100_0000_01b3);
        let hash = words.iter().fold(0xcbf2_9ce4_8422_2325, fnv1a);
        if format.bits() <= 8 {
            assert_same(name, 32, &hex(words, 32), &golden["decoded"]);
        }
        assert_eq!(format!("{hash:016x}"), golden["decoded_fnv1a"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn numbers_encode_as_elsewhere() {
    let goldens = goldens();
    let count = goldens["count"].as_u64().unwrap();
    let mut compared = 0;
    for (name, golden) in goldens["formats"].as_object().unwrap() {
        let format: NumericFormat = name.parse().unwrap();
        for (kind, rounding, overflow) in [
            ("nearest_even", Rounding::NEAREST_EVEN, Overflow::Propagate),
            ("nearest_even_saturate", Rounding::NEAREST_EVEN, Overflow::Saturate),
            ("toward_zero", Rounding::TOWARD_ZERO, Overflow::Propagate),
        ] {
            if golden[kind].is_null() {
                continue;
            }
            // The first NaN stands for all, without its sign.
            let canonical = |code: u32| match format.decode(code).is_nan() {
                true => format.encode(f32::NAN, rounding, overflow).code,
                false => code,
            };
            let codes = inputs(format, count)
                .into_iter()
                .map(|x| canonical(format.encode(x, rounding, overflow).code));
            assert_same(&format!("{name} {kind}"), format.bits(), &hex(codes, format.bits()), &golden[kind]);
            compared += 1;
        }
    }
    assert_eq!(compared, 9 * 3 - 1, "all kinds but e8m0's saturation");
}

fn encode(
    x: &[f32],
    cols: usize,
    format: NumericFormat,
    scaling: Scaling,
    contraction: Contraction,
) -> EncodedMatrix {
    let (rounding, overflow) = (RoundingMode::NearestEven, Overflow::Saturate);
    let spec = QuantSpec { format, scaling, scale: ScaleKind::Float, rounding, overflow };
    encode_matrix(x, x.len() / cols, cols, contraction, &spec, 0, None).unwrap()
}

fn bytes(scales: &StoredScales) -> Vec<u32> {
    match scales {
        StoredScales::E8m0(codes) | StoredScales::E4m3(codes) => {
            codes.iter().copied().map(u32::from).collect()
        }
        StoredScales::None | StoredScales::Fp32(_) => panic!("no 8-bit scales"),
    }
}

#[test]
fn mx_blocks_are_those_of_the_standard() {
    let goldens = goldens();
    let mut x = matrix(12, 96, 24);
    x[5 * 96 + 32..5 * 96 + 64].fill(0.0);
    for (name, golden) in goldens["mx"].as_object().unwrap() {
        let encoded = encode(&x, 96, name.parse().unwrap(), Scaling::Mx, Contraction::Columns);
        assert_same(&format!("mx {name} scales"), 8, &hex(bytes(&encoded.scales), 8), &golden["scales"]);
        assert_same(&format!("mx {name} codes"), 8, &hex(encoded.codes, 8), &golden["codes"]);
    }
}

#[test]
fn nvfp4_blocks_are_those_of_torchao() {
    let golden = &goldens()["nvfp4"];
    let encoded = encode(&matrix(12, 96, 6), 96, NumericFormat::E2m1, Scaling::Nvfp4, Contraction::Columns);
    assert_same("tensor scale", 32, &hex([encoded.tensor_scale.to_bits()], 32), &golden["tensor_scale"]);
    assert_same("nvfp4 scales", 8, &hex(bytes(&encoded.scales), 8), &golden["scales"]);
    assert_same("nvfp4 codes", 4, &hex(encoded.codes, 4), &golden["codes"]);
}

#[test]
fn fp32_scales_are_amax_over_max() {
    let goldens = goldens();
    let x = matrix(12, 96, 8);
    for format in [NumericFormat::E4m3, NumericFormat::Int8] {
        for (kind, scaling, contraction) in [
            ("tensor", Scaling::Tensor, Contraction::Columns),
            ("row_columns", Scaling::Row, Contraction::Columns),
            ("row_rows", Scaling::Row, Contraction::Rows),
            ("block_columns", Scaling::Block { size: 32 }, Contraction::Columns),
            ("block_rows", Scaling::Block { size: 4 }, Contraction::Rows),
            ("block2d", Scaling::Block2d { rows: 4, cols: 32 }, Contraction::Columns),
        ] {
            let what = format!("{format}_{kind}");
            let golden = &goldens["float_scales"][&what];
            let encoded = encode(&x, 96, format, scaling, contraction);
            let StoredScales::Fp32(scales) = &encoded.scales else { panic!("{what}: {:?}", encoded.scales) };
            for (i, ours) in scales.iter().enumerate() {
                let digits = &golden["scales"].as_str().unwrap()[8 * i..8 * (i + 1)];
                let quotient = f32::from_bits(u32::from_str_radix(digits, 16).unwrap());
                // Ours is the next number up where the rounded quotient would let amax exceed the largest
                // value.
                assert!(*ours == quotient || *ours == quotient.next_up(), "{what} {i}: {ours} {quotient}");
            }
            assert_same(&what, 8, &hex(encoded.codes, 8), &golden["codes"]);
        }
    }
}

#[test]
fn ternary_weights_are_those_of_bitnet() {
    let goldens = goldens();
    let w: Vec<f32> = matrix(12, 96, 1).iter().map(|x| x / 16.0).collect();
    for (name, scaling) in [("absmean", Scaling::Absmean), ("absmedian", Scaling::Absmedian)] {
        let golden = &goldens["ternary"][name];
        let encoded = encode(&w, 96, NumericFormat::Ternary, scaling, Contraction::Columns);
        let StoredScales::Fp32(scales) = &encoded.scales else { panic!("{:?}", encoded.scales) };
        // torch sums in f32.
        let scale = golden["scale"].as_f64().unwrap();
        assert!((f64::from(scales[0]) / scale - 1.0).abs() < 1e-6, "{name}: {} {scale}", scales[0]);
        assert_same(name, 2, &hex(encoded.codes, 2), &golden["codes"]);
    }
}

/// The random bits are part of every result that was recorded with them.
#[test]
fn random_bits_follow_their_definition() {
    let goldens = goldens();
    for (key, golden) in goldens["random"].as_object().unwrap() {
        let mut halves = [0.5; 96];
        let rounding = Rounding::stochastic(key.parse().unwrap());
        round_slice(&mut halves, NumericFormat::Int8, rounding, Overflow::Saturate);
        assert_same(key, 4, &hex(halves.map(|x| x as u32), 4), golden);
    }
}

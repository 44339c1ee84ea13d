//! Scales: what they guarantee, what is refused, and what `health` sees.

use numerics::{
    Contraction, DelayedScale, NumericFormat, OuterScale, Overflow, QuantError, QuantSpec, RoundingMode,
    ScaleKind, Scaling, StoredScales, encode_matrix, health, quantize,
};
use proptest::prelude::*;
use proptest::sample::select;

fn spec(format: NumericFormat, scaling: Scaling) -> QuantSpec {
    let (rounding, overflow) = (RoundingMode::NearestEven, Overflow::Saturate);
    QuantSpec { format, scaling, scale: ScaleKind::Float, rounding, overflow }
}

/// The step of a format at a magnitude.
fn step(format: NumericFormat, magnitude: f64) -> f64 {
    let spec = format.spec();
    let exponent = (magnitude.log2().floor() as i32).max(spec.min_exponent);
    f64::from(exponent - spec.mantissa_bits as i32).exp2()
}

/// A format with a scaling that suits it, and the largest share of amax by which a block's scale may be too
/// small.
fn scaled() -> impl Strategy<Value = (QuantSpec, f64)> {
    use NumericFormat::{E2m1, E2m3, E3m2, E4m3, E5m2, Fp16, Int4, Int8};
    let fp32 = select(vec![
        Scaling::Tensor,
        Scaling::Row,
        Scaling::Block { size: 16 },
        Scaling::Block2d { rows: 16, cols: 8 },
    ]);
    let any_format = select(vec![Fp16, E4m3, E5m2, E3m2, E2m3, E2m1, Int8, Int4]);
    let kind = select(ScaleKind::ALL.to_vec());
    prop_oneof![
        4 => (any_format, fp32, kind).prop_map(|(format, scaling, kind)| {
            (QuantSpec { scale: kind, ..spec(format, scaling) }, 0.0)
        }),
        // A block scale that is rounded down by up to 1/16 (half of E4M3's step) leaves amax that much beyond
        // 6.
        1 => select(vec![Scaling::Nvfp4, Scaling::Nvfp4Weight]).prop_map(|scaling| (spec(E2m1, scaling), 1.0 / 16.0)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No element is further from its value than half a step of the format at the block's scale, apart from
    /// what NVFP4 saturates.
    #[test]
    fn errors_stay_below_half_a_step(
        (spec, beyond) in scaled(),
        contraction in select(Contraction::ALL.to_vec()),
        exponent in -40i32..40,
        x in prop::collection::vec(-1.0f32..1.0, 32 * 32),
    ) {
        let x: Vec<f32> = x.iter().map(|x| x * 2f32.powi(exponent)).collect();
        let encoded = encode_matrix(&x, 32, 32, contraction, &spec, 0, None).unwrap();
        let fast = quantize(&x, 32, 32, contraction, &spec, 0, None).unwrap();
        let dequantized = fast.dequantize(32, 32, contraction);
        prop_assert_eq!(&dequantized, &encoded.values);
        let max = f64::from(spec.format.max_finite());
        for (i, (&x, &y)) in x.iter().zip(&dequantized).enumerate() {
            let tile = i / 32 / encoded.tile_rows * (32 / encoded.tile_cols) + i % 32 / encoded.tile_cols;
            let scale = match &encoded.scales {
                StoredScales::Fp32(scales) => f64::from(scales[tile]),
                StoredScales::E4m3(codes) => {
                    let block = NumericFormat::E4m3.decode(codes[tile].into());
                    f64::from(block) * f64::from(encoded.tensor_scale)
                }
                StoredScales::E8m0(_) | StoredScales::None => unreachable!("fp32 and NVFP4 scales only"),
            };
            let (x, y) = (f64::from(x), f64::from(y));
            let magnitude = (x / scale).abs();
            // A block scale in E4M3's subnormal range is coarser; there only saturation at the scale can be
            // stated.
            prop_assert!(magnitude <= max * (1.0 + beyond) * 1.000001 || scale == 0.0 || beyond > 0.0);
            let bound = scale * (step(spec.format, magnitude.min(max)) / 2.0 + (magnitude - max).max(0.0));
            let bound = if scale == 0.0 { x.abs() } else { bound };
            // Division and multiplication round to f32.
            prop_assert!((x - y).abs() <= bound + x.abs() * 1e-6, "{x} {y} {scale}");
        }
    }

    /// MX v1.0: the scale is a power of two that puts amax into the largest binade of the elements.
    #[test]
    fn mx_puts_amax_into_the_largest_binade(
        format in select(vec![
            NumericFormat::E4m3, NumericFormat::E5m2, NumericFormat::E3m2,
            NumericFormat::E2m3, NumericFormat::E2m1, NumericFormat::Int8,
        ]),
        exponent in -100i32..100,
        x in prop::collection::vec(-1.0f32..1.0, 32),
    ) {
        let x: Vec<f32> = x.iter().map(|x| x * 2f32.powi(exponent)).collect();
        let encoded = encode_matrix(&x, 1, 32, Contraction::Columns, &spec(format, Scaling::Mx), 0, None).unwrap();
        let StoredScales::E8m0(codes) = &encoded.scales else { panic!("{:?}", encoded.scales) };
        // MXINT8 elements have six fractional bits.
        let unit = if format == NumericFormat::Int8 { 1.0 / 64.0 } else { 1.0 };
        let scale = f64::from(NumericFormat::E8m0.decode(codes[0].into())) * unit;
        let largest = f64::from(encoded.operand.amax) / scale;
        let binade = f64::from(format.max_exponent()).exp2();
        prop_assert!((binade..2.0 * binade).contains(&largest), "{largest}");
        for (&x, &y) in x.iter().zip(&encoded.values) {
            let (x, y) = (f64::from(x), f64::from(y));
            let clamped = (x / scale).clamp(-f64::from(format.max_finite()), f64::from(format.max_finite()));
            prop_assert!((clamped - y / scale).abs() <= step(format, clamped.abs()) / 2.0, "{x} {y}");
        }
    }

    /// Amax never exceeds the largest element, so that stochastic rounding cannot carry it over.
    #[test]
    fn current_scales_never_overflow(
        format in select(vec![NumericFormat::Fp16, NumericFormat::E4m3, NumericFormat::E5m2]),
        kind in select(ScaleKind::ALL.to_vec()),
        amax in any::<u32>().prop_map(|bits| f32::from_bits(bits & 0x7fff_ffff)).prop_filter("finite", |x| x.is_finite()),
        key in any::<u64>(),
    ) {
        let (rounding, overflow) = (RoundingMode::Stochastic, Overflow::Propagate);
        let spec = QuantSpec { format, scaling: Scaling::Tensor, scale: kind, rounding, overflow };
        let operand = quantize(&[amax, -amax], 1, 2, Contraction::Columns, &spec, key, None).unwrap();
        let OuterScale::Uniform(scale) = operand.outer else { panic!("{:?}", operand.outer) };
        prop_assert!(amax / scale <= format.max_finite(), "{amax} {scale}");
        prop_assert!(operand.values.iter().all(|x| x.abs() <= format.max_finite()));
    }

    /// A matrix and its transpose quantise alike, with the other contraction; square NVFP4 blocks with
    /// either.
    #[test]
    fn contraction_is_transposition(
        scaling in select(vec![
            Scaling::Row, Scaling::Block { size: 16 }, Scaling::Mx, Scaling::Nvfp4, Scaling::Nvfp4Weight, Scaling::Tensor,
        ]),
        x in prop::collection::vec(-3.0f32..3.0, 32 * 64),
    ) {
        let format = if scaling == Scaling::Mx { NumericFormat::E4m3 } else { NumericFormat::E2m1 };
        let transposed: Vec<f32> = (0..32 * 64).map(|i| x[(i % 32) * 64 + i / 32]).collect();
        let spec = spec(format, scaling);
        let columns = quantize(&x, 32, 64, Contraction::Columns, &spec, 0, None).unwrap();
        let rows = quantize(&transposed, 64, 32, Contraction::Rows, &spec, 0, None).unwrap();
        prop_assert_eq!(&columns.outer, &rows.outer);
        let back: Vec<f32> = (0..32 * 64).map(|i| rows.values[(i % 64) * 32 + i / 64]).collect();
        prop_assert_eq!(&columns.values, &back);
        if scaling == Scaling::Nvfp4Weight {
            let either = quantize(&x, 32, 64, Contraction::Rows, &spec, 0, None).unwrap();
            prop_assert_eq!(columns, either);
        }
    }
}

#[test]
fn power_of_two_scales_are_the_next_power_up() {
    for (amax, expected) in
        [(448.0, 1.0), (448.0f32.next_up(), 2.0), (300.0, 1.0), (1.0, 2f32.powi(-8)), (0.0, 1.0)]
    {
        let spec = QuantSpec { scale: ScaleKind::PowerOfTwo, ..spec(NumericFormat::E4m3, Scaling::Tensor) };
        let operand = quantize(&[amax], 1, 1, Contraction::Columns, &spec, 0, None).unwrap();
        assert_eq!(operand.outer, OuterScale::Uniform(expected), "{amax}");
    }
}

#[test]
fn tiny_and_huge_tensors_have_usable_scales() {
    for amax in [1e-45, 1e-38, 1e-30, 1e30, f32::MAX] {
        let x = [amax, amax / 2.0, 0.0];
        let operand =
            quantize(&x, 1, 3, Contraction::Columns, &spec(NumericFormat::E4m3, Scaling::Tensor), 0, None);
        let operand = operand.unwrap();
        let OuterScale::Uniform(scale) = operand.outer else { panic!() };
        assert!(
            scale.is_normal() && operand.values.iter().all(|x| x.is_finite() && x.abs() <= 448.0),
            "{amax}"
        );
    }
}

#[test]
fn nvfp4_blocks_far_below_the_tensor_vanish() {
    let mut x = vec![1.0f32; 32];
    x[16..].fill(-1e-6);
    let encoded =
        encode_matrix(&x, 1, 32, Contraction::Columns, &spec(NumericFormat::E2m1, Scaling::Nvfp4), 0, None);
    let encoded = encoded.unwrap();
    assert_eq!(encoded.scales, StoredScales::E4m3(vec![0x7e, 0]));
    assert!(encoded.codes[16..].iter().all(|code| *code == 8), "minus zero");
    assert!(encoded.values[16..].iter().all(|x| *x == 0.0 && x.is_sign_negative()));
    let health =
        health(&x, 1, 32, Contraction::Columns, &spec(NumericFormat::E2m1, Scaling::Nvfp4), &encoded.operand);
    assert_eq!((health.flushed, health.saturated, health.scale_min), (16, 0, 0.0));
}

#[test]
fn nan_stays_and_infinity_saturates() {
    for (format, scaling) in [
        (NumericFormat::E4m3, Scaling::Tensor),
        (NumericFormat::E2m1, Scaling::Mx),
        (NumericFormat::Int8, Scaling::Row),
        (NumericFormat::Ternary, Scaling::Absmean),
        (NumericFormat::E2m1, Scaling::Nvfp4),
    ] {
        let mut x = vec![0.5f32; 32];
        (x[3], x[5], x[7]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
        let spec = spec(format, scaling);
        let operand = quantize(&x, 1, 32, Contraction::Columns, &spec, 0, None).unwrap();
        let values = operand.dequantize(1, 32, Contraction::Columns);
        assert!(
            values[3].is_nan() && values[5].is_finite() && values[7] == -values[5] && values[5] >= 0.5,
            "{spec:?}"
        );
        assert_eq!((operand.amax, operand.non_finite), (0.5, 3));
        let health = health(&x, 1, 32, Contraction::Columns, &spec, &operand);
        assert_eq!((health.count, health.non_finite, health.amax), (32, 3, 0.5));
    }
}

#[test]
fn health_counts_what_delayed_scaling_loses() {
    let spec = spec(NumericFormat::E4m3, Scaling::Delayed { history: 4, margin: 0 });
    let x = [1.0, 448.0, 449.0, -1000.0, 1e-4, 0.0, f32::NAN, 3.0];
    let operand = quantize(&x, 2, 4, Contraction::Columns, &spec, 0, Some(1.0)).unwrap();
    let found = health(&x, 2, 4, Contraction::Columns, &spec, &operand);
    assert_eq!((found.count, found.non_finite, found.saturated, found.flushed), (8, 1, 2, 1));
    assert_eq!((found.amax, found.scale_min, found.scale_max), (1000.0, 1.0, 1.0));
    let noise = 1.0 + 552.0f64.powi(2) + f64::from(1e-4f32).powi(2);
    let signal: f64 = x.iter().filter(|x| x.is_finite()).map(|x| f64::from(*x).powi(2)).sum();
    assert_eq!((found.noise_sq, found.signal_sq), (noise, signal));
    assert!((found.sqnr_db() - 10.0 * (signal / noise).log10()).abs() < 1e-12);
    assert_eq!(found.saturated_share(), 0.25);
    let twice = found.merge(&found);
    assert_eq!((twice.count, twice.saturated, twice.sqnr_db()), (16, 4, found.sqnr_db()));
    assert_eq!(found.merge(&numerics::Health::default()), found);
}

/// More mantissa, less noise: the theory's 6 dB per bit for uniform values, within 1 dB.
#[test]
fn noise_falls_by_six_decibels_a_bit() {
    let x: Vec<f32> = (0..1 << 16u32).map(|i: u32| 1.0 + i as f32 / 65536.0).collect();
    let sqnr = |format| {
        let spec = QuantSpec::unscaled(format);
        let operand = quantize(&x, 256, 256, Contraction::Columns, &spec, 0, None).unwrap();
        health(&x, 256, 256, Contraction::Columns, &spec, &operand).sqnr_db()
    };
    let (bf16, fp16, e4m3) =
        (sqnr(NumericFormat::Bf16), sqnr(NumericFormat::Fp16), sqnr(NumericFormat::E4m3));
    assert!(
        (fp16 - bf16 - 3.0 * 6.02).abs() < 1.0 && (bf16 - e4m3 - 4.0 * 6.02).abs() < 1.0,
        "{e4m3} {bf16} {fp16}"
    );
}

#[test]
fn delayed_scales_survive_a_checkpoint() {
    let mut delayed = DelayedScale::new(3, 1);
    for amax in [2.0, f32::NAN, 7.0, f32::INFINITY, 1.0, 0.5, 0.25] {
        delayed.push(amax);
    }
    assert_eq!(delayed.history(), [1.0, 0.5, 0.25]);
    assert_eq!(delayed.scale(NumericFormat::E5m2), Some(2.0 / 57344.0));
    let saved = serde_json::to_string(&delayed).unwrap();
    assert_eq!(serde_json::from_str::<DelayedScale>(&saved).unwrap(), delayed);
    let mut zeros = DelayedScale::new(2, 0);
    zeros.push(0.0);
    assert_eq!(zeros.scale(NumericFormat::E4m3), Some(1.0));
}

#[test]
fn specs_are_read_and_written_by_name() {
    for scaling in Scaling::EXAMPLES {
        let json = serde_json::to_value(scaling).unwrap();
        let name = json.as_str().or_else(|| json.as_object()?.keys().next().map(String::as_str));
        assert_eq!(name, Some(scaling.name()));
        assert_eq!(serde_json::from_value::<Scaling>(json).unwrap(), scaling);
    }
    let text = r#"{"format": "e4m3", "scaling": {"block": {"size": 128}}, "rounding": "nearest_even", "overflow": "saturate"}"#;
    let read: QuantSpec = serde_json::from_str(text).unwrap();
    assert_eq!(read, spec(NumericFormat::E4m3, Scaling::Block { size: 128 }));
    let unknown = text.replace("size", "length");
    assert!(serde_json::from_str::<QuantSpec>(&unknown).unwrap_err().to_string().contains("length"));
}

#[test]
fn refusals_say_what_is_wrong() {
    use NumericFormat::{Bf16, E2m1, E4m3, E8m0, Fp32, Int4, Int8, Ternary};
    let refusal = |spec: QuantSpec, contraction| spec.check(48, 40, contraction).unwrap_err().to_string();
    let columns = |format, scaling| refusal(spec(format, scaling), Contraction::Columns);
    assert_eq!(
        columns(E4m3, Scaling::Mx),
        "mx scaling cuts columns into blocks of 32, and 40 is not a multiple of it; pad the matrix"
    );
    assert!(
        refusal(spec(E4m3, Scaling::Mx), Contraction::Rows).contains("cuts rows into blocks of 32, and 48")
    );
    assert!(columns(E2m1, Scaling::Nvfp4Weight).contains("cuts columns into blocks of 16, and 40"));
    assert!(
        columns(E4m3, Scaling::Block2d { rows: 5, cols: 8 }).contains("cuts rows into blocks of 5, and 48")
    );
    assert_eq!(
        columns(Bf16, Scaling::Tensor),
        "bf16 elements cannot have tensor scaling: it has the range of fp32 and needs no scale; use scaling \"none\""
    );
    assert!(columns(Int4, Scaling::Mx).contains("MX v1.0 knows e4m3, e5m2, e3m2, e2m3, e2m1 and int8"));
    assert!(columns(E4m3, Scaling::Nvfp4).contains("NVFP4 elements are e2m1"));
    assert!(columns(Int8, Scaling::Absmean).contains("defined for ternary elements"));
    assert!(columns(E8m0, Scaling::None).contains("holds scales only"));
    assert!(columns(E4m3, Scaling::Block { size: 0 }).contains("needs size of at least 1, found 0"));
    assert!(columns(E4m3, Scaling::Delayed { history: 0, margin: 0 }).contains("history of at least 1"));
    assert!(
        columns(E4m3, Scaling::Delayed { history: 1, margin: 33 }).contains("between -32 and 32, found 33")
    );
    let stochastic = QuantSpec { rounding: RoundingMode::Stochastic, ..QuantSpec::unscaled(Fp32) };
    assert!(refusal(stochastic, Contraction::Columns).contains("nothing to round"));
    let propagate = QuantSpec { overflow: Overflow::Propagate, ..spec(E4m3, Scaling::Mx) };
    assert!(refusal(propagate, Contraction::Columns).contains("use \"saturate\""));
    let power_of_two = QuantSpec { scale: ScaleKind::PowerOfTwo, ..spec(E4m3, Scaling::Mx) };
    assert!(refusal(power_of_two, Contraction::Columns).contains("no choice of scale"));
    assert_eq!(
        spec(E4m3, Scaling::Row).check(0, 3, Contraction::Rows),
        Err(QuantError::Empty { rows: 0, cols: 3 })
    );
    assert_eq!(spec(Ternary, Scaling::Absmedian).check(3, 5, Contraction::Rows), Ok(()));
}

#[test]
fn scales_and_lengths_are_checked() {
    let x = [1.0; 6];
    let tensor = spec(NumericFormat::E4m3, Scaling::Tensor);
    let delayed = spec(NumericFormat::E4m3, Scaling::Delayed { history: 1, margin: 0 });
    let run = |spec, rows, given| {
        quantize(&x, rows, 3, Contraction::Columns, &spec, 0, given).map(|_| ()).unwrap_err()
    };
    assert_eq!(run(tensor, 1, None), QuantError::Length { rows: 1, cols: 3, len: 6 });
    assert_eq!(run(tensor, usize::MAX, None), QuantError::Length { rows: usize::MAX, cols: 3, len: 6 });
    assert_eq!(run(tensor, 2, Some(1.0)), QuantError::UnexpectedScale { scaling: "tensor" });
    assert_eq!(run(delayed, 2, None), QuantError::MissingScale);
    for found in [0.0, -1.0, f32::INFINITY, 1e-40] {
        assert_eq!(run(delayed, 2, Some(found)), QuantError::BadScale { found });
    }
    assert!(matches!(run(delayed, 2, Some(f32::NAN)), QuantError::BadScale { .. }));
}

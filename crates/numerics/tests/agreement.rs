//! The fast path equals the reference, bit for bit, for everything that `QuantSpec::check` lets through.

use numerics::{
    Contraction, Extent, NumericFormat, Operand, OuterScale, Overflow, QuantSpec, Rounding, RoundingMode,
    RowQuantizer, ScaleKind, Scaling, encode_matrix, extent, quantize, reference, round_slice,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Bits, with one NaN for all: payloads are not kept.
fn bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

fn all_bits(x: &[f32]) -> Vec<u32> {
    x.iter().copied().map(bits).collect()
}

/// An operand with floats as bits, so that -0 and NaN compare.
fn operand_bits(operand: &Operand) -> (Vec<u32>, Vec<u32>, Option<usize>, u32, u64) {
    let (scales, size) = match &operand.outer {
        OuterScale::Uniform(scale) => (vec![*scale], None),
        OuterScale::PerLine(scales) => (scales.clone(), None),
        OuterScale::PerBlock { size, scales } => (scales.clone(), Some(*size)),
    };
    (all_bits(&operand.values), all_bits(&scales), size, bits(operand.amax), operand.non_finite)
}

/// Any bit pattern, or values of one size, or values near the steps of narrow formats.
fn value() -> impl Strategy<Value = f32> {
    prop_oneof![
        2 => any::<u32>().prop_map(f32::from_bits),
        8 => -1.0f32..1.0,
        4 => (-2000i32..2000).prop_map(|k| k as f32 / 8.0),
        2 => -500.0f32..500.0,
        1 => select(vec![0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-40]),
    ]
}

/// A matrix of one character: ordinary values, or values of every kind.
fn matrix(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let ordinary = (-60i32..60).prop_flat_map(move |exponent| {
        let scale = 2f32.powi(exponent);
        prop::collection::vec((-1.0f32..1.0).prop_map(move |x| x * scale), len)
    });
    let zeros = prop::collection::vec(prop_oneof![9 => Just(0.0), 1 => -1.0f32..1.0], len);
    prop_oneof![4 => ordinary, 4 => prop::collection::vec(value(), len), 1 => zeros]
}

fn scaling() -> impl Strategy<Value = Scaling> {
    prop_oneof![
        3 => select(Scaling::EXAMPLES.to_vec()),
        1 => select(vec![1, 3, 16, 32, 40]).prop_map(|size| Scaling::Block { size }),
        1 => (1usize..6, 1usize..20).prop_map(|(rows, cols)| Scaling::Block2d { rows, cols }),
    ]
}

fn spec() -> impl Strategy<Value = QuantSpec> {
    let format = select(NumericFormat::ALL.to_vec());
    let scale = select(ScaleKind::ALL.to_vec());
    let rounding = select(RoundingMode::ALL.to_vec());
    let overflow = select(Overflow::ALL.to_vec());
    let parts = (format, scaling(), scale, rounding, overflow);
    let spec = |(format, scaling, scale, rounding, overflow)| QuantSpec {
        format,
        scaling,
        scale,
        rounding,
        overflow,
    };
    parts.prop_map(spec).prop_filter("refused", |spec| spec.validate().is_ok())
}

/// A spec with a shape that its blocks divide, and values.
fn case() -> impl Strategy<Value = (QuantSpec, Contraction, usize, usize, Vec<f32>)> {
    (spec(), select(Contraction::ALL.to_vec()), 1usize..40, 1usize..70).prop_flat_map(
        |(spec, contraction, rows, cols)| {
            let run = |size: usize| match contraction {
                Contraction::Columns => (1, size),
                Contraction::Rows => (size, 1),
            };
            let (row_unit, col_unit) = match spec.scaling {
                Scaling::Mx => run(32),
                Scaling::Nvfp4 => run(16),
                Scaling::Nvfp4Weight => (16, 16),
                Scaling::Block { size } => run(size),
                Scaling::Block2d { rows, cols } => (rows, cols),
                Scaling::None | Scaling::Tensor | Scaling::Delayed { .. } | Scaling::Row => (1, 1),
                Scaling::Absmean | Scaling::Absmedian => (1, 1),
            };
            // Whole blocks: a few of the large ones, many of the small.
            let whole = |n: usize, unit: usize| n.div_ceil(unit) * unit;
            let (rows, cols) = (whole(rows, row_unit), whole(cols, col_unit));
            (Just(spec), Just(contraction), Just(rows), Just(cols), matrix(rows * cols))
        },
    )
}

fn given(spec: &QuantSpec, scale: f32) -> Option<f32> {
    match spec.scaling {
        Scaling::Delayed { .. } => Some(scale),
        Scaling::None | Scaling::Tensor | Scaling::Row | Scaling::Block { .. } | Scaling::Block2d { .. } => {
            None
        }
        Scaling::Mx | Scaling::Nvfp4 | Scaling::Nvfp4Weight | Scaling::Absmean | Scaling::Absmedian => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn quantize_equals_the_reference(
        (spec, contraction, rows, cols, x) in case(),
        key in any::<u64>(),
        scale in prop_oneof![1e-3f32..10.0, Just(1e-30), Just(1e30)],
    ) {
        let scale = given(&spec, scale);
        let fast = quantize(&x, rows, cols, contraction, &spec, key, scale).unwrap();
        let slow = encode_matrix(&x, rows, cols, contraction, &spec, key, scale).unwrap();
        prop_assert_eq!(operand_bits(&fast), operand_bits(&slow.operand));
        // The codes say the same as the values.
        for (&code, &element) in slow.codes.iter().zip(&slow.elements) {
            if spec.format.has_nan() || !element.is_nan() {
                prop_assert_eq!(bits(spec.format.decode(code)), bits(element));
            } else {
                prop_assert_eq!(code, 0);
            }
        }
    }

    /// Rows in parts are what they are together; there are none where rows have to wait for others, or sums to be cut.
    #[test]
    fn rows_are_quantised_alike_in_parts(
        (spec, contraction, rows, cols, x) in case(),
        key in any::<u64>(),
        scale in prop_oneof![1e-3f32..10.0, Just(1e-30), Just(1e30)],
        together in 1..5usize,
    ) {
        let whole = quantize(&x, rows, cols, contraction, &spec, key, given(&spec, scale)).unwrap();
        let of_tensor = given(&spec, scale).or_else(|| spec.tensor_scale(extent(&x).amax()));
        let by_row = matches!(spec.scaling, Scaling::Row) && contraction == Contraction::Columns;
        let on_its_own = match spec.scaling {
            Scaling::Row => by_row,
            Scaling::None | Scaling::Tensor | Scaling::Delayed { .. } => true,
            Scaling::Mx | Scaling::Nvfp4 | Scaling::Nvfp4Weight => true,
            Scaling::Block { .. } | Scaling::Block2d { .. } | Scaling::Absmean | Scaling::Absmedian => false,
        };
        let quantizer = RowQuantizer::new(&spec, [rows, cols], contraction, key, of_tensor);
        prop_assert_eq!(quantizer.is_some(), on_its_own);
        if let Some(quantizer) = quantizer {
            let mut values = vec![0.0; x.len()];
            let (mut seen, mut scales) = (Extent::default(), vec![]);
            let part = together * quantizer.unit();
            let parts = x.chunks(part * cols).zip(values.chunks_mut(part * cols));
            for (number, (x, values)) in parts.enumerate() {
                let (of_part, outer) = quantizer.quantize(x, number * part, values);
                seen = seen.merge(of_part);
                match outer {
                    OuterScale::PerLine(of_part) => scales.extend(of_part),
                    other => prop_assert_eq!(&other, &whole.outer),
                }
            }
            prop_assert_eq!(quantizer.scale().is_none(), by_row);
            let outer = if by_row { OuterScale::PerLine(scales) } else { whole.outer.clone() };
            let parts = Operand { values, outer, amax: seen.amax(), non_finite: seen.non_finite() };
            prop_assert_eq!(operand_bits(&parts), operand_bits(&whole));
            prop_assert_eq!(extent(&x), seen);
        }
    }

    #[test]
    fn round_slice_equals_the_reference(
        format in select(NumericFormat::ALL.to_vec()),
        mode in select(RoundingMode::ALL.to_vec()),
        overflow in select(Overflow::ALL.to_vec()),
        key in any::<u64>(),
        x in prop::collection::vec(value(), 0..300),
    ) {
        let rounding = Rounding { mode, key };
        let (mut fast, mut slow) = (x.clone(), x);
        round_slice(&mut fast, format, rounding, overflow);
        reference::round_slice(&mut slow, format, rounding, overflow);
        prop_assert_eq!(all_bits(&fast), all_bits(&slow));
    }
}

/// Shapes that are cut into several tasks, and bands too large for one.
#[test]
fn large_matrices_equal_the_reference_on_any_number_of_threads() {
    let (rows, cols) = (768, 224);
    let uniform =
        |i: u32| (i.wrapping_mul(0x9e37_79b1) ^ 0xabcd).wrapping_mul(0x85eb_ca6b) as i32 as f32 / 2e9;
    let x: Vec<f32> = (0..(rows * cols) as u32).map(uniform).collect();
    let pools = [1, 3].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap());
    for scaling in Scaling::EXAMPLES.into_iter().chain([Scaling::Block2d { rows: 256, cols: 224 }]) {
        let scaling = if scaling == (Scaling::Block2d { rows: 128, cols: 128 }) {
            Scaling::Block2d { rows: 128, cols: 112 }
        } else {
            scaling
        };
        for contraction in Contraction::ALL {
            let format = match scaling {
                Scaling::Absmean | Scaling::Absmedian => NumericFormat::Ternary,
                Scaling::Nvfp4 | Scaling::Nvfp4Weight => NumericFormat::E2m1,
                Scaling::None | Scaling::Tensor | Scaling::Delayed { .. } | Scaling::Row => {
                    NumericFormat::E4m3
                }
                Scaling::Block { .. } | Scaling::Block2d { .. } | Scaling::Mx => NumericFormat::E4m3,
            };
            let scaling = match scaling {
                Scaling::Block { .. } => Scaling::Block { size: 32 },
                other => other,
            };
            let (rounding, overflow) = (RoundingMode::Stochastic, Overflow::Saturate);
            let spec = QuantSpec { format, scaling, scale: ScaleKind::Float, rounding, overflow };
            let scale = given(&spec, 0.01);
            let slow = encode_matrix(&x, rows, cols, contraction, &spec, 7, scale).unwrap().operand;
            for pool in &pools {
                let fast = pool.install(|| quantize(&x, rows, cols, contraction, &spec, 7, scale)).unwrap();
                assert_eq!(operand_bits(&fast), operand_bits(&slow), "{spec:?} {contraction:?}");
            }
        }
    }
}

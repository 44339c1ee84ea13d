//! Every code, every midpoint and its neighbours, and the ends of every format.

use numerics::{Encoded, NumericFormat, Overflow, Rounding, RoundingMode, Specials, round_slice};

fn roundings() -> [Rounding; 3] {
    RoundingMode::ALL.map(|mode| Rounding { mode, key: 0x5eed })
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// All non-negative finite numbers of a format, in order. fp32 has too many: those with a short mantissa, and
/// those with a full one.
fn magnitudes(format: NumericFormat) -> Vec<f32> {
    let codes: Box<dyn Iterator<Item = u32>> = match format {
        NumericFormat::Fp32 => Box::new((0..=0xffu32).flat_map(|exponent| {
            [0, 1, 2, 0x40_0000, 0x7f_fffe, 0x7f_ffff].map(|mantissa| exponent << 23 | mantissa)
        })),
        NumericFormat::E8m0 => Box::new(0..256),
        NumericFormat::Tf32
        | NumericFormat::Bf16
        | NumericFormat::Fp16
        | NumericFormat::E4m3
        | NumericFormat::E5m2
        | NumericFormat::E3m2
        | NumericFormat::E2m3
        | NumericFormat::E2m1
        | NumericFormat::Int8
        | NumericFormat::Int4
        | NumericFormat::Ternary => Box::new(0..1 << (format.bits() - 1)),
    };
    codes.map(|code| format.decode(code)).filter(|x| x.is_finite()).collect()
}

/// The sign that a format gives to -x; E8M0 has none.
fn signs(format: NumericFormat) -> &'static [f64] {
    if format == NumericFormat::E8m0 { &[1.0] } else { &[1.0, -1.0] }
}

#[test]
fn codes_survive_a_round_trip_in_every_rounding() {
    for format in NumericFormat::ALL.into_iter().filter(|format| *format != NumericFormat::Fp32) {
        let mut nans = 0;
        for code in 0..format.code_count() as u32 {
            let value = format.decode(code);
            nans += u32::from(value.is_nan());
            // Integers have one code below the symmetric range, which is never produced.
            let beyond = value.is_finite() && value.abs() > format.max_finite();
            for rounding in roundings() {
                let Encoded { code: back, value: rounded } =
                    format.encode(value, rounding, Overflow::Propagate);
                if beyond {
                    assert_eq!(rounded, -format.max_finite(), "{format} {code:#x}");
                } else if value.is_nan() {
                    assert!(rounded.is_nan(), "{format} {code:#x}");
                } else {
                    assert_eq!(back, code, "{format} {value}");
                    assert!(same(rounded, value), "{format} {code:#x}");
                }
            }
        }
        let spec = format.spec();
        let expected = match spec.specials {
            Specials::Ieee => 2 * ((1 << spec.mantissa_bits) - 1),
            Specials::NanOnly if format == NumericFormat::E8m0 => 1,
            Specials::NanOnly => 2,
            Specials::None => u32::from(format == NumericFormat::Ternary),
        };
        assert_eq!(nans, expected, "{format}");
    }
}

#[test]
fn fp32_keeps_every_bit() {
    let words = (0..200_000u32).map(|i| i.wrapping_mul(0x9e37_79b1)).chain([
        0x7f80_0000,
        0xff80_0000,
        1,
        0x8000_0001,
    ]);
    for x in words.map(f32::from_bits).filter(|x| !x.is_nan()) {
        for rounding in roundings() {
            let encoded = NumericFormat::Fp32.encode(x, rounding, Overflow::Propagate);
            assert_eq!((encoded.code, encoded.value.to_bits()), (x.to_bits(), x.to_bits()));
        }
    }
}

/// Pairs of neighbours, and the one of each pair that a tie goes to.
fn neighbours(format: NumericFormat) -> Vec<(f32, f32, f32)> {
    let tie = |lower: f32, upper: f32| {
        let code = format.encode(lower, Rounding::NEAREST_EVEN, Overflow::Saturate).code;
        // A significand of one bit is never even; ties go to the larger.
        if code.is_multiple_of(2) && format != NumericFormat::E8m0 { lower } else { upper }
    };
    let magnitudes = magnitudes(format);
    let pairs = magnitudes.windows(2).map(|pair| (pair[0], pair[1]));
    // Of fp32 only a sample is listed.
    let pairs = pairs.filter(|(lower, upper)| format != NumericFormat::Fp32 || lower.next_up() == *upper);
    pairs.map(|(lower, upper)| (lower, upper, tie(lower, upper))).collect()
}

#[test]
fn midpoints_and_their_neighbours_round_as_they_must() {
    for format in NumericFormat::ALL {
        for (lower, upper, tie) in neighbours(format) {
            let (low, high) = (f64::from(lower), f64::from(upper));
            let middle = (low + high) / 2.0;
            for (x, nearest) in [
                (low.next_up(), lower),
                (middle.next_down(), lower),
                (middle, tie),
                (middle.next_up(), upper),
                (high.next_down(), upper),
            ] {
                for &sign in signs(format) {
                    // Integers have no negative zero.
                    let signed = |value: f32| {
                        value * sign as f32 + if format.has_negative_zero() { -0.0 } else { 0.0 }
                    };
                    for overflow in Overflow::ALL {
                        let value = |rounding| format.encode(x * sign, rounding, overflow).value;
                        assert!(
                            same(value(Rounding::NEAREST_EVEN), signed(nearest)),
                            "{format} {}",
                            x * sign
                        );
                        assert!(same(value(Rounding::TOWARD_ZERO), signed(lower)), "{format} {}", x * sign);
                        let either = value(Rounding::stochastic(1));
                        assert!(
                            same(either, signed(lower)) || same(either, signed(upper)),
                            "{format} {}",
                            x * sign
                        );
                    }
                }
            }
        }
    }
}

/// The same for the fast path, with the numbers next to midpoints taken in `f32`.
#[test]
fn midpoints_round_as_they_must_in_slices() {
    for format in NumericFormat::ALL.into_iter().filter(|format| *format != NumericFormat::Fp32) {
        for (lower, upper, tie) in neighbours(format) {
            // Exact: `f32` is finer than every format here, where they are subnormal too.
            let middle = ((f64::from(lower) + f64::from(upper)) / 2.0) as f32;
            let x = [lower, middle.next_down(), middle, middle.next_up(), upper.next_down()];
            let (mut nearest, mut toward_zero) = (x, x);
            round_slice(&mut nearest, format, Rounding::NEAREST_EVEN, Overflow::Saturate);
            round_slice(&mut toward_zero, format, Rounding::TOWARD_ZERO, Overflow::Saturate);
            assert_eq!(nearest, [lower, lower, tie, upper, upper], "{format} {lower}");
            assert_eq!(toward_zero, [lower; 5], "{format} {lower}");
        }
    }
}

/// IEEE 754: what rounds, with unbounded exponents, beyond the largest number overflows; the threshold is
/// half a step above it, and the step itself would be even. E4M3's 448 has an even significand, so its
/// threshold does not overflow.
#[test]
fn overflow_begins_half_a_step_beyond_the_largest_number() {
    for format in NumericFormat::ALL {
        let spec = format.spec();
        let max = f64::from(format.max_finite());
        let step = match format {
            NumericFormat::E8m0 => max, // from 2^127 to 2^128
            NumericFormat::Int8 | NumericFormat::Int4 | NumericFormat::Ternary => 1.0,
            NumericFormat::Fp32
            | NumericFormat::Tf32
            | NumericFormat::Bf16
            | NumericFormat::Fp16
            | NumericFormat::E4m3
            | NumericFormat::E5m2
            | NumericFormat::E3m2
            | NumericFormat::E2m3
            | NumericFormat::E2m1 => f64::from(format.max_exponent() - spec.mantissa_bits as i32).exp2(),
        };
        let threshold = max + step / 2.0;
        let special = match spec.specials {
            Specials::Ieee => f32::INFINITY,
            Specials::NanOnly => f32::NAN,
            Specials::None => format.max_finite(),
        };
        let at_threshold = if format == NumericFormat::E4m3 { format.max_finite() } else { special };
        for &sign in signs(format) {
            let nearest = |x: f64, overflow| format.encode(x * sign, Rounding::NEAREST_EVEN, overflow).value;
            let signed = |x: f32| x * sign as f32;
            assert_eq!(
                nearest(threshold.next_down(), Overflow::Propagate),
                signed(format.max_finite()),
                "{format}"
            );
            assert!(same(nearest(threshold, Overflow::Propagate), signed(at_threshold)), "{format}");
            assert!(same(nearest(threshold.next_up(), Overflow::Propagate), signed(special)), "{format}");
            for x in [threshold, threshold.next_up(), 1e39, 1e300, f64::INFINITY] {
                assert_eq!(nearest(x, Overflow::Saturate), signed(format.max_finite()), "{format} {x}");
                let toward_zero = format.encode(x * sign, Rounding::TOWARD_ZERO, Overflow::Propagate).value;
                if x.is_finite() {
                    assert_eq!(toward_zero, signed(format.max_finite()), "{format} {x}");
                }
            }
        }
    }
}

#[test]
fn infinities_and_nan() {
    for format in NumericFormat::ALL {
        for rounding in roundings() {
            for overflow in Overflow::ALL {
                let nan = format.encode(f32::NAN, rounding, overflow);
                assert!(nan.value.is_nan(), "{format}");
                assert!(
                    if format.has_nan() { format.decode(nan.code).is_nan() } else { nan.code == 0 },
                    "{format}"
                );
            }
            let infinity = format.encode(f32::INFINITY, rounding, Overflow::Propagate);
            let saturated = format.encode(f32::INFINITY, rounding, Overflow::Saturate);
            assert_eq!(infinity.value == f32::INFINITY, format.has_infinity(), "{format}");
            assert!(format.has_infinity() || infinity.value.is_nan(), "{format}");
            assert_eq!(saturated.value, format.max_finite(), "{format}");
            if format != NumericFormat::E8m0 {
                let negative = format.encode(f32::NEG_INFINITY, rounding, Overflow::Saturate);
                assert_eq!(negative.value, -format.max_finite(), "{format}");
            }
        }
    }
}

#[test]
fn zeros_keep_their_sign_where_there_is_one() {
    for format in NumericFormat::ALL.into_iter().filter(|format| *format != NumericFormat::E8m0) {
        for rounding in roundings() {
            let zero = format.encode(0.0f32, rounding, Overflow::Saturate);
            assert_eq!((zero.code, zero.value.to_bits()), (0, 0), "{format}");
            let negative = format.encode(-0.0f32, rounding, Overflow::Saturate);
            assert_eq!(negative.value.is_sign_negative(), format.has_negative_zero(), "{format}");
            assert_eq!(
                negative.code,
                u32::from(format.has_negative_zero()) << (format.bits() - 1),
                "{format}"
            );
        }
    }
}

#[test]
fn e8m0_has_neither_sign_nor_zero() {
    let encode = |x: f32| NumericFormat::E8m0.encode(x, Rounding::NEAREST_EVEN, Overflow::Saturate);
    assert_eq!([0.0, -0.0, 1e-45, 2f32.powi(-127)].map(|x| encode(x).code), [0; 4]);
    assert_eq!(encode(-1.0).code, 255);
    assert_eq!([1.0, 1.49, 1.5, 3.0].map(|x| encode(x).value), [1.0, 1.0, 2.0, 4.0]);
}

/// The figures of the OCP and IEEE tables.
#[test]
fn limits() {
    use NumericFormat::{Bf16, E2m1, E2m3, E3m2, E4m3, E5m2, Fp16, Fp32, Int8, Tf32};
    for (format, max, exponent, normal, positive) in [
        (Fp32, f32::MAX, 127, 2f32.powi(-126), f32::from_bits(1)),
        (Tf32, f32::from_bits(0x7f7f_e000), 127, 2f32.powi(-126), 2f32.powi(-136)),
        (Bf16, f32::from_bits(0x7f7f_0000), 127, 2f32.powi(-126), 2f32.powi(-133)),
        (Fp16, 65504.0, 15, 2f32.powi(-14), 2f32.powi(-24)),
        (E4m3, 448.0, 8, 2f32.powi(-6), 2f32.powi(-9)),
        (E5m2, 57344.0, 15, 2f32.powi(-14), 2f32.powi(-16)),
        (E3m2, 28.0, 4, 0.25, 0.0625),
        (E2m3, 7.5, 2, 1.0, 0.125),
        (E2m1, 6.0, 2, 1.0, 0.5),
        (Int8, 127.0, 6, 1.0, 1.0),
    ] {
        let found = (format.max_finite(), format.max_exponent(), format.min_normal(), format.min_positive());
        assert_eq!(found, (max, exponent, normal, positive), "{format}");
        assert_eq!(format.max_finite(), magnitudes(format).into_iter().fold(0.0, f32::max), "{format}");
    }
}

#[test]
fn names_parse_and_serialise_alike() {
    for format in NumericFormat::ALL {
        assert_eq!(format.name().parse(), Ok(format));
        assert_eq!(serde_json::to_string(&format).unwrap(), format!("{:?}", format.name()));
    }
    for mode in RoundingMode::ALL {
        assert_eq!(mode.name().parse(), Ok(mode));
        assert_eq!(serde_json::to_string(&mode).unwrap(), format!("{:?}", mode.name()));
    }
    for overflow in Overflow::ALL {
        assert_eq!(overflow.name().parse(), Ok(overflow));
        assert_eq!(serde_json::to_string(&overflow).unwrap(), format!("{:?}", overflow.name()));
    }
    let error = "fp8".parse::<NumericFormat>().unwrap_err().to_string();
    assert!(error.starts_with("unknown number format \"fp8\"; known: fp32, tf32, bf16"), "{error}");
}

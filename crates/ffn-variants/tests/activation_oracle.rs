//! The f64 oracle against golden values, finite differences, known facts and its printed formula.

mod common;

use common::{activations, joints};
use ffn_variants::Activation;

/// Equal to a few units in the last place. In a tail that decays like `exp(-t)` the rounding of `t`
/// alone costs `t` of them.
fn close(got: f64, want: f64) -> bool {
    if want == 0.0 {
        return got.abs() < f64::MIN_POSITIVE;
    }
    let decay = want.abs().ln().min(0.0).abs();
    (got - want).abs() <= 4e-15 * (1.0 + decay) * want.abs()
}

#[test]
fn agrees_with_the_golden_table() {
    let table = include_str!("golden/activations.tsv");
    let mut rows = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, x, value, derivative] = fields[..] else {
            panic!("four columns in {line:?}");
        };
        let [x, value, derivative] = [x, value, derivative].map(|s| s.parse::<f64>().unwrap());
        let activation = by_golden_name(name);
        let got = activation.value_f64(x);
        assert!(close(got, value), "{name}({x}) = {got:e}, not {value:e}");
        let got = activation.derivative_f64(x);
        // The second half: where two terms of opposite sign cancel, near a minimum.
        let agrees = close(got, derivative) || (got - derivative).abs() < 1e-16;
        assert!(agrees, "{name}'({x}) = {got:e}, not {derivative:e}");
        rows += 1;
    }
    // Every activation has its rows; Swish, which has a parameter, has them twice.
    assert_eq!(rows, 22 * (Activation::ALL.len() + 1));
}

fn by_golden_name(name: &str) -> Activation {
    let swishes = [1.5, -0.5].map(|beta| Activation::Swish { beta });
    let known = Activation::ALL.into_iter().chain(swishes);
    known
        .into_iter()
        .find(|activation| activation.to_string() == name)
        .unwrap_or_else(|| panic!("no activation is called {name}"))
}

#[test]
fn derivative_is_the_slope_of_the_value() {
    for activation in activations() {
        let steepness = match activation {
            Activation::Swish { beta } => beta.abs().max(1.0),
            _ => 1.0,
        };
        for i in -400..=400 {
            let x = f64::from(i) / 40.0 / steepness;
            let h = 1e-5 / steepness;
            if joints(activation).iter().any(|k| (x - k).abs() < 2.0 * h) {
                continue;
            }
            let slope = (activation.value_f64(x + h) - activation.value_f64(x - h)) / (2.0 * h);
            let derivative = activation.derivative_f64(x);
            assert!(
                (slope - derivative).abs() < 2e-9 * derivative.abs().max(1.0),
                "{activation} at {x}: slope {slope}, derivative {derivative}"
            );
        }
    }
}

#[test]
fn kinks_take_the_outer_slope() {
    let at = |activation: Activation, x| activation.derivative_f64(x);
    for zero in [0.0, -0.0] {
        assert_eq!(at(Activation::Relu, zero), 0.0);
        assert_eq!(at(Activation::Relu6, zero), 0.0);
        assert_eq!(at(Activation::LeakyRelu, zero), 0.01);
        assert!((at(Activation::Selu, zero) - 1.758_099_340_847_376_6).abs() < 1e-15);
        assert_eq!(at(Activation::Elu, zero), 1.0);
        assert_eq!(at(Activation::ReluSquared, zero), 0.0);
    }
    assert_eq!(at(Activation::Relu6, 6.0), 0.0);
    assert_eq!(at(Activation::Hardswish, -3.0), 0.0);
    assert_eq!(at(Activation::Hardswish, 3.0), 1.0);
}

#[test]
fn limits_are_finite_where_the_function_is() {
    for activation in activations() {
        assert!(activation.value_f64(f64::NAN).is_nan(), "{activation}(NaN)");
        assert!(activation.derivative_f64(f64::NAN).is_nan(), "{activation}'(NaN)");
        let constant_gate = activation == Activation::Swish { beta: 0.0 };
        for x in [1e-320, 1e4, 1e200, f64::MAX, f64::INFINITY] {
            if constant_gate && x.is_infinite() {
                continue; // beta x = 0 times infinity
            }
            for x in [x, -x] {
                let value = activation.value_f64(x);
                let derivative = activation.derivative_f64(x);
                assert!(!value.is_nan(), "{activation}({x})");
                assert!(!derivative.is_nan(), "{activation}'({x})");
                let may_overflow = x.abs() > 1e150;
                assert!(value.is_finite() || may_overflow, "{activation}({x}) = {value}");
            }
        }
    }
}

#[test]
fn swish_with_beta_one_is_silu() {
    let swish = Activation::Swish { beta: 1.0 };
    for i in -100..=100 {
        let x = f64::from(i) / 4.0;
        assert_eq!(swish.value_f64(x), Activation::Silu.value_f64(x));
        assert_eq!(swish.derivative_f64(x), Activation::Silu.derivative_f64(x));
    }
}

#[test]
fn published_facts_hold() {
    // Swish is not monotone: its slope changes sign at x = -1.2785.
    let slope = |x| Activation::Silu.derivative_f64(x);
    assert!(slope(-1.279) < 0.0 && slope(-1.278) > 0.0);
    // Mish is bounded below by about -0.3088.
    let lowest = (-40_000..0).map(|i| Activation::Mish.value_f64(f64::from(i) / 1e4));
    let lowest = lowest.fold(0.0, f64::min);
    assert!((lowest + 0.3088).abs() < 1e-4, "{lowest}");
    // The two GELUs differ by less than 5e-4 everywhere (and do differ).
    let gap = (-600..600)
        .map(|i| f64::from(i) / 100.0)
        .map(|x| (Activation::GeluErf.value_f64(x) - Activation::GeluTanh.value_f64(x)).abs());
    let gap = gap.fold(0.0, f64::max);
    assert!((1e-4..5e-4).contains(&gap), "{gap}");
}

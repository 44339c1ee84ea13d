//! What is printed about activations and presets is true: formulas are parsed and evaluated.

use std::collections::HashSet;
use std::f64::consts::FRAC_1_SQRT_2;

use ffn_variants::{Activation, FfnKind, FfnPreset};
use schemars::schema_for;

/// Evaluates a formula at `x` while counting operations by the convention of `flops_per_element`.
struct Evaluator<'a> {
    tokens: Vec<&'a str>,
    next: usize,
    x: f64,
    beta: f64,
    operations: u64,
}

impl<'a> Evaluator<'a> {
    fn run(formula: &'a str, x: f64, beta: f64) -> (f64, u64) {
        let mut evaluator = Self { tokens: tokens(formula), next: 0, x, beta, operations: 0 };
        let value = evaluator.conditional();
        assert_eq!(evaluator.next, evaluator.tokens.len(), "rest in {formula}");
        (value, evaluator.operations)
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.tokens.get(self.next) == Some(&token);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, token: &str) {
        assert!(self.take(token), "{token} at token {} of {:?}", self.next, self.tokens);
    }

    /// `a`, or `a if b > c else d`.
    fn conditional(&mut self) -> f64 {
        let value = self.sum();
        if !self.take("if") {
            return value;
        }
        self.operations += 1;
        let left = self.sum();
        self.expect(">");
        let condition = left > self.sum();
        self.expect("else");
        let otherwise = self.conditional();
        if condition { value } else { otherwise }
    }

    fn sum(&mut self) -> f64 {
        let mut value = self.product();
        loop {
            if self.take("+") {
                value += self.product();
            } else if self.take("-") {
                value -= self.product();
            } else {
                return value;
            }
            self.operations += 1;
        }
    }

    fn product(&mut self) -> f64 {
        let mut value = self.factor();
        loop {
            if self.take("*") {
                value *= self.factor();
            } else if self.take("/") {
                value /= self.factor();
            } else {
                return value;
            }
            self.operations += 1;
        }
    }

    fn factor(&mut self) -> f64 {
        if self.take("-") {
            self.operations += 1;
            return -self.factor();
        }
        let base = self.atom();
        if !self.take("^") {
            return base;
        }
        let exponent = self.number();
        self.operations += exponent as u64 - 1;
        base.powf(exponent)
    }

    fn atom(&mut self) -> f64 {
        if self.take("(") {
            let value = self.conditional();
            self.expect(")");
            return value;
        }
        if self.take("x") {
            return self.x;
        }
        if self.take("beta") {
            return self.beta;
        }
        for name in ["max", "min", "exp", "ln", "tanh", "erf"] {
            if self.take(name) {
                return self.call(name);
            }
        }
        self.number()
    }

    fn call(&mut self, name: &str) -> f64 {
        self.operations += 1;
        self.expect("(");
        let first = self.conditional();
        let value = match name {
            "exp" => first.exp(),
            "ln" => first.ln(),
            "tanh" => first.tanh(),
            "erf" => candle_core::cpu::erf::erf_f64(first),
            "max" | "min" => {
                self.expect(",");
                let second = self.conditional();
                if name == "max" { first.max(second) } else { first.min(second) }
            }
            _ => panic!("no function {name}"),
        };
        self.expect(")");
        value
    }

    fn number(&mut self) -> f64 {
        self.next += 1;
        let token = self.tokens[self.next - 1];
        token.parse().unwrap_or_else(|_| panic!("{token} is no number"))
    }
}

/// Words, numbers and single signs.
fn tokens(formula: &str) -> Vec<&str> {
    let word = |c: char| c.is_alphanumeric() || c == '.';
    let mut tokens = Vec::new();
    let mut rest = formula.trim_start();
    while let Some(first) = rest.chars().next() {
        let length =
            if word(first) { rest.find(|c| !word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

#[test]
fn an_activations_formula_is_its_value_and_its_cost() {
    let beta = 1.5;
    for activation in Activation::ALL {
        let activation = match activation {
            Activation::Swish { .. } => Activation::Swish { beta },
            other => other,
        };
        for i in -60..=60 {
            let x = f64::from(i) / 8.0;
            let (printed, operations) = Evaluator::run(activation.formula(), x, beta);
            let value = activation.value_f64(x);
            assert!(
                (printed - value).abs() < 1e-6 * value.abs().max(1.0),
                "{activation}: {} is {printed} at {x}, not {value}",
                activation.formula()
            );
            assert_eq!(operations, activation.flops_per_element(), "{activation}");
        }
    }
}

#[test]
fn the_evaluator_knows_erf_independently() {
    let (printed, operations) = Evaluator::run("erf(x / 2) - 2 * x^3", FRAC_1_SQRT_2, 0.0);
    // Python 3.11: math.erf(0.5 ** 0.5 / 2) - 2 * 0.5 ** 1.5
    assert!((printed - -0.32418185863852134).abs() < 1e-15, "{printed}");
    assert_eq!(operations, 6);
}

#[test]
fn all_lists_every_variant_of_the_schema() {
    let names = |schema: schemars::Schema| schema_names(schema.as_value());
    let activations = Activation::ALL.map(|a| a.name().to_owned());
    assert_eq!(names(schema_for!(Activation)), HashSet::from(activations));
    let presets = FfnPreset::ALL.map(|p| p.name().to_owned());
    assert_eq!(names(schema_for!(FfnPreset)), HashSet::from(presets));
}

/// The names of an enum's variants: constants, and keys of variants with fields.
fn schema_names(schema: &serde_json::Value) -> HashSet<String> {
    let variants = schema["oneOf"].as_array().expect("an enum");
    let name = |variant: &serde_json::Value| match variant["const"].as_str() {
        Some(name) => name.to_owned(),
        None => variant["required"][0].as_str().expect("one key").to_owned(),
    };
    variants.iter().map(name).collect()
}

#[test]
fn every_entry_has_a_dated_source() {
    let activations = Activation::ALL.map(|a| a.source());
    let presets = FfnPreset::ALL.map(|p| p.source());
    for source in activations.iter().chain(&presets) {
        let has_year = source
            .split(|c: char| !c.is_ascii_digit())
            .any(|word| word.parse().is_ok_and(|year: u32| (1980..2030).contains(&year)));
        assert!(has_year, "{source}");
    }
}

#[test]
fn presets_are_distinct_and_found_again() {
    let formulas: HashSet<String> = FfnPreset::ALL.iter().map(FfnPreset::formula).collect();
    assert_eq!(formulas.len(), FfnPreset::ALL.len());
    for preset in FfnPreset::ALL {
        assert_eq!(FfnPreset::of(&preset.kind()), Some(preset));
        assert_eq!(preset.kind().to_string(), preset.name());
    }
}

/// The published formulas, written out once more: Shazeer 2020 (equations 2, 5 and 6) and the
/// sources of the other presets.
#[test]
fn presets_are_the_published_blocks() {
    for (name, formula) in [
        ("relu", "relu(x W_up) W_down"),
        ("gelu", "gelu_erf(x W_up) W_down"),
        ("swish", "silu(x W_up) W_down"),
        ("hardswish", "hardswish(x W_up) W_down"),
        ("mish", "mish(x W_up) W_down"),
        ("relu_squared", "relu_squared(x W_up) W_down"),
        ("glu", "(sigmoid(x W_gate) * (x W_up)) W_down"),
        ("gtu", "(sigmoid(x W_gate) * tanh(x W_up)) W_down"),
        ("bilinear", "((x W_gate) * (x W_up)) W_down"),
        ("reglu", "(relu(x W_gate) * (x W_up)) W_down"),
        ("geglu", "(gelu_erf(x W_gate) * (x W_up)) W_down"),
        ("swiglu", "(silu(x W_gate) * (x W_up)) W_down"),
        ("drelu", "(relu(x W_gate) * relu(x W_up)) W_down"),
        ("relu_squared_glu", "(relu_squared(x W_gate) * (x W_up)) W_down"),
        ("mish_glu", "(mish(x W_gate) * (x W_up)) W_down"),
        ("hardswish_glu", "(hardswish(x W_gate) * (x W_up)) W_down"),
    ] {
        let preset = FfnPreset::ALL.into_iter().find(|preset| preset.name() == name);
        assert_eq!(preset.expect(name).formula(), formula);
    }
}

#[test]
fn other_kinds_are_named_after_their_activations() {
    let (gate, up) = (Activation::Swish { beta: 1.5 }, Activation::Tanh);
    let kind = FfnKind::Gated { gate, up };
    assert_eq!(kind.to_string(), "gated(swish(beta=1.5), tanh)");
    let kind = FfnKind::Ungated { activation: Activation::Identity };
    assert_eq!(kind.to_string(), "ungated(identity)");
}

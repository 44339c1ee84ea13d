//! The configuration section: what may be written, what it means, and how mistakes are reported.

use ffn_variants::{Activation, FfnError, FfnKind, FfnPreset, FfnSection, FfnWidth};
use proptest::prelude::*;

fn parse(text: &str) -> FfnSection {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn resolve(text: &str) -> Result<(FfnKind, usize), FfnError> {
    parse(text).resolve(256).map(|config| (config.kind, config.d_ff))
}

#[test]
fn an_empty_section_is_parameter_matched_swiglu() {
    assert_eq!(parse(""), FfnSection::default());
    assert_eq!(resolve(""), Ok((FfnPreset::Swiglu.kind(), 683)));
}

#[test]
fn presets_and_widths_are_read() {
    for preset in FfnPreset::ALL {
        let (kind, _) = resolve(&format!("preset = \"{preset}\"")).unwrap();
        assert_eq!(kind, preset.kind());
    }
    let width = |text: &str| resolve(text).unwrap().1;
    assert_eq!(width("width = { exact = 100 }"), 100);
    assert_eq!(width("width = { param_matched = 4.0, multiple_of = 16 }"), 688);
    assert_eq!(width("preset = \"relu\""), 1024);
    assert_eq!(width("preset = \"relu\"\nwidth.param_matched = 0.5"), 128);
    assert_eq!(width("width = { param_matched = 0.001, multiple_of = 32 }"), 32);
    assert_eq!(width("width = { param_matched = 1.5, multiple_of = 128 }"), 256);
    // A tie goes up: 1.5 * 256 = 384 lies halfway between 256 and 512.
    assert_eq!(width("preset = \"relu\"\nwidth = { param_matched = 1.5, multiple_of = 256 }"), 512);
}

#[test]
fn blocks_are_spelled_out() {
    assert_eq!(
        resolve("kind = \"ungated\"\nactivation = \"leaky_relu_squared\"").unwrap().0,
        FfnKind::Ungated { activation: Activation::LeakyReluSquared }
    );
    assert_eq!(
        resolve("kind = \"gated\"\ngate = { swish = { beta = 1.5 } }\nup = \"tanh\"").unwrap().0,
        FfnKind::Gated { gate: Activation::Swish { beta: 1.5 }, up: Activation::Tanh }
    );
    // Unless something is said the up branch is linear and beta is 1.
    for swish in ["\"swish\"", "{ swish = {} }", "{ swish = { beta = 1 } }"] {
        assert_eq!(
            resolve(&format!("kind = \"gated\"\ngate = {swish}")).unwrap().0,
            FfnKind::Gated { gate: Activation::Swish { beta: 1.0 }, up: Activation::Identity }
        );
    }
    for activation in Activation::ALL {
        let text = format!("kind = \"ungated\"\nactivation = \"{}\"", activation.name());
        assert_eq!(resolve(&text).unwrap().0, FfnKind::Ungated { activation });
    }
}

#[test]
fn mistakes_name_their_key_and_the_remedy() {
    for (text, key, remedy) in [
        ("preset = \"glu\"\nkind = \"gated\"", "preset", "remove `kind`"),
        ("preset = \"glu\"\nup = \"tanh\"", "preset", "remove `up`"),
        ("gate = \"relu\"", "gate", "add kind = \"gated\""),
        ("activation = \"relu\"", "activation", "add kind = \"ungated\""),
        ("kind = \"gated\"", "kind", "needs `gate`"),
        ("kind = \"gated\"\nup = \"tanh\"", "kind", "needs `gate`"),
        ("kind = \"ungated\"", "kind", "needs `activation`"),
        ("kind = \"ungated\"\nactivation = \"relu\"\nup = \"relu\"", "up", "kind = \"gated\""),
        ("kind = \"gated\"\ngate = \"relu\"\nactivation = \"relu\"", "activation", "kind = \"ungated\""),
        ("kind = \"gated\"\ngate = { swish = { beta = nan } }", "gate", "finite beta"),
        ("kind = \"ungated\"\nactivation = { swish = { beta = -1e4 } }", "activation", "-10000"),
        ("width = { exact = 1, param_matched = 4.0 }", "width", "keep one"),
        ("width = {}", "width", "param_matched = 4.0"),
        ("width = { multiple_of = 8 }", "width", "param_matched = 4.0"),
        ("width = { exact = 8, multiple_of = 8 }", "width.multiple_of", "remove one"),
        ("width = { exact = 0 }", "width.exact", "at least 1"),
        ("width = { exact = 20000000 }", "width.exact", "smaller"),
        ("width = { param_matched = 4.0, multiple_of = 0 }", "width.multiple_of", "at least 1"),
        ("width = { param_matched = 0.0 }", "width.param_matched", "positive"),
        ("width = { param_matched = -4.0 }", "width.param_matched", "-4"),
        ("width = { param_matched = inf }", "width.param_matched", "finite"),
        ("width = { param_matched = nan }", "width.param_matched", "NaN"),
        ("width = { param_matched = 1e300 }", "width.param_matched", "smaller"),
    ] {
        let error = resolve(text).expect_err(text);
        assert_eq!(error.key(), key, "{text}: {error}");
        assert!(error.to_string().contains(remedy), "{text}: {error}");
    }
}

#[test]
fn d_model_is_checked() {
    let section = FfnSection::default();
    assert_eq!(section.resolve(0).unwrap_err().key(), "d_model");
    assert_eq!(section.resolve(usize::MAX).unwrap_err().key(), "d_model");
}

#[test]
fn unknown_names_are_refused_with_what_is_known() {
    for (text, hints) in [
        ("presett = \"glu\"", ["presett", "preset"]),
        ("preset = \"swigl\"", ["swigl", "swiglu"]),
        ("activation = \"gelu\"", ["gelu", "gelu_erf"]),
        ("width = { exactly = 3 }", ["exactly", "exact"]),
        ("activation = { swish = { gamma = 3.0 } }", ["gamma", "beta"]),
        ("activation = { silu = { beta = 3.0 } }", ["silu", "swish"]),
        ("activation = 3", ["3", "{ swish = { beta = 1.5 } }"]),
        ("width = 512", ["512", "{ exact = 512 }"]),
    ] {
        let error = toml::from_str::<FfnSection>(text).expect_err(text).to_string();
        assert!(hints.iter().all(|hint| error.contains(hint)), "{text}: {error}");
    }
}

#[test]
fn matched_widths_match_within_one_percent() {
    for d_model in 64..=1024 {
        for preset in FfnPreset::ALL {
            let section = FfnSection { preset: Some(preset), ..FfnSection::default() };
            let config = section.resolve(d_model).unwrap();
            let ungated = 2 * d_model * 4 * d_model;
            let excess = config.num_params() as f64 / ungated as f64 - 1.0;
            assert!(excess.abs() < 0.01, "{preset} at {d_model}: {excess}");
        }
    }
}

fn activation() -> impl Strategy<Value = Activation> {
    let swish = (-1000.0..1000.0).prop_map(|beta| Activation::Swish { beta });
    prop_oneof![proptest::sample::select(Activation::ALL.to_vec()), swish]
}

fn section() -> impl Strategy<Value = FfnSection> {
    let width = prop_oneof![
        (1usize..5000).prop_map(|exact| FfnWidth {
            exact: Some(exact),
            param_matched: None,
            multiple_of: None
        }),
        (0.01..64.0, proptest::option::of(1usize..300)).prop_map(|(ratio, multiple_of)| FfnWidth {
            exact: None,
            param_matched: Some(ratio),
            multiple_of
        }),
    ];
    let preset = proptest::option::of(proptest::sample::select(FfnPreset::ALL.to_vec()));
    let activations = proptest::option::of((activation(), activation(), any::<bool>()));
    (preset, activations, width).prop_map(|(preset, activations, width)| {
        let mut section = FfnSection { width, ..FfnSection::default() };
        match activations {
            None => section.preset = preset,
            Some((gate, up, true)) => {
                section.kind = Some(ffn_variants::FfnKindName::Gated);
                (section.gate, section.up) = (Some(gate), Some(up));
            }
            Some((activation, ..)) => {
                section.kind = Some(ffn_variants::FfnKindName::Ungated);
                section.activation = Some(activation);
            }
        }
        section
    })
}

proptest! {
    #[test]
    fn sections_survive_a_round_trip(section in section()) {
        let text = toml::to_string(&section).unwrap();
        prop_assert_eq!(&toml::from_str::<FfnSection>(&text).unwrap(), &section);
        let json = serde_json::to_value(&section).unwrap();
        prop_assert_eq!(&serde_json::from_value::<FfnSection>(json).unwrap(), &section);
        prop_assert!(section.resolve(64).is_ok());
    }

    #[test]
    fn rounding_goes_to_the_nearest_multiple(
        section in section(), d_model in 1usize..2048,
    ) {
        let config = section.resolve(d_model).unwrap();
        if let Some(ratio) = section.width.param_matched {
            let multiple = section.width.multiple_of.unwrap_or(1);
            prop_assert_eq!(config.d_ff % multiple, 0);
            let exact = 2.0 * ratio * d_model as f64 / config.kind.num_matrices() as f64;
            let distance = (config.d_ff as f64 - exact).abs();
            prop_assert!(distance <= 0.5 * multiple as f64 + 1e-6 || config.d_ff == multiple);
        }
    }
}

#[test]
fn the_schema_documents_every_key() {
    let schema = schemars::schema_for!(FfnSection);
    let schema = schema.as_value();
    let properties = schema["properties"].as_object().unwrap();
    let keys: Vec<&str> = properties.keys().map(String::as_str).collect();
    for key in ["preset", "kind", "activation", "gate", "up", "width"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    for (key, property) in properties {
        assert!(property["description"].is_string(), "{key} has no description");
    }
}

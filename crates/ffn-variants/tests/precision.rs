//! Precision recipes: what may be written, what it resolves to, and what is refused.

use ffn_variants::precision::{Component, LinearRole, Sizes};
use ffn_variants::{PrecisionPreset, PrecisionSection, Recipe};
use numerics::{NumericFormat, RoundingMode, Scaling};

fn section(text: &str) -> PrecisionSection {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn recipe(text: &str) -> Recipe {
    section(text).resolve().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refusal(text: &str) -> (&'static str, String) {
    match section(text).resolve() {
        Ok(recipe) => panic!("{text} is accepted: {recipe:?}"),
        Err(error) => (error.key, error.to_string()),
    }
}

#[test]
fn presets_read_back_by_name_in_toml_and_on_the_command_line() {
    for preset in PrecisionPreset::ALL {
        assert_eq!(preset.name().parse(), Ok(preset));
        assert_eq!(recipe(&format!("preset = \"{preset}\"")), preset.recipe());
        assert_eq!(preset.recipe().name, preset.name());
    }
    let error = "fp9".parse::<PrecisionPreset>().unwrap_err().to_string();
    assert!(error.contains("\"fp9\"") && error.contains("fp8_delayed"), "{error}");
}

#[test]
fn a_preset_spelled_out_is_the_same_recipe() {
    for preset in PrecisionPreset::ALL {
        let spelled_out = toml::to_string(&PrecisionSection::from(&preset.recipe())).unwrap();
        let mut again = recipe(&spelled_out);
        again.name = preset.name().to_owned();
        assert_eq!(again, preset.recipe(), "{spelled_out}");
    }
}

#[test]
fn nothing_written_is_f32() {
    let empty = recipe("");
    assert_eq!(empty, PrecisionPreset::Fp32.recipe());
    assert!(empty.is_full() && section("").is_empty());
    for role in [LinearRole::Attention, LinearRole::IntoHidden, LinearRole::Down, LinearRole::Head] {
        assert_eq!(empty.linear(role), None);
    }
    for preset in PrecisionPreset::ALL {
        assert_eq!(preset.recipe().is_full(), preset == PrecisionPreset::Fp32, "{preset}");
    }
}

#[test]
fn keys_change_one_thing_and_the_name_says_so() {
    let changed = recipe("preset = \"fp8_delayed\"\n[input]\nmargin = 1\n");
    assert_eq!(changed.name, "fp8_delayed (changed)");
    assert_eq!(changed.input.scaling, Scaling::Delayed { history: 1024, margin: 1 });
    assert_eq!(changed.weight, PrecisionPreset::Fp8Delayed.recipe().weight);
    assert_eq!(changed.down_input, changed.input, "down_input follows input");

    let down = recipe("preset = \"fp8_delayed\"\n[down_input]\nformat = \"bf16\"\n");
    assert_eq!(down.linear(LinearRole::Down).unwrap().input.format, NumericFormat::Bf16);
    assert_eq!(down.linear(LinearRole::Down).unwrap().input.scaling, Scaling::None);
    assert_eq!(down.linear(LinearRole::IntoHidden).unwrap().input.format, NumericFormat::E4m3);

    let head = recipe("preset = \"fp8_current\"\nskip = []\n");
    assert_eq!(head.linear(LinearRole::Head).unwrap().weight.format, NumericFormat::E4m3);
    let default = PrecisionPreset::Fp8Current.recipe();
    assert_eq!(default.skip, [Component::LmHead]);
    assert_eq!(default.linear(LinearRole::Head).unwrap().weight.format, NumericFormat::Bf16);
    assert_eq!(recipe("preset = \"fp32\"\n").name, "fp32", "a preset written out is not a change");
}

#[test]
fn what_makes_no_sense_is_refused_with_its_key() {
    for (text, key, part) in [
        ("activation = \"compute\"", "activation", "fp32 already"),
        ("[weight]\nrounding = \"stochastic\"", "weight", "nothing to round"),
        ("[weight]\nformat = \"bf16\"\nscaling = \"tensor\"", "weight", "needs no scale"),
        ("preset = \"fp8_current\"\n[input]\nblock = 64", "input", "only read with scaling"),
        ("preset = \"fp8_current\"\n[input]\nmargin = 1", "input", "only read with scaling"),
        ("preset = \"fp8_delayed\"\n[grad]\nhistory = 0", "grad", "history"),
        ("preset = \"mxfp8\"\n[weight]\nformat = \"int4\"", "weight", "MX v1.0 knows"),
        ("[master]\nformat = \"e4m3\"\nscaling = \"tensor\"", "master", "fp32, bf16 or fp16"),
        ("[first_moment]\nformat = \"e4m3\"\nscaling = \"delayed\"", "first_moment", "not predicted"),
        ("smooth = true", "smooth", "nothing to smooth"),
        ("preset = \"fp8_block\"\n[input]\nblock = 64", "weight.block", "blocks of 128 and of 64"),
    ] {
        let (found_key, reason) = refusal(text);
        assert_eq!(found_key, key, "{text}: {reason}");
        assert!(reason.contains(part), "{text}: {reason}");
    }
}

#[test]
fn only_stored_types_can_be_computed_in() {
    for key in ["compute", "residual"] {
        let error = toml::from_str::<PrecisionSection>(&format!("{key} = \"e4m3\"")).unwrap_err().to_string();
        assert!(error.contains("expected one of `fp32`, `bf16`, `fp16`"), "{error}");
    }
}

#[test]
fn asking_for_f32_by_name_is_the_same_as_not_asking() {
    assert!(section("preset = \"fp32\"").normalised().is_empty());
    assert_eq!(section("preset = \"bf16\"").normalised(), section("preset = \"bf16\""));
}

#[test]
fn blocks_have_to_divide_the_widths() {
    let sizes = Sizes { d_model: 64, d_ff: 171, vocab_size: None, tokens: 1024 };
    let error = PrecisionPreset::Mxfp8.recipe().check(sizes, true).unwrap_err();
    assert!(error.reason.contains("171") && error.reason.contains("32"), "{error}");
    let fits = Sizes { d_ff: 160, ..sizes };
    for preset in PrecisionPreset::ALL {
        let check = preset.recipe().check(fits, true);
        assert_eq!(check.is_err(), preset == PrecisionPreset::Fp8Block, "{preset}: {check:?}");
    }
    // Forward alone does not sum over tokens; training does.
    let few = Sizes { tokens: 48, ..fits };
    assert!(PrecisionPreset::Mxfp8.recipe().check(few, true).is_err());
    assert!(PrecisionPreset::Mxfp8.recipe().check(Sizes { tokens: 0, ..fits }, true).is_ok());
    let head = recipe("preset = \"mxfp8\"\nskip = []\n");
    assert!(head.check(Sizes { vocab_size: Some(513), ..fits }, true).is_err());
    assert!(head.check(Sizes { vocab_size: Some(512), ..fits }, true).is_ok());
}

#[test]
fn smoothing_needs_a_gate() {
    let smooth = recipe("preset = \"fp8_current\"\nsmooth = true\n");
    let sizes = Sizes { d_model: 64, d_ff: 160, vocab_size: None, tokens: 1024 };
    assert!(smooth.check(sizes, true).is_ok());
    assert_eq!(smooth.check(sizes, false).unwrap_err().key, "smooth");
    assert!(smooth.linear(LinearRole::Down).unwrap().smooth);
    assert!(!smooth.linear(LinearRole::IntoHidden).unwrap().smooth);
}

#[test]
fn stochastic_rounding_is_where_the_literature_has_it() {
    assert_eq!(PrecisionPreset::Mxfp4.recipe().grad.rounding, RoundingMode::Stochastic);
    assert_eq!(PrecisionPreset::Nvfp4.recipe().grad.rounding, RoundingMode::Stochastic);
    assert_eq!(PrecisionPreset::Bf16Pure.recipe().master.rounding, RoundingMode::Stochastic);
    assert_eq!(PrecisionPreset::Fp8Current.recipe().grad.rounding, RoundingMode::NearestEven);
}

//! Precisions as a comparison sees them: which one is the reference, in which order they are listed, and which keys of
//! a config are about them.

use ffn_variants::PrecisionPreset;

/// Name of full precision, the reference that every other precision is measured against.
pub(crate) const FULL: &str = PrecisionPreset::Fp32.name();

/// Prefix of the config keys that set a precision. Plain full precision has none of them.
pub(super) const SECTION: &str = "precision.";

/// The config key that names a recipe. A resolved config leaves it out where that is plain full precision.
pub(crate) const PRESET: &str = "precision.preset";

/// Follows the name of a recipe whose keys were changed.
const CHANGED: &str = " (changed)";

/// Sorts names from wide to narrow (the order of [`PrecisionPreset::ALL`]), a changed recipe right after its own, and other names last, by name.
pub(crate) fn place(name: &str) -> (usize, &str) {
    let recipe = name.strip_suffix(CHANGED).unwrap_or(name);
    let presets = PrecisionPreset::ALL;
    (presets.iter().position(|preset| preset.name() == recipe).unwrap_or(presets.len()), name)
}

/// Whether `name` is that of plain full precision.
pub(crate) fn is_full(name: &str) -> bool {
    name == FULL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precisions_go_from_wide_to_narrow() {
        let mut names =
            ["zeta", "int8", "fp8_delayed (changed)", "bf16", "alpha", "fp8_block", "fp8_delayed", "fp32"];
        names.sort_by_key(|name| place(name));
        let sorted =
            ["fp32", "bf16", "fp8_delayed", "fp8_delayed (changed)", "fp8_block", "int8", "alpha", "zeta"];
        assert_eq!(names, sorted);
    }

    #[test]
    fn a_changed_recipe_is_not_full_precision() {
        assert!(is_full("fp32"));
        assert!(!is_full("fp32 (changed)"));
    }
}

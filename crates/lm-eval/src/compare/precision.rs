//! Precisions as a comparison sees them: which one is the reference, in which order they are listed, and which keys of
//! a config are about them.

/// Name of full precision, the reference that every other precision is measured against.
pub(super) const FULL: &str = "fp32";

/// Prefix of the config keys that set a precision. Plain full precision has none of them.
pub(super) const SECTION: &str = "precision.";

/// Follows the name of a recipe whose keys were changed.
const CHANGED: &str = " (changed)";

/// Recipes from wide to narrow, the order in which they are listed.
const WIDE_TO_NARROW: [&str; 15] = [
    FULL,
    "tf32",
    "bf16",
    "bf16_pure",
    "fp16",
    "fp8_current",
    "fp8_delayed",
    "fp8_rowwise",
    "fp8_block",
    "mxfp8",
    "mxfp6",
    "mxfp4",
    "nvfp4",
    "int8",
    "bitnet_b158",
];

/// Sorts names from wide to narrow, a changed recipe right after its own, and other names last, by name.
pub(super) fn place(name: &str) -> (usize, &str) {
    let recipe = name.strip_suffix(CHANGED).unwrap_or(name);
    (WIDE_TO_NARROW.iter().position(|known| *known == recipe).unwrap_or(WIDE_TO_NARROW.len()), name)
}

/// Whether `name` is that of plain full precision.
pub(super) fn is_full(name: &str) -> bool {
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

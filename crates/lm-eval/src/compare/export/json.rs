//! JSON: the [`Comparison`] itself, at full precision.

use super::super::comparison::Comparison;

pub(super) fn export(comparison: &Comparison) -> String {
    let text = serde_json::to_string_pretty(comparison);
    text.expect("a comparison holds only strings, numbers and lists of them") + "\n"
}

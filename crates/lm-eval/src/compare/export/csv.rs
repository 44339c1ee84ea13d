//! CSV (RFC 4180, with line feeds): one row per arm at full precision. Absent values are empty.

use super::super::comparison::{Arm, Comparison, Standing};

/// A column's name and its value for an arm.
type Field = (&'static str, fn(&Arm) -> String);

/// Every column. Losses are nats per token; `diff_*` is the paired difference from the arm named in `baseline`.
const FIELDS: [Field; 25] = [
    ("label", |arm| arm.label.clone()),
    ("ffn", |arm| arm.ffn.clone()),
    ("d_ff", |arm| arm.d_ff.to_string()),
    ("params", |arm| arm.params.total.to_string()),
    ("params_excess", |arm| arm.params_excess.to_string()),
    ("flops_per_token", |arm| arm.flops_per_token.to_string()),
    ("seeds", |arm| arm.seeds.len().to_string()),
    ("diverged", |arm| arm.diverged.len().to_string()),
    ("loss_mean", |arm| number(arm.loss.map(|loss| loss.mean))),
    ("loss_sd", |arm| number(arm.loss.and_then(|loss| loss.sd))),
    ("loss_ci95_low", |arm| number(arm.loss.and_then(|loss| loss.ci95).map(|ci| ci.0))),
    ("loss_ci95_high", |arm| number(arm.loss.and_then(|loss| loss.ci95).map(|ci| ci.1))),
    ("perplexity", |arm| number(arm.perplexity)),
    ("bits_per_byte", |arm| number(arm.bits_per_byte)),
    ("above_floor", |arm| number(arm.above_floor)),
    ("diff_pairs", |arm| arm.difference.as_ref().map_or_else(String::new, |d| d.estimate.n.to_string())),
    ("diff_mean", |arm| number(arm.difference.as_ref().map(|d| d.estimate.mean))),
    ("diff_sd", |arm| number(arm.difference.as_ref().and_then(|d| d.estimate.sd))),
    ("diff_ci95_low", |arm| number(arm.difference.as_ref().and_then(|d| d.estimate.ci95).map(|ci| ci.0))),
    ("diff_ci95_high", |arm| number(arm.difference.as_ref().and_then(|d| d.estimate.ci95).map(|ci| ci.1))),
    ("diff_p_value", |arm| number(arm.difference.as_ref().and_then(|d| d.p_value))),
    ("diff_wins", |arm| arm.difference.as_ref().map_or_else(String::new, |d| d.wins.to_string())),
    ("standing", |arm| standing(arm.standing).to_owned()),
    ("published_loss", |arm| number(arm.published.map(|p| p.early))),
    ("published_sd", |arm| number(arm.published.map(|p| p.early_sd))),
];

/// Columns of a comparison in which any arm is in another precision than fp32. `gap_fp32_*` is the paired difference from
/// the arm in fp32 that is equal in everything else.
const PRECISION_FIELDS: [Field; 5] = [
    ("precision", |arm| arm.precision.clone()),
    ("gap_fp32_pairs", |arm| arm.gap_fp32.as_ref().map_or_else(String::new, |d| d.estimate.n.to_string())),
    ("gap_fp32_mean", |arm| number(arm.gap_fp32.as_ref().map(|d| d.estimate.mean))),
    ("gap_fp32_ci95_low", |arm| number(arm.gap_fp32.as_ref().and_then(|d| d.estimate.ci95).map(|ci| ci.0))),
    ("gap_fp32_ci95_high", |arm| number(arm.gap_fp32.as_ref().and_then(|d| d.estimate.ci95).map(|ci| ci.1))),
];

/// A column of a comparison in which any run diverged: the steps at which the arm's runs did, separated by spaces.
const DIVERGED_FIELD: Field =
    ("diverged_at", |arm| arm.diverged_at.iter().map(u64::to_string).collect::<Vec<_>>().join(" "));

/// A column of a comparison in which each arm has its own learning rate.
const RATE_FIELD: Field = ("lr", |arm| number(arm.lr));

/// Columns that only some comparisons have; they follow all others, so that these keep their places.
fn further_fields(comparison: &Comparison) -> Vec<Field> {
    let precisions = if comparison.has_precisions() { &PRECISION_FIELDS[..] } else { &[] };
    let any_diverged = comparison.arms.iter().any(|arm| !arm.diverged.is_empty());
    let diverged = any_diverged.then_some(DIVERGED_FIELD);
    precisions.iter().copied().chain(diverged).chain(comparison.own_rates.then_some(RATE_FIELD)).collect()
}

/// Names of the columns, in order: those that every comparison has, `baseline`, and those that only `comparison` needs,
/// about precisions, diverged runs and learning rates.
pub fn csv_header(comparison: &Comparison) -> Vec<&'static str> {
    let further = further_fields(comparison);
    let name = |(name, _): &Field| *name;
    FIELDS.iter().map(name).chain(["baseline"]).chain(further.iter().map(name)).collect()
}

pub(super) fn export(comparison: &Comparison) -> String {
    let mut text = csv_header(comparison).join(",") + "\n";
    let further = further_fields(comparison);
    for arm in &comparison.arms {
        let value = |(_, value): &Field| value(arm);
        let baseline = [comparison.baseline.clone()];
        let fields = FIELDS.iter().map(value).chain(baseline).chain(further.iter().map(value));
        text += &fields.map(|field| quoted(&field)).collect::<Vec<_>>().join(",");
        text.push('\n');
    }
    text
}

fn number(x: Option<f64>) -> String {
    x.map_or_else(String::new, |x| x.to_string())
}

fn standing(standing: Standing) -> &'static str {
    match standing {
        Standing::Best => "best",
        Standing::Tied => "tied",
        Standing::Worse => "worse",
        Standing::Unranked => "unranked",
    }
}

/// A field as CSV needs it (RFC 4180).
pub(crate) fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        assert_eq!(quoted("swiglu lr=0.001"), "swiglu lr=0.001");
        assert_eq!(quoted("x=[1, 2]"), "\"x=[1, 2]\"");
        assert_eq!(quoted("name=\"a\""), "\"name=\"\"a\"\"\"");
    }
}

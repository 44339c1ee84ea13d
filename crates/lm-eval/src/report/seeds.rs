//! What so many seeds show, do not show, and resolve: the statistics of [`crate::analysis`] on the runs of a comparison.

use serde::Serialize;

use super::table::Table;
use crate::analysis::{Against, Analysis, Observation, Options, Pairing, Samples, Variant};
use crate::compare::Comparison;
use crate::compare::grid::decimals;
use crate::stats::power::USUAL_POWER;
use crate::stats::{Effect, detectable};

/// Level of all tests.
const ALPHA: f64 = 0.05;
/// Numbers of seeds for which it is told what they would resolve.
const SEEDS: [usize; 6] = [2, 3, 5, 10, 20, 40];

/// What the seeds say.
#[derive(Clone, Debug, Serialize)]
pub struct Seeds {
    /// The analysis of all arms that have the baseline's seeds; `None` where `why_not` says why.
    pub analysis: Option<Analysis>,
    /// Why there is no analysis.
    pub why_not: Option<String>,
    /// Arms that are left out of it, with the reason.
    pub left_out: Vec<String>,
    /// Every arm against the baseline.
    #[serde(skip)]
    pub differences: Option<Table>,
    /// What other numbers of seeds would resolve at the spread measured.
    #[serde(skip)]
    pub resolution: Option<Table>,
    /// The spread behind `resolution`: the median over arms of the standard deviation of pairs.
    pub typical_sd: Option<f64>,
}

impl Seeds {
    pub(super) fn new(comparison: &Comparison) -> Self {
        let mut found = Self {
            analysis: None,
            why_not: None,
            left_out: Vec::new(),
            differences: None,
            resolution: None,
            typical_sd: None,
        };
        let baseline = comparison.baseline();
        if comparison.arms.len() < 2 {
            found.why_not = Some("there is one arm, and nothing to compare it with".to_owned());
            return found;
        }
        if baseline.seeds.len() < 2 {
            found.why_not = Some(format!(
                "{} has {}, which says nothing about the spread; train more seeds",
                baseline.label,
                match baseline.seeds.len() {
                    0 => "no seed that finished",
                    _ => "one seed",
                }
            ));
            return found;
        }
        let mut variants = Vec::new();
        for arm in &comparison.arms {
            if arm.label != baseline.label && arm.difference.is_none() {
                found.left_out.push(format!("{}: it has no pair with {}", arm.label, baseline.label));
            } else if arm.seeds != baseline.seeds {
                found.left_out.push(format!("{}: its seeds are not those of {}", arm.label, baseline.label));
            } else {
                variants.push(variant(comparison, &arm.label));
            }
        }
        let samples = Samples { source: "the runs".to_owned(), variants };
        let options =
            Options { baseline: Some(&baseline.label), pairing: Pairing::BySeed, margin: None, alpha: ALPHA };
        match Analysis::new(&samples, &options) {
            Ok(analysis) if !analysis.comparisons.is_empty() => {
                found.differences = Some(differences(&analysis, decimals(comparison)));
                found.typical_sd = typical_sd(&analysis);
                found.resolution =
                    found.typical_sd.and_then(|sd| resolution(sd, analysis.family, decimals(comparison)));
                found.analysis = Some(analysis);
            }
            Ok(_) => found.why_not = Some(format!("no other arm has all seeds of {}", baseline.label)),
            Err(error) => found.why_not = Some(format!("{error:#}")),
        }
        found
    }
}

impl Seeds {
    /// The spread behind the resolution, with two digits that count.
    pub(super) fn typical_sd_text(&self) -> Option<String> {
        let sd = self.typical_sd?;
        let decimals = (1.0 - sd.log10().floor()).clamp(0.0, 15.0) as usize;
        Some(format!("{sd:.decimals$}"))
    }
}

/// The finished runs of an arm.
fn variant(comparison: &Comparison, label: &str) -> Variant {
    let runs = comparison.runs.iter().filter(|run| run.arm == label);
    let observations = runs.enumerate().filter_map(|(line, run)| {
        let value = run.summary.validation.as_ref()?.loss;
        Some(Observation { seed: run.summary.seed, value, line: line + 1 })
    });
    Variant { name: label.to_owned(), observations: observations.collect() }
}

fn differences(analysis: &Analysis, decimals: usize) -> Table {
    let signed = |x: f64| format!("{x:+.decimals$}").replace('-', "\u{2212}");
    let interval = |low: f64, high: f64| format!("{} to {}", signed(low), signed(high));
    let some = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let with_bca = analysis.comparisons.iter().any(|against| against.bca.is_some());
    let adjusts = analysis.family > 1;
    let row = |against: &Against| {
        let bca = against.bca.map(|bca| interval(bca.interval.low, bca.interval.high));
        let cells = [
            Some(against.variant.clone()),
            Some(against.n.to_string()),
            Some(signed(against.difference)),
            Some(some(against.interval.map(|ends| interval(ends.low, ends.high)))),
            with_bca.then(|| some(bca)),
            Some(some(against.t.map(|t| p_value(t.test.p_value)))),
            adjusts.then(|| some(against.t.map(|t| p_value(t.holm)))),
            Some(p_value(against.permutation.test.p_value)),
            Some(some(against.sd.map(|sd| format!("{sd:.decimals$}")))),
            Some(some(against.detectable.map(|found| format!("{:.decimals$}", found.difference)))),
            adjusts.then(|| {
                some(against.detectable_holm.map(|found| format!("{:.decimals$}", found.difference)))
            }),
        ];
        cells.into_iter().flatten().collect()
    };
    let headings = [
        Some("FFN"),
        Some("pairs"),
        Some("difference"),
        Some("95\u{a0}% interval, t"),
        with_bca.then_some("95\u{a0}% interval, BCa"),
        Some("p, paired t"),
        adjusts.then_some("p, Holm"),
        Some("p, sign flips"),
        Some("sd of pairs"),
        Some("resolves"),
        adjusts.then_some("resolves, Holm"),
    ];
    let headings: Vec<&str> = headings.into_iter().flatten().collect();
    Table::new(&headings, analysis.comparisons.iter().map(row).collect())
}

fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".to_owned() } else { format!("{p:.4}") }
}

fn typical_sd(analysis: &Analysis) -> Option<f64> {
    let mut spreads: Vec<f64> =
        analysis.comparisons.iter().filter_map(|against| against.sd).filter(|sd| *sd > 0.0).collect();
    spreads.sort_by(f64::total_cmp);
    spreads.get(spreads.len() / 2).copied()
}

/// What a paired t test finds with the usual power, by number of seeds.
fn resolution(sd: f64, family: usize, decimals: usize) -> Option<Table> {
    let at = |seeds: usize, alpha: f64| {
        let n = seeds as f64;
        let effect = Effect { estimate: 0.0, standard_error: sd / n.sqrt(), df: n - 1.0 };
        detectable(&effect, USUAL_POWER, alpha).ok().map(|found| format!("{:.decimals$}", found.difference))
    };
    let row = |seeds: usize| -> Option<Vec<String>> {
        let mut row = vec![seeds.to_string(), at(seeds, ALPHA)?];
        if family > 1 {
            row.push(at(seeds, ALPHA / family as f64)?);
        }
        Some(row)
    };
    let rows: Vec<Vec<String>> = SEEDS.into_iter().filter_map(row).collect();
    let by_itself = ["seeds", "one comparison"];
    let with_holm = format!("one of {family}, Holm");
    let headings: Vec<&str> = if family > 1 {
        by_itself.into_iter().chain([with_holm.as_str()]).collect()
    } else {
        by_itself.to_vec()
    };
    (!rows.is_empty()).then(|| Table::new(&headings, rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Options as CompareOptions;
    use crate::compare::testing::{RunMaker, collection, nine_variants};

    #[test]
    fn figures_are_those_of_the_comparison() {
        let comparison = Comparison::new(&nine_variants(5), &CompareOptions::default()).unwrap();
        let seeds = Seeds::new(&comparison);
        let analysis = seeds.analysis.unwrap();
        assert_eq!((analysis.family, analysis.comparisons.len()), (8, 8));
        for against in &analysis.comparisons {
            let arm = comparison.arms.iter().find(|arm| arm.label == against.variant).unwrap();
            let (low, high) = arm.difference.as_ref().unwrap().estimate.ci95.unwrap();
            let interval = against.interval.unwrap();
            assert!((interval.low - low).abs() < 1e-9 && (interval.high - high).abs() < 1e-9);
        }
        assert_eq!(seeds.differences.unwrap().rows.len(), 8);
        let resolved: Vec<f64> =
            seeds.resolution.unwrap().rows.iter().map(|row| row[1].parse().unwrap()).collect();
        assert!(resolved.windows(2).all(|pair| pair[0] > pair[1]), "more seeds resolve less: {resolved:?}");
    }

    #[test]
    fn one_seed_has_no_analysis_and_says_why() {
        let runs = [RunMaker::new("relu", 0), RunMaker::new("geglu", 0)];
        let seeds = Seeds::new(&Comparison::new(&collection(runs), &CompareOptions::default()).unwrap());
        assert!(seeds.analysis.is_none() && seeds.differences.is_none() && seeds.resolution.is_none());
        assert_eq!(
            seeds.why_not.unwrap(),
            "relu has one seed, which says nothing about the spread; train more seeds"
        );
    }

    #[test]
    fn arms_without_all_seeds_are_left_out_by_name() {
        let full = |ffn: &'static str| (0..3).map(move |seed| RunMaker::new(ffn, seed));
        let runs =
            full("relu").chain(full("geglu")).chain([RunMaker::new("glu", 0), RunMaker::new("swish", 9)]);
        let seeds = Seeds::new(&Comparison::new(&collection(runs), &CompareOptions::default()).unwrap());
        assert_eq!(seeds.analysis.unwrap().family, 1);
        assert_eq!(
            seeds.left_out,
            ["swish: it has no pair with relu", "glu: its seeds are not those of relu"]
        );
    }
}

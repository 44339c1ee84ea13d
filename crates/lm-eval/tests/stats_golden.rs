//! The statistics against SciPy and statsmodels. `scripts/golden/stats.py` made the numbers; its versions are in the file.

use std::collections::BTreeMap;

use lm_eval::stats::noncentral_t::noncentral_t_cdf;
use lm_eval::stats::power::t_power;
use lm_eval::stats::{
    Design, Distribution, Document, Effect, Estimate, Factor, Interval, Resampling, Term, bca, bca_mean,
    decompose, detectable, document_loss, holm, label_permutation, mean, paired_differences, sd_factors,
    sign_flip, t_interval, two_one_sided_tests, wilcoxon_rank_sum, wilcoxon_signed_rank,
};
use lm_train::rng::{Key, Purpose};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    estimates: Vec<Sample>,
    paired: Vec<Pair>,
    t_levels: Vec<TLevel>,
    sd_factors: Vec<SdFactors>,
    bca_formula: Vec<BcaFormula>,
    bca_whole: Vec<BcaWhole>,
    documents: Vec<Documents>,
    sign_flip: Vec<SignFlip>,
    signed_rank: Vec<SignedRank>,
    two_samples: Vec<TwoSamples>,
    equivalence: Vec<Equivalence>,
    families: Vec<Family>,
    noncentral_t: Vec<NoncentralT>,
    power: Vec<Power>,
    variance: Vec<Variance>,
}

#[derive(Deserialize)]
struct Sample {
    name: String,
    values: Vec<f64>,
    mean: f64,
    sd: f64,
    ci95: (f64, f64),
}

#[derive(Deserialize)]
struct Pair {
    name: String,
    baseline: Vec<f64>,
    arm: Vec<f64>,
    mean: f64,
    sd: f64,
    ci95: (f64, f64),
    p_value: f64,
}

#[derive(Deserialize)]
struct TLevel {
    values: Vec<f64>,
    level: f64,
    interval: (f64, f64),
}

#[derive(Deserialize)]
struct SdFactors {
    n: usize,
    level: f64,
    factors: (f64, f64),
}

#[derive(Deserialize)]
struct BcaFormula {
    name: String,
    values: Vec<f64>,
    level: f64,
    resampled: Vec<f64>,
    interval: (f64, f64),
    standard_error: f64,
}

#[derive(Deserialize)]
struct BcaWhole {
    name: String,
    values: Vec<f64>,
    level: f64,
    interval: (f64, f64),
}

#[derive(Deserialize)]
struct Documents {
    loss_sums: Vec<f64>,
    tokens: Vec<u64>,
    level: f64,
    loss: f64,
    interval: (f64, f64),
}

#[derive(Deserialize)]
struct SignFlip {
    differences: Vec<f64>,
    statistic: f64,
    p_value: f64,
}

#[derive(Deserialize)]
struct SignedRank {
    kind: String,
    differences: Vec<f64>,
    statistic: f64,
    p_value: f64,
}

#[derive(Deserialize)]
struct TwoSamples {
    baseline: Vec<f64>,
    arm: Vec<f64>,
    t: f64,
    df: f64,
    t_p_value: f64,
    ci95: (f64, f64),
    permutation_p_value: Option<f64>,
    rank_sum: f64,
    rank_p_value: f64,
}

#[derive(Deserialize)]
struct Equivalence {
    baseline: Vec<f64>,
    arm: Vec<f64>,
    margin: f64,
    paired: f64,
    paired_one_sided: (f64, f64),
    independent: f64,
}

#[derive(Deserialize)]
struct Family {
    p_values: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct NoncentralT {
    t: f64,
    df: f64,
    delta: f64,
    cdf: f64,
}

#[derive(Deserialize)]
struct Power {
    effect: f64,
    n: usize,
    alpha: f64,
    paired: f64,
    independent: f64,
    detectable: f64,
    detectable_independent: f64,
    needed: f64,
    needed_independent: f64,
}

#[derive(Deserialize)]
struct Variance {
    name: String,
    columns: BTreeMap<String, Vec<String>>,
    values: Vec<f64>,
    sources: Vec<VarianceSource>,
    residual_df: usize,
    residual_sum_sq: f64,
}

#[derive(Deserialize)]
struct VarianceSource {
    term: String,
    df: usize,
    sum_sq: f64,
    f: f64,
    p_value: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("data/stats.json")).expect("the golden file is valid")
}

/// Asserts agreement to `tolerance`, relative to `scale`.
fn close(what: &str, ours: f64, scipy: f64, scale: f64, tolerance: f64) {
    assert!((ours - scipy).abs() <= tolerance * scale.abs(), "{what}: {ours:e} here, {scipy:e} there");
}

fn compare(name: &str, ours: &Estimate, mean: f64, sd: f64, ci95: (f64, f64)) {
    let (low, high) = ours.ci95.expect("a sample with spread has an interval");
    let size = mean.abs().max(sd);
    close(&format!("mean of {name}"), ours.mean, mean, size, 1e-13);
    close(&format!("sd of {name}"), ours.sd.expect("n > 1"), sd, sd, 1e-9);
    close(&format!("low end of {name}"), low, ci95.0, size, 1e-12);
    close(&format!("high end of {name}"), high, ci95.1, size, 1e-12);
    close(&format!("width of {name}"), high - low, ci95.1 - ci95.0, ci95.1 - ci95.0, 1e-6);
}

#[test]
fn estimates_match_scipy() {
    let samples = golden().estimates;
    assert!(samples.len() >= 12);
    for s in samples {
        let ours = Estimate::of(&s.values).expect("a sample");
        assert_eq!(ours.n, s.values.len());
        compare(&s.name, &ours, s.mean, s.sd, s.ci95);
    }
}

#[test]
fn paired_differences_match_scipy() {
    let pairs = golden().paired;
    assert!(pairs.len() >= 8);
    for p in pairs {
        let by_seed = |values: &[f64]| (0..).zip(values.iter().copied()).collect::<Vec<(u64, f64)>>();
        let ours = paired_differences(&by_seed(&p.baseline), &by_seed(&p.arm)).expect("pairs");
        assert_eq!(ours.seeds_used.len(), p.arm.len());
        assert!(ours.seeds_missing.is_empty());
        compare(&p.name, &ours.estimate, p.mean, p.sd, p.ci95);
        close(&format!("p of {}", p.name), ours.p_value.expect("n > 1"), p.p_value, p.p_value, 1e-9);
    }
}

fn key() -> Key {
    Key::new(0, Purpose::Resampling)
}

/// Ends that agree to `tolerance` of the interval's width.
fn same_interval(what: &str, ours: Interval, theirs: (f64, f64), tolerance: f64) {
    let width = theirs.1 - theirs.0;
    close(&format!("low end of {what}"), ours.low, theirs.0, width, tolerance);
    close(&format!("high end of {what}"), ours.high, theirs.1, width, tolerance);
}

#[test]
fn t_intervals_of_any_level_match_scipy() {
    for case in golden().t_levels {
        let ours = t_interval(&case.values, case.level).unwrap();
        same_interval(&format!("level {}", case.level), ours, case.interval, 1e-8);
    }
}

#[test]
fn the_uncertainty_of_a_spread_matches_scipy() {
    for case in golden().sd_factors {
        let ours = sd_factors(case.n, case.level).unwrap();
        close("low factor", ours.low, case.factors.0, case.factors.0, 1e-8);
        close("high factor", ours.high, case.factors.1, case.factors.1, 1e-8);
    }
}

#[test]
fn the_bca_formula_matches_scipy_on_the_same_resamples() {
    for case in golden().bca_formula {
        let without = |i: usize| {
            mean(&[&case.values[..i], &case.values[i + 1..]].concat()).expect("more than one value")
        };
        let jackknife: Vec<f64> = (0..case.values.len()).map(without).collect();
        let ours = bca(mean(&case.values).unwrap(), case.resampled, &jackknife, case.level).unwrap();
        let what = format!("{} at {}", case.name, case.level);
        same_interval(&what, ours.interval, case.interval, 1e-9);
        close(&what, ours.standard_error, case.standard_error, case.standard_error, 1e-9);
    }
}

/// Both sides draw resamples of their own. The ends of an interval from B of them are uncertain by about
/// sqrt(p (1 - p) / B) / density = 0.3 % of its width at B = 100,000, hence 1 %.
#[test]
fn bca_intervals_match_scipy_up_to_the_draw() {
    let plan = Resampling { key: key(), resamples: 100_000 };
    for case in golden().bca_whole {
        let ours = bca_mean(&case.values, case.level, &plan).unwrap();
        same_interval(&case.name, ours.interval, case.interval, 0.01);
    }
    for case in golden().documents {
        let documents: Vec<Document> = case
            .loss_sums
            .iter()
            .zip(&case.tokens)
            .map(|(&loss_sum, &tokens)| Document { loss_sum, tokens })
            .collect();
        let ours = document_loss(&documents, case.level, &plan).unwrap();
        close("loss over documents", ours.bca.estimate, case.loss, case.loss, 1e-14);
        same_interval("documents", ours.bca.interval, case.interval, 0.01);
    }
}

#[test]
fn sign_flips_match_scipys_exact_permutation_test() {
    for case in golden().sign_flip {
        let ours = sign_flip(&case.differences, &key()).unwrap();
        let what = format!("{:?}", case.differences);
        assert_eq!(ours.distribution, Distribution::Exact, "{what}");
        close(&what, ours.statistic, case.statistic, 1.0, 1e-14);
        close(&what, ours.p_value, case.p_value, case.p_value, 1e-12);
    }
}

#[test]
fn signed_ranks_match_scipy_exactly_with_ties_and_zeros_and_approximately_when_many() {
    for case in golden().signed_rank {
        let ours = wilcoxon_signed_rank(&case.differences).unwrap();
        let what = format!("{} {}", case.kind, case.differences.len());
        assert_eq!(ours.distribution == Distribution::Normal, case.kind == "large", "{what}");
        assert_eq!(ours.statistic, case.statistic, "{what}");
        close(&what, ours.p_value, case.p_value, case.p_value, 1e-10);
    }
}

#[test]
fn tests_of_independent_samples_match_scipy() {
    for case in golden().two_samples {
        let (baseline, arm) = (&case.baseline[..], &case.arm[..]);
        let what = format!("{} against {}", arm.len(), baseline.len());
        let effect = Effect::of_difference(baseline, arm).unwrap();
        let t = effect.t_test();
        close(&format!("t, {what}"), t.t, case.t, case.t, 1e-9);
        close(&format!("df, {what}"), t.df, case.df, case.df, 1e-9);
        close(&format!("p of t, {what}"), t.p_value, case.t_p_value, case.t_p_value, 1e-8);
        same_interval(&what, effect.interval(0.95).unwrap(), case.ci95, 1e-7);
        if let Some(p_value) = case.permutation_p_value {
            let ours = label_permutation(baseline, arm, &key()).unwrap();
            assert_eq!(ours.distribution, Distribution::Exact);
            close(&format!("permutation, {what}"), ours.p_value, p_value, p_value, 1e-12);
        }
        let ranks = wilcoxon_rank_sum(baseline, arm).unwrap();
        assert_eq!(ranks.statistic, case.rank_sum, "{what}");
        close(&format!("rank sum, {what}"), ranks.p_value, case.rank_p_value, case.rank_p_value, 1e-10);
    }
}

#[test]
fn two_one_sided_tests_match_statsmodels() {
    for case in golden().equivalence {
        let differences: Vec<f64> = case.arm.iter().zip(&case.baseline).map(|(a, b)| a - b).collect();
        let paired = two_one_sided_tests(&Effect::of_mean(&differences).unwrap(), case.margin, 0.05).unwrap();
        close("p", paired.p_value, case.paired, case.paired, 1e-8);
        close("p above", paired.p_above_lower, case.paired_one_sided.0, 1.0, 1e-9);
        close("p below", paired.p_below_upper, case.paired_one_sided.1, 1.0, 1e-9);
        let effect = Effect::of_difference(&case.baseline, &case.arm).unwrap();
        let independent = two_one_sided_tests(&effect, case.margin, 0.05).unwrap();
        close("p, independent", independent.p_value, case.independent, case.independent, 1e-8);
    }
}

#[test]
fn holm_matches_statsmodels() {
    for case in golden().families {
        let ours = holm(&case.p_values).unwrap();
        assert_eq!(ours.family, case.p_values.len());
        for (ours, theirs) in ours.adjusted.iter().zip(&case.adjusted) {
            close("adjusted p", *ours, *theirs, 1.0, 1e-14);
        }
    }
}

#[test]
fn the_noncentral_t_matches_scipy() {
    for case in golden().noncentral_t {
        let ours = noncentral_t_cdf(case.t, case.df, case.delta);
        close(&format!("t {}, df {}, delta {}", case.t, case.df, case.delta), ours, case.cdf, 1.0, 1e-10);
    }
}

#[test]
fn power_matches_statsmodels() {
    for case in golden().power {
        let paired = Design::Paired { sd: 1.0 };
        let independent = Design::Unpaired { baseline_sd: 1.0, arm_sd: 1.0 };
        let Power { effect, n, alpha, .. } = case;
        let root = (n as f64).sqrt();
        close("paired", paired.power(effect, n, alpha).unwrap(), case.paired, 1.0, 1e-9);
        close("by noncentrality", t_power(effect * root, (n - 1) as f64, alpha), case.paired, 1.0, 1e-9);
        close("independent", independent.power(effect, n, alpha).unwrap(), case.independent, 1.0, 1e-9);

        let known = Effect { estimate: 0.0, standard_error: 1.0 / root, df: (n - 1) as f64 };
        let found = detectable(&known, 0.8, alpha).unwrap().difference;
        // statsmodels' root finder stops at about six digits.
        close("detectable", found, case.detectable, case.detectable, 1e-5);
        let known = Effect { estimate: 0.0, standard_error: 2f64.sqrt() / root, df: (2 * n - 2) as f64 };
        let found = detectable(&known, 0.8, alpha).unwrap().difference;
        close(
            "detectable, independent",
            found,
            case.detectable_independent,
            case.detectable_independent,
            1e-5,
        );

        let needed = paired.seeds_needed(effect, 0.8, alpha).unwrap().seeds.unwrap();
        assert_eq!(needed, case.needed.ceil() as usize);
        let needed = independent.seeds_needed(effect, 0.8, alpha).unwrap().seeds.unwrap();
        assert_eq!(needed, case.needed_independent.ceil() as usize);
    }
}

#[test]
fn type_two_sums_of_squares_match_statsmodels() {
    for case in golden().variance {
        let names: Vec<&String> = case.columns.keys().collect();
        let factors: Vec<Factor> =
            case.columns.iter().map(|(name, labels)| Factor::new(name.as_str(), labels)).collect();
        let index = |name: &str| names.iter().position(|other| *other == name).expect("a factor");
        let terms: Vec<Term> =
            case.sources.iter().map(|source| Term::interaction(source.term.split(':').map(index))).collect();
        let ours = decompose(&case.values, &factors, &terms).unwrap();
        assert_eq!(ours.balanced, !case.name.starts_with("unbalanced"), "{}", case.name);
        assert_eq!(ours.residual_df, case.residual_df, "{}", case.name);
        let size = ours.total_sum_sq;
        close(&case.name, ours.residual_sum_sq, case.residual_sum_sq, size, 1e-12);
        for (ours, theirs) in ours.sources.iter().zip(&case.sources) {
            let what = format!("{} in {}", theirs.term, case.name);
            assert_eq!(ours.df, theirs.df, "{what}");
            close(&what, ours.sum_sq, theirs.sum_sq, size, 1e-12);
            close(&what, ours.f, theirs.f, theirs.f, 1e-8);
            close(&what, ours.p_value, theirs.p_value, theirs.p_value, 1e-7);
        }
    }
}

//! One variant against the baseline.

use lm_train::rng::Key;
use serde::Serialize;

use super::read::Variant;
use super::{Missing, Options, Pairing};
use crate::stats::power::USUAL_POWER;
use crate::stats::{
    Bca, Design, Detectable, Effect, Equivalence, Interval, PairingGain, RandomisationTest, Refusal,
    Resampling, SeedsNeeded, TTest, bca_mean, detectable, holm, label_permutation, mean, pairing_gain,
    sample_sd, sign_flip, two_one_sided_tests, wilcoxon_rank_sum, wilcoxon_signed_rank,
};

/// A test and its p-value adjusted for the family of comparisons.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Judged<T> {
    /// The test by itself.
    #[serde(flatten)]
    pub test: T,
    /// Its p-value by Holm's correction over the same test of all comparisons; one that could not be tested counts as 1.
    pub holm: f64,
}

/// A variant against the baseline. What is `None` is explained in the analysis.
#[derive(Clone, Debug, Serialize)]
pub struct Against {
    /// The variant.
    pub variant: String,
    /// Pairs, or the variant's seeds.
    pub n: usize,
    /// Mean of variant - baseline.
    pub difference: f64,
    /// Standard deviation of the differences within a seed; for paired runs.
    pub sd: Option<f64>,
    /// The difference with its standard error and degrees of freedom.
    pub effect: Option<Effect>,
    /// Student's interval of the difference, at level 1 - alpha.
    pub interval: Option<Interval>,
    /// Bootstrap interval of the mean difference; for paired runs.
    pub bca: Option<Bca>,
    /// Paired t, or Welch's.
    pub t: Option<Judged<TTest>>,
    /// Sign flips, or the permutation of labels.
    pub permutation: Judged<RandomisationTest>,
    /// Wilcoxon's signed-rank test with Pratt's zeros, or his rank-sum test.
    pub rank: Judged<RandomisationTest>,
    /// Two one-sided tests against the margin.
    pub equivalence: Option<Judged<Equivalence>>,
    /// The smallest true difference that the t test finds with the usual power.
    pub detectable: Option<Detectable>,
    /// The same at alpha / family, which holds whatever Holm's correction makes of the other comparisons.
    pub detectable_holm: Option<Detectable>,
    /// Seeds per variant that find a true difference of the margin with the usual power.
    pub seeds_needed: Option<SeedsNeeded>,
    /// What pairing does to the variance.
    pub pairing_gain: Option<PairingGain>,
}

/// Compares every arm with the baseline and adjusts the p-values of each test.
pub(super) fn compare_all(
    baseline: &Variant,
    arms: &[&Variant],
    options: &Options<'_>,
    key: &Key,
    missing: &mut Vec<Missing>,
) -> anyhow::Result<Vec<Against>> {
    let mut all = Vec::new();
    for arm in arms {
        let mut against = compare(baseline, arm, options, key, missing)?;
        let first_step = options.alpha / arms.len() as f64;
        against.detectable_holm =
            against.effect.map(|effect| detectable(&effect, USUAL_POWER, first_step)).transpose()?;
        all.push(against);
    }
    let adjusted = |p: &dyn Fn(&Against) -> Option<f64>| {
        let p_values: Vec<f64> = all.iter().map(|against| p(against).unwrap_or(1.0)).collect();
        holm(&p_values).map(|holm| holm.adjusted)
    };
    let t = adjusted(&|against| against.t.map(|t| t.test.p_value))?;
    let permutation = adjusted(&|against| Some(against.permutation.test.p_value))?;
    let rank = adjusted(&|against| Some(against.rank.test.p_value))?;
    let equivalence = adjusted(&|against| against.equivalence.map(|judged| judged.test.p_value))?;
    for (i, against) in all.iter_mut().enumerate() {
        against.t.iter_mut().for_each(|judged| judged.holm = t[i]);
        against.permutation.holm = permutation[i];
        against.rank.holm = rank[i];
        against.equivalence.iter_mut().for_each(|judged| judged.holm = equivalence[i]);
    }
    Ok(all)
}

/// A test that is not adjusted yet.
fn unadjusted<T>(test: T) -> Judged<T> {
    Judged { test, holm: f64::NAN }
}

fn compare(
    baseline: &Variant,
    arm: &Variant,
    options: &Options<'_>,
    key: &Key,
    missing: &mut Vec<Missing>,
) -> Result<Against, Refusal> {
    let (b, a) = (baseline.values(), arm.values());
    let level = 1.0 - options.alpha;
    let names = |purpose: &str| key.named(purpose).named(&baseline.name).named(&arm.name);
    let mut note = |what, why| missing.push(Missing { what, of: arm.name.clone(), why });

    let (effect, design, permutation, rank, sd, bca, gain) = match options.pairing {
        Pairing::BySeed => {
            let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
            let sd = sample_sd(&differences).ok_or(Refusal::OneValue)?;
            (
                Effect::of_mean(&differences),
                Design::Paired { sd },
                sign_flip(&differences, &names("sign flips"))?,
                wilcoxon_signed_rank(&differences)?,
                Some(sd),
                bca_mean(&differences, level, &Resampling::new(names("bca"))).ok(),
                pairing_gain(&b, &a).ok(),
            )
        }
        Pairing::Independent => {
            let [baseline_sd, arm_sd] = [&b, &a].map(|values| sample_sd(values).unwrap_or(0.0));
            (
                Effect::of_difference(&b, &a),
                Design::Unpaired { baseline_sd, arm_sd },
                label_permutation(&b, &a, &names("labels"))?,
                wilcoxon_rank_sum(&b, &a)?,
                None,
                None,
                None,
            )
        }
    };
    if let Err(why) = effect {
        note("interval of the difference", why);
    }
    let effect = effect.ok();
    let equivalence = match (effect, options.margin) {
        (Some(effect), Some(margin)) => {
            Some(unadjusted(two_one_sided_tests(&effect, margin, options.alpha)?))
        }
        (None, _) | (_, None) => None,
    };
    let seeds_needed = match (effect, options.margin) {
        (Some(_), Some(margin)) => Some(design.seeds_needed(margin, USUAL_POWER, options.alpha)?),
        (None, _) | (_, None) => None,
    };
    Ok(Against {
        variant: arm.name.clone(),
        n: a.len(),
        difference: mean(&a).ok_or(Refusal::Empty)? - mean(&b).ok_or(Refusal::Empty)?,
        sd,
        effect,
        interval: effect.map(|effect| effect.interval(level)).transpose()?,
        bca,
        t: effect.map(|effect| unadjusted(effect.t_test())),
        permutation: unadjusted(permutation),
        rank: unadjusted(rank),
        equivalence,
        detectable: effect.map(|effect| detectable(&effect, USUAL_POWER, options.alpha)).transpose()?,
        detectable_holm: None,
        seeds_needed,
        pairing_gain: gain,
    })
}

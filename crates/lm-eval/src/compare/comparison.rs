//! The comparison itself: every arm's estimate, its paired difference from the baseline, and what to beware of.

use std::collections::BTreeSet;

use lm_train::record::{EvalResult, ParamCounts, Summary};
use serde::Serialize;

use super::arms::{self, ArmRuns};
use super::baseline;
use super::collect::Collection;
use super::notes::{self, Note};
use super::precision;
use crate::shazeer::{self, Published};
use crate::stats::{Estimate, PairedDifference, mean, paired_differences};

/// In which order arms are listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// As in Shazeer's tables, then other variants by name; each from wide to narrow precision.
    #[default]
    Published,
    /// As the runs were given.
    Given,
    /// By mean held-out loss, the lowest first.
    Loss,
}

impl Order {
    /// Every order.
    pub const ALL: [Self; 3] = [Self::Published, Self::Given, Self::Loss];
}

/// What is wanted of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Options<'a> {
    /// Label, FFN name (then in full precision, where there are several) or `FFN PRECISION` of the arm that the others
    /// are compared with; ReLU when there is one, else the first arm.
    pub baseline: Option<&'a str>,
    /// Order of the arms.
    pub order: Order,
    /// Show Shazeer's published figures beside the measured ones.
    pub published: bool,
}

/// Where an arm stands among all arms by held-out loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The lowest mean over the baseline's seeds, among the arms that finished all of them.
    Best,
    /// Not shown to be worse than the best: the 95 % interval of its paired difference from the best includes zero, or
    /// there are too few pairs for an interval.
    Tied,
    /// Worse than the best.
    Worse,
    /// Not ranked: it diverged, there is nothing to rank it against, or the arms were measured on different data.
    Unranked,
}

/// One arm: what all its runs share and what they came to. Losses are nats per token.
#[derive(Clone, Debug, Serialize)]
pub struct Arm {
    /// Name in tables.
    pub label: String,
    /// Name of the FFN variant.
    pub ffn: String,
    /// Name of the precision recipe. As in a run's config, JSON leaves it out where it is full precision.
    #[serde(skip_serializing_if = "precision::is_full")]
    pub precision: String,
    /// The label without the precision: a row of the matrix of precisions.
    #[serde(skip)]
    pub(crate) experiment: String,
    /// The precision and what distinguishes it from others of its name: a column of that matrix.
    #[serde(skip)]
    pub(crate) recipe: String,
    /// Hidden width of the feed-forward block.
    pub d_ff: usize,
    /// Parameters by part.
    pub params: ParamCounts,
    /// Total parameters relative to the baseline's, minus one.
    pub params_excess: f64,
    /// Forward FLOPs per token at full context.
    pub flops_per_token: u64,
    /// Peak learning rate of all its runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Seeds that finished, ascending: those behind every figure below.
    pub seeds: Vec<u64>,
    /// Seeds that diverged, ascending; no figure includes them.
    pub diverged: Vec<u64>,
    /// Steps at which they diverged, in the same order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub diverged_at: Vec<u64>,
    /// Held-out loss; `None` when every run diverged.
    pub loss: Option<Estimate>,
    /// exp(mean loss).
    pub perplexity: Option<f64>,
    /// Mean bits per byte, where every run has them.
    pub bits_per_byte: Option<f64>,
    /// Mean of loss minus the entropy of the text, where the data's source knows it.
    pub above_floor: Option<f64>,
    /// Difference from the baseline, over the seeds that both finished; `None` for the baseline itself, without such a
    /// seed, and where the two were measured on different data.
    pub difference: Option<PairedDifference>,
    /// Difference from the arm in full precision that equals this one in everything else, over the seeds that both
    /// finished; `None` in full precision, without such an arm, and without such a seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_fp32: Option<PairedDifference>,
    /// Place among the arms.
    pub standing: Standing,
    /// Shazeer's figures for this variant, when asked for.
    pub published: Option<&'static Published>,
}

/// One run as it was read.
#[derive(Clone, Debug, Serialize)]
pub struct RunRow {
    /// Label of its arm.
    pub arm: String,
    /// Its directory.
    pub dir: String,
    /// Its `summary.json`.
    pub summary: Summary,
}

/// Arms side by side. Serialises to the JSON that `export` writes.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Label of the baseline.
    pub baseline: String,
    /// The arms, in the order asked for. Never empty.
    pub arms: Vec<Arm>,
    /// All runs behind them, by arm and seed.
    pub runs: Vec<RunRow>,
    /// Whether arms differ in their learning rates without their labels saying so: each has its own, as after tuning.
    #[serde(skip)]
    pub(super) own_rates: bool,
    /// What a reader has to know, the gravest first.
    pub notes: Vec<Note>,
}

impl Comparison {
    /// Groups the runs of `collection` into arms and compares each with the baseline.
    ///
    /// # Errors
    /// When there is no run, or when `options.baseline` names no arm or several.
    pub fn new(collection: &Collection, options: &Options<'_>) -> anyhow::Result<Self> {
        anyhow::ensure!(!collection.runs.is_empty(), "no run to compare");
        let (mut groups, duplicates) = arms::group(&collection.runs);
        arms::sort(&mut groups, options.order);
        let baseline_index = baseline::choose(&groups, options.baseline)?;
        let baseline = &groups[baseline_index];
        let mut arms: Vec<Arm> =
            groups.iter().map(|group| Arm::new(group, &groups, baseline, options.published)).collect();
        rank(&mut arms, &groups, baseline_index);
        let runs = groups.iter().flat_map(|group| {
            group.runs.iter().map(|run| RunRow {
                arm: group.label.clone(),
                dir: run.dir.display().to_string(),
                summary: run.summary.clone(),
            })
        });
        let mut comparison = Self {
            baseline: baseline.label.clone(),
            own_rates: arms::have_own_rates(&groups),
            arms,
            runs: runs.collect(),
            notes: Vec::new(),
        };
        comparison.notes = notes::notes(&comparison, &groups, &duplicates, &collection.problems);
        Ok(comparison)
    }

    /// Whether any arm is in another precision than the full one.
    pub fn has_precisions(&self) -> bool {
        self.arms.iter().any(|arm| !precision::is_full(&arm.precision))
    }

    /// The arm that the others are compared with.
    pub fn baseline(&self) -> &Arm {
        self.arms.iter().find(|arm| arm.label == self.baseline).expect("the baseline is one of the arms")
    }
}

impl Arm {
    fn new(
        group: &ArmRuns<'_>,
        groups: &[ArmRuns<'_>],
        baseline: &ArmRuns<'_>,
        with_published: bool,
    ) -> Self {
        let losses = losses(group);
        let values: Vec<f64> = losses.iter().map(|(_, loss)| *loss).collect();
        let loss = Estimate::of(&values);
        let evaluated = evaluated(group);
        let per_run = |value: &dyn Fn(&Summary, &EvalResult) -> Option<f64>| -> Option<f64> {
            mean(&evaluated.iter().map(|(run, eval)| value(run, eval)).collect::<Option<Vec<f64>>>()?)
        };
        let is_baseline = group.label == baseline.label;
        let comparable = !is_baseline && data(group) == data(baseline);
        let summary = &group.first().summary;
        let runs = group.runs.iter().map(|run| &run.summary);
        let diverged = runs.filter(|run| run.validation.is_none());
        let full = group.in_full_precision(groups);
        Self {
            label: group.label.clone(),
            ffn: group.ffn().to_owned(),
            precision: group.precision().to_owned(),
            experiment: group.experiment.clone(),
            recipe: group.recipe.clone(),
            d_ff: summary.d_ff,
            params: summary.params,
            params_excess: summary.params.total as f64 / baseline.first().summary.params.total as f64 - 1.0,
            flops_per_token: summary.flops_per_token,
            lr: group.keys().learning_rate(),
            seeds: losses.iter().map(|(seed, _)| *seed).collect(),
            diverged: diverged.clone().map(|run| run.seed).collect(),
            diverged_at: diverged.map(|run| run.diverged_at.unwrap_or(run.steps)).collect(),
            loss,
            perplexity: loss.map(|loss| loss.mean.exp()),
            bits_per_byte: per_run(&|_, eval| eval.bits_per_byte),
            above_floor: per_run(&|run, eval| Some(eval.loss - run.floor?)),
            difference: comparable.then(|| paired_differences(&self::losses(baseline), &losses)).flatten(),
            gap_fp32: full.and_then(|full| paired_differences(&self::losses(full), &losses)),
            standing: Standing::Unranked,
            published: shazeer::published(group.ffn()).filter(|_| with_published),
        }
    }
}

/// Runs of an arm that finished, with their validation.
pub(super) fn evaluated<'a>(group: &ArmRuns<'a>) -> Vec<(&'a Summary, &'a EvalResult)> {
    group.runs.iter().filter_map(|run| Some((&run.summary, run.summary.validation.as_ref()?))).collect()
}

/// (seed, held-out loss) of the runs that finished.
fn losses(group: &ArmRuns<'_>) -> Vec<(u64, f64)> {
    evaluated(group).iter().map(|(run, eval)| (run.seed, eval.loss)).collect()
}

/// What a held-out loss depends on besides the model: the text and its division into tokens.
pub(super) fn data<'a>(group: &ArmRuns<'a>) -> (&'a str, usize) {
    (&group.first().summary.data_fingerprint, group.first().summary.vocab_size)
}

/// Finds the best arm and those that cannot be told apart from it.
///
/// Only an arm that finished every seed of the baseline can be the best: a mean over fewer seeds may be low because the
/// hard ones are missing.
fn rank(arms: &mut [Arm], groups: &[ArmRuns<'_>], baseline: usize) {
    let one_data = groups.iter().map(data).collect::<BTreeSet<_>>().len() == 1;
    let ranked: Vec<usize> = (0..arms.len()).filter(|&i| arms[i].loss.is_some()).collect();
    if !one_data || ranked.len() < 2 || arms[baseline].loss.is_none() {
        return;
    }
    let all_seeds = arms[baseline].seeds.len();
    let complete = ranked.iter().filter_map(|&i| match &arms[i].difference {
        Some(difference) => (difference.estimate.n == all_seeds).then_some((i, difference.estimate.mean)),
        None => (i == baseline).then_some((i, 0.0)),
    });
    let Some((best, _)) = complete.min_by(|a, b| a.1.total_cmp(&b.1)) else { return };
    for i in ranked {
        let behind = paired_differences(&losses(&groups[best]), &losses(&groups[i]));
        let interval = behind.and_then(|difference| difference.estimate.ci95);
        arms[i].standing = match interval {
            _ if i == best => Standing::Best,
            Some((low, _)) if low > 0.0 => Standing::Worse,
            Some(_) | None => Standing::Tied,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::notes::Level;
    use super::super::testing::{RunMaker, collection, nine_variants};
    use super::*;

    fn compare(runs: impl IntoIterator<Item = RunMaker>) -> Comparison {
        Comparison::new(&collection(runs), &Options::default()).unwrap()
    }

    fn standings(comparison: &Comparison) -> Vec<(&str, Standing)> {
        comparison.arms.iter().map(|arm| (arm.label.as_str(), arm.standing)).collect()
    }

    #[test]
    fn figures_by_hand() {
        let run =
            |ffn, seed, loss| RunMaker::new(ffn, seed).loss(loss).with(|summary| summary.floor = Some(1.5));
        let runs = [("relu", 0, 2.0), ("relu", 1, 2.5), ("swiglu", 0, 1.75), ("swiglu", 1, 2.5)];
        let comparison = compare(runs.map(|(ffn, seed, loss)| run(ffn, seed, loss)));
        let [relu, swiglu] = &comparison.arms[..] else { panic!("two arms") };
        assert_eq!((relu.loss.unwrap().mean, relu.loss.unwrap().sd), (2.25, Some(0.125f64.sqrt())));
        assert_eq!(relu.perplexity, Some(2.25f64.exp()), "of the mean loss, not the mean of perplexities");
        assert_eq!(relu.above_floor, Some(0.75));
        assert!((relu.bits_per_byte.unwrap() - 2.25 / std::f64::consts::LN_2 / 4.0).abs() < 1e-12);
        assert_eq!(relu.difference, None);
        let difference = swiglu.difference.as_ref().unwrap();
        assert_eq!((difference.estimate.mean, difference.wins), (-0.125, 1));
        assert_eq!(swiglu.params_excess, swiglu.params.total as f64 / relu.params.total as f64 - 1.0);
    }

    #[test]
    fn gaps_from_full_precision_by_hand() {
        let run = |seed, loss| RunMaker::new("relu", seed).loss(loss);
        let full = [(0, 2.0), (1, 2.5), (2, 9.0)].map(|(seed, loss)| run(seed, loss));
        let bf16 = [(0, 2.0), (1, 2.5)].map(|(seed, loss)| run(seed, loss).precision("bf16", 0.25));
        let lost = run(2, 9.0).precision("bf16", 0.0).diverged();
        let comparison = compare(full.into_iter().chain(bf16).chain([lost]));
        let [full, bf16] = &comparison.arms[..] else { panic!("two arms") };
        assert_eq!((full.precision.as_str(), &full.gap_fp32), ("fp32", &None));
        assert_eq!((bf16.label.as_str(), bf16.precision.as_str()), ("relu bf16", "bf16"));
        let gap = bf16.gap_fp32.as_ref().unwrap();
        assert_eq!(
            (gap.estimate.mean, &gap.seeds_used[..], &gap.seeds_missing[..]),
            (0.25, &[0, 1][..], &[2][..])
        );
        assert_eq!((&bf16.diverged[..], &bf16.diverged_at[..]), (&[2][..], &[321][..]));
    }

    #[test]
    fn what_differs_besides_the_precision_is_said() {
        let relu = RunMaker::new("relu", 0).config("optim.beta2 = 0.1");
        let swiglu = RunMaker::new("swiglu", 0).config("optim.beta2 = 0.2").precision("bf16", 0.0);
        let comparison = compare([relu, swiglu]);
        let note = "besides the FFN and the precision, arms differ in optim.beta2 (0.1, 0.2)";
        assert!(comparison.notes.iter().any(|said| said.text == note), "{:#?}", comparison.notes);
    }

    #[test]
    fn learning_rates_of_their_own_are_compared_and_said() {
        let run = |ffn, lr: f64| RunMaker::new(ffn, 0).config(&format!("optim.lr = {lr}"));
        let rates = |comparison: &Comparison| comparison.arms.iter().map(|arm| arm.lr).collect::<Vec<_>>();
        let said = |comparison: &Comparison, text: &str| {
            comparison.notes.iter().any(|note| note.level == Level::Info && note.text.contains(text))
        };
        let own = compare([run("relu", 0.1), run("swiglu", 0.2), run("swiglu", 0.4).precision("bf16", 0.5)]);
        assert_eq!(rates(&own), [Some(0.1), Some(0.2), Some(0.4)]);
        assert!(said(&own, "own learning rate (lr)"), "{:#?}", own.notes);
        assert!(said(&own, "in everything but the precision and the learning rate"), "{:#?}", own.notes);
        assert_eq!(own.arms[2].gap_fp32.as_ref().unwrap().estimate.mean, 0.5);
        assert!(own.arms[1].difference.is_some());
        assert!(own.notes.iter().all(|note| !note.text.contains("arms differ in")), "{:#?}", own.notes);
        let shared = compare([run("relu", 0.1), run("swiglu", 0.1)]);
        let labelled = compare([run("swiglu", 0.1), run("swiglu", 0.2)]);
        assert!(!said(&shared, "own learning rate") && !said(&labelled, "own learning rate"));
    }

    #[test]
    fn figures_that_some_runs_lack_are_absent() {
        let without = RunMaker::new("relu", 1).with(|s| s.validation.as_mut().unwrap().bits_per_byte = None);
        let with_floor = RunMaker::new("relu", 0).with(|summary| summary.floor = Some(1.0));
        let arm = &compare([with_floor, without]).arms[0];
        assert_eq!((arm.bits_per_byte, arm.above_floor), (None, None));
    }

    #[test]
    fn the_best_and_those_that_may_be_as_good() {
        let comparison = Comparison::new(&nine_variants(5), &Options::default()).unwrap();
        let with = |standing| {
            let arms = comparison.arms.iter().filter(move |arm| arm.standing == standing);
            arms.map(|arm| arm.label.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(with(Standing::Best), ["geglu"]);
        assert_eq!(with(Standing::Tied), ["swiglu"]);
        assert_eq!(with(Standing::Worse).len(), 7);
    }

    #[test]
    fn an_arm_without_the_hard_seeds_is_not_the_best() {
        // Seed 2 is hard for everybody. Without it, swiglu's mean is the lowest although it never wins.
        let loss = |seed| [2.0, 2.01, 3.0][seed as usize];
        let relu = (0..3).map(|seed| RunMaker::new("relu", seed).loss(loss(seed)));
        let swiglu = (0..2).map(|seed| RunMaker::new("swiglu", seed).loss(loss(seed) + 0.001 * seed as f64));
        let comparison = compare(relu.chain(swiglu).chain([RunMaker::new("swiglu", 2).diverged()]));
        assert!(comparison.arms[1].loss.unwrap().mean < comparison.arms[0].loss.unwrap().mean);
        assert_eq!(standings(&comparison), [("relu", Standing::Best), ("swiglu", Standing::Tied)]);
    }

    #[test]
    fn nothing_is_ranked_without_something_to_rank_against() {
        assert_eq!(standings(&compare([RunMaker::new("relu", 0)])), [("relu", Standing::Unranked)]);
        let diverged = compare([RunMaker::new("relu", 0).diverged(), RunMaker::new("gelu", 0)]);
        assert!(
            diverged.arms.iter().all(|arm| arm.standing == Standing::Unranked && arm.difference.is_none())
        );
    }

    #[test]
    fn runs_are_listed_by_arm_and_seed() {
        let comparison =
            compare([("gelu", 1), ("relu", 1), ("gelu", 0), ("relu", 0)].map(|(f, s)| RunMaker::new(f, s)));
        let rows: Vec<_> = comparison.runs.iter().map(|row| (row.arm.as_str(), row.summary.seed)).collect();
        assert_eq!(rows, [("relu", 0), ("relu", 1), ("gelu", 0), ("gelu", 1)]);
        assert_eq!(comparison.runs[0].dir, "runs/relu-0");
    }

    #[test]
    fn an_empty_collection_is_an_error() {
        assert!(Comparison::new(&Collection::default(), &Options::default()).is_err());
    }
}

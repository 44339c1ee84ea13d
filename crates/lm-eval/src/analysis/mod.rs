//! Anybody's per-seed results, analysed: a CSV file of variant, seed and value becomes estimates, comparisons with a
//! baseline, and plain sentences about what they show and what they do not.
//!
//! [`read()`] makes [`Samples`] of the file's text, [`Analysis::new`] calls the pure functions of [`crate::stats`] on them,
//! [`report()`] prints the result. All three are plain values, so that a table, JSON and a test see the same numbers.

mod against;
mod findings;
mod read;
mod report;

pub use against::{Against, Judged};
pub use read::{Observation, Samples, Variant, read};
pub use report::report;

use anyhow::bail;
use lm_train::rng::{Key, Purpose};
use serde::Serialize;

use crate::stats::{
    Bca, Decomposition, Estimate, Factor, Interval, Refusal, Resampling, Term, bca_mean, decompose,
    t_interval,
};

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Variant that the others are compared with; the file's first by default.
    pub baseline: Option<&'a str>,
    /// Whether runs of one seed belong together.
    pub pairing: Pairing,
    /// Differences smaller than this are taken not to matter.
    pub margin: Option<f64>,
    /// Level of every test, between 0 and 1/2; intervals have the level 1 - alpha.
    pub alpha: f64,
}

/// Whether runs of one seed belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Pairing {
    /// Every run by itself: Welch's t, the permutation of labels, the rank-sum test.
    Independent,
    /// Differences within a seed: paired t, sign flips, signed ranks.
    BySeed,
}

/// A variant by itself.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Its name.
    pub variant: String,
    /// Number of seeds.
    pub n: usize,
    /// Mean over seeds.
    pub mean: f64,
    /// Standard deviation over seeds.
    pub sd: f64,
    /// Student's interval of the mean; `None` without spread.
    pub t_interval: Option<Interval>,
    /// Bootstrap interval of the mean; `None` where there is none, which `not_shown` explains.
    pub bca: Option<Bca>,
}

/// Everything that a file of results says.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// Name of the file.
    pub source: String,
    /// Level of the tests.
    pub alpha: f64,
    /// Power at which `detectable` and `seeds_needed` hold.
    pub power: f64,
    /// How variants are compared.
    pub pairing: Pairing,
    /// Differences taken not to matter.
    pub margin: Option<f64>,
    /// The variants, in the file's order.
    pub variants: Vec<Summary>,
    /// The variant that the others are compared with; `None` where there is one alone.
    pub baseline: Option<String>,
    /// Number of comparisons, over which Holm's correction runs for each test.
    pub family: usize,
    /// The other variants against the baseline.
    pub comparisons: Vec<Against>,
    /// Where the variance of paired values lies: variants, seeds, and the rest.
    pub decomposition: Option<Decomposition>,
    /// What the tests show, in sentences.
    pub shown: Vec<String>,
    /// What cannot be concluded, in sentences.
    pub not_shown: Vec<String>,
}

impl Analysis {
    /// Analyses `samples`.
    ///
    /// # Errors
    /// A variant with one seed, a baseline that is not there, and, for paired runs, seeds that only one of two variants has.
    /// The message names the line.
    pub fn new(samples: &Samples, options: &Options<'_>) -> anyhow::Result<Self> {
        for variant in &samples.variants {
            if let [only] = &variant.observations[..] {
                bail!(
                    "{}: \"{}\" has one seed, which has no spread; give it another or leave the variant out",
                    samples.at(only),
                    variant.name
                );
            }
        }
        let baseline = choose(samples, options.baseline)?;
        let others: Vec<&Variant> =
            samples.variants.iter().filter(|variant| variant.name != baseline.name).collect();
        if options.pairing == Pairing::BySeed {
            for arm in &others {
                samples.check_pairs(baseline, arm)?;
            }
        }
        let key = Key::new(0, Purpose::Resampling);
        let mut refusals = Vec::new();
        let variants = samples.variants.iter().map(|variant| {
            let values = variant.values();
            let Estimate { mean, sd, n, .. } = Estimate::of(&values).expect("a variant has values");
            let plan = Resampling::new(key.named("bca").named(&variant.name));
            let t_interval = t_interval(&values, 1.0 - options.alpha);
            let bca = bca_mean(&values, 1.0 - options.alpha, &plan);
            // Without spread there is neither; one reason is enough.
            let refusal = t_interval.err().map(|why| ("interval", why));
            let refusal = refusal.or(bca.err().map(|why| ("BCa interval", why)));
            refusals.extend(refusal.map(|(what, why)| Missing { what, of: variant.name.clone(), why }));
            let (t_interval, bca) = (t_interval.ok(), bca.ok());
            Summary { variant: variant.name.clone(), n, mean, sd: sd.unwrap_or(0.0), t_interval, bca }
        });
        let variants = variants.collect();
        let comparisons = against::compare_all(baseline, &others, options, &key, &mut refusals)?;
        let decomposition = (options.pairing == Pairing::BySeed && !others.is_empty())
            .then(|| by_variant_and_seed(samples).ok())
            .flatten();
        let mut analysis = Self {
            source: samples.source.clone(),
            alpha: options.alpha,
            power: crate::stats::power::USUAL_POWER,
            pairing: options.pairing,
            margin: options.margin,
            variants,
            baseline: (!others.is_empty()).then(|| baseline.name.clone()),
            family: others.len(),
            comparisons,
            decomposition,
            shown: Vec::new(),
            not_shown: Vec::new(),
        };
        analysis.shown = findings::shown(&analysis);
        analysis.not_shown = findings::not_shown(&analysis, &refusals, samples);
        Ok(analysis)
    }
}

/// A figure that a table cannot show.
struct Missing {
    what: &'static str,
    of: String,
    why: Refusal,
}

/// The variant of that name, or the first.
fn choose<'a>(samples: &'a Samples, name: Option<&str>) -> anyhow::Result<&'a Variant> {
    let Some(name) = name else { return Ok(&samples.variants[0]) };
    if let Some(variant) = samples.variants.iter().find(|variant| variant.name == name) {
        return Ok(variant);
    }
    let names: Vec<&str> = samples.variants.iter().map(|variant| variant.name.as_str()).collect();
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let hint = read::suggestion(name, &names);
    bail!("{}: no variant is called \"{name}\"{hint}; there are {}", samples.source, quoted.join(", "))
}

fn by_variant_and_seed(samples: &Samples) -> Result<Decomposition, Refusal> {
    let rows = samples.variants.iter().enumerate().flat_map(|(i, variant)| {
        variant.observations.iter().map(move |observation| (i, observation.seed, observation.value))
    });
    let rows: Vec<(usize, u64, f64)> = rows.collect();
    let variants: Vec<usize> = rows.iter().map(|row| row.0).collect();
    let seeds: Vec<u64> = rows.iter().map(|row| row.1).collect();
    let values: Vec<f64> = rows.iter().map(|row| row.2).collect();
    let factors = [Factor::new("variant", &variants), Factor::new("seed", &seeds)];
    decompose(&values, &factors, &[Term::main(0), Term::main(1)])
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE_SEEDS: &str = "variant,seed,value\n\
        relu,0,2.4899\nrelu,1,2.5012\nrelu,2,2.4921\nrelu,3,2.4850\nrelu,4,2.4978\n\
        swiglu,0,2.4320\nswiglu,1,2.4431\nswiglu,2,2.4367\nswiglu,3,2.4266\nswiglu,4,2.4411\n\
        gelu,0,2.4890\ngelu,1,2.5030\ngelu,2,2.4911\ngelu,3,2.4858\ngelu,4,2.4969\n";

    fn options(pairing: Pairing) -> Options<'static> {
        Options { baseline: None, pairing, margin: Some(0.01), alpha: 0.05 }
    }

    fn analyse(text: &str, options: &Options<'_>) -> Analysis {
        Analysis::new(&read("results.csv", text).unwrap(), options).unwrap()
    }

    fn refused(text: &str, options: &Options<'_>) -> String {
        Analysis::new(&read("results.csv", text).unwrap(), options).unwrap_err().to_string()
    }

    #[test]
    fn a_clear_effect_and_none() {
        let found = analyse(FIVE_SEEDS, &options(Pairing::BySeed));
        assert_eq!((found.baseline.as_deref(), found.family), (Some("relu"), 2));
        let [swiglu, gelu] = &found.comparisons[..] else { panic!("two comparisons") };
        assert!(swiglu.t.unwrap().holm < 1e-4 && gelu.t.unwrap().holm > 0.5, "{found:#?}");
        assert!(gelu.equivalence.unwrap().holm < 0.05 && swiglu.equivalence.unwrap().holm > 0.9);
        assert!(swiglu.pairing_gain.unwrap().removed > 0.8);
        assert_eq!(swiglu.permutation.test.smallest_p, 0.0625);
        assert!(found.not_shown.iter().any(|said| said.contains("0.0625")), "{:#?}", found.not_shown);
        let decomposition = found.decomposition.unwrap();
        assert!(decomposition.balanced && decomposition.sources[0].share > 0.8);
    }

    #[test]
    fn pairing_matters() {
        let paired = analyse(FIVE_SEEDS, &options(Pairing::BySeed));
        let unpaired = analyse(FIVE_SEEDS, &options(Pairing::Independent));
        let (a, b) = (&paired.comparisons[1], &unpaired.comparisons[1]);
        assert!((a.difference - b.difference).abs() < 1e-12);
        assert!(a.interval.unwrap().half_width() < 0.5 * b.interval.unwrap().half_width());
        assert!(b.pairing_gain.is_none() && unpaired.decomposition.is_none());
    }

    #[test]
    fn results_do_not_depend_on_the_order_of_rows() {
        let mut lines: Vec<&str> = FIVE_SEEDS.lines().collect();
        lines[2..].reverse(); // relu stays the first variant
        let shuffled = format!("{}\n", lines.join("\n"));
        let (a, b) =
            (analyse(FIVE_SEEDS, &options(Pairing::BySeed)), analyse(&shuffled, &options(Pairing::BySeed)));
        for summary in &a.variants {
            let other = b.variants.iter().find(|other| other.variant == summary.variant).unwrap();
            assert_eq!((summary.mean, summary.bca), (other.mean, other.bca));
        }
    }

    #[test]
    fn one_variant_is_estimated_and_compared_with_nothing() {
        let found = analyse("value,seed,variant\n1,0,a\n2,1,a\n", &options(Pairing::Independent));
        assert_eq!((found.variants.len(), found.comparisons.len(), found.baseline), (1, 0, None));
    }

    #[test]
    fn one_seed_missing_pairs_and_unknown_baselines_are_refused() {
        let with = |baseline| Options { baseline, ..options(Pairing::BySeed) };
        let text = "variant,seed,value\na,0,1\na,1,2\nb,0,1\nb,2,2\n";
        assert_eq!(
            refused(text, &with(None)),
            "results.csv:3: seed 1 of \"a\" has no partner in \"b\"; add it, leave it out, or compare without --paired"
        );
        assert_eq!(
            refused("variant,seed,value\na,0,1\na,1,2\nb,0,1\n", &with(None)),
            "results.csv:4: \"b\" has one seed, which has no spread; give it another or leave the variant out"
        );
        assert_eq!(
            refused("variant,seed,value\nrelu,0,1\nrelu,1,2\n", &with(Some("rleu"))),
            "results.csv: no variant is called \"rleu\" (did you mean \"relu\"?); there are \"relu\""
        );
    }

    #[test]
    fn equal_values_are_said_to_have_no_interval() {
        let text = "variant,seed,value\na,0,1\na,1,2\nb,0,5\nb,1,5\n";
        let found = analyse(text, &options(Pairing::Independent));
        assert!(found.variants[1].t_interval.is_none() && found.comparisons[0].t.is_none());
        assert!(
            found.not_shown.iter().any(|said| said.contains("all values are equal")),
            "{:#?}",
            found.not_shown
        );
    }
}

//! An analysis as text for a terminal: tables, then sentences.

use comfy_table::Table;

use super::findings::{exact_names, t_name};
use super::{Against, Analysis, Pairing};
use crate::compare::export::wrapped;
use crate::plain::{cells, section, table};
use crate::stats::power::MOST_SEEDS;
use crate::stats::{Distribution, Interval, SeedsNeeded};

/// What stands for a figure that is not there.
const ABSENT: &str = "–";

/// Writes an analysis as text, ending with a line break. Sentences are wrapped to `width` columns, tables are not.
pub fn report(analysis: &Analysis, width: Option<usize>) -> String {
    let decimals = decimals(analysis);
    let mut text = intro(analysis);
    text += &section("Each variant", each_variant(analysis, decimals));
    if let Some(baseline) = &analysis.baseline {
        text += &section(&format!("Difference from {baseline}"), differences(analysis, decimals));
        text += &section(&p_heading(analysis), p_values(analysis));
        let heading = format!("What these seeds resolve at {} power", percent(analysis.power));
        text += &section(&heading, resolution(analysis, decimals));
    }
    if let Some(decomposition) = &analysis.decomposition {
        let heading = format!("Where the variance lies ({}, fixed effects)", decomposition.model);
        text += &section(&heading, variance(analysis));
    }
    let paragraphs = [
        ("What this shows", &analysis.shown),
        ("What it does not show", &analysis.not_shown),
        ("How to read it", &legend(analysis)),
    ];
    for (heading, sentences) in paragraphs {
        if !sentences.is_empty() {
            text += &format!("\n{heading}\n");
        }
        for sentence in sentences {
            text += &wrapped(&format!("- {sentence}"), width);
        }
    }
    text
}

fn intro(analysis: &Analysis) -> String {
    let counts = analysis.variants.iter().map(|summary| summary.n);
    let (least, most) = (counts.clone().min().unwrap_or(0), counts.max().unwrap_or(0));
    let seeds = match analysis.variants.len() {
        1 => plural(most, "seed"),
        _ if least == most => format!("{} each", plural(most, "seed")),
        _ => format!("{least} to {most} seeds"),
    };
    let pairing = match (analysis.pairing, &analysis.baseline) {
        (_, None) => "",
        (Pairing::BySeed, Some(_)) => ", paired by seed",
        (Pairing::Independent, Some(_)) => ", runs taken as independent",
    };
    format!("{}: {}, {seeds}{pairing}\n", analysis.source, plural(analysis.variants.len(), "variant"))
}

fn each_variant(analysis: &Analysis, decimals: usize) -> Table {
    let [t, bca] = interval_headings(analysis);
    let with_bca = analysis.variants.iter().any(|summary| summary.bca.is_some());
    let mut table = table(&with(&["variant", "n", "mean", "sd", &t], with_bca, bca.as_str()));
    for summary in &analysis.variants {
        let figures = [
            summary.variant.clone(),
            summary.n.to_string(),
            number(summary.mean, decimals),
            number(summary.sd, decimals),
            maybe(summary.t_interval, |ends| interval(&ends, decimals)),
        ];
        let bca = maybe(summary.bca, |bca| interval(&bca.interval, decimals));
        table.add_row(cells(with(&figures, with_bca, &bca)));
    }
    table
}

fn differences(analysis: &Analysis, decimals: usize) -> Table {
    let [t, bca] = interval_headings(analysis);
    let count = match analysis.pairing {
        Pairing::BySeed => "pairs",
        Pairing::Independent => "n",
    };
    let with_bca = analysis.comparisons.iter().any(|against| against.bca.is_some());
    let mut table = table(&with(&["variant", count, "difference", &t], with_bca, bca.as_str()));
    for against in &analysis.comparisons {
        let figures = [
            against.variant.clone(),
            against.n.to_string(),
            signed(against.difference, decimals),
            maybe(against.interval, |ends| signed_interval(&ends, decimals)),
        ];
        let bca = maybe(against.bca, |bca| signed_interval(&bca.interval, decimals));
        table.add_row(cells(with(&figures, with_bca, &bca)));
    }
    table
}

/// Headings of Student's interval and of the bootstrap's.
fn interval_headings(analysis: &Analysis) -> [String; 2] {
    let level = percent(1.0 - analysis.alpha);
    ["t", "BCa"].map(|kind| format!("{level} interval, {kind}"))
}

/// The fields of a row, and one more if there is such a column.
fn with<T: Clone>(fields: &[T], has_last: bool, last: impl Into<T>) -> Vec<T> {
    let last = has_last.then(|| last.into());
    fields.iter().cloned().chain(last).collect()
}

fn p_heading(analysis: &Analysis) -> String {
    match analysis.family {
        1 => "p values".to_owned(),
        family => format!("p values, and adjusted by Holm over the {family} comparisons of each test"),
    }
}

fn p_values(analysis: &Analysis) -> Table {
    let adjusts = analysis.family > 1;
    let [permutation, rank] = exact_names(analysis.pairing);
    let within = analysis.margin.map(|margin| format!("within ±{margin}"));
    let tests = [t_name(analysis.pairing), permutation, rank].into_iter().chain(within.as_deref());
    let headings: Vec<&str> = ["variant"]
        .into_iter()
        .chain(tests.flat_map(|test| [Some(test), adjusts.then_some("Holm")]).flatten())
        .collect();
    let mut table = table(&headings);
    for against in &analysis.comparisons {
        let judged = [
            Some(against.t.map(|t| (t.test.p_value, t.holm))),
            Some(Some((against.permutation.test.p_value, against.permutation.holm))),
            Some(Some((against.rank.test.p_value, against.rank.holm))),
            analysis.margin.map(|_| against.equivalence.map(|judged| (judged.test.p_value, judged.holm))),
        ];
        let figures = judged.into_iter().flatten().flat_map(|pair| {
            let holm = adjusts.then(|| maybe(pair, |(_, holm)| p_value(holm)));
            [Some(maybe(pair, |(p, _)| p_value(p))), holm]
        });
        table.add_row(cells([against.variant.clone()].into_iter().chain(figures.flatten())));
    }
    table
}

fn resolution(analysis: &Analysis, decimals: usize) -> Table {
    let seeds = analysis.margin.map(|margin| format!("seeds for {margin}"));
    let holm = (analysis.family > 1).then_some("with Holm");
    let by_pairing: &[&str] = match analysis.pairing {
        Pairing::BySeed => &["sd of pairs", "sd unpaired", "pairing removes"],
        Pairing::Independent => &[],
    };
    let headings: Vec<&str> = ["variant"]
        .into_iter()
        .chain(by_pairing.iter().copied())
        .chain(["resolves"])
        .chain(seeds.as_deref())
        .collect();
    let mut table = table(&headings);
    for against in &analysis.comparisons {
        let mut row = vec![against.variant.clone()];
        if analysis.pairing == Pairing::BySeed {
            row.extend(pairing_figures(against, decimals));
        }
        row.push(maybe(against.detectable, |detectable| number(detectable.difference, decimals)));
        if holm.is_some() {
            row.push(maybe(against.detectable_holm, |detectable| number(detectable.difference, decimals)));
        }
        if analysis.margin.is_some() {
            row.push(maybe(against.seeds_needed, seeds_needed));
        }
        table.add_row(cells(row));
    }
    table
}

fn pairing_figures(against: &Against, decimals: usize) -> [String; 3] {
    [
        maybe(against.sd, |sd| number(sd, decimals)),
        maybe(against.pairing_gain, |gain| number(gain.sd_unpaired, decimals)),
        maybe(against.pairing_gain, |gain| tenths(gain.removed)),
    ]
}

fn seeds_needed(needed: SeedsNeeded) -> String {
    needed.seeds.map_or_else(|| format!("> {MOST_SEEDS}"), |seeds| seeds.to_string())
}

fn variance(analysis: &Analysis) -> Table {
    let mut table = table(&["source", "df", "share", "less chance", "p"]);
    let Some(found) = &analysis.decomposition else { return table };
    for source in &found.sources {
        table.add_row(cells([
            source.term.clone(),
            source.df.to_string(),
            tenths(source.share),
            tenths(source.corrected_share.max(0.0)),
            p_value(source.p_value),
        ]));
    }
    table.add_row(cells([
        "rest".to_owned(),
        found.residual_df.to_string(),
        tenths(found.residual_share),
        String::new(),
        String::new(),
    ]));
    table
}

/// How to read the tables.
fn legend(analysis: &Analysis) -> Vec<String> {
    let mut legend = Vec::new();
    let Some(baseline) = &analysis.baseline else {
        legend.push("t intervals take values to be about normal; BCa is a bootstrap (Efron 1987)".to_owned());
        return legend;
    };
    let drawn =
        |against: &Against| matches!(against.permutation.test.distribution, Distribution::MonteCarlo { .. });
    let exact = if analysis.comparisons.iter().any(drawn) {
        "exact up to 2^16 arrangements, else drawn"
    } else {
        "exact"
    };
    let tests = match analysis.pairing {
        Pairing::BySeed => format!(
            "Sign-flip ({exact}) takes both signs of a difference to be as likely; Wilcoxon is the signed-rank test, zeros \
             ranked by Pratt's rule"
        ),
        Pairing::Independent => format!(
            "Permutation ({exact}) takes every division of the values into two variants to be as likely; rank-sum is \
             Wilcoxon's, or Mann and Whitney's"
        ),
    };
    legend.push(format!(
        "Differences are variant - {baseline}; whether lower is better is not known here. {tests}"
    ));
    let holm = match analysis.family {
        1 => String::new(),
        family => format!("; \"with Holm\": the same at {} / {family}, Holm's first step", analysis.alpha),
    };
    let seeds = analysis.margin.map_or_else(String::new, |margin| {
        format!("; \"seeds for {margin}\": how many, at {}, would find that", analysis.alpha)
    });
    legend.push(format!(
        "\"resolves\": the smallest true difference that the t test at α = {} finds {} of the time, if the measured spread is \
         the true one{holm}{seeds}",
        analysis.alpha,
        percent(analysis.power)
    ));
    if analysis.decomposition.is_some() {
        legend.push(
            "\"less chance\": the share that is left after what chance alone would give (omega squared); \"rest\": chance, \
             and seeds that act differently on different variants"
                .to_owned(),
        );
    }
    let level = percent(1.0 - analysis.alpha);
    legend.push(format!(
        "Each interval holds at {level} by itself, not all together. Holm guards one test at a time: choose the test before \
         looking"
    ));
    legend
}

/// Decimals that show two digits of most spreads, and at most two more than that for the smallest.
fn decimals(analysis: &Analysis) -> usize {
    let of_variants = analysis.variants.iter().map(|summary| summary.sd);
    let of_pairs = analysis.comparisons.iter().filter_map(|against| against.sd);
    let mut spreads: Vec<f64> = of_variants.chain(of_pairs).filter(|sd| *sd > 0.0).collect();
    spreads.sort_by(f64::total_cmp);
    let needed = |sd: f64| (1.0 - sd.log10().floor()).clamp(0.0, 15.0) as usize;
    match (spreads.first(), spreads.get(spreads.len() / 2)) {
        (Some(&smallest), Some(&middle)) => needed(smallest).min(needed(middle) + 2),
        (_, _) => 4,
    }
}

/// A number with so many decimals.
pub(super) fn number(x: f64, decimals: usize) -> String {
    format!("{x:.decimals$}")
}

/// A number with its sign, unless it is zero as far as it is shown.
fn signed(x: f64, decimals: usize) -> String {
    let text = format!("{x:+.decimals$}");
    if text.contains(|c: char| ('1'..='9').contains(&c)) { text } else { number(0.0, decimals) }
}

fn interval(ends: &Interval, decimals: usize) -> String {
    format!("{} to {}", number(ends.low, decimals), number(ends.high, decimals))
}

fn signed_interval(ends: &Interval, decimals: usize) -> String {
    format!("{} to {}", signed(ends.low, decimals), signed(ends.high, decimals))
}

fn p_value(p: f64) -> String {
    if p < 0.0001 { "<0.0001".to_owned() } else { number(p, 4) }
}

/// A share in percent, with a decimal only where there is one.
pub(super) fn percent(share: f64) -> String {
    let tenths = (share * 1000.0).round();
    let decimals = usize::from(tenths % 10.0 != 0.0);
    format!("{:.decimals$} %", tenths / 10.0)
}

/// A share in percent, for a column of them.
fn tenths(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `1 seed`, `2 seeds`.
pub(super) fn plural(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn maybe<T>(x: Option<T>, shown: impl Fn(T) -> String) -> String {
    x.map_or_else(|| ABSENT.to_owned(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!(
            (percent(0.95), percent(0.999), percent(-0.123)),
            ("95 %".into(), "99.9 %".into(), "-12.3 %".into())
        );
        assert_eq!(
            (p_value(0.00005), p_value(0.0625), p_value(1.0)),
            ("<0.0001".into(), "0.0625".into(), "1.0000".into())
        );
        assert_eq!((plural(1, "seed"), plural(2, "seed")), ("1 seed".into(), "2 seeds".into()));
    }
}

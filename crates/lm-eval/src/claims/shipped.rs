//! The claims that come with ffnlab, built into the program.

use lm_train::config::{ConfigError, closest};

use super::claim::Claim;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        [$((concat!("configs/claims/", $name, ".toml"),
            include_str!(concat!("../../../../configs/claims/", $name, ".toml")))),*]
    };
}

/// Names and texts of the files, by number.
const FILES: [(&str, &str); 26] = files![
    "01-gated-beats-ungated",
    "02-geglu-equals-swiglu",
    "03-bilinear-beats-glu",
    "04-bilinear-beats-every-ungated",
    "05-gtu-worse-than-swiglu",
    "06-gate-matters-more",
    "07-selu-and-elu-worse",
    "08-relu-squared-beats-swiglu",
    "09-relu-squared-is-tied-reglu",
    "10-unmatched-width",
    "11-bf16-trains-like-fp32",
    "12-fp8-gap",
    "13-activation-in-fp32",
    "14-delayed-scaling-outliers",
    "15-alignment-grows",
    "16-smooth-keeps-the-function",
    "17-ternary-gap-shrinks",
    "18-absmedian-beats-absmean",
    "19-active-ratio-with-data",
    "20-dead-units-and-warm-up",
    "21-row-skipping",
    "22-relufication",
    "23-half-of-relu-starts-saturated",
    "24-swish-always-rises",
    "25-mish-bounded-below",
    "26-hardswish-cost",
];

/// All of them, by number.
///
/// # Errors
/// Never for a build whose tests passed.
pub fn shipped() -> Result<Vec<Claim>, ConfigError> {
    FILES.iter().map(|(file, text)| Claim::parse(file, text)).collect()
}

/// The shipped claim with this number or name; `None` for what looks like the path of a file.
///
/// # Errors
/// A number or a name that no claim has, with what was probably meant.
pub fn find(wanted: &str) -> Result<Option<Claim>, ConfigError> {
    let claims = shipped()?;
    let number = wanted.parse::<u32>().ok();
    if let Some(claim) = claims.iter().find(|claim| number == Some(claim.number) || claim.name == wanted) {
        return Ok(Some(claim.clone()));
    }
    if wanted.ends_with(".toml") || wanted.contains(std::path::MAIN_SEPARATOR) {
        return Ok(None);
    }
    let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
    let message = if number.is_some() || wanted.parse::<f64>().is_ok() {
        let ends = claims.first().zip(claims.last()).map(|(a, b)| (a.number, b.number)).unwrap_or_default();
        format!("there is none; claims are numbered {} to {} (see `ffnlab claims list`)", ends.0, ends.1)
    } else {
        match closest(wanted, &names) {
            Some(best) => {
                format!("no claim has this name, did you mean `{best}`? (see `ffnlab claims list`)")
            }
            None => "no claim has this name (see `ffnlab claims list`), and a claim's file ends in .toml"
                .to_owned(),
        }
    };
    Err(ConfigError::Invalid { place: format!("claim {wanted}"), message })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::claims::{Rule, Scale};

    #[test]
    fn every_claim_parses_and_its_configs_resolve() {
        let claims = shipped().unwrap_or_else(|error| panic!("{error}"));
        let numbers: Vec<u32> = claims.iter().map(|claim| claim.number).collect();
        assert_eq!(numbers, (1..=26).collect::<Vec<u32>>());
        let names: BTreeSet<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
        assert_eq!(names.len(), claims.len());
        for claim in &claims {
            let stem = format!("configs/claims/{:02}-{}.toml", claim.number, claim.name);
            assert_eq!(claim.file, stem, "the file is called after the claim");
            for scale in Scale::ALL {
                let runs = claim.plan(scale, claim.seeds, &[]).unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(runs.len(), claim.arms.len() * claim.seeds as usize);
                let distinct: Vec<_> = runs.iter().map(|run| &run.config).collect();
                assert!((1..distinct.len()).all(|i| !distinct[..i].contains(&distinct[i])), "{}", claim.file);
                assert_eq!(claim.rule.decided_by_runs(), !runs.is_empty(), "{}", claim.file);
            }
            assert!(claim.rule_in_words.len() > 40 && !claim.sources.is_empty(), "{}", claim.file);
        }
    }

    #[test]
    fn every_rule_that_needs_runs_has_a_precondition() {
        for claim in shipped().unwrap().iter().filter(|claim| claim.rule.decided_by_runs()) {
            assert!(!claim.preconditions.is_empty(), "{}", claim.file);
        }
    }

    #[test]
    fn exact_claims_are_those_that_computation_decides() {
        let exact: Vec<u32> = shipped()
            .unwrap()
            .iter()
            .filter(|claim| matches!(claim.rule, Rule::Exact(_)))
            .map(|claim| claim.number)
            .collect();
        assert_eq!(exact, [9, 16, 23, 24, 25]);
    }

    #[test]
    fn claims_are_found_by_number_and_name() {
        assert_eq!(find("7").unwrap().unwrap().number, 7);
        assert_eq!(find("fp8-gap").unwrap().unwrap().number, 12);
        assert!(find("mine.toml").unwrap().is_none() && find("a/b").unwrap().is_none());
        assert!(find("27").unwrap_err().to_string().contains("1 to 26"));
        assert!(find("fp8-gaps").unwrap_err().to_string().contains("did you mean `fp8-gap`?"));
        assert!(find("zzz").is_err());
    }
}

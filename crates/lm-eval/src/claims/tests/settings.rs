//! Runs of several settings in one collection: which are compared, and what is said of the rest.

use super::*;

#[test]
fn settings_are_decided_apart_and_the_largest_comes_first() {
    let small = runs(&[("bilinear", 0.05), ("glu", 0.0)]);
    let large = runs(&[("bilinear", -0.05), ("glu", 0.0)])
        .into_iter()
        .map(|run| run.config("train.steps = 4000").with(|summary| summary.tokens *= 4));
    let found = judged(assess_runs(&shipped_claim("3"), small.into_iter().chain(large).collect()));
    assert_eq!(
        found.iter().map(|v| v.decision).collect::<Vec<_>>(),
        [Decision::Confirmed, Decision::Refuted]
    );
    let differs = &found[0].setting.as_ref().unwrap().differs;
    assert_eq!(differs[..], ["train.steps = 4000"]);
}

#[test]
fn an_arm_may_have_a_learning_rate_of_its_own() {
    let at = |arm: (&'static str, f64), rate: &'static str| {
        runs(&[arm]).into_iter().map(move |run| run.config(&format!("optim.lr = {rate}")))
    };
    let tuned = || at(("bilinear", -0.05), "0.004").chain(at(("glu", 0.0), "0.008"));
    let found = judged(assess_runs(&shipped_claim("3"), tuned().collect()));
    assert_eq!((found.len(), found[0].decision), (1, Decision::Confirmed));
    let rates = &found[0].setting.as_ref().unwrap().rates;
    assert_eq!((rates.len(), &*rates["bilinear"], &*rates["glu"]), (2, "0.004", "0.008"));
    assert!(
        found[0].notes.iter().any(|note| note.ends_with("bilinear 0.004, glu 0.008")),
        "{:?}",
        found[0].notes
    );

    // An arm with two rates: only what shares one is compared.
    let shared = at(("glu", -0.2), "0.004");
    let found = judged(assess_runs(&shipped_claim("3"), tuned().chain(shared).collect()));
    assert_eq!((found.len(), found[0].decision), (1, Decision::Refuted));
    assert!(found[0].setting.as_ref().unwrap().rates.is_empty());
}

#[test]
fn arms_in_different_settings_are_not_compared() {
    let other = |run: RunMaker| run.with(|summary| summary.data_fingerprint = "0ther".to_owned());
    let mixed = runs(&[("bilinear", 0.0)]).into_iter().chain(runs(&[("glu", 0.0)]).into_iter().map(other));
    let said = reasons(assess_runs(&shipped_claim("3"), mixed.collect()));
    assert!(said.contains("not in one setting") && said.contains("data (0ther, 5eed5eed)"), "{said}");
    let budget = |run: RunMaker| run.config("train.steps = 7");
    let mixed = runs(&[("bilinear", 0.0)]).into_iter().chain(runs(&[("glu", 0.0)]).into_iter().map(budget));
    assert!(reasons(assess_runs(&shipped_claim("3"), mixed.collect())).contains("train.steps (7, none)"));
}

#[test]
fn unequal_parameters_decide_nothing_where_equal_ones_are_claimed() {
    let wide = |run: RunMaker| run.with(|summary| summary.params.total *= 2);
    let unequal = runs(&[("glu", 0.0)]).into_iter().chain(runs(&[("bilinear", 0.0)]).into_iter().map(wide));
    let said = reasons(assess_runs(&shipped_claim("3"), unequal.collect()));
    assert!(said.contains("equal parameters") && said.contains("bilinear has"), "{said}");
}

#[test]
fn a_setting_that_decides_nothing_beside_one_that_does_is_said() {
    let wide = |run: RunMaker| run.config("optim.lr = 0.1").with(|summary| summary.params.total *= 2);
    let good = runs(&[("bilinear", -0.05), ("glu", 0.0)]);
    let narrow = runs(&[("glu", 0.0)]).into_iter().map(|run| run.config("optim.lr = 0.1"));
    let bad = runs(&[("bilinear", 0.0)]).into_iter().map(wide).chain(narrow);
    let found = judged(assess_runs(&shipped_claim("3"), good.into_iter().chain(bad).collect()));
    assert_eq!((found.len(), found[0].decision), (1, Decision::Confirmed));
    let said = found[0].notes.join("; ");
    assert!(said.contains("another setting decides nothing: the claim is about equal parameters"), "{said}");
}

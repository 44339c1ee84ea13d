//! Which arm the others are compared with.

use anyhow::bail;

use super::arms::ArmRuns;

/// Default baseline, where there is one.
const DEFAULT_BASELINE: &str = "relu";

/// Index of the baseline: the arm of that label, the only arm with that FFN (in full precision, where there are
/// several), or the only one with that FFN and precision, named `FFN PRECISION`. By default ReLU, else the first arm,
/// in full precision where it is there.
///
/// # Errors
/// When the name fits no arm or several; the message lists what can be chosen.
pub(super) fn choose(arms: &[ArmRuns<'_>], name: Option<&str>) -> anyhow::Result<usize> {
    let Some(name) = name else {
        let preference = |&i: &usize| (arms[i].ffn() != DEFAULT_BASELINE, !arms[i].is_full_precision());
        return Ok((0..arms.len()).min_by_key(preference).unwrap_or(0));
    };
    if let Some(exact) = arms.iter().position(|arm| arm.label == name) {
        return Ok(exact);
    }
    let quoted = |arms: &mut dyn Iterator<Item = &ArmRuns<'_>>| {
        arms.map(|arm| format!("\"{}\"", arm.label)).collect::<Vec<_>>().join(", ")
    };
    let those = |fits: &dyn Fn(&ArmRuns<'_>) -> bool| -> Vec<usize> {
        (0..arms.len()).filter(|&i| fits(&arms[i])).collect()
    };
    let with_ffn = those(&|arm| arm.ffn() == name);
    let in_full = those(&|arm| arm.ffn() == name && arm.is_full_precision());
    let with_both = those(&|arm| format!("{} {}", arm.ffn(), arm.precision()) == name);
    let fitting = [in_full, with_ffn, with_both].into_iter().find(|fitting| !fitting.is_empty());
    let fitting = fitting.unwrap_or_default();
    match fitting[..] {
        [only] => Ok(only),
        [] => {
            let likeness = |arm: &ArmRuns<'_>| {
                strsim::jaro_winkler(name, &arm.label).max(strsim::jaro_winkler(name, arm.ffn()))
            };
            let nearest = arms.iter().max_by(|a, b| {
                let full = a.is_full_precision().cmp(&b.is_full_precision());
                likeness(a).total_cmp(&likeness(b)).then(full)
            });
            let hint = nearest
                .filter(|arm| likeness(arm) > 0.7)
                .map_or_else(String::new, |arm| format!(" (did you mean \"{}\"?)", arm.label));
            bail!("no arm is called \"{name}\"{hint}; there are {}", quoted(&mut arms.iter()))
        }
        _ => bail!(
            "\"{name}\" fits several arms; name one of {}",
            quoted(&mut fitting.iter().map(|&i| &arms[i]))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::arms::group;
    use super::super::testing::{RunMaker, collection};

    fn run(ffn: &str, config: &str) -> RunMaker {
        RunMaker::new(ffn, 0).config(config)
    }

    #[test]
    fn choosing_a_baseline() {
        let sweep = |lr| run("swiglu", &format!("optim.lr = {lr}"));
        let collection = collection([run("gelu", ""), sweep(0.1), sweep(0.2), run("relu", "")]);
        let (arms, _) = group(&collection.runs);
        let choose = |name| super::choose(&arms, name).map_err(|error| error.to_string());
        assert_eq!(choose(None), Ok(3), "relu");
        assert_eq!(super::choose(&arms[..3], None).unwrap(), 0, "the first without relu");
        assert_eq!(choose(Some("gelu")), Ok(0));
        assert_eq!(choose(Some("swiglu lr=0.2")), Ok(2));
        let error = "\"swiglu\" fits several arms; name one of \"swiglu lr=0.1\", \"swiglu lr=0.2\"";
        assert_eq!(choose(Some("swiglu")), Err(error.to_owned()));
        let choices = "there are \"gelu\", \"swiglu lr=0.1\", \"swiglu lr=0.2\", \"relu\"";
        assert_eq!(
            choose(Some("rleu")),
            Err(format!("no arm is called \"rleu\" (did you mean \"relu\"?); {choices}"))
        );
        assert_eq!(choose(Some("xyz")), Err(format!("no arm is called \"xyz\"; {choices}")));
    }

    #[test]
    fn choosing_a_baseline_among_precisions() {
        let bf16 = |ffn| RunMaker::new(ffn, 0).precision("bf16", 0.0);
        let int8 = |ffn| RunMaker::new(ffn, 0).precision("int8", 0.0);
        let collection =
            collection([bf16("relu"), run("gelu", ""), run("relu", ""), bf16("selu"), int8("selu")]);
        let (arms, _) = group(&collection.runs);
        let choose = |name| super::choose(&arms, name).map_err(|error| error.to_string());
        assert_eq!(choose(None), Ok(2), "relu in fp32");
        assert_eq!(super::choose(&arms[3..], None).unwrap(), 0, "the first where nothing is in fp32");
        assert_eq!(choose(Some("relu")), Ok(2));
        assert_eq!(choose(Some("relu fp32")), Ok(2));
        assert_eq!(choose(Some("relu bf16")), Ok(0));
        let error = "\"selu\" fits several arms; name one of \"selu bf16\", \"selu int8\"";
        assert_eq!(choose(Some("selu")), Err(error.to_owned()));
        let error = choose(Some("rleu")).unwrap_err();
        assert!(error.contains("(did you mean \"relu\"?)"), "{error}");
    }

    #[test]
    fn an_ffn_and_a_precision_may_fit_several_arms() {
        let fp8 = |smooth| run("relu", &format!("precision.smooth = {smooth}")).precision("fp8_delayed", 0.0);
        let collection = collection([fp8(false), fp8(true)]);
        let (arms, _) = group(&collection.runs);
        let error = super::choose(&arms, Some("relu fp8_delayed")).unwrap_err().to_string();
        let choices = "\"relu fp8_delayed smooth=false\", \"relu fp8_delayed smooth=true\"";
        assert_eq!(error, format!("\"relu fp8_delayed\" fits several arms; name one of {choices}"));
    }
}

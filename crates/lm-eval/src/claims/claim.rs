//! A claim's file, read and checked.

use std::collections::BTreeMap;
use std::path::Path;

use lm_train::config::{ConfigError, closest};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::plan::Scale;
use super::rule::{Precondition, Rule};

/// What a claim's file holds. The order of its keys is that in which it is best read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    number: u32,
    name: String,
    title: String,
    claim: String,
    sources: Vec<String>,
    expected: String,
    hypothesis: String,
    rule_in_words: String,
    #[serde(default = "usual_alpha")]
    alpha: f64,
    #[serde(default)]
    seeds: u64,
    #[serde(default)]
    equal_parameters: bool,
    rule: Rule,
    #[serde(default)]
    preconditions: Vec<Precondition>,
    #[serde(default)]
    arms: Table,
    #[serde(default)]
    config: Table,
    #[serde(default)]
    scale: BTreeMap<Scale, Table>,
}

fn usual_alpha() -> f64 {
    0.05
}

/// A claim and the rule that decides it.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// Number in the list; own claims choose any.
    pub number: u32,
    /// Short name, `words-joined-by-hyphens`.
    pub name: String,
    /// The claim in one line.
    pub title: String,
    /// What the source says.
    pub claim: String,
    /// Who says so.
    pub sources: Vec<String>,
    /// What the literature leads to expect.
    pub expected: String,
    /// What is tested, with its direction.
    pub hypothesis: String,
    /// The rule, in words.
    pub rule_in_words: String,
    /// Level of the tests: intervals have the level 1 - alpha, and the comparisons share it by Holm's correction.
    pub alpha: f64,
    /// Seeds per arm that the rule asks for.
    pub seeds: u64,
    /// Whether arms whose parameters differ by more than 1 % decide nothing.
    pub equal_parameters: bool,
    /// The rule.
    pub rule: Rule,
    /// What must have occurred in the runs.
    pub preconditions: Vec<Precondition>,
    /// Config keys of each arm, on top of `config`, in the order of the file.
    pub arms: Vec<Arm>,
    /// Config keys that all arms share, on top of a scale's.
    pub config: Table,
    /// Config keys by scale, on top of that.
    pub scale: BTreeMap<Scale, Table>,
    /// File it was read from, or its name among the shipped ones.
    pub file: String,
    /// BLAKE3 of the file's content.
    pub hash: String,
}

/// One side of a comparison, as a config.
#[derive(Clone, Debug, Serialize)]
pub struct Arm {
    /// Its name in the rule.
    pub name: String,
    /// Config keys that make it.
    pub keys: Table,
}

impl Claim {
    /// Reads a claim from the text of its file; `file` names it in errors.
    ///
    /// # Errors
    /// A text that is not a claim, a rule whose numbers or arms make no sense: with file, line and key.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let parsed: File = toml::from_str(text).map_err(|error| ConfigError::in_toml(file, text, &error))?;
        let mut arms = Vec::new();
        for (name, keys) in parsed.arms {
            match keys {
                toml::Value::Table(keys) => arms.push(Arm { name, keys }),
                other => {
                    let message = format!("a table of config keys was expected, not {other}");
                    return Err(ConfigError::Invalid { place: format!("{file}: arms.{name}"), message });
                }
            }
        }
        let claim = Self {
            number: parsed.number,
            name: parsed.name,
            title: parsed.title,
            claim: parsed.claim,
            sources: parsed.sources,
            expected: parsed.expected,
            hypothesis: parsed.hypothesis,
            rule_in_words: parsed.rule_in_words,
            alpha: parsed.alpha,
            seeds: parsed.seeds,
            equal_parameters: parsed.equal_parameters,
            rule: parsed.rule,
            preconditions: parsed.preconditions,
            arms,
            config: parsed.config,
            scale: parsed.scale,
            file: file.to_owned(),
            hash: blake3::hash(text.as_bytes()).to_hex()[..16].to_owned(),
        };
        claim.check()?;
        Ok(claim)
    }

    /// Reads a claim from its file.
    ///
    /// # Errors
    /// A file that cannot be read; as [`Claim::parse`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |reason| ConfigError::Unreadable { path: path.to_owned(), reason };
        let bytes =
            std::fs::read(path).map_err(|error| unreadable(format!("cannot read this claim: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            unreadable(format!("not UTF-8 text (byte {at}); a claim is a TOML file"))
        })?;
        Self::parse(&path.display().to_string(), &text)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |key: &str, message: String| {
            Err(ConfigError::Invalid { place: format!("{}: {key}", self.file), message })
        };
        if !(self.alpha > 0.0 && self.alpha < 0.5) {
            return invalid("alpha", format!("{} is not between 0 and 0.5", self.alpha));
        }
        if let Some(mistake) = self.rule.mistake() {
            return invalid(&format!("rule.{}", self.rule.kind()), mistake);
        }
        let known: Vec<&str> = self.arms.iter().map(|arm| arm.name.as_str()).collect();
        let of_rule = self.rule.arms().into_iter().map(|arm| (format!("rule.{}", self.rule.kind()), arm));
        let of_conditions = self.preconditions.iter().flat_map(|condition| &condition.arms);
        for (key, arm) in of_rule.chain(of_conditions.map(|arm| ("preconditions".to_owned(), arm.as_str()))) {
            if !known.contains(&arm) {
                let hint = closest(arm, &known).map(|best| format!(", did you mean `{best}`?"));
                let hint = hint.unwrap_or_default();
                return invalid(
                    &key,
                    format!("no arm is called `{arm}`{hint} (known: {})", known.join(", ")),
                );
            }
        }
        if let Some(unused) = known.iter().find(|arm| !self.rule.arms().contains(*arm)) {
            return invalid(
                &format!("arms.{unused}"),
                "the rule does not use this arm; remove it".to_owned(),
            );
        }
        if self.rule.decided_by_runs() && self.seeds < 2 {
            return invalid("seeds", format!("{} have no spread; ask for two or more", self.seeds));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = r#"
number = 99
name = "mine"
title = "A title"
claim = "A claim"
sources = ["me"]
expected = "less"
hypothesis = "a is below b"
rule_in_words = "a minus b"
seeds = 3
[arms]
a = { model.ffn.preset = "relu" }
b = { model.ffn.preset = "gelu" }
[rule.less]
metric = "loss"
arms = ["a"]
than = ["b"]
smallest_effect = 0.01
"#;

    fn error(from: &str, to: &str) -> String {
        assert!(TWO.contains(from), "{from}");
        Claim::parse("mine.toml", &TWO.replace(from, to)).expect_err("refused").to_string()
    }

    #[test]
    fn a_file_and_its_hash() {
        let claim = Claim::parse("mine.toml", TWO).unwrap();
        assert_eq!((claim.alpha, claim.seeds, claim.arms.len()), (0.05, 3, 2));
        assert_eq!(claim.hash, Claim::parse("other.toml", TWO).unwrap().hash);
        let changed = TWO.replace("smallest_effect = 0.01", "smallest_effect = 0.02");
        assert_ne!(claim.hash, Claim::parse("mine.toml", &changed).unwrap().hash);
    }

    #[test]
    fn mistakes_name_their_place() {
        let wrong = error(r#"metric = "loss""#, r#"metric = "los""#);
        assert!(wrong.starts_with("mine.toml:15:10: ") && wrong.contains("did you mean `loss`?"), "{wrong}");
        let wrong = error("than = ", "then = ");
        assert!(wrong.starts_with("mine.toml:17:1: unknown field `then`, did you mean `than`?"), "{wrong}");
        let wrong = error("[rule.less]", "[rule.lesser]");
        assert!(wrong.starts_with("mine.toml:14:") && wrong.contains("did you mean `less`?"), "{wrong}");
        let wrong = error("number = 99\n", "");
        assert!(wrong.contains("missing field `number`"), "{wrong}");
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let than = r#"than = ["b"]"#;
        let wrong = error(than, r#"than = ["bb"]"#);
        assert!(wrong.starts_with("mine.toml: rule.less: no arm is called `bb`"), "{wrong}");
        assert!(error(than, r#"than = ["a"]"#).contains("arms.b: the rule does not use this arm"));
        assert!(error(than, "than = []").contains("than needs at least 1"));
        assert!(error("seeds = 3", "seeds = 1").contains("no spread"));
        assert!(error("seeds = 3", "alpha = 0.5\nseeds = 3").contains("alpha: 0.5 is not between"));
        assert!(error("smallest_effect = 0.01", "smallest_effect = 0.0").contains("must be above 0"));
        let wrong = error("smallest_effect = 0.01", "smallest_effect = 0.01\nthreshold = 0.02");
        assert!(wrong.contains("threshold = 0.02 must lie between 0 and smallest_effect = 0.01"), "{wrong}");
        let wrong = error(r#"a = { model.ffn.preset = "relu" }"#, "a = 3");
        assert!(wrong.contains("arms.a: a table of config keys"), "{wrong}");
    }

    #[test]
    fn a_wrong_config_names_file_and_key() {
        let claim = Claim::parse("mine.toml", &TWO.replace("relu", "rleu")).unwrap();
        let wrong = claim.plan(Scale::Smoke, 1, &[]).unwrap_err().to_string();
        assert!(wrong.starts_with("mine.toml: arms.a.model.ffn.preset: "), "{wrong}");
        assert!(wrong.contains("did you mean `relu`?"), "{wrong}");
    }

    #[test]
    fn runs_are_named_by_their_config_and_ordered_by_seed() {
        let claim = Claim::parse("mine.toml", TWO).unwrap();
        let names: Vec<String> =
            claim.plan(Scale::Smoke, 2, &[]).unwrap().into_iter().map(|run| run.name).collect();
        assert_eq!(names, ["relu-seed0", "gelu-seed0", "relu-seed1", "gelu-seed1"]);
    }
}

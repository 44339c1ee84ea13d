//! `[data]`: where the text comes from, and how it is split into a training and a validation part.

use garde::Validate;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Serialize};

/// Where the data comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataSource {
    /// The built-in synthetic language, whose entropy is known exactly. Needs no files.
    #[default]
    Synthetic,
    /// UTF-8 text files.
    Text,
    /// Files of token ids: little-endian u16 without a header, as nanoGPT writes them (`train.bin`, `val.bin`).
    Tokens,
}

impl DataSource {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::Synthetic, Self::Text, Self::Tokens];
}

/// `[data]`: where the text comes from. Without any key: the built-in synthetic language.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// `"synthetic"` (the built-in language), `"text"` (UTF-8 files) or `"tokens"` (nanoGPT's u16 `.bin` files).
    /// Default "synthetic".
    #[garde(skip)]
    pub source: DataSource,
    /// Training files of the sources text and tokens: a path or glob, or a list of them, read in the given order (the
    /// matches of a glob in order of their names). Default none.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "one_or_many_schema")]
    #[garde(inner(length(min = 1)))]
    pub train: Vec<String>,
    /// Validation files, given like `train`. Default none.
    #[serde(deserialize_with = "one_or_many")]
    #[schemars(schema_with = "one_or_many_schema")]
    #[garde(inner(length(min = 1)))]
    pub valid: Vec<String>,
    /// Instead of `valid`, for the source text: hold out the last fraction of the training documents. Where that is less
    /// than one document, the last fraction of the text, cut between two paragraphs or lines. Default unset.
    #[garde(custom(open_unit_interval))]
    pub valid_fraction: Option<f64>,
    /// Text between two documents of one file; it is removed, and every document ends with an end-of-text token. Empty:
    /// each file is one document. Default "<|endoftext|>".
    #[garde(skip)]
    pub document_separator: String,
    /// The built-in language.
    #[garde(dive)]
    pub synthetic: SyntheticConfig,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            source: DataSource::default(),
            train: Vec::new(),
            valid: Vec::new(),
            valid_fraction: None,
            document_separator: "<|endoftext|>".to_owned(),
            synthetic: SyntheticConfig::default(),
        }
    }
}

/// `[data.synthetic]`: size of the built-in language and of its corpus. Only read with `source = "synthetic"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct SyntheticConfig {
    /// Draws the words, the facts and the documents. It is apart from the run's seed, so that runs of several seeds see
    /// the same language. Default 1.
    #[garde(range(max = i64::MAX as u64))]
    pub language_seed: u64,
    /// Training documents, of about 110 words and marks each. Default 20000.
    #[garde(range(min = 1, max = 100_000_000))]
    pub train_documents: u64,
    /// Validation documents; they never occur among the training documents. Default 500.
    #[garde(range(min = 1, max = 10_000_000))]
    pub valid_documents: u64,
    /// Topics; each document has one, and it decides which nouns are likely. Default 12.
    #[garde(range(min = 1, max = 64))]
    pub topics: usize,
    /// Names of persons; each document picks three and keeps to them. Default 48.
    #[garde(range(min = 3, max = 1024))]
    pub names: usize,
    /// Nouns, each with a singular and a plural. The number of facts to learn grows with nouns * verbs. Default 160.
    #[garde(range(min = 8, max = 1024))]
    pub nouns: usize,
    /// Verbs, each with a singular and a plural. Default 64.
    #[garde(range(min = 4, max = 256))]
    pub verbs: usize,
    /// Adjectives. Default 40.
    #[garde(range(min = 4, max = 256))]
    pub adjectives: usize,
    /// Exponent s of the word frequencies 1 / rank^s; 0 makes the words of a class equally likely. Default 1.
    #[garde(range(min = 0.0, max = 3.0))]
    pub zipf_exponent: f64,
    /// How deeply relative clauses may nest; 0 turns them off. Default 2.
    #[garde(range(max = 4))]
    pub max_depth: usize,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            language_seed: 1,
            train_documents: 20_000,
            valid_documents: 500,
            topics: 12,
            names: 48,
            nouns: 160,
            verbs: 64,
            adjectives: 40,
            zipf_exponent: 1.0,
            max_depth: 2,
        }
    }
}

fn open_unit_interval(value: &Option<f64>, _: &()) -> garde::Result {
    match value {
        Some(f) if !(*f > 0.0 && *f < 1.0) => {
            Err(garde::Error::new("must lie between 0 and 1, both excluded"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Reads a string or a list of strings. (An untagged enum would lose the place and the cause of an error.)
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Paths;
    impl<'de> Visitor<'de> for Paths {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
            f.write_str("a path, or a list of paths")
        }

        fn visit_str<E>(self, path: &str) -> Result<Self::Value, E> {
            Ok(vec![path.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, paths: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(paths))
        }
    }
    deserializer.deserialize_any(Paths)
}

fn one_or_many_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DataConfig, String> {
        let config: DataConfig = toml::from_str(text).map_err(|e| e.to_string())?;
        config.validate().map_err(|e| e.to_string())?;
        Ok(config)
    }

    #[test]
    fn defaults_are_valid_and_survive_a_round_trip() {
        let default = DataConfig::default();
        assert_eq!(parse("").unwrap(), default);
        assert_eq!(parse(&toml::to_string(&default).unwrap()).unwrap(), default);
        for source in DataSource::ALL {
            let config = DataConfig { source, ..default.clone() };
            assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn files_may_be_one_string_or_a_list() {
        assert_eq!(parse("train = 'a.txt'").unwrap().train, ["a.txt"]);
        assert_eq!(parse("train = ['a.txt', 'b*.txt']").unwrap().train, ["a.txt", "b*.txt"]);
        assert!(parse("train = 3").unwrap_err().contains("a path, or a list of paths"));
        assert!(parse("train = ['a', 3]").unwrap_err().contains("expected a string"));
        assert!(parse("valid = ['']").unwrap_err().contains("valid[0]"));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for f in ["0.0", "1.0", "-0.1", "nan", "inf"] {
            assert!(parse(&format!("valid_fraction = {f}")).unwrap_err().contains("between 0 and 1"), "{f}");
        }
        assert_eq!(parse("valid_fraction = 0.05").unwrap().valid_fraction, Some(0.05));
        assert!(parse("synthetic.nouns = 7").unwrap_err().contains("synthetic.nouns"));
        assert!(parse("synthetic.noun = 100").unwrap_err().contains("unknown field `noun`"));
    }
}

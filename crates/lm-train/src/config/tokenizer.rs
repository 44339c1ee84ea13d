//! `[tokenizer]`: how text becomes tokens.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Kinds of tokenizers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// One token per byte, plus end-of-text: 257 tokens.
    Byte,
    /// Byte-level byte-pair encoding (Sennrich et al. 2016, as in GPT-2), trained on the training text.
    #[default]
    Bpe,
    /// A given `tokenizer.json` of the Hugging Face tokenizers library.
    File,
}

impl TokenizerKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Byte, Self::Bpe, Self::File];
}

/// `[tokenizer]`: how text becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// `"byte"` (one token per byte), `"bpe"` (trained on the training text) or `"file"` (a given tokenizer.json).
    /// Default "bpe".
    #[garde(skip)]
    pub kind: TokenizerKind,
    /// Size of the vocabulary that bpe is trained to, at least 257: the 256 bytes and end-of-text come first. A small text
    /// may support fewer; the real size is what counts. With `data.source = "tokens"` and no tokenizer file: one more than
    /// the largest id allowed. Default 1024.
    #[garde(range(min = 2, max = 1_048_576))]
    pub vocab_size: usize,
    /// Path of the tokenizer.json of kind file. Default unset.
    #[garde(inner(length(min = 1)))]
    pub file: Option<String>,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        Self { kind: TokenizerKind::default(), vocab_size: 1024, file: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_a_round_trip() {
        for kind in TokenizerKind::ALL {
            let file = (kind == TokenizerKind::File).then(|| "tokenizer.json".to_owned());
            let config = TokenizerConfig { kind, file, ..TokenizerConfig::default() };
            config.validate().unwrap();
            assert_eq!(
                toml::from_str::<TokenizerConfig>(&toml::to_string(&config).unwrap()).unwrap(),
                config
            );
        }
    }

    #[test]
    fn ranges_and_unknown_keys_are_refused() {
        let parse = |text: &str| toml::from_str::<TokenizerConfig>(text).unwrap().validate();
        assert!(parse("vocab_size = 1").unwrap_err().to_string().contains("vocab_size"));
        assert!(parse("file = ''").unwrap_err().to_string().contains("file"));
        assert!(toml::from_str::<TokenizerConfig>("vocab = 300").is_err());
    }
}

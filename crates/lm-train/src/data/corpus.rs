//! A corpus: tokenizer, training and validation tokens, and what is known about the text behind them.

use std::path::Path;

use anyhow::{Context, Result};
use blake3::{Hash, Hasher};

use super::cache::{CacheDir, Meta};
use super::stream::{Bytes, TokenStream, Width};
use super::synthetic::Split;
use super::text::TextSource;
use super::tokens::TokenFiles;
use crate::config::{DataConfig, DataSource, TokenizerConfig, TokenizerKind};
use crate::tokenizer::TextTokenizer;

/// Raise when the same text and settings would give other tokens than before; old cache entries are then left alone.
const VERSION: u32 = 1;

/// Everything a run needs to know about its data.
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The tokenizer; none for token files without one.
    pub tokenizer: Option<TextTokenizer>,
    /// Rows of the embedding: one more than the largest possible id.
    pub vocab_size: usize,
    /// The token after each document, if there is one.
    pub eos: Option<u32>,
    /// Training tokens.
    pub train: TokenStream,
    /// Validation tokens.
    pub valid: TokenStream,
    /// UTF-8 bytes of the validation text, end-of-text tokens excluded: what bits per byte are per. Known for text, and for
    /// token files with a byte-level tokenizer.
    pub valid_bytes: Option<u64>,
    /// Exact entropy floor of the validation tokens in nats per token: the negative log-likelihood of the validation text
    /// under the language that made it, over its number of tokens. Only for the synthetic language.
    pub floor: Option<f64>,
    /// See [`fingerprint`].
    pub fingerprint: String,
}

/// A hash of the data that decides a run: contents of files (not their paths), settings, tokenizer. Reads files, but
/// tokenises nothing.
///
/// # Errors
/// As [`find`].
pub fn fingerprint(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<String> {
    Ok(find(data, tokenizer)?.fingerprint)
}

/// Loads the corpus of a config; the second time, mostly from `cache`. `progress` is told about each long step.
///
/// # Errors
/// As [`find`] and [`FoundData::load`].
pub fn load(
    data: &DataConfig,
    tokenizer: &TokenizerConfig,
    cache: &CacheDir,
    progress: &dyn Fn(&str),
) -> Result<Corpus> {
    find(data, tokenizer)?.load(cache, progress)
}

/// Finds the data of a config and hashes it. Hashing reads all files, which takes longest where the rest is cached: whoever
/// needs both the fingerprint and the corpus takes them from one find.
///
/// # Errors
/// Files that cannot be found or read; contradictory settings.
pub fn find(data: &DataConfig, tokenizer: &TokenizerConfig) -> Result<FoundData> {
    let source = Source::find(data)?;
    let tokenizer = TokenizerSource::find(tokenizer)?;
    let fingerprint = source.fingerprint(&tokenizer);
    Ok(FoundData { source, tokenizer, fingerprint })
}

/// The data of a config, found and hashed, but not tokenised.
pub struct FoundData {
    source: Source,
    tokenizer: TokenizerSource,
    fingerprint: String,
}

impl FoundData {
    /// See [`fingerprint`].
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Loads the corpus; the second time, mostly from `cache`. `progress` is told about each long step.
    ///
    /// # Errors
    /// Files that cannot be read or understood; ids outside the vocabulary. Never a cache that cannot be read or written:
    /// that is told to `progress`.
    pub fn load(self, cache: &CacheDir, progress: &dyn Fn(&str)) -> Result<Corpus> {
        let loader = Loader { cache, progress };
        match self.source {
            Source::Text(source) => loader.text(source, self.tokenizer, self.fingerprint),
            Source::Tokens(files) => tokens(&files, self.tokenizer, self.fingerprint),
        }
    }
}

/// The data of a config, found but not read.
enum Source {
    Text(TextSource),
    Tokens(TokenFiles),
}

impl Source {
    fn find(data: &DataConfig) -> Result<Self> {
        Ok(match data.source {
            DataSource::Synthetic | DataSource::Text => Self::Text(TextSource::find(data)?),
            DataSource::Tokens => Self::Tokens(TokenFiles::find(data)?),
        })
    }

    fn fingerprint(&self, tokenizer: &TokenizerSource) -> String {
        let identity = |split| match self {
            Self::Text(source) => source.identity(split),
            Self::Tokens(files) => files.identity(split),
        };
        let mut hasher = Hasher::new();
        hasher.update(b"ffnlab data").update(&VERSION.to_le_bytes());
        for split in Split::ALL {
            hasher.update(identity(split).as_bytes());
        }
        hasher.update(tokenizer.identity().as_bytes());
        hasher.finalize().to_hex().to_string()
    }
}

/// The tokenizer of a config, before a trained one is trained.
enum TokenizerSource {
    /// Ready: plain bytes, or a given file.
    Ready(TextTokenizer),
    /// Of this size, but not there: to be trained on a text, or unknown to files of ready tokens.
    Sized(usize),
}

impl TokenizerSource {
    fn find(config: &TokenizerConfig) -> Result<Self> {
        Ok(match config.kind {
            TokenizerKind::Byte => Self::Ready(TextTokenizer::byte()?),
            TokenizerKind::Bpe => Self::Sized(config.vocab_size),
            TokenizerKind::File => {
                let path = config
                    .file
                    .as_ref()
                    .context("tokenizer.file is not set, but tokenizer.kind is \"file\"")?;
                Self::Ready(TextTokenizer::from_file(Path::new(path)).context("tokenizer.file")?)
            }
        })
    }

    fn identity(&self) -> Hash {
        let mut hasher = Hasher::new();
        match self {
            Self::Ready(tokenizer) => hasher.update(b"json").update(tokenizer.json().as_bytes()),
            Self::Sized(vocab_size) => hasher.update(b"size").update(&vocab_size.to_le_bytes()),
        };
        hasher.finalize()
    }
}

/// Makes the parts of a text corpus, or finds them in the cache.
struct Loader<'a> {
    cache: &'a CacheDir,
    progress: &'a dyn Fn(&str),
}

impl Loader<'_> {
    fn text(
        &self,
        mut source: TextSource,
        tokenizer: TokenizerSource,
        fingerprint: String,
    ) -> Result<Corpus> {
        let tokenizer = match tokenizer {
            TokenizerSource::Ready(tokenizer) => tokenizer,
            TokenizerSource::Sized(vocab_size) => self.bpe(&mut source, vocab_size)?,
        };
        let (train, _) = self.stream(&mut source, &tokenizer, Split::Train)?;
        let (valid, meta) = self.stream(&mut source, &tokenizer, Split::Valid)?;
        Ok(Corpus {
            vocab_size: tokenizer.vocab_size(),
            eos: tokenizer.eos(),
            valid_bytes: Some(meta.text_bytes),
            floor: meta.nll.map(|nll| nll / valid.len() as f64),
            tokenizer: Some(tokenizer),
            train,
            valid,
            fingerprint,
        })
    }

    /// A tokenizer trained on the training text.
    fn bpe(&self, source: &mut TextSource, vocab_size: usize) -> Result<TextTokenizer> {
        let mut hasher = Hasher::new();
        hasher.update(&VERSION.to_le_bytes()).update(source.identity(Split::Train).as_bytes());
        let key = hasher.update(&vocab_size.to_le_bytes()).finalize();
        let cached = self.cache.get("tokenizer", &key).and_then(|entry| {
            let json = std::str::from_utf8(entry.payload.as_slice()).ok()?;
            TextTokenizer::from_json(json).ok()
        });
        if let Some(tokenizer) = cached {
            return Ok(tokenizer);
        }
        let documents = &source.text(Split::Train, self.progress)?.documents;
        (self.progress)(&format!(
            "training a tokenizer of {vocab_size} tokens on {}",
            megabytes(documents.bytes())
        ));
        let tokenizer = TextTokenizer::train_bpe(documents.iter(), vocab_size)?;
        self.store("tokenizer", &key, Meta::default(), tokenizer.json().as_bytes());
        Ok(tokenizer)
    }

    /// The tokens of a split, and what is known about its text.
    fn stream(
        &self,
        source: &mut TextSource,
        tokenizer: &TextTokenizer,
        split: Split,
    ) -> Result<(TokenStream, Meta)> {
        let width = Width::of_vocab(tokenizer.vocab_size());
        let mut hasher = Hasher::new();
        hasher.update(&VERSION.to_le_bytes()).update(source.identity(split).as_bytes());
        let key = hasher.update(tokenizer.json().as_bytes()).finalize();
        if let Some(entry) = self.cache.get("tokens", &key) {
            return Ok((TokenStream::from_bytes(entry.payload, width), entry.meta));
        }
        let text = source.text(split, self.progress)?;
        (self.progress)(&format!(
            "tokenising {} of {} text",
            megabytes(text.documents.bytes()),
            split.name()
        ));
        let documents: Vec<&str> = text.documents.iter().collect();
        let payload = width.encode(&tokenizer.encode_documents(&documents)?);
        let meta = Meta { text_bytes: text.documents.bytes() as u64, nll: text.nll };
        self.store("tokens", &key, meta, &payload);
        Ok((TokenStream::from_bytes(Bytes::Memory(payload.into()), width), meta))
    }

    /// Stores in the cache; a cache that cannot be written only costs time.
    fn store(&self, kind: &str, key: &Hash, meta: Meta, payload: &[u8]) {
        if let Err(error) = self.cache.put(kind, key, meta, payload) {
            let folder = self.cache.path().unwrap_or(Path::new("")).display();
            (self.progress)(&format!("going on without the cache: cannot write {folder}: {error}"));
        }
    }
}

/// A corpus of ready tokens.
fn tokens(files: &TokenFiles, tokenizer: TokenizerSource, fingerprint: String) -> Result<Corpus> {
    let (tokenizer, vocab_size) = match tokenizer {
        TokenizerSource::Ready(tokenizer) => {
            let vocab_size = tokenizer.vocab_size();
            (Some(tokenizer), vocab_size)
        }
        TokenizerSource::Sized(vocab_size) => (None, vocab_size),
    };
    let train = files.stream(Split::Train, vocab_size)?;
    let valid = files.stream(Split::Valid, vocab_size)?;
    let valid_bytes = tokenizer.as_ref().and_then(|tokenizer| {
        let bytes: Vec<Option<u64>> = (0..vocab_size as u32)
            .map(|id| tokenizer.token_bytes(id).map(|bytes| bytes.len() as u64))
            .collect();
        valid.iter(0..valid.len()).map(|id| bytes[id as usize]).sum()
    });
    let eos = tokenizer.as_ref().and_then(TextTokenizer::eos);
    Ok(Corpus { tokenizer, vocab_size, eos, train, valid, valid_bytes, floor: None, fingerprint })
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests;

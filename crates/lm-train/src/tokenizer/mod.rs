//! Text to tokens and back.
//!
//! Every tokenizer is a `tokenizer.json` of the Hugging Face tokenizers library, so a trained model can be used elsewhere:
//! the plain bytes, a byte-level BPE trained here, or a given file. What a tokenizer can do (be cut into parts, skip the
//! library for plain bytes) is read off its pipeline, not off where it came from, so that a saved one behaves the same
//! when it is loaded again.
//!
//! As in that library, `<|endoftext|>` written out inside a text becomes the end-of-text token.

mod build;
mod chunks;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use rayon::prelude::*;
use tokenizers::{DecoderWrapper, PreTokenizerWrapper, Tokenizer};

use build::byte_alphabet;
use chunks::chunks;

/// The end-of-text token of the tokenizers made here.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// What given tokenizers call their end of text, in order of preference.
const END_OF_TEXT_NAMES: [&str; 4] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>"];

/// Bytes that are tokenised at once.
const TARGET_CHUNK: usize = 32 * 1024;

/// A tokenizer. Clones share it.
#[derive(Clone)]
pub struct TextTokenizer {
    inner: Arc<Tokenizer>,
    json: Arc<str>,
    vocab_size: usize,
    eos: Option<u32>,
    /// Long texts may be cut by the rule of [`chunks`].
    can_be_cut: bool,
    /// The id of a byte is the byte, and nothing else happens.
    is_plain_bytes: bool,
}

impl TextTokenizer {
    /// One token per byte, whose id is the byte; end-of-text is 256.
    ///
    /// # Errors
    /// Never, unless the library refuses its own alphabet.
    pub fn byte() -> Result<Self> {
        Self::from_library(&build::byte_tokenizer()?)
    }

    /// Byte-level BPE trained on these documents. The same documents give the same tokenizer, with any number of threads.
    /// A text with too few different words gives fewer tokens than asked for.
    ///
    /// # Errors
    /// `vocab_size` below 257.
    pub fn train_bpe<'a>(documents: impl Iterator<Item = &'a str> + Send, vocab_size: usize) -> Result<Self> {
        Self::from_library(&build::train_bpe(documents, vocab_size)?)
    }

    /// A `tokenizer.json`.
    ///
    /// # Errors
    /// A file that cannot be read, or is not a tokenizer.
    pub fn from_file(path: &Path) -> Result<Self> {
        let read = std::fs::read_to_string(path);
        let json = read.with_context(|| format!("cannot read the tokenizer file {}", path.display()))?;
        Self::from_json(&json).with_context(|| format!("{} is not a usable tokenizer.json", path.display()))
    }

    /// The text of a `tokenizer.json`.
    ///
    /// # Errors
    /// Text that is not a tokenizer, or one without tokens.
    pub fn from_json(json: &str) -> Result<Self> {
        let mut inner: Tokenizer = json.parse().map_err(|e| anyhow!("{e}"))?;
        // Some files ask for texts to be cut off or filled up; a corpus must be neither.
        inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?.with_padding(None);
        let vocab = inner.get_vocab(true);
        let Some(largest) = vocab.values().max() else { bail!("its vocabulary is empty") };
        // Ids may have gaps, so the size a model needs is not the number of tokens.
        let vocab_size = *largest as usize + 1;
        let eos = END_OF_TEXT_NAMES.iter().find_map(|name| inner.token_to_id(name));
        let can_be_cut = can_be_cut(&inner);
        let byte_has_its_id = |(byte, c): (usize, &char)| vocab.get(&c.to_string()) == Some(&(byte as u32));
        let is_plain_bytes = can_be_cut
            && vocab.len() == 257
            && vocab.get(END_OF_TEXT) == Some(&256)
            && byte_alphabet().iter().enumerate().all(byte_has_its_id);
        Ok(Self { inner: Arc::new(inner), json: json.into(), vocab_size, eos, can_be_cut, is_plain_bytes })
    }

    /// By way of the text, so that a fresh tokenizer and a loaded one cannot differ.
    fn from_library(tokenizer: &Tokenizer) -> Result<Self> {
        Self::from_json(&tokenizer.to_string(true).map_err(|e| anyhow!("{e}"))?)
    }

    /// The text of its `tokenizer.json`, which says all about it.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// One more than the largest id: the rows of an embedding.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of end-of-text, if the vocabulary has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// How the vocabulary writes a token.
    pub fn name_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The tokens of a text, without anything added at its ends. Long texts are tokenised in parallel.
    ///
    /// # Errors
    /// A given tokenizer that has no token for something in the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if self.is_plain_bytes {
            return Ok(self.encode_bytes(text));
        }
        if !self.can_be_cut || text.len() <= TARGET_CHUNK {
            return self.encode_whole(text);
        }
        let parts: Vec<&str> = chunks(text, TARGET_CHUNK).collect();
        let ids: Vec<Vec<u32>> =
            parts.par_iter().map(|part| self.encode_whole(part)).collect::<Result<_>>()?;
        Ok(ids.concat())
    }

    /// The tokens of many documents, each followed by end-of-text, where there is one. In parallel.
    ///
    /// # Errors
    /// As for [`TextTokenizer::encode`].
    pub fn encode_documents(&self, documents: &[&str]) -> Result<Vec<u32>> {
        let ended = |document: &&str| {
            let mut ids = self.encode(document)?;
            ids.extend(self.eos);
            Ok(ids)
        };
        let ids: Vec<Vec<u32>> = documents.par_iter().map(ended).collect::<Result<_>>()?;
        Ok(ids.concat())
    }

    /// The text of these tokens. Bytes that are not UTF-8 become replacement characters.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            bail!("token {id} is outside the vocabulary of {}", self.vocab_size);
        }
        self.inner.decode(ids, false).map_err(|e| anyhow!("cannot decode: {e}"))
    }

    /// The bytes a token stands for, if the vocabulary is byte-level and has the token; special tokens stand for none.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if !matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return None;
        }
        let token = self.inner.id_to_token(id)?;
        match self.inner.get_added_tokens_decoder().get(&id) {
            Some(added) if added.special => return Some(Vec::new()),
            Some(added) => return Some(added.content.as_bytes().to_vec()),
            None => {}
        }
        let alphabet = byte_alphabet();
        token.chars().map(|c| alphabet.iter().position(|&a| a == c).map(|byte| byte as u8)).collect()
    }

    fn encode_whole(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|e| anyhow!("cannot tokenise: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn encode_bytes(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len());
        for (i, part) in text.split(END_OF_TEXT).enumerate() {
            if i > 0 {
                ids.extend(self.eos);
            }
            ids.extend(part.bytes().map(u32::from));
        }
        ids
    }
}

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextTokenizer").field("vocab_size", &self.vocab_size).field("eos", &self.eos).finish()
    }
}

/// Whether the tokens of a text are those of its [`chunks`]: the pre-tokenizer is GPT-2's and nothing else looks at more than
/// one of its pieces.
fn can_be_cut(tokenizer: &Tokenizer) -> bool {
    let gpt2 = match tokenizer.get_pre_tokenizer() {
        Some(PreTokenizerWrapper::ByteLevel(level)) => level.use_regex && !level.add_prefix_space,
        Some(_) | None => false,
    };
    let local = |added: &tokenizers::AddedToken| {
        !added.lstrip && !added.rstrip && !added.single_word && !added.content.contains(char::is_whitespace)
    };
    gpt2 && tokenizer.get_normalizer().is_none() && tokenizer.get_added_tokens_decoder().values().all(local)
}

#[cfg(test)]
mod tests;

//! Corpora of ready token ids: headerless little-endian u16, as nanoGPT's `prepare.py` writes them.

use std::fs::{self, File};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use blake3::{Hash, Hasher};
use memmap2::Mmap;

use super::files::{HashedFile, SplitFiles, find};
use super::stream::{Bytes, TokenStream, Width};
use super::synthetic::Split;
use crate::config::DataConfig;

/// The token files of both splits.
pub(super) struct TokenFiles(SplitFiles);

impl TokenFiles {
    /// Finds the files.
    ///
    /// # Errors
    /// See [`SplitFiles::find`]; a split without files; an odd number of bytes.
    pub(super) fn find(data: &DataConfig) -> Result<Self> {
        for (split, files) in [(Split::Train, &data.train), (Split::Valid, &data.valid)] {
            if files.is_empty() {
                bail!("data.{} is empty: with data.source = \"tokens\" both splits are files", split.name());
            }
        }
        Self::checked(SplitFiles::find(&data.train, &data.valid)?)
    }

    /// Files to evaluate on.
    ///
    /// # Errors
    /// A path that names nothing; an odd number of bytes.
    pub(super) fn given(pattern: &str) -> Result<Self> {
        Self::checked(SplitFiles { train: Vec::new(), valid: find(&[pattern.to_owned()], Split::Valid)? })
    }

    fn checked(files: SplitFiles) -> Result<Self> {
        for file in files.train.iter().chain(&files.valid) {
            let bytes = fs::metadata(&file.path)
                .with_context(|| format!("cannot read {}", file.path.display()))?
                .len();
            if bytes % 2 != 0 {
                let path = file.path.display();
                bail!("{path} has {bytes} bytes, an odd number: not a file of 2-byte (u16) token ids");
            }
        }
        Ok(Self(files))
    }

    /// Hash of the ids of a split.
    pub(super) fn identity(&self, split: Split) -> Hash {
        let mut hasher = Hasher::new();
        hasher.update(b"tokens");
        self.files(split).iter().for_each(|file| {
            hasher.update(file.hash.as_bytes());
        });
        hasher.finalize()
    }

    /// The ids of a split, all below `vocab_size`. One file is mapped, several are joined in memory.
    ///
    /// # Errors
    /// An id outside the vocabulary: with its place.
    pub(super) fn stream(&self, split: Split, vocab_size: usize) -> Result<TokenStream> {
        let mut joined = Vec::new();
        for file in self.files(split) {
            let mapped = map(file)?;
            let stream = TokenStream::from_bytes(mapped.clone(), Width::U16);
            check(file, &stream, vocab_size)?;
            if self.files(split).len() == 1 {
                return Ok(stream);
            }
            joined.extend_from_slice(mapped.as_slice());
        }
        Ok(TokenStream::from_bytes(Bytes::Memory(joined.into()), Width::U16))
    }

    fn files(&self, split: Split) -> &[HashedFile] {
        match split {
            Split::Train => &self.0.train,
            Split::Valid => &self.0.valid,
        }
    }
}

fn map(file: &HashedFile) -> Result<Bytes> {
    let opened = File::open(&file.path).with_context(|| format!("cannot read {}", file.path.display()))?;
    // SAFETY: training data is not written to while a run reads it; this cannot be enforced for a file of the user, and
    // copying files of many gigabytes into memory is no alternative.
    let map = unsafe { Mmap::map(&opened) }.with_context(|| format!("cannot map {}", file.path.display()))?;
    Ok(Bytes::Mapped(Arc::new(map), 0))
}

fn check(file: &HashedFile, stream: &TokenStream, vocab_size: usize) -> Result<()> {
    let Some(at) = stream.iter(0..stream.len()).position(|id| id as usize >= vocab_size) else {
        return Ok(());
    };
    let largest = stream.iter(0..stream.len()).max().unwrap_or(0);
    bail!(
        "{}: token {at} (byte offset {}) is {}, outside the vocabulary of {vocab_size}; the largest id of the file is \
         {largest}. Set tokenizer.vocab_size, or name the tokenizer of these files with tokenizer.kind = \"file\"",
        file.path.display(),
        2 * at,
        stream.get(at..at + 1)[0],
    )
}

//! Text or tokens that a user names to evaluate a trained model on, apart from the data of its config.

use anyhow::Result;

use super::documents::Documents;
use super::files::{expand, read_text};
use super::stream::TokenStream;
use super::synthetic::Split;
use super::tokens::TokenFiles;
use crate::tokenizer::TextTokenizer;

/// The tokens of a text file (or of the files a glob matches), documents split at `separator` as in training but
/// without an end-of-text token after the last one, and the UTF-8 bytes of the text.
///
/// # Errors
/// A path that names nothing, an empty file, text that is not UTF-8.
pub fn given_text(pattern: &str, separator: &str, tokenizer: &TextTokenizer) -> Result<(TokenStream, u64)> {
    let mut documents = Documents::default();
    for path in expand(pattern)? {
        documents.push_file(&read_text(&path)?, separator);
    }
    let texts: Vec<&str> = documents.iter().collect();
    let mut ids = tokenizer.encode_documents(&texts)?;
    // What follows the last document is no part of the text: the tokens are those that any other program finds in it.
    if tokenizer.eos().is_some() {
        ids.pop();
    }
    Ok((TokenStream::from_ids(&ids), documents.bytes() as u64))
}

/// The ids of a token file (or of the files a glob matches), all below `vocab_size`.
///
/// # Errors
/// A path that names nothing, an empty file, an odd number of bytes, an id outside the vocabulary.
pub fn given_tokens(pattern: &str, vocab_size: usize) -> Result<TokenStream> {
    TokenFiles::given(pattern)?.stream(Split::Valid, vocab_size)
}

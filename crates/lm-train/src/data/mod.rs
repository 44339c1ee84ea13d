//! Data: from a config to streams of training and validation tokens, and from a stream to batches.
//!
//! A corpus is text (files or the synthetic language) that a tokenizer turns into tokens, or files of ready tokens. What
//! takes long is cached on disk by content; a run is identified by the [`fingerprint`] of its data, not by paths.

pub mod synthetic;

mod batches;
mod cache;
mod corpus;
mod documents;
mod files;
mod given;
mod stream;
mod text;
mod tokens;

pub use batches::{Batch, EvalWindow, EvalWindows, TokenBatches};
pub use cache::CacheDir;
pub use corpus::{Corpus, FoundData, find, fingerprint, load};
pub use given::{given_text, given_tokens};
pub use stream::TokenStream;

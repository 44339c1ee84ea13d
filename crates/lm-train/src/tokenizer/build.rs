//! Making byte-level tokenizers: the plain byte alphabet, and byte-pair encoding trained on a text.

use anyhow::{Result, anyhow, bail};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Tokenizer};

use super::chunks::chunks;
use super::{END_OF_TEXT, TARGET_CHUNK};

/// The 256 bytes in order, then end-of-text: the id of a byte is the byte.
pub(super) fn byte_tokenizer() -> Result<Tokenizer> {
    let vocab = byte_alphabet().into_iter().enumerate().map(|(byte, c)| (c.to_string(), byte as u32));
    let model =
        BPE::builder().vocab_and_merges(vocab.collect::<tokenizers::models::bpe::Vocab>(), Vec::new());
    let mut tokenizer = byte_level(model.build().map_err(|e| anyhow!("{e}"))?);
    add_end_of_text(&mut tokenizer)?;
    Ok(tokenizer)
}

/// Byte-pair encoding (Sennrich et al. 2016) over bytes (Radford et al. 2019): end-of-text, the 256 bytes, then merges until
/// the vocabulary is full or no pair is left.
pub(super) fn train_bpe<'a>(
    documents: impl Iterator<Item = &'a str> + Send,
    vocab_size: usize,
) -> Result<Tokenizer> {
    if vocab_size < 257 {
        bail!("tokenizer.vocab_size = {vocab_size} is too small: the 256 bytes and end-of-text need 257");
    }
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .show_progress(false)
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .initial_alphabet(byte_alphabet().into_iter().collect());
    let mut tokenizer = byte_level(BPE::default());
    let parts = documents.flat_map(|document| chunks(document, TARGET_CHUNK));
    tokenizer
        .train(&mut TrainerWrapper::BpeTrainer(trainer.build()), parts)
        .map_err(|e| anyhow!("cannot train the tokenizer: {e}"))?;
    Ok(tokenizer)
}

/// GPT-2's pipeline around a model: its regular expression, bytes as letters, no added space, and the way back.
fn byte_level(model: BPE) -> Tokenizer {
    let pipeline = ByteLevel::new(false, true, true);
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pipeline)).with_decoder(Some(pipeline));
    tokenizer
}

fn add_end_of_text(tokenizer: &mut Tokenizer) -> Result<()> {
    let added = tokenizer.add_special_tokens([AddedToken::from(END_OF_TEXT, true)]);
    added.map(drop).map_err(|e| anyhow!("cannot add {END_OF_TEXT}: {e}"))
}

/// The character that stands for each byte inside a byte-level vocabulary: itself where it is printable, else the next
/// one from U+0100 on (GPT-2's `bytes_to_unicode`).
pub(super) fn byte_alphabet() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|byte| match byte as u8 {
        printable @ (b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) => char::from(printable),
        _ => {
            next += 1;
            char::from_u32(next - 1).expect("all below U+0144")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_the_one_of_the_library() {
        let ours: std::collections::HashSet<char> = byte_alphabet().into_iter().collect();
        assert_eq!(ours.len(), 256);
        assert_eq!(ours, ByteLevel::alphabet().into_iter().collect());
        // Where each byte sits follows from what the library makes of it.
        let tokenizer = byte_tokenizer().unwrap();
        for byte in 0..128_u8 {
            let text = char::from(byte).to_string();
            assert_eq!(tokenizer.encode_fast(text.as_str(), false).unwrap().get_ids(), [u32::from(byte)]);
        }
    }
}

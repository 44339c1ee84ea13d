//! Round trips, exact agreement of the fast paths with the library, determinism, and refusals.

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;

/// A text with repetitions, several scripts, contractions and odd whitespace.
fn sample() -> String {
    let words = ["the", "fox's", "they'll", "naïve", "ΑΒΓ", "漢字", "x1y22", "--", "...", "🦊"];
    let spaces = [" ", "  ", "\n", "\n\n", " \n", "\r\n", "\t"];
    let number = |i: usize| if i.is_multiple_of(3) { (i * 37 % 1000).to_string() } else { String::new() };
    let word = |i: usize| {
        words[i * i % 97 % words.len()].to_owned() + &number(i) + spaces[i * 7 % 31 % spaces.len()]
    };
    (0..3000).map(word).collect()
}

static BPE: LazyLock<TextTokenizer> =
    LazyLock::new(|| TextTokenizer::train_bpe(std::iter::once(sample().as_str()), 300).unwrap());

/// What the library makes of the whole text at once.
fn reference(tokenizer: &TextTokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode_whole(text).unwrap()
}

#[test]
fn byte_ids_are_the_bytes() {
    let tokenizer = TextTokenizer::byte().unwrap();
    assert!(tokenizer.is_plain_bytes);
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos()), (257, Some(256)));
    for text in ["", "héllo 漢\n\n x", "a<|endoftext|>b", "<|endoftext|>", "<|endoftext|"] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, reference(&tokenizer, text), "{text:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
    assert_eq!(tokenizer.encode("aé").unwrap(), [97, 0xc3, 0xa9]);
    assert_eq!(tokenizer.encode("<|endoftext|>").unwrap(), [256]);
    for byte in 0..=255 {
        assert_eq!(tokenizer.token_bytes(u32::from(byte)).unwrap(), [byte]);
    }
    assert_eq!(tokenizer.token_bytes(256), Some(Vec::new()));
    assert_eq!(tokenizer.token_bytes(257), None);
}

#[test]
fn bpe_fills_its_vocabulary_exactly() {
    assert_eq!((BPE.vocab_size(), BPE.eos()), (300, Some(0)));
    assert!(!BPE.is_plain_bytes && BPE.can_be_cut);
    let bytes: std::collections::HashSet<_> = (0..300).map(|id| BPE.token_bytes(id).unwrap()).collect();
    assert_eq!(bytes.len(), 300, "all tokens differ");
    assert!((0..=255).all(|byte| bytes.contains(&vec![byte])), "every byte has a token");
    assert!(bytes.contains(b" the".as_slice()) || bytes.contains(b"the".as_slice()));
    let sample = sample();
    let ids = BPE.encode(&sample).unwrap();
    assert!(ids.len() < sample.len() * 2 / 3, "{} tokens for {} bytes", ids.len(), sample.len());
    let spelled: Vec<u8> = ids.iter().flat_map(|&id| BPE.token_bytes(id).unwrap()).collect();
    assert_eq!(spelled, sample.as_bytes());
}

#[test]
fn a_poor_text_gives_a_small_vocabulary_and_none_gives_the_bytes() {
    let real = |text: &str| TextTokenizer::train_bpe(std::iter::once(text), 1000).unwrap().vocab_size();
    assert_eq!(real("ab ab ab"), 257 + 2);
    assert_eq!(real(""), 257);
    let error = TextTokenizer::train_bpe(std::iter::once("text"), 256).unwrap_err().to_string();
    assert!(error.contains("256") && error.contains("257"), "{error}");
}

#[test]
fn training_is_deterministic_with_any_number_of_threads() {
    let sample = sample();
    let train = || TextTokenizer::train_bpe(sample.split("\n\n"), 500).unwrap().json().to_owned();
    let first = train();
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(train), first, "{threads} threads");
    }
}

#[test]
fn long_texts_are_cut_without_a_trace() {
    let sample = sample().repeat(6);
    assert!(sample.len() > 3 * TARGET_CHUNK);
    let ids = BPE.encode(&sample).unwrap();
    assert_eq!(ids, reference(&BPE, &sample));
    assert_eq!(BPE.decode(&ids).unwrap(), sample);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_tokens_of_the_parts_are_the_tokens_of_the_whole(
        pieces in prop::collection::vec(
            prop_oneof![
                "[a-c ]{1,6}", "[ \n\t\r\u{a0}\u{2003}]{1,4}", "['’](s|ll|re|x)?", "[0-9.,!é漢🦊]{1,4}",
                Just("<|endoftext|>".to_owned()), Just("<|end".to_owned()), Just("the fox's ".to_owned()),
            ], 0..30),
        target in 1_usize..20,
    ) {
        let text = pieces.concat();
        let parts: Vec<u32> = chunks(&text, target).flat_map(|part| reference(&BPE, part)).collect();
        prop_assert_eq!(&parts, &reference(&BPE, &text));
        prop_assert_eq!(BPE.decode(&parts).unwrap(), text.as_str());
        let byte = TextTokenizer::byte().unwrap();
        prop_assert_eq!(byte.encode(&text).unwrap(), reference(&byte, &text));
    }
}

#[test]
fn documents_end_with_end_of_text() {
    let documents = ["the fox's", "", "they'll"];
    let mut expected = Vec::new();
    for document in documents {
        expected.extend(BPE.encode(document).unwrap());
        expected.push(0);
    }
    assert_eq!(BPE.encode_documents(&documents).unwrap(), expected);
}

#[test]
fn a_saved_tokenizer_is_the_same_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    for tokenizer in [TextTokenizer::byte().unwrap(), BPE.clone()] {
        std::fs::write(&path, tokenizer.json()).unwrap();
        let loaded = TextTokenizer::from_file(&path).unwrap();
        assert_eq!(loaded.json(), tokenizer.json());
        assert_eq!(
            (loaded.can_be_cut, loaded.is_plain_bytes),
            (tokenizer.can_be_cut, tokenizer.is_plain_bytes)
        );
        assert_eq!(loaded.encode(&sample()).unwrap(), tokenizer.encode(&sample()).unwrap());
    }
}

/// A word-level tokenizer with gaps in its ids, truncation and padding, as files in the wild have them.
fn foreign(vocab: &str) -> String {
    format!(
        r#"{{"version": "1.0", "truncation": {{"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
            "padding": {{"strategy": {{"Fixed": 9}}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "a"}}, "added_tokens": [], "normalizer": {{"type": "Lowercase"}},
            "pre_tokenizer": {{"type": "Whitespace"}}, "post_processor": null, "decoder": null,
            "model": {{"type": "WordLevel", "vocab": {vocab}, "unk_token": "a"}}}}"#
    )
}

#[test]
fn a_given_tokenizer_neither_truncates_nor_pads() {
    let tokenizer = TextTokenizer::from_json(&foreign(r#"{"a": 0, "b": 1, "</s>": 9}"#)).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.eos()), (10, Some(9)));
    assert!(!tokenizer.can_be_cut);
    assert_eq!(tokenizer.encode("A b B c b").unwrap(), [0, 1, 1, 0, 1]);
    assert_eq!(tokenizer.token_bytes(0), None);
    let long = "b ".repeat(TARGET_CHUNK);
    assert_eq!(tokenizer.encode(&long).unwrap().len(), TARGET_CHUNK);
}

#[test]
fn a_tokenizer_without_end_of_text_joins_documents() {
    let tokenizer = TextTokenizer::from_json(&foreign(r#"{"a": 0, "b": 1}"#)).unwrap();
    assert_eq!(tokenizer.eos(), None);
    assert_eq!(tokenizer.encode_documents(&["a b", "b"]).unwrap(), [0, 1, 1]);
}

#[test]
fn unusable_files_and_ids_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let error = |content: &str| {
        std::fs::write(&path, content).unwrap();
        format!("{:#}", TextTokenizer::from_file(&path).unwrap_err())
    };
    for content in ["", "{}", "not json", "[1, 2]"] {
        let message = error(content);
        assert!(message.contains("tokenizer.json is not a usable tokenizer.json"), "{content:?}: {message}");
    }
    assert!(error(&foreign("{}")).contains("its vocabulary is empty"));
    let missing = TextTokenizer::from_file(&folder.path().join("none.json")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot read the tokenizer file"));
    assert_eq!(BPE.decode(&[5, 300]).unwrap_err().to_string(), "token 300 is outside the vocabulary of 300");
}

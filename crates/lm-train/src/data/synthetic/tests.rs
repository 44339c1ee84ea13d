//! The promises of the language: one derivation, exact probabilities, exact entropy, the same text everywhere.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

/// A language so small that a few thousand documents visit everything.
fn small() -> SyntheticConfig {
    SyntheticConfig { topics: 3, names: 6, nouns: 12, verbs: 6, adjectives: 5, ..SyntheticConfig::default() }
}

fn texts(language: &Language, n: u64) -> impl Iterator<Item = Document> + '_ {
    (0..n).map(|i| language.generate(Split::Train, i))
}

#[test]
fn text_is_pinned() {
    // A change of this text changes every result ever measured on the language.
    let language = Language::new(&SyntheticConfig::default());
    let document = language.generate(Split::Valid, 0);
    assert!(document.text.starts_with(
        "sazotu: chovo, cheno, chagochu.\nthen some pipus bado stanas on the zevides. chovo linas the pipa pipus near"
    ));
    assert!((document.nll - 193.575_476_811_333).abs() < 1e-9, "{}", document.nll);
    let mut hasher = blake3::Hasher::new();
    for index in 0..100 {
        for split in Split::ALL {
            hasher.update(language.generate(split, index).text.as_bytes());
        }
    }
    let hash = hasher.finalize().to_hex().to_string();
    assert_eq!(hash, "8dfbb9f9b35d90b1e14da3d2cbf05e221e9f308b16be6bcf250850cb8ba06f76");
}

#[test]
fn nll_is_recomputed_from_the_text_alone() {
    for config in [SyntheticConfig::default(), small(), SyntheticConfig { max_depth: 0, ..small() }] {
        let language = Language::new(&config);
        for document in texts(&language, 200) {
            let nll = language.nll(&document.text).unwrap();
            assert!((nll - document.nll).abs() <= 1e-9 * nll, "{nll} and {}", document.nll);
        }
    }
}

#[test]
fn probabilities_sum_to_one_after_every_prefix() {
    for config in [SyntheticConfig::default(), small()] {
        let language = Language::new(&config);
        for document in texts(&language, 10) {
            let mut prefix = String::new();
            let mut nll = 0.0;
            loop {
                let next = language.next_word_distribution(&prefix).unwrap();
                let sum: f64 = next.iter().map(|word| word.probability).sum();
                assert!((sum - 1.0).abs() < 1e-12, "{sum} after {prefix:?}");
                let spelled: HashSet<&str> = next.iter().map(|word| word.text.as_str()).collect();
                assert_eq!(spelled.len(), next.len(), "two continuations of {prefix:?} look the same");
                // The next word of the document is the longest continuation that fits: "a" is the beginning of "are".
                let rest = &document.text[prefix.len()..];
                let fits = next
                    .iter()
                    .filter(|word| rest.starts_with(&word.text) && word.text.is_empty() == rest.is_empty());
                let word = fits.max_by_key(|word| word.text.len()).expect("the document continues");
                nll -= word.probability.ln();
                if rest.is_empty() {
                    break;
                }
                prefix += &word.text;
            }
            assert!((nll - document.nll).abs() < 1e-9 * nll);
        }
    }
}

#[test]
fn sampling_follows_the_probabilities() {
    // First words, and the first choices inside sentences, of a small language.
    let language = Language::new(&small());
    let n = 20_000;
    let mut counts: HashMap<String, f64> = HashMap::new();
    for document in texts(&language, n) {
        *counts.entry(document.text.split(':').next().unwrap().to_owned()).or_default() += 1.0;
    }
    for next in language.next_word_distribution("").unwrap() {
        let p = next.probability;
        let seen = counts.remove(&next.text).unwrap_or(0.0) / n as f64;
        assert!((seen - p).abs() < 4.5 * (p * (1.0 - p) / n as f64).sqrt(), "{next:?}: {seen}");
    }
    assert!(counts.is_empty(), "impossible words were drawn: {counts:?}");
}

#[test]
fn mean_nll_and_length_agree_with_the_closed_form() {
    let languages = [
        (small(), 6000),
        (SyntheticConfig { max_depth: 0, zipf_exponent: 0.0, ..small() }, 3000),
        (SyntheticConfig { max_depth: 4, language_seed: 9, ..small() }, 3000),
        (SyntheticConfig::default(), 2000),
    ];
    for (config, n) in languages {
        let language = Language::new(&config);
        let exact = language.entropy();
        let mut nlls = Vec::new();
        let mut words = Vec::new();
        for document in texts(&language, n) {
            words.push(language.lexicon.words(&document.text).unwrap().len() as f64 + 1.0);
            nlls.push(document.nll);
        }
        for (name, exact, samples) in [("nats", exact.nats, nlls), ("words", exact.words, words)] {
            let mean = samples.iter().sum::<f64>() / n as f64;
            let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let z = (mean - exact) / (variance / n as f64).sqrt();
            assert!(z.abs() < 3.5, "{name} of {config:?}: exact {exact}, mean {mean}, z {z}");
        }
    }
}

#[test]
fn local_entropies_agree_with_the_closed_form() {
    // The sum of the entropies of the menus met on the way has the same mean as the nll and far less variance.
    for config in [small(), SyntheticConfig { nouns: 40, verbs: 12, ..small() }] {
        let language = Language::new(&config);
        let words: Vec<Word> = language.lexicon.all().collect();
        let (n, mut sums) = (400, Vec::new());
        let mut menu = Menu::default();
        for document in texts(&language, n) {
            let mut state = State::new(language.max_depth);
            let mut sum = 0.0;
            for word in language.lexicon.words(&document.text).unwrap().into_iter().chain([Word::End]) {
                state.menu(&language.facts, &mut menu);
                let surprise = |p: f64| if p > 0.0 { -p * p.ln() } else { 0.0 };
                sum += words.iter().map(|&word| surprise(menu.probability(word))).sum::<f64>();
                state.advance(word);
            }
            // Per word of expected length, the length being most of the variance.
            sums.push((sum, language.lexicon.words(&document.text).unwrap().len() as f64 + 1.0));
        }
        let exact = language.entropy();
        let residuals: Vec<f64> =
            sums.iter().map(|(nats, words)| nats - words * exact.nats_per_word()).collect();
        let mean = residuals.iter().sum::<f64>() / n as f64;
        let variance = residuals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let z = mean / (variance / n as f64).sqrt();
        assert!(z.abs() < 3.5, "residual {mean}, z {z}");
    }
}

#[test]
fn other_texts_are_refused_with_their_place() {
    let language = Language::new(&small());
    let text = language.generate(Split::Train, 0).text;
    let error = |text: &str| language.nll(text).unwrap_err().to_string();
    assert!(error("").contains("cannot end after 0 bytes"));
    assert!(error(&text[..text.len() - 1]).contains("cannot end"));
    assert!(error(&format!("{text}the")).contains("\"the\" cannot stand here"));
    assert!(error(&text.replacen(": ", " : ", 1)).contains("is not a word here"));
    assert!(error("hello world").starts_with("byte 0: \"hello\""));
    assert!(language.next_word_distribution("the").unwrap_err().to_string().starts_with("word 1"));
}

#[test]
fn names_are_those_of_the_title() {
    let language = Language::new(&SyntheticConfig::default());
    let mut later = 0;
    for document in texts(&language, 100) {
        let (title, body) = document.text.split_once('\n').unwrap();
        let names = |text: &str| -> Vec<Word> {
            let is_name = |word: &Word| matches!(word, Word::Of(lexicon::Class::Name, _));
            language.lexicon.words(text).unwrap().into_iter().filter(is_name).collect()
        };
        let (cast, named) = (names(title), names(body));
        assert!(named.iter().all(|name| cast.contains(name)), "{}", document.text);
        later += named.len();
    }
    assert!(later > 500, "{later}");
}

#[test]
fn verbs_agree_with_their_subject_across_a_relative_clause() {
    // By the endings alone: a plural noun ends in -s, and so does a singular verb.
    let language = Language::new(&SyntheticConfig { max_depth: 1, ..SyntheticConfig::default() });
    let plural = |word: &str| word.ends_with('s');
    let agrees = |noun: &str, verb: &str| match verb {
        "is" => !plural(noun),
        "are" => plural(noun),
        verb => plural(noun) != plural(verb),
    };
    let (mut near, mut far) = (0, 0);
    for document in texts(&language, 600) {
        let sentences =
            document.text.split(['.', '\n']).filter_map(|sentence| sentence.trim().strip_prefix("the "));
        for sentence in sentences {
            let words: Vec<&str> = sentence.split(' ').collect();
            let is_noun = |i: usize| {
                matches!(
                    language.lexicon.words(words[i]).unwrap()[..],
                    [Word::Of(lexicon::Class::Noun(_), _)]
                )
            };
            // "the NOUN VERB ..."
            if is_noun(0) && words[1] != "that" {
                assert!(agrees(words[0], words[1]), "{sentence}");
                near += 1;
            }
            // "the NOUN that VERB DETERMINER NOUN VERB ..."
            if words.len() > 5
                && is_noun(0)
                && words[1] == "that"
                && ["the", "a", "some"].contains(&words[3])
                && is_noun(4)
            {
                assert!(agrees(words[0], words[2]) && agrees(words[0], words[5]), "{sentence}");
                far += 1;
            }
        }
    }
    // Both kinds of sentence must occur often enough for the check to mean something.
    assert!(near > 300 && far > 10, "{near} {far}");
}

#[test]
fn relative_clauses_nest_as_deep_as_allowed() {
    for depth in 0..=3 {
        let language = Language::new(&SyntheticConfig { max_depth: depth, ..small() });
        let that = |sentence: &str| sentence.split(' ').filter(|word| *word == "that").count();
        let most = texts(&language, 400).flat_map(|d| d.text.split('.').map(that).collect::<Vec<_>>()).max();
        assert_eq!(most.unwrap() == 0, depth == 0, "depth {depth}");
        assert!(most.unwrap() >= depth);
    }
}

#[test]
fn documents_differ_between_splits_seeds_and_numbers() {
    let mut seen = HashSet::new();
    for language_seed in [1, 2] {
        let language = Language::new(&SyntheticConfig { language_seed, ..SyntheticConfig::default() });
        for split in Split::ALL {
            assert!((0..100).all(|i| seen.insert(language.generate(split, i).text)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_valid_config_gives_a_language_that_reads_itself(
        language_seed in 0_u64..1000, topics in 1_usize..20, names in 3_usize..40, nouns in 8_usize..100,
        verbs in 4_usize..40, adjectives in 4_usize..40, zipf_exponent in 0.0_f64..3.0, max_depth in 0_usize..5,
    ) {
        let config = SyntheticConfig {
            language_seed, topics, names, nouns, verbs, adjectives, zipf_exponent, max_depth, ..SyntheticConfig::default()
        };
        prop_assert!(garde::Validate::validate(&config).is_ok());
        let language = Language::new(&config);
        let document = language.generate(Split::Valid, 7);
        let nll = language.nll(&document.text).unwrap();
        prop_assert!((nll - document.nll).abs() <= 1e-9 * nll);
    }
}

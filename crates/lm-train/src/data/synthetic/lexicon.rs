//! The words of the language: closed classes in English, open classes made of drawn syllables.
//!
//! All forms differ, and no form contains a space, a line break or punctuation, so a text splits into words in one way.

use std::collections::{HashMap, HashSet};

use rand_chacha::ChaCha8Rng;

use crate::config::SyntheticConfig;
use crate::rng::{Key, below};

/// Grammatical number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Number {
    Singular,
    Plural,
}

/// Classes of words with weights of their own; a member is an index into its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Class {
    Topic,
    Opener,
    Name,
    Adjective,
    Preposition,
    Noun(Number),
    Verb(Number),
}

impl Class {
    const ALL: [Self; 9] = [
        Self::Topic,
        Self::Opener,
        Self::Name,
        Self::Adjective,
        Self::Preposition,
        Self::Noun(Number::Singular),
        Self::Noun(Number::Plural),
        Self::Verb(Number::Singular),
        Self::Verb(Number::Plural),
    ];
}

/// A word, or a mark that stands like one: the alphabet of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Word {
    /// End of the document. The only word without letters; a corpus puts its end-of-text token here.
    End,
    Line,
    Stop,
    Comma,
    Colon,
    The,
    A,
    Some,
    That,
    Is,
    Are,
    And,
    It,
    They,
    She,
    /// A member of an open class, or of a small class whose members are alike.
    Of(Class, u16),
}

impl Word {
    /// Every word outside the classes.
    pub(super) const FUNCTION: [Self; 15] = [
        Self::End,
        Self::Line,
        Self::Stop,
        Self::Comma,
        Self::Colon,
        Self::The,
        Self::A,
        Self::Some,
        Self::That,
        Self::Is,
        Self::Are,
        Self::And,
        Self::It,
        Self::They,
        Self::She,
    ];

    /// The letters of a function word.
    const fn letters(self) -> Option<&'static str> {
        Some(match self {
            Self::End => "",
            Self::Line => "\n",
            Self::Stop => ".",
            Self::Comma => ",",
            Self::Colon => ":",
            Self::The => "the",
            Self::A => "a",
            Self::Some => "some",
            Self::That => "that",
            Self::Is => "is",
            Self::Are => "are",
            Self::And => "and",
            Self::It => "it",
            Self::They => "they",
            Self::She => "she",
            Self::Of(..) => return None,
        })
    }

    /// Its index in its class; 0 for a function word.
    pub(super) const fn member(self) -> u16 {
        if let Self::Of(_, member) = self { member } else { 0 }
    }

    /// Whether no space is written before this word.
    const fn is_attached(self) -> bool {
        matches!(self, Self::End | Self::Line | Self::Stop | Self::Comma | Self::Colon)
    }
}

const OPENERS: [&str; 6] = ["then", "now", "later", "soon", "today", "once"];
const PREPOSITIONS: [&str; 6] = ["in", "on", "under", "near", "from", "by"];

/// The forms of all words, and the way back from a form to its word.
#[derive(Clone, Debug)]
pub(super) struct Lexicon {
    topics: Vec<String>,
    names: Vec<String>,
    adjectives: Vec<String>,
    /// Singular and plural of each noun.
    nouns: Vec<[String; 2]>,
    /// Singular and plural of each verb.
    verbs: Vec<[String; 2]>,
    words: HashMap<String, Word>,
}

impl Lexicon {
    /// Draws the forms of all open classes.
    pub(super) fn new(config: &SyntheticConfig, key: &Key) -> Self {
        let mut stems = Stems::new(key);
        // The regular endings are those of English: "-s" for a plural noun and for a singular verb. Stems end in a vowel,
        // so an inflected form is never a stem.
        let mut inflected = |n: usize| -> Vec<(String, String)> {
            stems.draw(n).into_iter().map(|stem| (stem.clone(), stem + "s")).collect()
        };
        let nouns = inflected(config.nouns).into_iter().map(|(stem, with_s)| [stem, with_s]).collect();
        let verbs = inflected(config.verbs).into_iter().map(|(stem, with_s)| [with_s, stem]).collect();
        let mut lexicon = Self {
            topics: stems.draw(config.topics),
            names: stems.draw(config.names),
            adjectives: stems.draw(config.adjectives),
            nouns,
            verbs,
            words: HashMap::new(),
        };
        lexicon.words = lexicon.all().map(|word| (lexicon.form(word).to_owned(), word)).collect();
        lexicon
    }

    /// Every word of the language.
    pub(super) fn all(&self) -> impl Iterator<Item = Word> + use<> {
        let sizes = Class::ALL.map(|class| (class, self.size(class)));
        let members = sizes.into_iter().flat_map(|(class, n)| (0..n as u16).map(move |i| Word::Of(class, i)));
        Word::FUNCTION.into_iter().chain(members)
    }

    /// How many members a class has.
    pub(super) fn size(&self, class: Class) -> usize {
        match class {
            Class::Topic => self.topics.len(),
            Class::Opener => OPENERS.len(),
            Class::Name => self.names.len(),
            Class::Adjective => self.adjectives.len(),
            Class::Preposition => PREPOSITIONS.len(),
            Class::Noun(_) => self.nouns.len(),
            Class::Verb(_) => self.verbs.len(),
        }
    }

    /// The letters of a word; empty for [`Word::End`].
    pub(super) fn form(&self, word: Word) -> &str {
        let Word::Of(class, i) = word else {
            return word.letters().expect("a word outside the classes is a function word");
        };
        let i = usize::from(i);
        match class {
            Class::Topic => &self.topics[i],
            Class::Opener => OPENERS[i],
            Class::Name => &self.names[i],
            Class::Adjective => &self.adjectives[i],
            Class::Preposition => PREPOSITIONS[i],
            Class::Noun(number) => &self.nouns[i][number as usize],
            Class::Verb(number) => &self.verbs[i][number as usize],
        }
    }

    /// What is appended to a text that ends with `before` (nothing at its beginning) to add `word`.
    pub(super) fn spelled(&self, before: Option<char>, word: Word) -> (&'static str, &str) {
        let space = if word.is_attached() || matches!(before, None | Some('\n')) { "" } else { " " };
        (space, self.form(word))
    }

    /// Splits a text into words. The text must be spelled exactly as the language spells it.
    ///
    /// # Errors
    /// The byte offset and the letters of the first thing that is not a word.
    pub(super) fn words(&self, text: &str) -> Result<Vec<Word>, (usize, String)> {
        let mut words = Vec::with_capacity(text.len() / 5);
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let space = usize::from(rest.starts_with(' '));
            let letters = rest[space..].find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len() - space);
            // A mark is one character, which need not be ASCII in a text that is not ours.
            let len =
                if letters > 0 { letters } else { rest[space..].chars().next().map_or(0, char::len_utf8) };
            let form = &rest[space..space + len];
            let word = self.words.get(form).copied().filter(|&word| word != Word::End);
            let spelled = |word| self.spelled(text[..at].chars().next_back(), word).0.len() == space;
            let Some(word) = word.filter(|&word| spelled(word)) else {
                return Err((at, rest[..space + len].to_owned()));
            };
            words.push(word);
            at += space + len;
        }
        Ok(words)
    }
}

/// Draws distinct words from syllables of a consonant and a vowel.
struct Stems {
    rng: ChaCha8Rng,
    taken: HashSet<String>,
}

impl Stems {
    const ONSETS: [&'static str; 16] =
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "ch", "st"];
    const VOWELS: [&'static str; 5] = ["a", "e", "i", "o", "u"];

    fn new(key: &Key) -> Self {
        let closed = Word::FUNCTION.into_iter().filter_map(Word::letters).chain(OPENERS).chain(PREPOSITIONS);
        Self { rng: key.rng(), taken: closed.map(str::to_owned).collect() }
    }

    /// `n` new stems. The first, which are the frequent ones, are the short ones.
    fn draw(&mut self, n: usize) -> Vec<String> {
        (0..n).map(|rank| self.stem(if rank < n.min(Self::SHORT) / 2 { 2 } else { 3 })).collect()
    }

    /// Two syllables give 6400 stems, so that short ones never run out.
    const SHORT: usize = 400;

    fn stem(&mut self, syllables: usize) -> String {
        loop {
            let mut stem = String::new();
            for _ in 0..syllables {
                stem += Self::ONSETS[below(&mut self.rng, Self::ONSETS.len() as u64) as usize];
                stem += Self::VOWELS[below(&mut self.rng, Self::VOWELS.len() as u64) as usize];
            }
            if self.taken.insert(stem.clone()) {
                return stem;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;
    use garde::Validate;

    fn lexicon(config: &SyntheticConfig) -> Lexicon {
        config.validate().unwrap();
        Lexicon::new(config, &Key::new(1, Purpose::Language))
    }

    #[test]
    fn all_forms_differ_even_in_the_largest_language() {
        let largest = SyntheticConfig {
            topics: 64,
            names: 1024,
            nouns: 1024,
            verbs: 256,
            adjectives: 256,
            ..SyntheticConfig::default()
        };
        for config in [SyntheticConfig::default(), largest] {
            let lexicon = lexicon(&config);
            let forms: HashSet<&str> = lexicon.all().map(|word| lexicon.form(word)).collect();
            assert_eq!(forms.len(), lexicon.all().count());
            assert_eq!(lexicon.words.len(), forms.len());
        }
    }

    #[test]
    fn a_text_splits_into_the_words_it_was_made_of() {
        let lexicon = lexicon(&SyntheticConfig::default());
        let mut text = String::new();
        let words: Vec<Word> = lexicon.all().filter(|&word| word != Word::End).collect();
        for &word in &words {
            let (space, form) = lexicon.spelled(text.chars().next_back(), word);
            text = text + space + form;
        }
        assert_eq!(lexicon.words(&text).unwrap(), words);
    }

    #[test]
    fn other_spellings_are_refused_with_their_place() {
        let lexicon = lexicon(&SyntheticConfig::default());
        for (text, at) in [
            ("the  the", 3),
            (" the", 0),
            ("the .", 3),
            ("theé", 3),
            ("the The", 3),
            ("the\r\n", 3),
            ("xyzzy", 0),
            ("a,a", 2),
        ] {
            assert_eq!(lexicon.words(text).map_err(|(at, _)| at), Err(at), "{text:?}");
        }
    }
}

//! The built-in language: documents whose exact probability is known.
//!
//! A model trained on it can be compared with a floor: `val_loss` minus the floor is what the model still has to learn, free
//! of the noise that no model can predict. It is small enough for a laptop and needs no download. The design is our own.
//!
//! # What a document looks like
//!
//! ```text
//! sako: chovo, mostu, torara.
//! then pipus bado mostu. chovo dafis torara. chovo gustosus the chamus under the nina. the chuchu rutulus resuzis that
//!     nustu tuchas that torara sastes.
//! later pipus that mostu stefisos gustosu some mures. mostu kachis some mami chistus.
//! soon torara kigodis chovo. lulos tesiro direpis and visu pazas. chovo stupus garos. she kuchus chovo.
//! ```
//!
//! A title names the topic and three persons. Two to six paragraphs (lines) of two to four sentences follow. Function
//! words are English; words of open classes are drawn syllables: "the chuchu rutulus resuzis" has a noun, its verb, and
//! a noun.
//!
//! # The grammar
//!
//! ```text
//! document    = topic ":" name "," name "," name "." line paragraph {paragraph} end
//! paragraph   = opener sentence {sentence} line
//! sentence    = (noun phrase | pronoun) verb phrase ["and" verb phrase] "."
//! verb phrase = verb noun phrase [preposition "the" noun]  |  ("is" | "are") adjective
//! noun phrase = name  |  plural noun ["that" relative]  |  determiner [adjective] noun ["that" relative]
//! relative    = verb noun phrase  |  noun phrase verb
//! ```
//!
//! # What there is to learn, and what it takes
//!
//! - Spelling and grammar: closed classes, regular endings, word order.
//! - Agreement: "a" goes with singular nouns, "some" with plural ones; verbs and "is"/"are" agree with their subject across
//!   any relative clauses in between, which nest up to `max_depth`, and again after "and".
//! - Copying: later names are those of the title; a pronoun agrees with the subject of the sentence before and acts as it.
//! - Association: the topic of the title makes some nouns and adjectives likelier throughout.
//! - Facts: the habits of every noun and name (its verbs), the objects and places of every verb, the preposition it governs
//!   (to be recalled after an object of any length), the property of every noun ("the mostu is mami", and "a mami" likely
//!   goes on with "mostu"), and the favourite object of every pair of subject and verb. The pairs are many (13,000 by
//!   default, with Zipfian frequencies), so a larger or better model goes on gaining for long.
//!
//! Most of it is facts that can be told from the last few words, because those load the feed-forward block, and because
//! they are learned gradually. Verbatim recall of longer lists was tried and left out: small models pick it up all at once
//! after millions of tokens, some seeds sooner than others, and that noise drowns the differences to be measured.
//!
//! # Why its probability is exact
//!
//! A document is read word by word by a machine (`grammar`) whose state is determined by the words so far, and which offers
//! each possible next word once, with an integer weight. Nothing is hidden: the topic stands in the title, and where several
//! causes favour a noun, its weight is the sum. So every text has one derivation, its probability is the product of the
//! offers that were taken, and [`Language::nll`] recomputes it from the text alone. The entropy (`entropy`) is summed over
//! the grammar in closed form; tests compare the two.
//!
//! Sampling uses integers only, hence the text is the same on every platform (the only floating-point step before it is the
//! Zipf law, whose weights are rounded to integers). Negative log-likelihoods may differ in the last digits of an f64.

mod entropy;
mod facts;
mod grammar;
mod lexicon;
mod menu;
mod proportions;
mod weights;

use anyhow::{Result, anyhow, bail};

pub use entropy::Entropy;

use crate::config::SyntheticConfig;
use crate::rng::{Key, Purpose};
use facts::Facts;
use grammar::State;
use lexicon::{Lexicon, Word};
use menu::Menu;

/// The part of the data that a document belongs to. Documents of different splits are drawn with different keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Documents to train on.
    Train,
    /// Documents to measure on.
    Valid,
}

impl Split {
    /// Both splits.
    pub const ALL: [Self; 2] = [Self::Train, Self::Valid];

    /// "train" or "valid".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
        }
    }
}

/// A document and its exact negative log-likelihood.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// The text; it ends with a line break.
    pub text: String,
    /// Nats of the whole document, its end included.
    pub nll: f64,
}

/// One way to continue a text.
#[derive(Clone, Debug, PartialEq)]
pub struct NextWord {
    /// Exactly what is appended, with its space where one is due; empty for the end of the document.
    pub text: String,
    /// Its probability.
    pub probability: f64,
}

/// A language: words and facts drawn from a seed.
#[derive(Clone, Debug)]
pub struct Language {
    key: Key,
    max_depth: usize,
    lexicon: Lexicon,
    facts: Facts,
}

impl Language {
    /// Draws the language of this config, whose ranges must have been validated. The numbers of documents play no part.
    pub fn new(config: &SyntheticConfig) -> Self {
        let key = Key::new(config.language_seed, Purpose::Language);
        let lexicon = Lexicon::new(config, &key.named("lexicon"));
        let facts = Facts::new(config, |class| lexicon.size(class), &key.named("facts"));
        Self { key: key.named("documents"), max_depth: config.max_depth, lexicon, facts }
    }

    /// The document with this number in a split: a pure function of language, split and number.
    pub fn generate(&self, split: Split, index: u64) -> Document {
        let mut rng = self.key.named(split.name()).index(index).rng();
        let mut text = String::with_capacity(1024);
        let mut nll = 0.0;
        let mut state = State::new(self.max_depth);
        let mut menu = Menu::default();
        loop {
            state.menu(&self.facts, &mut menu);
            let word = menu.sample(&mut rng);
            nll -= menu.probability(word).ln();
            if word == Word::End {
                return Document { text, nll };
            }
            let (space, form) = self.lexicon.spelled(text.chars().next_back(), word);
            text.push_str(space);
            text.push_str(form);
            state.advance(word);
        }
    }

    /// The negative log-likelihood of a whole document in nats, from its text alone.
    ///
    /// # Errors
    /// When the text is not a document of this language: where it leaves it.
    pub fn nll(&self, text: &str) -> Result<f64> {
        let (state, nll) = self.read(text)?;
        let mut menu = Menu::default();
        state.menu(&self.facts, &mut menu);
        let end = menu.probability(Word::End);
        if end == 0.0 {
            bail!("the document cannot end after {} bytes", text.len());
        }
        Ok(nll - end.ln())
    }

    /// Everything that may follow `prefix`, whole words from the beginning of a document; probabilities sum to one.
    ///
    /// # Errors
    /// When the prefix is not the beginning of a document of this language.
    pub fn next_word_distribution(&self, prefix: &str) -> Result<Vec<NextWord>> {
        let (state, _) = self.read(prefix)?;
        let mut menu = Menu::default();
        state.menu(&self.facts, &mut menu);
        let before = prefix.chars().next_back();
        let next = self.lexicon.all().map(|word| (word, menu.probability(word))).filter(|(_, p)| *p > 0.0);
        let spelled = |word| {
            let (space, form) = self.lexicon.spelled(before, word);
            format!("{space}{form}")
        };
        Ok(next.map(|(word, probability)| NextWord { text: spelled(word), probability }).collect())
    }

    /// The exact expectation of a document's negative log-likelihood and length.
    pub fn entropy(&self) -> Entropy {
        entropy::of_document(&self.facts, &self.lexicon, self.max_depth)
    }

    /// How many different words (and marks) the language has.
    pub fn forms(&self) -> usize {
        self.lexicon.all().count() - 1 // the end of a document has no letters
    }

    /// Walks the machine over the words of a text; the state after it and the nats so far.
    fn read(&self, text: &str) -> Result<(State, f64)> {
        let words = self
            .lexicon
            .words(text)
            .map_err(|(at, form)| anyhow!("byte {at}: {form:?} is not a word here"))?;
        let mut nll = 0.0;
        let mut state = State::new(self.max_depth);
        let mut menu = Menu::default();
        for (i, word) in words.into_iter().enumerate() {
            state.menu(&self.facts, &mut menu);
            let probability = menu.probability(word);
            if probability == 0.0 {
                bail!("word {}: {:?} cannot stand here", i + 1, self.lexicon.form(word));
            }
            nll -= probability.ln();
            state.advance(word);
        }
        Ok((state, nll))
    }
}

#[cfg(test)]
mod tests;

//! The exact entropy of the language, summed over the grammar instead of over texts.
//!
//! The chain rule makes the entropy of a document the sum, over all choices, of the probability that the choice arises times
//! the entropy of that choice. What a choice depends on is at most a topic, a subject and a verb, so it is enough to carry
//! the distribution of the subject through the grammar; every expectation is linear in it. Two facts keep this exact and
//! short: whether a sentence goes on never depends on its words, and a pronoun keeps the subject with a probability that
//! does not depend on it, so that every subject of a main clause has the distribution of a fresh one.
//!
//! This shares the tables and proportions with the machine in `grammar`, but none of its steps, and is the check on it.

use std::ops::{Add, AddAssign, Mul};

use super::facts::{Entity, Facts};
use super::lexicon::{Class, Lexicon, Number};
use super::proportions::{
    ADJECTIVE, AND, ANOTHER_PARAGRAPH, BARE, CAST, COPULA, DETERMINERS, GO_ON, LINE, NOUN, NOUN_BY_ADJECTIVE,
    NOUN_BY_TOPIC, OBJECT_BY_ADJECTIVE, OBJECT_BY_FAVOURITE, OBJECT_BY_TOPIC, OBJECT_BY_VERB, PARAGRAPHS,
    PERSONS, PLACE, PRONOUN, SENTENCES, SUBJECT_RELATIVE, THAT,
};
use super::weights::Mixture;

/// Expected nats and expected words (marks and the end of the document are words too).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Entropy {
    /// Expected negative log-likelihood.
    pub nats: f64,
    /// Expected number of words and marks.
    pub words: f64,
}

impl Entropy {
    /// Nats per word or mark.
    pub fn nats_per_word(&self) -> f64 {
        self.nats / self.words
    }
}

impl Add for Entropy {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { nats: self.nats + other.nats, words: self.words + other.words }
    }
}

impl AddAssign for Entropy {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Mul<Entropy> for f64 {
    type Output = Entropy;
    fn mul(self, cost: Entropy) -> Entropy {
        Entropy { nats: self * cost.nats, words: self * cost.words }
    }
}

/// One word that is chosen with this entropy.
fn word(nats: f64) -> Entropy {
    Entropy { nats, words: 1.0 }
}

/// `n` words that are certain.
fn certain(n: f64) -> Entropy {
    Entropy { nats: 0.0, words: n }
}

/// Entropy of one document.
pub(super) fn of_document(facts: &Facts, lexicon: &Lexicon, max_depth: usize) -> Entropy {
    let topics = dense(&facts.topic(), lexicon.size(Class::Topic));
    let mut total = word(entropy(&topics));
    for (topic, p) in topics.into_iter().enumerate() {
        total += p * Topic::new(facts, lexicon, max_depth, topic as u16).document();
    }
    total
}

/// What the sums need to know about a topic. Subjects are indexed like [`Facts::entity`]; all entropies are in nats.
struct Topic<'a> {
    facts: &'a Facts,
    topic: u16,
    max_depth: usize,
    opener_nats: f64,
    /// Per role of the cast.
    names: Vec<Vec<f64>>,
    nouns: Vec<f64>,
    adjectives: Vec<f64>,
    bearers: Vec<Vec<f64>>,
    /// Per entity: probabilities of its verbs, and their entropy.
    verbs: Vec<Vec<f64>>,
    verb_nats: Vec<f64>,
    predicate_nats: Vec<f64>,
    objects: Vec<Vec<f64>>,
    /// Per entity and verb: entropy of the object noun, without an adjective and on average with one.
    object_nats: Vec<Vec<[f64; 2]>>,
}

impl<'a> Topic<'a> {
    fn new(facts: &'a Facts, lexicon: &Lexicon, max_depth: usize, topic: u16) -> Self {
        let size = |class| lexicon.size(class);
        let (n_nouns, n_names) = (size(Class::Noun(Number::Singular)), size(Class::Name));
        let (n_verbs, n_adjectives) = (size(Class::Verb(Number::Singular)), size(Class::Adjective));
        let entities = 0..n_nouns + n_names;
        let verbs: Vec<Vec<f64>> = entities.clone().map(|e| dense(&facts.verb(e), n_verbs)).collect();
        let mut this = Self {
            facts,
            topic,
            max_depth,
            opener_nats: entropy(&dense(&facts.opener(), size(Class::Opener))),
            names: (0..CAST).map(|role| dense(&facts.cast(role), n_names)).collect(),
            nouns: dense(&facts.noun(topic, None), n_nouns),
            adjectives: dense(&facts.adjective(topic), n_adjectives),
            bearers: (0..n_adjectives as u16).map(|a| dense(&facts.bearers(a), n_nouns)).collect(),
            verb_nats: verbs.iter().map(|p| entropy(p)).collect(),
            verbs,
            predicate_nats: entities.map(|e| entropy(&dense(&facts.predicate(e), n_adjectives))).collect(),
            objects: (0..n_verbs as u16).map(|v| dense(&facts.objects(v), n_nouns)).collect(),
            object_nats: Vec::new(),
        };
        this.object_nats = this.object_nats();
        this
    }

    /// Entropies of all object nouns. What depends on the subject is one favourite; the sum over the other nouns is shared.
    fn object_nats(&self) -> Vec<Vec<[f64; 2]>> {
        let mut nats = vec![vec![[0.0; 2]; self.objects.len()]; self.verbs.len()];
        for (v, by_verb) in self.objects.iter().enumerate() {
            let plain = std::iter::once((0, 1.0, None));
            let described =
                self.adjectives.iter().zip(&self.bearers).map(|(&p, bearers)| (1, p, Some(bearers)));
            for (slot, p, bearers) in plain.chain(described) {
                let (shares, by_adjective) = object_shares(bearers.is_some());
                let base: Vec<f64> = (0..self.nouns.len())
                    .map(|noun| {
                        let shared = f64::from(OBJECT_BY_TOPIC) * self.nouns[noun]
                            + f64::from(OBJECT_BY_VERB) * by_verb[noun];
                        (shared + bearers.map_or(0.0, |b| by_adjective * b[noun])) / shares
                    })
                    .collect();
                let sum = entropy(&base);
                for (subject, nats) in nats.iter_mut().enumerate() {
                    let favourite = base[usize::from(self.facts.favourite(subject, v as u16))];
                    let more = f64::from(OBJECT_BY_FAVOURITE) / shares;
                    nats[v][slot] += p * (sum - surprise(favourite) + surprise(favourite + more));
                }
            }
        }
        nats
    }

    /// A document after its topic.
    fn document(&self) -> Entropy {
        let mut total = certain(1.0);
        for names in &self.names {
            total += word(entropy(names)) + certain(1.0);
        }
        total += certain(1.0);

        let paragraph = self.paragraph();
        let opener = self.opener_nats;
        let mut reached = 1.0;
        for paragraphs in 0..=*PARAGRAPHS.end() {
            let another = if paragraphs < *PARAGRAPHS.end() { ANOTHER_PARAGRAPH[0] } else { 0 };
            let end = if PARAGRAPHS.contains(&paragraphs) { ANOTHER_PARAGRAPH[1] } else { 0 };
            let p_another = f64::from(another) / f64::from(another + end);
            total += reached * (word(choice(&[another, end])) + p_another * (word(opener) + paragraph));
            total += certain(-reached * p_another); // the opener is the word that was chosen
            reached *= p_another;
        }
        total
    }

    /// A paragraph after its opener, up to its line break.
    fn paragraph(&self) -> Entropy {
        let (fresh_subject, predicate) = self.sentence();
        let mut total = word(choice(&phrase_starts())) + fresh_subject + predicate;
        let mut reached = 1.0;
        for sentences in 1..=*SENTENCES.end() {
            let mut menu = Vec::new();
            let (mut pronoun, mut fresh) = (0, 0);
            if SENTENCES.contains(&sentences) {
                menu.push(LINE);
            }
            if sentences < *SENTENCES.end() {
                menu.push(PRONOUN);
                menu.extend(phrase_starts());
                (pronoun, fresh) = (PRONOUN, phrase_starts().iter().sum());
            }
            let p = |weight: u32| f64::from(weight) / f64::from(menu.iter().sum::<u32>());
            let more = p(fresh) * fresh_subject + p(pronoun + fresh) * predicate;
            total += reached * (word(choice(&menu)) + more);
            reached *= p(pronoun + fresh);
        }
        total
    }

    /// A sentence after its first word: what is left of a subject that is not a pronoun, and the verb phrases.
    fn sentence(&self) -> (Entropy, Entropy) {
        let (subject, subjects) = self.subject(0);
        let (first, p_and) = self.verb_phrase(&subjects, true);
        let (second, _) = self.verb_phrase(&subjects, false);
        (subject, first + p_and * second)
    }

    /// A verb phrase of the main clause up to "and" or the stop, and the probability of "and".
    fn verb_phrase(&self, subjects: &[f64], may_coordinate: bool) -> (Entropy, f64) {
        let p_copula = f64::from(COPULA) / f64::from(GO_ON);
        let predicate = word(dot(subjects, &self.predicate_nats));
        let object = Entropy { nats: dot(subjects, &self.verb_nats), words: 0.0 } + self.object(0, subjects);
        let start = word(choice(&[COPULA, GO_ON - COPULA]));
        let mut total = start + p_copula * predicate + (1.0 - p_copula) * object;

        // Verbs that govern a place, and the entropy of that place.
        let (mut p_governs, mut place_nats) = (0.0, 0.0);
        for v in (0..self.objects.len() as u16).filter(|&v| self.facts.preposition(v).is_some()) {
            let p: f64 = subjects.iter().zip(&self.verbs).map(|(p, verbs)| p * verbs[usize::from(v)]).sum();
            p_governs += (1.0 - p_copula) * p;
            place_nats +=
                (1.0 - p_copula) * p * entropy(&dense(&self.facts.place(self.topic, v), self.nouns.len()));
        }
        let and = if may_coordinate { AND } else { 0 };
        let ending = word(choice(&[and, GO_ON - and]));
        let ending_or_place = word(choice(&[PLACE, and, GO_ON - PLACE - and]));
        let p_place = f64::from(PLACE) / f64::from(GO_ON);
        total += (1.0 - p_governs) * ending + p_governs * ending_or_place;
        // "the", a noun in one of two numbers, and the ending.
        total += p_governs * p_place * (certain(1.0) + word(2_f64.ln()) + ending);
        total += Entropy { nats: p_place * place_nats, words: 0.0 };
        let p_and = f64::from(and) / f64::from(GO_ON);
        (total, p_and * (1.0 + p_governs * p_place))
    }

    /// A subject after its first word, in a clause at this depth, and the distribution of what it is.
    fn subject(&self, depth: usize) -> (Entropy, Vec<f64>) {
        let shares = f64::from(NOUN_BY_TOPIC + NOUN_BY_ADJECTIVE);
        let described = |bearers: &Vec<f64>| {
            let mut nouns = vec![0.0; self.nouns.len()];
            add(&mut nouns, f64::from(NOUN_BY_TOPIC) / shares, &self.nouns);
            add(&mut nouns, f64::from(NOUN_BY_ADJECTIVE) / shares, bearers);
            nouns
        };
        let described: Vec<Vec<f64>> = self.bearers.iter().map(described).collect();
        let described_nats =
            self.adjectives.iter().zip(&described).map(|(p, nouns)| p * entropy(nouns)).sum();
        let phrase = self.noun_phrase(entropy(&self.nouns), described_nats);

        let p_described = p_described();
        let mut nouns: Vec<f64> = self.nouns.iter().map(|p| (1.0 - p_described) * p).collect();
        for (p, described) in self.adjectives.iter().zip(&described) {
            add(&mut nouns, p_described * p, described);
        }
        let p_noun = p_noun();
        let rest = phrase + p_noun * self.relative(depth, &nouns);

        let mut entities: Vec<f64> = nouns.iter().map(|p| p_noun * p).collect();
        entities.resize(self.verbs.len(), 0.0);
        let first_name = self.facts.entity(Entity::Name(0));
        for (names, weight) in self.names.iter().zip(PERSONS) {
            add(&mut entities[first_name..], f64::from(weight) / total_of(&phrase_starts()), names);
        }
        (rest, entities)
    }

    /// An object in a clause at this depth, for subjects of this distribution whose verb has been read.
    fn object(&self, depth: usize, subjects: &[f64]) -> Entropy {
        let mut nats = [0.0; 2];
        let mut verbs = vec![0.0; self.objects.len()];
        let mut favourites = vec![0.0; self.nouns.len()];
        for (subject, p_subject) in subjects.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            for (v, p_verb) in self.verbs[subject].iter().enumerate() {
                let p = p_subject * p_verb;
                verbs[v] += p;
                favourites[usize::from(self.facts.favourite(subject, v as u16))] += p;
                for (sum, nats) in nats.iter_mut().zip(self.object_nats[subject][v]) {
                    *sum += p * nats;
                }
            }
        }
        let mut nouns = vec![0.0; self.nouns.len()];
        let p_described = p_described();
        for (p, described) in [(1.0 - p_described, false), (p_described, true)] {
            let (shares, by_adjective) = object_shares(described);
            add(&mut nouns, p * f64::from(OBJECT_BY_TOPIC) / shares, &self.nouns);
            add(&mut nouns, p * f64::from(OBJECT_BY_FAVOURITE) / shares, &favourites);
            for (p_verb, objects) in verbs.iter().zip(&self.objects) {
                add(&mut nouns, p * p_verb * f64::from(OBJECT_BY_VERB) / shares, objects);
            }
            for (p_adjective, bearers) in self.adjectives.iter().zip(&self.bearers) {
                add(&mut nouns, p * p_adjective * by_adjective / shares, bearers);
            }
        }
        let start = word(choice(&phrase_starts()));
        start + self.noun_phrase(nats[0], nats[1]) + p_noun() * self.relative(depth, &nouns)
    }

    /// A noun phrase after its first word, given the entropy of its noun without and with an adjective. The first word is
    /// not counted, but a noun without determiner is that word, and its entropy belongs here.
    fn noun_phrase(&self, plain_nats: f64, described_nats: f64) -> Entropy {
        let p = |weight: u32| f64::from(weight) / total_of(&phrase_starts());
        let p_adjective = f64::from(ADJECTIVE) / f64::from(ADJECTIVE + NOUN);
        let plain = Entropy { nats: plain_nats, words: 0.0 };
        let mut sum = p(BARE) * plain;
        for (_, weight, numbers) in DETERMINERS {
            let mut menu = vec![NOUN / numbers.len() as u32; numbers.len()];
            menu.push(ADJECTIVE);
            let described = word((numbers.len() as f64).ln() + described_nats + entropy(&self.adjectives));
            sum += p(weight) * (word(choice(&menu)) + (1.0 - p_adjective) * plain + p_adjective * described);
        }
        sum
    }

    /// Whether a noun in a clause at this depth has a relative clause, and that clause.
    fn relative(&self, depth: usize, heads: &[f64]) -> Entropy {
        if depth >= self.max_depth {
            return Entropy::default();
        }
        let mut menu = vec![SUBJECT_RELATIVE];
        menu.extend(phrase_starts());
        let p_subject = f64::from(SUBJECT_RELATIVE) / total_of(&menu);
        let verb_nats = dot(heads, &self.verb_nats[..heads.len()]);
        let of_subject = Entropy { nats: verb_nats, words: 0.0 } + self.object(depth + 1, heads);
        let (subject, subjects) = self.subject(depth + 1);
        let of_object = subject + word(dot(&subjects, &self.verb_nats));
        let clause = word(choice(&menu)) + p_subject * of_subject + (1.0 - p_subject) * of_object;
        let p_that = f64::from(THAT) / f64::from(THAT + GO_ON);
        let that = Entropy { nats: choice(&[THAT, GO_ON]), words: p_that };
        that + p_that * clause
    }
}

/// Shares in the choice of an object, all together and that of its adjective.
fn object_shares(described: bool) -> (f64, f64) {
    let by_adjective = if described { OBJECT_BY_ADJECTIVE } else { 0 };
    (
        f64::from(OBJECT_BY_TOPIC + OBJECT_BY_VERB + OBJECT_BY_FAVOURITE + by_adjective),
        f64::from(by_adjective),
    )
}

/// Weights of the ways to begin a noun phrase: determiners, a noun, persons.
fn phrase_starts() -> Vec<u32> {
    DETERMINERS.iter().map(|(_, weight, _)| *weight).chain([BARE]).chain(PERSONS).collect()
}

/// The probability that a noun phrase has a noun.
fn p_noun() -> f64 {
    1.0 - total_of(&PERSONS) / total_of(&phrase_starts())
}

/// The probability that a noun phrase has an adjective, given that it has a noun.
fn p_described() -> f64 {
    let determined: u32 = DETERMINERS.iter().map(|(_, weight, _)| weight).sum();
    f64::from(determined) / f64::from(determined + BARE) * f64::from(ADJECTIVE) / f64::from(ADJECTIVE + NOUN)
}

fn total_of(weights: &[u32]) -> f64 {
    f64::from(weights.iter().sum::<u32>())
}

/// Entropy of a choice with these weights.
fn choice(weights: &[u32]) -> f64 {
    let total = total_of(weights);
    weights.iter().map(|&weight| surprise(f64::from(weight) / total)).sum()
}

fn entropy(p: &[f64]) -> f64 {
    p.iter().copied().map(surprise).sum()
}

fn surprise(p: f64) -> f64 {
    if p > 0.0 { -p * p.ln() } else { 0.0 }
}

/// Probabilities of the first `n` members, which are all members.
fn dense(mixture: &Mixture, n: usize) -> Vec<f64> {
    (0..n as u16).map(|member| mixture.probability(member)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `sum += factor * terms`, over the length of `terms`.
fn add(sum: &mut [f64], factor: f64, terms: &[f64]) {
    for (sum, term) in sum.iter_mut().zip(terms) {
        *sum += factor * term;
    }
}

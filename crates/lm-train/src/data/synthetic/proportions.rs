//! How often the grammar does what: the fixed sizes and weights of the language.

use std::ops::RangeInclusive;

use super::lexicon::{Number, Word};

/// Persons in a document: the first is the hero.
pub(super) const CAST: usize = 3;
/// Paragraphs of a document.
pub(super) const PARAGRAPHS: RangeInclusive<usize> = 2..=6;
/// Weights of another paragraph and of the end of the document.
pub(super) const ANOTHER_PARAGRAPH: [u32; 2] = [3, 1];
/// Sentences of a paragraph.
pub(super) const SENTENCES: RangeInclusive<usize> = 2..=4;

/// After a sentence: weight of the end of the paragraph.
pub(super) const LINE: u32 = 10;
/// At the start of a sentence: weight of a pronoun, which keeps the subject of the sentence before.
pub(super) const PRONOUN: u32 = 4;
/// At the start of a noun phrase: determiners, their weights, and the numbers they go with.
pub(super) const DETERMINERS: [(Word, u32, &[Number]); 3] = [
    (Word::The, 4, &[Number::Singular, Number::Plural]),
    (Word::A, 2, &[Number::Singular]),
    (Word::Some, 2, &[Number::Plural]),
];
/// At the start of a noun phrase: weight of a plural noun without determiner.
pub(super) const BARE: u32 = 6;
/// At the start of a noun phrase: weights of the persons, by role.
pub(super) const PERSONS: [u32; CAST] = [4, 2, 2];

/// After a determiner: weight of an adjective.
pub(super) const ADJECTIVE: u32 = 4;
/// After a determiner: weight of a noun, shared equally by the numbers that agree.
pub(super) const NOUN: u32 = 8;
/// After a noun: weight of a relative clause, against [`GO_ON`].
pub(super) const THAT: u32 = 3;
/// Where a noun phrase is complete: weight of all that may follow.
pub(super) const GO_ON: u32 = 12;
/// After "that": weight of a verb, whose subject is the noun before. The alternative is a noun phrase, whose verb has the
/// noun before as its object.
pub(super) const SUBJECT_RELATIVE: u32 = 30;

/// After the subject of a main clause: weight of "is" or "are"; the rest of [`GO_ON`] is a verb.
pub(super) const COPULA: u32 = 3;
/// After a main clause whose verb governs a preposition: weight of that preposition, out of [`GO_ON`].
pub(super) const PLACE: u32 = 4;
/// After the first verb phrase of a sentence: weight of "and" and a second one, out of [`GO_ON`].
pub(super) const AND: u32 = 2;

/// Shares in the choice of a noun that depends on the topic and its adjective.
pub(super) const NOUN_BY_TOPIC: u32 = 1;
pub(super) const NOUN_BY_ADJECTIVE: u32 = 1;
/// Shares in the choice of a verb: its frequency, the habits of its subject.
pub(super) const VERB_BY_FREQUENCY: u32 = 1;
pub(super) const VERB_BY_HABIT: u32 = 2;
/// Shares in the choice of an object: the topic, the verb, subject and verb together, the adjective (if there is one).
pub(super) const OBJECT_BY_TOPIC: u32 = 5;
pub(super) const OBJECT_BY_VERB: u32 = 5;
pub(super) const OBJECT_BY_FAVOURITE: u32 = 6;
pub(super) const OBJECT_BY_ADJECTIVE: u32 = 6;
/// Shares in the choice of a place: the topic, the verb.
pub(super) const PLACE_BY_TOPIC: u32 = 1;
pub(super) const PLACE_BY_VERB: u32 = 3;
/// Shares in the choice of an adjective before a noun: its frequency, the topic.
pub(super) const ADJECTIVE_BY_FREQUENCY: u32 = 1;
pub(super) const ADJECTIVE_BY_TOPIC: u32 = 1;
/// Shares in the choice of an adjective after "is" or "are": its frequency, the property of the subject.
pub(super) const PREDICATE_BY_FREQUENCY: u32 = 1;
pub(super) const PREDICATE_BY_PROPERTY: u32 = 3;

/// The numbers that a determiner goes with.
pub(super) fn agreeing(determiner: Word) -> &'static [Number] {
    let found = DETERMINERS.iter().find(|(word, _, _)| *word == determiner);
    found.map(|(_, _, numbers)| *numbers).expect("a noun phrase without a name begins with a determiner")
}

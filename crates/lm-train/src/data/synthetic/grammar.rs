//! The grammar as a machine that reads a document word by word.
//!
//! A [`State`] is what the words so far determine; its [`Menu`] lists the words that may follow, with integer weights; each
//! word leads to one state. Generating, scoring and predicting all walk this one machine, so they cannot disagree, and since
//! the menu of a state holds each word once, every text has exactly one derivation.

use super::facts::{Entity, Facts};
use super::lexicon::{Class, Number, Word};
use super::menu::Menu;
use super::proportions::{
    ADJECTIVE, AND, ANOTHER_PARAGRAPH, BARE, CAST, COPULA, DETERMINERS, GO_ON, LINE, NOUN, PARAGRAPHS,
    PERSONS, PLACE, PRONOUN, SENTENCES, SUBJECT_RELATIVE, THAT, agreeing,
};
use super::weights::Mixture;

/// What comes next.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Topic,
    Colon,
    Name(usize),
    AfterName(usize),
    LineEnd,
    /// Another paragraph, or the end.
    LineStart,
    /// A sentence is complete.
    Boundary,
    /// A noun phrase, in the open slot of the innermost clause.
    NounPhrase,
    /// An adjective or noun, after this determiner.
    Determined(Word),
    /// A noun, after this determiner and adjective.
    Described(Word, u16),
    /// A relative clause of this noun, or anything that [`Phase::GoOn`] allows.
    AfterNoun(u16, Number),
    /// The relative clause of this noun, after "that".
    Relative(u16, Number),
    /// A noun phrase is complete: what the innermost incomplete clause needs.
    GoOn,
    Predicate,
    PlaceDeterminer,
    PlaceNoun,
    Done,
}

/// The part of a clause that is missing or being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// The subject; once it is complete, the verb.
    Subject,
    /// The object; once it is complete, nothing.
    Object,
}

/// A clause being read.
#[derive(Clone, Copy, Debug)]
struct Clause {
    subject: Entity,
    number: Number,
    verb: u16,
    slot: Slot,
    /// An object relative: its object is the noun before it, so that it ends with its verb.
    gap: bool,
}

impl Clause {
    /// A clause whose subject is yet to come.
    fn new(gap: bool) -> Self {
        Self { subject: Entity::Noun(0), number: Number::Singular, verb: 0, slot: Slot::Subject, gap }
    }
}

/// All that the words so far determine.
#[derive(Clone, Debug)]
pub(super) struct State {
    max_depth: usize,
    phase: Phase,
    topic: u16,
    cast: [u16; CAST],
    paragraphs: usize,
    sentences: usize,
    /// Subject of the sentence before, in this paragraph.
    previous: Option<(Entity, Number)>,
    /// The main clause and the relative clauses inside it.
    clauses: Vec<Clause>,
    /// The main verb governs a place that has not been named.
    may_place: bool,
    /// The sentence has its second verb phrase.
    coordinated: bool,
}

impl State {
    /// Before the first word.
    pub(super) fn new(max_depth: usize) -> Self {
        Self {
            max_depth,
            phase: Phase::Topic,
            topic: 0,
            cast: [0; CAST],
            paragraphs: 0,
            sentences: 0,
            previous: None,
            clauses: Vec::with_capacity(max_depth + 1),
            may_place: false,
            coordinated: false,
        }
    }

    /// Fills `menu` with what may follow. It is empty after the end.
    pub(super) fn menu<'a>(&self, facts: &'a Facts, menu: &mut Menu<'a>) {
        menu.clear();
        match self.phase {
            Phase::Topic => menu.class(1, Class::Topic, facts.topic()),
            Phase::Colon => menu.word(1, Word::Colon),
            Phase::Name(role) => menu.class(1, Class::Name, facts.cast(role)),
            Phase::AfterName(role) => menu.word(1, if role + 1 < CAST { Word::Comma } else { Word::Stop }),
            Phase::LineEnd => menu.word(1, Word::Line),
            Phase::LineStart => {
                if self.paragraphs < *PARAGRAPHS.end() {
                    menu.class(ANOTHER_PARAGRAPH[0], Class::Opener, facts.opener());
                }
                if PARAGRAPHS.contains(&self.paragraphs) {
                    menu.word(ANOTHER_PARAGRAPH[1], Word::End);
                }
            }
            Phase::Boundary => {
                if SENTENCES.contains(&self.sentences) {
                    menu.word(LINE, Word::Line);
                }
                if self.sentences < *SENTENCES.end() {
                    if let Some((subject, number)) = self.previous {
                        menu.word(PRONOUN, pronoun(subject, number));
                    }
                    self.noun_phrase_menu(facts.noun(self.topic, None), menu);
                }
            }
            Phase::NounPhrase => self.noun_phrase_menu(self.nouns(None, facts), menu),
            Phase::Determined(determiner) => {
                menu.class(ADJECTIVE, Class::Adjective, facts.adjective(self.topic));
                self.noun_menu(determiner, None, facts, menu);
            }
            Phase::Described(determiner, adjective) => {
                self.noun_menu(determiner, Some(adjective), facts, menu)
            }
            Phase::AfterNoun(..) => {
                menu.word(THAT, Word::That);
                self.go_on_menu(facts, menu);
            }
            Phase::Relative(noun, number) => {
                let verb = facts.verb(facts.entity(Entity::Noun(noun)));
                menu.class(SUBJECT_RELATIVE, Class::Verb(number), verb);
                self.noun_phrase_menu(facts.noun(self.topic, None), menu);
            }
            Phase::GoOn => self.go_on_menu(facts, menu),
            Phase::Predicate => {
                menu.class(1, Class::Adjective, facts.predicate(facts.entity(self.clauses[0].subject)));
            }
            Phase::PlaceDeterminer => menu.word(1, Word::The),
            Phase::PlaceNoun => {
                for number in [Number::Singular, Number::Plural] {
                    menu.class(1, Class::Noun(number), facts.place(self.topic, self.clauses[0].verb));
                }
            }
            Phase::Done => {}
        }
    }

    /// The start of a noun phrase with these nouns.
    fn noun_phrase_menu<'a>(&self, nouns: Mixture<'a>, menu: &mut Menu<'a>) {
        for (determiner, weight, _) in DETERMINERS {
            menu.word(weight, determiner);
        }
        menu.class(BARE, Class::Noun(Number::Plural), nouns);
        for (name, weight) in self.cast.into_iter().zip(PERSONS) {
            menu.word(weight, Word::Of(Class::Name, name));
        }
    }

    /// A noun after this determiner and adjective.
    fn noun_menu<'a>(&self, determiner: Word, adjective: Option<u16>, facts: &'a Facts, menu: &mut Menu<'a>) {
        let numbers = agreeing(determiner);
        for &number in numbers {
            menu.class(NOUN / numbers.len() as u32, Class::Noun(number), self.nouns(adjective, facts));
        }
    }

    /// The nouns for the open slot of the innermost clause.
    fn nouns<'a>(&self, adjective: Option<u16>, facts: &'a Facts) -> Mixture<'a> {
        let clause = self.innermost();
        match clause.slot {
            Slot::Subject => facts.noun(self.topic, adjective),
            Slot::Object => facts.object(self.topic, facts.entity(clause.subject), clause.verb, adjective),
        }
    }

    fn go_on_menu<'a>(&self, facts: &'a Facts, menu: &mut Menu<'a>) {
        let depth = self.incomplete();
        let clause = self.clauses[depth];
        match (clause.slot, depth) {
            (Slot::Subject, 0) => {
                menu.word(COPULA, if clause.number == Number::Singular { Word::Is } else { Word::Are });
                menu.class(
                    GO_ON - COPULA,
                    Class::Verb(clause.number),
                    facts.verb(facts.entity(clause.subject)),
                );
            }
            (Slot::Subject, _) => {
                menu.class(GO_ON, Class::Verb(clause.number), facts.verb(facts.entity(clause.subject)));
            }
            (Slot::Object, _) => {
                let mut stop = GO_ON;
                if let Some(preposition) = facts.preposition(clause.verb).filter(|_| self.may_place) {
                    menu.word(PLACE, Word::Of(Class::Preposition, preposition));
                    stop -= PLACE;
                }
                if !self.coordinated {
                    menu.word(AND, Word::And);
                    stop -= AND;
                }
                menu.word(stop, Word::Stop);
            }
        }
    }

    /// Reads a word, which must be on the menu.
    pub(super) fn advance(&mut self, word: Word) {
        self.phase = match self.phase {
            Phase::Topic => {
                self.topic = word.member();
                Phase::Colon
            }
            Phase::Colon => Phase::Name(0),
            Phase::Name(role) => {
                self.cast[role] = word.member();
                Phase::AfterName(role)
            }
            Phase::AfterName(role) if role + 1 < CAST => Phase::Name(role + 1),
            Phase::AfterName(_) => Phase::LineEnd,
            Phase::LineEnd => Phase::LineStart,
            Phase::LineStart if word == Word::End => Phase::Done,
            Phase::LineStart => {
                self.paragraphs += 1;
                self.sentences = 0;
                self.previous = None;
                self.open_sentence();
                Phase::NounPhrase
            }
            Phase::Boundary => match word {
                Word::Line => Phase::LineStart,
                other => self.begin_sentence(other),
            },
            Phase::NounPhrase => self.begin_noun_phrase(word),
            Phase::Determined(determiner) => match word {
                Word::Of(Class::Adjective, adjective) => Phase::Described(determiner, adjective),
                noun => self.read_noun(noun),
            },
            Phase::Described(..) => self.read_noun(word),
            Phase::AfterNoun(noun, number) if word == Word::That => Phase::Relative(noun, number),
            Phase::AfterNoun(..) | Phase::GoOn => self.go_on(word),
            Phase::Relative(noun, number) => match word {
                Word::Of(Class::Verb(_), verb) => {
                    let subject = Entity::Noun(noun);
                    self.clauses.push(Clause { subject, number, verb, slot: Slot::Object, gap: false });
                    Phase::NounPhrase
                }
                other => {
                    self.clauses.push(Clause::new(true));
                    self.begin_noun_phrase(other)
                }
            },
            Phase::Predicate | Phase::PlaceNoun => Phase::GoOn,
            Phase::PlaceDeterminer => Phase::PlaceNoun,
            Phase::Done => Phase::Done,
        }
    }
    /// A main clause whose subject is yet to come.
    fn open_sentence(&mut self) {
        self.clauses.clear();
        self.clauses.push(Clause::new(false));
        self.coordinated = false;
    }

    /// Reads the first word of a sentence that does not open its paragraph.
    fn begin_sentence(&mut self, word: Word) -> Phase {
        self.open_sentence();
        match (word, self.previous) {
            (Word::It | Word::They | Word::She, Some((subject, number))) => self.end_subject(subject, number),
            (other, _) => self.begin_noun_phrase(other),
        }
    }

    fn begin_noun_phrase(&mut self, word: Word) -> Phase {
        match word {
            Word::Of(Class::Name, name) => self.end_subject(Entity::Name(name), Number::Singular),
            Word::Of(Class::Noun(_), _) => self.read_noun(word),
            determiner => Phase::Determined(determiner),
        }
    }

    fn read_noun(&mut self, word: Word) -> Phase {
        let (noun, number) = match word {
            Word::Of(Class::Noun(number), noun) => (noun, number),
            other => unreachable!("{other:?} is not a noun"),
        };
        let go_on = self.end_subject(Entity::Noun(noun), number);
        let depth = self.clauses.len() - 1;
        if depth < self.max_depth { Phase::AfterNoun(noun, number) } else { go_on }
    }

    /// A noun phrase without more to come; notes it, if it is a subject.
    fn end_subject(&mut self, subject: Entity, number: Number) -> Phase {
        let clause = self.innermost_mut();
        if clause.slot == Slot::Subject {
            (clause.subject, clause.number) = (subject, number);
        }
        Phase::GoOn
    }

    /// Reads what continues the innermost incomplete clause; the clauses inside it are over.
    fn go_on(&mut self, word: Word) -> Phase {
        self.clauses.truncate(self.incomplete() + 1);
        let is_main = self.clauses.len() == 1;
        let clause = self.innermost_mut();
        match (clause.slot, word) {
            (Slot::Subject, Word::Of(Class::Verb(_), verb)) => {
                clause.verb = verb;
                clause.slot = Slot::Object;
                if clause.gap {
                    return Phase::GoOn;
                }
                self.may_place |= is_main;
                Phase::NounPhrase
            }
            (Slot::Subject, _) => {
                clause.slot = Slot::Object;
                Phase::Predicate
            }
            (Slot::Object, Word::Stop) => {
                self.previous = Some((clause.subject, clause.number));
                self.may_place = false;
                self.sentences += 1;
                Phase::Boundary
            }
            (Slot::Object, Word::And) => {
                clause.slot = Slot::Subject;
                self.may_place = false;
                self.coordinated = true;
                Phase::GoOn
            }
            (Slot::Object, _) => {
                self.may_place = false;
                Phase::PlaceDeterminer
            }
        }
    }

    /// Depth of the innermost clause that lacks something; the main clause, if none does.
    fn incomplete(&self) -> usize {
        self.clauses.iter().rposition(|clause| clause.slot == Slot::Subject).unwrap_or(0)
    }

    fn innermost(&self) -> &Clause {
        self.clauses.last().expect("a sentence has a main clause")
    }

    fn innermost_mut(&mut self) -> &mut Clause {
        self.clauses.last_mut().expect("a sentence has a main clause")
    }
}

fn pronoun(subject: Entity, number: Number) -> Word {
    match (subject, number) {
        (Entity::Name(_), _) => Word::She,
        (Entity::Noun(_), Number::Singular) => Word::It,
        (Entity::Noun(_), Number::Plural) => Word::They,
    }
}

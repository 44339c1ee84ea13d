//! What there is to know about the words: who does what to what, and where. All of it is drawn from the language seed.
//!
//! These tables are the memory load of the language. Frequencies and topics are cheap to learn; the favourite object of
//! each pair of subject and verb (nouns + names times verbs of them) fills as many feed-forward neurons as one cares to buy.

use rand_chacha::ChaCha8Rng;

use super::lexicon::Class;
use super::proportions::{
    ADJECTIVE_BY_FREQUENCY, ADJECTIVE_BY_TOPIC, CAST, NOUN_BY_ADJECTIVE, NOUN_BY_TOPIC, OBJECT_BY_ADJECTIVE,
    OBJECT_BY_FAVOURITE, OBJECT_BY_TOPIC, OBJECT_BY_VERB, PLACE_BY_TOPIC, PLACE_BY_VERB,
    PREDICATE_BY_FREQUENCY, PREDICATE_BY_PROPERTY, VERB_BY_FREQUENCY, VERB_BY_HABIT,
};
use super::weights::{Mixture, Part, Weights};
use crate::config::SyntheticConfig;
use crate::rng::{Key, below};

/// Something that can act: a noun or a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entity {
    Noun(u16),
    Name(u16),
}

/// All drawn tables, and the conditional distributions made of them.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    nouns: usize,
    verbs: usize,
    topics: Weights,
    openers: Weights,
    /// Per role of the cast, its part of the names.
    cast: Vec<Weights>,
    /// Per topic: nouns by frequency, those of the topic [`Facts::TOPIC_BOOST`] times likelier.
    topic_nouns: Vec<Weights>,
    adjectives: Weights,
    /// Per topic: its few adjectives.
    topic_adjectives: Vec<Weights>,
    verb_frequency: Weights,
    /// Per entity: what it likes to do.
    habits: Vec<Weights>,
    /// Per entity: the adjective it is described by.
    property: Vec<u16>,
    /// Per adjective: the nouns that have the property.
    bearers: Vec<Weights>,
    /// Per verb: what it is done to.
    objects: Vec<Weights>,
    /// Per entity and verb: what this one does it to.
    favourites: Vec<u16>,
    /// Per verb: the preposition it governs, if any, and the places that go with it.
    places: Vec<Option<(u16, Weights)>>,
}

impl Facts {
    const TOPIC_BOOST: f64 = 8.0;
    const TOPICS_PER_NOUN: usize = 2;
    const ADJECTIVES_PER_TOPIC: usize = 4;
    const HABITS: usize = 4;
    const OBJECTS_PER_VERB: usize = 8;
    const PLACES_PER_VERB: usize = 4;

    /// Draws the facts of a language. Each table has a key of its own, so that one does not shift the others.
    pub(super) fn new(config: &SyntheticConfig, class_size: impl Fn(Class) -> usize, key: &Key) -> Self {
        let frequency = |rank: usize| ((rank + 1) as f64).powf(-config.zipf_exponent);
        let by_frequency = |members: std::ops::Range<usize>| {
            Weights::new(members.clone().map(|i| (i as u16, frequency(i - members.start))))
        };
        let favourites = |rng: &mut ChaCha8Rng, n: usize, of: usize| {
            let members = distinct(rng, n, of);
            Weights::new(members.into_iter().enumerate().map(|(rank, i)| (i, frequency(rank))))
        };
        let SyntheticConfig { topics, names, nouns, verbs, adjectives, .. } = *config;
        let entities = nouns + names;

        let mut rng = key.named("topics of nouns").rng();
        let mut boost = vec![vec![1.0; nouns]; topics];
        for i in 0..nouns * Self::TOPICS_PER_NOUN {
            boost[below(&mut rng, topics as u64) as usize][i / Self::TOPICS_PER_NOUN] = Self::TOPIC_BOOST;
        }
        let topic_nouns =
            |boost: &Vec<f64>| Weights::new((0..nouns).map(|i| (i as u16, frequency(i) * boost[i])));

        let mut rng = key.named("properties").rng();
        let property: Vec<u16> = (0..entities).map(|_| below(&mut rng, adjectives as u64) as u16).collect();
        let bearers = |adjective: usize| {
            let bears = |i: &usize| usize::from(property[*i]) == adjective;
            let bearers: Vec<_> = (0..nouns).filter(bears).map(|i| (i as u16, frequency(i))).collect();
            if bearers.is_empty() { by_frequency(0..nouns) } else { Weights::new(bearers) }
        };

        let mut topic_rng = key.named("adjectives of topics").rng();
        let mut habit_rng = key.named("habits").rng();
        let mut object_rng = key.named("objects of verbs").rng();
        let mut pair_rng = key.named("favourites").rng();
        let mut place_rng = key.named("places").rng();
        let prepositions = class_size(Class::Preposition) as u64;
        let mut place = || {
            let governs = below(&mut place_rng, 2) == 0;
            governs.then(|| {
                let preposition = below(&mut place_rng, prepositions) as u16;
                (preposition, favourites(&mut place_rng, Self::PLACES_PER_VERB, nouns))
            })
        };
        Self {
            nouns,
            verbs,
            topics: Weights::new((0..topics).map(|i| (i as u16, 1.0))),
            openers: by_frequency(0..class_size(Class::Opener)),
            cast: (0..CAST)
                .map(|role| by_frequency(names * role / CAST..names * (role + 1) / CAST))
                .collect(),
            topic_nouns: boost.iter().map(topic_nouns).collect(),
            adjectives: by_frequency(0..adjectives),
            topic_adjectives: (0..topics)
                .map(|_| favourites(&mut topic_rng, Self::ADJECTIVES_PER_TOPIC, adjectives))
                .collect(),
            verb_frequency: by_frequency(0..verbs),
            habits: (0..entities).map(|_| favourites(&mut habit_rng, Self::HABITS, verbs)).collect(),
            bearers: (0..adjectives).map(bearers).collect(),
            property,
            objects: (0..verbs).map(|_| favourites(&mut object_rng, Self::OBJECTS_PER_VERB, nouns)).collect(),
            favourites: (0..entities * verbs).map(|_| below(&mut pair_rng, nouns as u64) as u16).collect(),
            places: (0..verbs).map(|_| place()).collect(),
        }
    }

    /// Position of an entity in tables over all entities: nouns, then names.
    pub(super) fn entity(&self, entity: Entity) -> usize {
        match entity {
            Entity::Noun(i) => usize::from(i),
            Entity::Name(i) => self.nouns + usize::from(i),
        }
    }

    /// The topic of a document.
    pub(super) fn topic(&self) -> Mixture<'_> {
        Mixture::new([(1, Part::Table(&self.topics))])
    }

    /// The word that opens a paragraph.
    pub(super) fn opener(&self) -> Mixture<'_> {
        Mixture::new([(1, Part::Table(&self.openers))])
    }

    /// The person in a role.
    pub(super) fn cast(&self, role: usize) -> Mixture<'_> {
        Mixture::new([(1, Part::Table(&self.cast[role]))])
    }

    /// An adjective before a noun.
    pub(super) fn adjective(&self, topic: u16) -> Mixture<'_> {
        Mixture::new([
            (ADJECTIVE_BY_FREQUENCY, Part::Table(&self.adjectives)),
            (ADJECTIVE_BY_TOPIC, Part::Table(&self.topic_adjectives[usize::from(topic)])),
        ])
    }

    /// The adjective after "is" or "are": mostly the property of the subject.
    pub(super) fn predicate(&self, subject: usize) -> Mixture<'_> {
        Mixture::new([
            (PREDICATE_BY_FREQUENCY, Part::Table(&self.adjectives)),
            (PREDICATE_BY_PROPERTY, Part::Only(self.property[subject])),
        ])
    }

    /// A noun that depends on nothing but the topic and its adjective.
    pub(super) fn noun(&self, topic: u16, adjective: Option<u16>) -> Mixture<'_> {
        let by_topic = (NOUN_BY_TOPIC, self.on_topic(topic));
        match adjective {
            None => Mixture::new([by_topic]),
            Some(adjective) => Mixture::new([by_topic, (NOUN_BY_ADJECTIVE, self.bearer(adjective))]),
        }
    }

    /// A verb, given its subject.
    pub(super) fn verb(&self, subject: usize) -> Mixture<'_> {
        Mixture::new([
            (VERB_BY_FREQUENCY, Part::Table(&self.verb_frequency)),
            (VERB_BY_HABIT, Part::Table(&self.habits[subject])),
        ])
    }

    /// The noun a verb is done to, given who does it.
    pub(super) fn object(
        &self,
        topic: u16,
        subject: usize,
        verb: u16,
        adjective: Option<u16>,
    ) -> Mixture<'_> {
        let by_topic = (OBJECT_BY_TOPIC, self.on_topic(topic));
        let by_verb = (OBJECT_BY_VERB, Part::Table(&self.objects[usize::from(verb)]));
        let favourite = (OBJECT_BY_FAVOURITE, Part::Only(self.favourite(subject, verb)));
        match adjective {
            None => Mixture::new([by_topic, by_verb, favourite]),
            Some(adjective) => {
                Mixture::new([by_topic, by_verb, favourite, (OBJECT_BY_ADJECTIVE, self.bearer(adjective))])
            }
        }
    }

    /// What this subject likes to do this to.
    pub(super) fn favourite(&self, subject: usize, verb: u16) -> u16 {
        self.favourites[subject * self.verbs + usize::from(verb)]
    }

    /// What this verb is done to.
    pub(super) fn objects(&self, verb: u16) -> Mixture<'_> {
        Mixture::new([(1, Part::Table(&self.objects[usize::from(verb)]))])
    }

    /// The nouns that an adjective describes.
    pub(super) fn bearers(&self, adjective: u16) -> Mixture<'_> {
        Mixture::new([(1, self.bearer(adjective))])
    }

    /// The preposition that a verb governs.
    pub(super) fn preposition(&self, verb: u16) -> Option<u16> {
        self.places[usize::from(verb)].as_ref().map(|(preposition, _)| *preposition)
    }

    /// The noun after the preposition that a verb governs.
    pub(super) fn place(&self, topic: u16, verb: u16) -> Mixture<'_> {
        let by_topic = (PLACE_BY_TOPIC, self.on_topic(topic));
        match &self.places[usize::from(verb)] {
            None => Mixture::new([by_topic]),
            Some((_, places)) => Mixture::new([by_topic, (PLACE_BY_VERB, Part::Table(places))]),
        }
    }

    fn on_topic(&self, topic: u16) -> Part<'_> {
        Part::Table(&self.topic_nouns[usize::from(topic)])
    }

    fn bearer(&self, adjective: u16) -> Part<'_> {
        Part::Table(&self.bearers[usize::from(adjective)])
    }
}

/// `n` distinct numbers below `of` (all of them, if there are no more), in random order.
fn distinct(rng: &mut ChaCha8Rng, n: usize, of: usize) -> Vec<u16> {
    let mut drawn = Vec::with_capacity(n);
    while drawn.len() < n.min(of) {
        let next = below(rng, of as u64) as u16;
        if !drawn.contains(&next) {
            drawn.push(next);
        }
    }
    drawn
}

//! Reading an activation from a configuration file.
//!
//! Derived code would take `"swish"` for a mistake, because that variant has a field, and say no more
//! than "expected struct variant". Here every activation can be written by its name alone; a
//! parameter that is left out has its default.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

use crate::Activation;

impl<'de> Deserialize<'de> for Activation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrParameters)
    }
}

struct NameOrParameters;

impl<'de> Visitor<'de> for NameOrParameters {
    type Value = Activation;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an activation such as \"silu\" or { swish = { beta = 1.5 } }")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Activation, E> {
        const NAMES: [&str; Activation::ALL.len()] = names();
        let activation = Activation::ALL.into_iter().find(|activation| activation.name() == name);
        activation.ok_or_else(|| E::unknown_variant(name, &NAMES))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Activation, A::Error> {
        match WithParameters::deserialize(MapAccessDeserializer::new(map))? {
            WithParameters::Swish { beta } => Ok(Activation::Swish { beta }),
        }
    }
}

/// The activations that can be written as a table.
#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum WithParameters {
    Swish {
        #[serde(default = "default_beta")]
        beta: f64,
    },
}

fn default_beta() -> f64 {
    Activation::DEFAULT_BETA
}

const fn names() -> [&'static str; Activation::ALL.len()] {
    let mut names = [""; Activation::ALL.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = Activation::ALL[i].name();
        i += 1;
    }
    names
}

//! Corpora made of text: given files, or the synthetic language. The identity of a split is known before its text is made.

use std::collections::HashSet;

use anyhow::{Result, bail};
use blake3::{Hash, Hasher};

use super::documents::Documents;
use super::files::{HashedFile, SplitFiles, read_text};
use super::synthetic::{Language, Split};
use crate::config::{DataConfig, DataSource, SyntheticConfig};

/// Raise when the same config and files would give other documents than before.
const VERSION: u32 = 1;

/// Documents of a split, and their exact negative log-likelihood in nats where it is known.
#[derive(Debug)]
pub(super) struct SplitText {
    pub(super) documents: Documents,
    pub(super) nll: Option<f64>,
}

/// Where the documents come from.
enum Origin {
    /// The language; its settings also as JSON.
    Synthetic { language: Box<Language>, config: SyntheticConfig, json: String },
    /// Files for each split.
    Files { files: SplitFiles, separator: String },
    /// Files of which the last fraction is held out.
    Fraction { files: Vec<HashedFile>, separator: String, valid_fraction: f64 },
}

/// Both splits of a text, made when the first of them is asked for.
pub(super) struct TextSource {
    origin: Origin,
    texts: Option<[SplitText; 2]>,
}

impl TextSource {
    /// Finds the files of a config with source text, or notes the language.
    ///
    /// # Errors
    /// See [`SplitFiles::find`]; no training files; no validation text, or two definitions of it.
    pub(super) fn find(data: &DataConfig) -> Result<Self> {
        let separator = data.document_separator.clone();
        let origin = match data.source {
            DataSource::Synthetic => {
                let config = data.synthetic.clone();
                let language = Box::new(Language::new(&config));
                Origin::Synthetic { language, json: serde_json::to_string(&config)?, config }
            }
            DataSource::Tokens => bail!("token files hold no text"),
            DataSource::Text => {
                if data.train.is_empty() {
                    bail!("data.train is empty: name at least one training file");
                }
                match (data.valid_fraction, data.valid.is_empty()) {
                    (None, true) => {
                        bail!("no validation text: set data.valid (files) or data.valid_fraction")
                    }
                    (Some(_), false) => {
                        bail!("data.valid and data.valid_fraction are both set: choose one of them")
                    }
                    (None, false) => {
                        Origin::Files { files: SplitFiles::find(&data.train, &data.valid)?, separator }
                    }
                    (Some(valid_fraction), true) => {
                        let files = SplitFiles::find(&data.train, &[])?.train;
                        Origin::Fraction { files, separator, valid_fraction }
                    }
                }
            }
        };
        Ok(Self { origin, texts: None })
    }

    /// Hash of all that decides the documents of a split; of contents, not of paths.
    pub(super) fn identity(&self, split: Split) -> Hash {
        let mut hasher = Hasher::new();
        hasher.update(b"text").update(&VERSION.to_le_bytes());
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        };
        match &self.origin {
            Origin::Synthetic { language, json, .. } => {
                field(b"synthetic");
                field(split.name().as_bytes());
                field(json.as_bytes());
                // The settings decide everything but the design of the language; a sample tells designs apart.
                field(language.generate(split, 0).text.as_bytes());
            }
            Origin::Files { files, separator } => {
                field(b"files");
                field(separator.as_bytes());
                let files = match split {
                    Split::Train => &files.train,
                    Split::Valid => &files.valid,
                };
                files.iter().for_each(|file| field(file.hash.as_bytes()));
            }
            Origin::Fraction { files, separator, valid_fraction } => {
                field(b"fraction");
                field(split.name().as_bytes());
                field(separator.as_bytes());
                field(&valid_fraction.to_le_bytes());
                files.iter().for_each(|file| field(file.hash.as_bytes()));
            }
        }
        hasher.finalize()
    }

    /// The documents of a split.
    ///
    /// # Errors
    /// A file that is not UTF-8 or holds no document; a text that cannot be split.
    pub(super) fn text(&mut self, split: Split, progress: &dyn Fn(&str)) -> Result<&SplitText> {
        let texts = match self.texts.take() {
            Some(texts) => texts,
            None => self.make(progress)?,
        };
        let [train, valid] = self.texts.insert(texts);
        Ok(match split {
            Split::Train => train,
            Split::Valid => valid,
        })
    }

    fn make(&self, progress: &dyn Fn(&str)) -> Result<[SplitText; 2]> {
        match &self.origin {
            Origin::Synthetic { language, config, .. } => {
                let SyntheticConfig { train_documents, valid_documents, .. } = config;
                progress(&format!(
                    "writing {train_documents} + {valid_documents} documents of the synthetic language"
                ));
                Ok(synthetic(language, config))
            }
            Origin::Files { files, separator } => {
                let text = |documents| SplitText { documents, nll: None };
                Ok([text(read(&files.train, separator)?), text(read(&files.valid, separator)?)])
            }
            Origin::Fraction { files, separator, valid_fraction } => {
                let all = read(files, separator)?;
                let (documents, bytes) = (all.len(), all.bytes());
                let Some((train, valid)) = all.split_off(*valid_fraction) else {
                    bail!(
                        "data.valid_fraction = {valid_fraction} leaves nothing on one side: the training text has \
                         {documents} documents and {bytes} bytes; documents are only cut between lines"
                    );
                };
                Ok([train, valid].map(|documents| SplitText { documents, nll: None }))
            }
        }
    }
}

/// Reads files into documents.
fn read(files: &[HashedFile], separator: &str) -> Result<Documents> {
    let mut documents = Documents::default();
    for file in files {
        let before = documents.len();
        documents.push_file(&read_text(&file.path)?, separator);
        if documents.len() == before {
            bail!("{} holds nothing but blanks", file.path.display());
        }
    }
    Ok(documents)
}

/// The corpus of the language. A training document that is also a validation document is replaced by a later one.
fn synthetic(language: &Language, config: &SyntheticConfig) -> [SplitText; 2] {
    let mut valid = SplitText { documents: Documents::default(), nll: Some(0.0) };
    let mut train = SplitText { documents: Documents::default(), nll: Some(0.0) };
    let mut held_out = HashSet::new();
    for index in 0..config.valid_documents {
        let document = language.generate(Split::Valid, index);
        held_out.insert(blake3::hash(document.text.as_bytes()));
        valid.push(&document.text, document.nll);
    }
    let drawn = (0..).map(|index| language.generate(Split::Train, index));
    let kept = drawn.filter(|document| !held_out.contains(&blake3::hash(document.text.as_bytes())));
    for document in kept.take(config.train_documents as usize) {
        train.push(&document.text, document.nll);
    }
    [train, valid]
}

impl SplitText {
    fn push(&mut self, document: &str, nll: f64) {
        self.documents.push(document);
        self.nll = self.nll.map(|sum| sum + nll);
    }
}

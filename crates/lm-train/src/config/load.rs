//! Reading a config: file, its base, overrides; then types, ranges and paths.

use std::path::{Path, PathBuf};

use ffn_variants::PrecisionSection;
use ffn_variants::precision::RecipeError;
use toml::{Table, Value};

use super::error::ConfigError;
use super::layers::{Layer, Layers, Origin, get_mut, nested};
use super::sweep::Sweep;
use super::validate::validate;
use super::{ConfigFile, RunConfig};

/// One `key=value` from the command line or a cell of a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Override {
    /// Dotted key, such as `optim.lr`.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// What the user typed; the place that errors name.
    pub typed: String,
}

impl Override {
    /// Parses `key=value`. The value is TOML; what is not TOML is taken as a string, so that
    /// `-o model.ffn.preset=swiglu` needs no quotes.
    ///
    /// # Errors
    /// When there is no `=` or no key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let typed = format!("-o {text}");
        let invalid =
            |message: &str| ConfigError::Invalid { place: typed.clone(), message: message.to_owned() };
        let (key, value) =
            text.split_once('=').ok_or_else(|| invalid("expected key=value, such as optim.lr=3e-4"))?;
        let key = key.trim();
        if key.split('.').any(str::is_empty) {
            return Err(invalid("the key is empty; expected a dotted key, such as optim.lr"));
        }
        let value = value.trim();
        let parsed =
            toml::from_str::<Table>(&format!("v = {value}")).ok().and_then(|mut table| table.remove("v"));
        Ok(Self {
            key: key.to_owned(),
            value: parsed.unwrap_or_else(|| Value::String(value.to_owned())),
            typed,
        })
    }

    fn layer(&self) -> Layer {
        Layer { origin: Origin::Override(self.typed.clone()), table: nested(&self.key, self.value.clone()) }
    }
}

/// A config as the user gave it: files and overrides, each checked for unknown keys and wrong types.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    layers: Layers,
}

impl ConfigSource {
    /// Reads `path`, the file it names as `base`, and puts `overrides` on top.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, an unknown key, a value of the wrong type: with its place.
    pub fn read(path: &Path, overrides: &[Override]) -> Result<Self, ConfigError> {
        let layer = read_layer(path)?;
        let mut layers = Vec::new();
        if let Some(base) = layer.table.get("base").and_then(Value::as_str) {
            let base_path = path.parent().unwrap_or(Path::new("")).join(base);
            let base_layer = read_layer(&base_path)?;
            if base_layer.table.contains_key("base") {
                let stack = Layers(vec![base_layer]);
                return Err(stack.error("base", format!(
                    "a base may not have a base of its own ({} inherits from this file); inheritance is one level deep",
                    path.display()
                )));
            }
            layers.push(base_layer);
        }
        layers.push(layer);
        Self { layers: Layers(layers) }.with(overrides)
    }

    /// A config made of TOML text inside the program, such as a built-in experiment. `name` stands for the file in errors.
    ///
    /// # Errors
    /// As for [`ConfigSource::read`].
    pub fn from_text(name: &str, text: &str, overrides: &[Override]) -> Result<Self, ConfigError> {
        let layer = parse_layer(PathBuf::from(name), text.to_owned())?;
        Self { layers: Layers(vec![layer]) }.with(overrides)
    }

    /// The same config with more overrides on top.
    ///
    /// # Errors
    /// An unknown key or a wrong type in an override.
    pub fn with(&self, overrides: &[Override]) -> Result<Self, ConfigError> {
        let mut layers = self.layers.clone();
        for item in overrides {
            let layer = item.layer();
            layer.check()?;
            layers.0.push(layer);
        }
        Ok(Self { layers })
    }

    /// The resolved config: every key has its value, ranges are checked, paths of data are absolute.
    ///
    /// # Errors
    /// A value out of range, or values that do not fit together.
    pub fn resolve(&self) -> Result<RunConfig, ConfigError> {
        let mut config = self.layers.resolve()?;
        validate(&config, &self.layers)?;
        config.precision = config.precision.normalised();
        for path in &mut config.data.train {
            *path = self.absolute("data.train", path);
        }
        for path in &mut config.data.valid {
            *path = self.absolute("data.valid", path);
        }
        if let Some(path) = &mut config.tokenizer.file {
            *path = self.absolute("tokenizer.file", path);
        }
        Ok(config)
    }

    /// What the layers set, merged, without the grid and with the paths of data as in `resolved`, absolute: the body of a
    /// file that means the same in any folder.
    pub(super) fn merged_with_paths_of(&self, resolved: &RunConfig) -> Table {
        let mut merged = self.layers.merged();
        let list = |paths: &[String]| Value::Array(paths.iter().cloned().map(Value::String).collect());
        let tokenizer = resolved.tokenizer.file.clone().map(Value::String);
        for (key, paths) in [
            ("data.train", Some(list(&resolved.data.train))),
            ("data.valid", Some(list(&resolved.data.valid))),
            ("tokenizer.file", tokenizer),
        ] {
            if let (Some(given), Some(paths)) = (get_mut(&mut merged, key), paths) {
                *given = paths;
            }
        }
        merged
    }

    /// The precision section alone, for use with another model than the config's own.
    ///
    /// # Errors
    /// A section that makes no sense by itself.
    pub fn precision(&self) -> Result<PrecisionSection, ConfigError> {
        let section = self.layers.resolve()?.precision;
        let at = |error: RecipeError| self.layers.error(&format!("precision.{}", error.key), error);
        section.resolve().map_err(at)?;
        Ok(section)
    }

    /// The grid, when the file has a `[sweep]` table.
    ///
    /// # Errors
    /// An empty grid, or an axis that is not a list.
    pub fn sweep(&self) -> Result<Option<Sweep>, ConfigError> {
        Sweep::from_layers(self, &self.layers)
    }

    /// A relative path is looked up in the folder of the file that names it, then in the current folder.
    fn absolute(&self, key: &str, path: &str) -> String {
        let given = Path::new(path);
        let beside = self.layers.folder_of(key).map(|folder| folder.join(given));
        let exists = |p: &Path| {
            p.exists() || glob::glob(&p.to_string_lossy()).is_ok_and(|mut hits| hits.next().is_some())
        };
        let chosen = match beside {
            Some(beside) if exists(&beside) => beside,
            _ => given.to_owned(),
        };
        std::path::absolute(&chosen).unwrap_or(chosen).to_string_lossy().into_owned()
    }
}

fn read_layer(path: &Path) -> Result<Layer, ConfigError> {
    let bytes = std::fs::read(path).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: format!("cannot read this config: {error}"),
    })?;
    let text = String::from_utf8(bytes).map_err(|error| ConfigError::Unreadable {
        path: path.to_owned(),
        reason: format!(
            "not UTF-8 text (byte {}); a config is a TOML file",
            error.utf8_error().valid_up_to()
        ),
    })?;
    parse_layer(path.to_owned(), text)
}

fn parse_layer(path: PathBuf, text: String) -> Result<Layer, ConfigError> {
    let parsed = toml::from_str::<Table>(&text);
    let (table, syntax) = match parsed {
        Ok(table) => (table, None),
        Err(error) => (Table::new(), Some(error)),
    };
    let layer = Layer { origin: Origin::File { path, text }, table };
    if let Some(error) = syntax {
        return Err(layer.error_at(error.span().map(|s| s.start), error.message()));
    }
    layer.check()?;
    Ok(layer)
}

/// Explains one dotted key (or table) of the config from its schema: type, meaning, default.
///
/// # Errors
/// An unknown key, with the nearest known one.
pub fn explain(key: &str) -> Result<String, ConfigError> {
    let schema = super::schema();
    let mut node = &schema;
    let mut defaults = serde_json::to_value(ConfigFile::default()).unwrap_or_default();
    let mut walked = Vec::new();
    for part in key.split('.').filter(|part| !part.is_empty()) {
        let properties = properties(&schema, node);
        let known: Vec<&str> = properties.map(|p| p.keys().map(String::as_str).collect()).unwrap_or_default();
        let Some(next) = properties.and_then(|p| p.get(part)) else {
            let hint = match super::error::closest(part, &known) {
                Some(best) => format!("did you mean `{best}`? "),
                None => String::new(),
            };
            return Err(ConfigError::Invalid {
                place: format!("config explain {key}"),
                message: format!(
                    "unknown key `{part}`; {hint}known in [{}]: {}",
                    walked.join("."),
                    known.join(", ")
                ),
            });
        };
        node = next;
        defaults = defaults.get(part).cloned().unwrap_or(serde_json::Value::Null);
        walked.push(part);
    }
    let mut text = String::new();
    describe(&schema, node, if key.is_empty() { "config" } else { key }, &defaults, &mut text);
    if let Some(children) = properties(&schema, node) {
        for (name, child) in children {
            text.push('\n');
            let default = defaults.get(name).cloned().unwrap_or_default();
            describe(&schema, child, name, &default, &mut text);
        }
    }
    Ok(text)
}

/// Follows `$ref` and the non-null branch of an optional.
fn target<'a>(schema: &'a serde_json::Value, node: &'a serde_json::Value) -> &'a serde_json::Value {
    if let Some(pointer) = node.get("$ref").and_then(|r| r.as_str()).and_then(|r| r.strip_prefix('#')) {
        return schema.pointer(pointer).map_or(node, |inner| target(schema, inner));
    }
    match node.get("anyOf").and_then(|a| a.as_array()).and_then(|a| a.first()) {
        Some(first) => target(schema, first),
        None => node,
    }
}

fn properties<'a>(
    schema: &'a serde_json::Value,
    node: &'a serde_json::Value,
) -> Option<&'a serde_json::Map<String, serde_json::Value>> {
    target(schema, node).get("properties")?.as_object()
}

fn describe(
    schema: &serde_json::Value,
    node: &serde_json::Value,
    name: &str,
    default: &serde_json::Value,
    text: &mut String,
) {
    let inner = target(schema, node);
    let doc =
        node.get("description").or_else(|| inner.get("description")).and_then(|d| d.as_str()).unwrap_or("");
    text.push_str(name);
    if inner.get("properties").is_none() && !default.is_null() {
        text.push_str(&format!(" = {default}"));
    }
    text.push('\n');
    for line in doc.lines() {
        text.push_str(&format!("    {line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_error(text: &str) -> String {
        match ConfigSource::from_text("x.toml", text, &[]).and_then(|source| source.resolve()) {
            Ok(config) => panic!("accepted: {config:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn names_the_place_of_every_kind_of_mistake() {
        assert!(
            text_error("[optim]\n  learning_rte = 1\n")
                .starts_with("x.toml:2:3: unknown field `learning_rte`")
        );
        assert!(
            text_error("[model]\nd_model = \"a\"\n")
                .starts_with("x.toml:2:11: model.d_model: invalid type: string")
        );
        assert!(text_error("[optim]\nlr = -1.0\n").starts_with("x.toml:2:1: optim.lr: "));
        assert!(text_error("[model]\nd_model = 65\nn_head = 4\n").starts_with("x.toml:3:1: model.n_head: "));
        assert!(text_error("seed = \n").starts_with("x.toml:1:8: "));
        assert!(text_error("[model.ffn]\npreset = \"swigl\"\n").contains("did you mean `swiglu`?"));
    }

    #[test]
    fn overrides_win_and_are_named_in_errors() {
        let over = |text: &str| Override::parse(text).unwrap();
        let source =
            ConfigSource::from_text("x.toml", "[optim]\nlr = 0.1\n", &[over("optim.lr=3e-4")]).unwrap();
        assert_eq!(source.resolve().unwrap().optim.lr, 3e-4);
        let error = ConfigSource::from_text("x.toml", "", &[over("optim.l=3e-4")]).unwrap_err().to_string();
        assert!(error.starts_with("-o optim.l=3e-4: unknown field `l`"), "{error}");
        let error = source.with(&[over("optim.lr=99")]).unwrap().resolve().unwrap_err().to_string();
        assert!(error.starts_with("-o optim.lr=99: optim.lr: "), "{error}");
        assert!(Override::parse("optim.lr").is_err());
    }

    #[test]
    fn an_upper_layer_displaces_its_alternatives() {
        let source = ConfigSource::from_text(
            "x.toml",
            "[train]\nsteps = 10\n[model.ffn]\npreset = \"relu\"\n",
            &[
                Override::parse("train.tokens=100000").unwrap(),
                Override::parse("model.ffn.kind=gated").unwrap(),
                Override::parse("model.ffn.gate=silu").unwrap(),
            ],
        )
        .unwrap();
        let config = source.resolve().unwrap();
        assert_eq!((config.train.steps, config.train.tokens), (None, Some(100_000)));
        assert!(text_error("[train]\nsteps = 10\ntokens = 10\n").contains("train.tokens"));
    }

    #[test]
    fn explains_keys_with_their_defaults() {
        let text = explain("optim.lr").unwrap();
        assert!(text.contains("0.001") && text.contains("Peak learning rate"), "{text}");
        assert!(explain("model").unwrap().contains("d_model = 128"));
        assert!(explain("optim.lrr").unwrap_err().to_string().contains("did you mean `lr`?"));
    }
}

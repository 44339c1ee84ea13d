//! Templates, and values for them.

use anyhow::Context;
use minijinja::Environment;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use serde::Serialize;

/// An environment with these templates, (name, source). What a name that ends in `.html` writes is escaped. A line that
/// holds a tag alone leaves no line behind, and the end of a file stays.
///
/// # Errors
/// A mistake in a template.
pub(super) fn environment(
    templates: &[(&'static str, &'static str)],
) -> anyhow::Result<Environment<'static>> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    environment.set_syntax(syntax.build()?);
    for (name, source) in templates {
        environment.add_template(name, source).with_context(|| format!("template {name}"))?;
    }
    Ok(environment)
}

/// Anything that serialises, as templates see it.
pub(super) fn value(of: impl Serialize) -> Value {
    Value::from(Serde(of))
}

//! Reading a CSV file (RFC 4180) of per-seed results. Every mistake is told with its line and column.

use std::collections::BTreeMap;

use anyhow::{Context, bail};

/// The columns, in any order.
const COLUMNS: [&str; 3] = ["variant", "seed", "value"];

/// Results by variant.
#[derive(Clone, Debug)]
pub struct Samples {
    /// Name of the file.
    pub source: String,
    /// The variants, in the order of their first rows. Never empty.
    pub variants: Vec<Variant>,
}

/// The results of one variant.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Its name.
    pub name: String,
    /// Its results, one per seed, by seed. Never empty.
    pub observations: Vec<Observation>,
}

/// One result.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// The seed of the run.
    pub seed: u64,
    /// What it came to.
    pub value: f64,
    /// Line of the file.
    pub line: usize,
}

impl Variant {
    /// Its values, by seed.
    pub fn values(&self) -> Vec<f64> {
        self.observations.iter().map(|observation| observation.value).collect()
    }

    fn has(&self, seed: u64) -> bool {
        self.observations.iter().any(|observation| observation.seed == seed)
    }
}

impl Samples {
    /// Where a result stands.
    pub(super) fn at(&self, observation: &Observation) -> String {
        format!("{}:{}", self.source, observation.line)
    }

    /// Whether two variants have the same seeds.
    pub(super) fn check_pairs(&self, a: &Variant, b: &Variant) -> anyhow::Result<()> {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(alone) = one.observations.iter().find(|observation| !other.has(observation.seed)) {
                bail!(
                    "{}: seed {} of \"{}\" has no partner in \"{}\"; add it, leave it out, or compare without --paired",
                    self.at(alone),
                    alone.seed,
                    one.name,
                    other.name
                );
            }
        }
        Ok(())
    }

    /// Whether all variants have the same seeds.
    pub(super) fn all_paired(&self) -> bool {
        let (first, rest) = (&self.variants[0], &self.variants[1..]);
        rest.iter().all(|variant| self.check_pairs(first, variant).is_ok())
    }
}

/// Reads the text of the file called `source`: a header with the columns variant, seed and value, and a row per run.
///
/// # Errors
/// Anything that is not that: an unknown, repeated or missing column, a row of another length, a seed that is not a whole
/// number, a value that is not a finite number, a variant without a name or with a seed twice. The message begins with
/// `source:line:column`.
pub fn read(source: &str, text: &str) -> anyhow::Result<Samples> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let file = File { source, text };
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .trim(csv::Trim::All)
        .has_headers(false)
        .from_reader(text.as_bytes());
    let mut records = reader.records();
    let Some(header) = records.next() else {
        bail!("{source}: empty; it needs the columns {} and a row per run", COLUMNS.join(", "));
    };
    let columns = file.columns(&header.with_context(|| format!("{source}: cannot read the header"))?)?;

    let mut variants: Vec<Variant> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let record = record.with_context(|| format!("{source}: cannot read a row"))?;
        let row = Row { file: &file, columns: &columns, record: &record };
        let (name, observation) = row.parse()?;
        let place = *places.entry(name.clone()).or_insert(variants.len());
        if place == variants.len() {
            variants.push(Variant { name, observations: Vec::new() });
        }
        let variant = &mut variants[place];
        if let Some(first) = variant.observations.iter().find(|first| first.seed == observation.seed) {
            bail!(
                "{}: seed {} of \"{}\" is already on line {}",
                row.at(Column::Seed),
                first.seed,
                variant.name,
                first.line
            );
        }
        variant.observations.push(observation);
    }
    if variants.is_empty() {
        bail!("{source}: no rows below the header");
    }
    for variant in &mut variants {
        variant.observations.sort_by_key(|observation| observation.seed);
    }
    Ok(Samples { source: source.to_owned(), variants })
}

/// ` (did you mean "..."?)`, if one of `names` is like `name`.
pub(super) fn suggestion(name: &str, names: &[&str]) -> String {
    let likeness = |other: &&&str| strsim::jaro_winkler(&name.to_lowercase(), &other.to_lowercase());
    let nearest = names.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    nearest
        .filter(|other| likeness(other) > 0.7)
        .map_or_else(String::new, |other| format!(" (did you mean \"{other}\"?)"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Variant,
    Seed,
    Value,
}

impl Column {
    const ALL: [Self; 3] = [Self::Variant, Self::Seed, Self::Value];

    fn name(self) -> &'static str {
        match self {
            Self::Variant => COLUMNS[0],
            Self::Seed => COLUMNS[1],
            Self::Value => COLUMNS[2],
        }
    }
}

/// The text behind the records, to find places in.
struct File<'a> {
    source: &'a str,
    text: &'a str,
}

impl File<'_> {
    /// The columns in the file's order.
    fn columns(&self, header: &csv::StringRecord) -> anyhow::Result<Vec<Column>> {
        let mut columns: Vec<Column> = Vec::new();
        for (i, name) in header.iter().enumerate() {
            let place = || self.at(header, i);
            let Some(column) = Column::ALL.into_iter().find(|column| column.name() == name) else {
                let separator = [';', '\t'].into_iter().find(|separator| name.contains(*separator));
                if separator.is_some() {
                    bail!(
                        "{}: columns are separated by commas, not by {}",
                        place(),
                        if name.contains(';') { "semicolons" } else { "tabs" }
                    );
                }
                bail!(
                    "{}: unknown column \"{name}\"{}; the first line names the columns {}, in any order",
                    place(),
                    suggestion(name, &COLUMNS),
                    COLUMNS.join(", ")
                );
            };
            if columns.contains(&column) {
                bail!("{}: a second column \"{name}\"", place());
            }
            columns.push(column);
        }
        if let Some(missing) = Column::ALL.into_iter().find(|column| !columns.contains(column)) {
            bail!(
                "{}: there is no column \"{}\"; the first line names the columns {}, in any order",
                self.at(header, 0),
                missing.name(),
                COLUMNS.join(", ")
            );
        }
        Ok(columns)
    }

    /// `source:line:column` of a field.
    fn at(&self, record: &csv::StringRecord, field: usize) -> String {
        let (line, column) = self.place(record, field);
        format!("{}:{line}:{column}", self.source)
    }

    /// Line and column, both from 1, at which a field begins. The reader tells only where a record begins, or even the line
    /// breaks before it.
    fn place(&self, record: &csv::StringRecord, field: usize) -> (usize, usize) {
        let start = record.position().map_or(0, |position| position.byte() as usize);
        let is_break = |c: char| c == '\n' || c == '\r';
        let text = &self.text[start..];
        let start = start + (text.len() - text.trim_start_matches(is_break).len());
        let (mut quoted, mut fields, mut at) = (false, 0, start);
        for (offset, c) in self.text[start..].char_indices() {
            if fields == field || (!quoted && is_break(c)) {
                break;
            }
            match c {
                '"' => quoted = !quoted,
                ',' if !quoted => fields += 1,
                _ => {}
            }
            at = start + offset + c.len_utf8();
        }
        let rest = &self.text[at..];
        at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let line_start = self.text[..at].rfind('\n').map_or(0, |end| end + 1);
        (1 + self.text[..at].matches('\n').count(), 1 + self.text[line_start..at].chars().count())
    }
}

struct Row<'a> {
    file: &'a File<'a>,
    columns: &'a [Column],
    record: &'a csv::StringRecord,
}

impl Row<'_> {
    fn at(&self, column: Column) -> String {
        self.file.at(self.record, self.index(column))
    }

    fn index(&self, column: Column) -> usize {
        self.columns.iter().position(|c| *c == column).expect("every column is there")
    }

    fn parse(&self) -> anyhow::Result<(String, Observation)> {
        if self.record.len() != self.columns.len() {
            let fields =
                if self.record.len() == 1 { "1 field" } else { &format!("{} fields", self.record.len()) };
            let place = self.file.at(self.record, 0);
            bail!("{place}: {fields}, but the header has {}", self.columns.len());
        }
        let field = |column| &self.record[self.index(column)];
        let name = field(Column::Variant);
        if name.is_empty() {
            bail!("{}: the variant has no name", self.at(Column::Variant));
        }
        let seed = field(Column::Seed);
        let Ok(seed) = seed.parse::<u64>() else {
            bail!("{}: seed \"{seed}\" is not a whole number from 0", self.at(Column::Seed));
        };
        let value = field(Column::Value);
        let Ok(number) = value.parse::<f64>() else {
            bail!("{}: value \"{value}\" is not a number", self.at(Column::Value));
        };
        if !number.is_finite() {
            bail!(
                "{}: value {value} is not finite; leave the run out, and say that you did",
                self.at(Column::Value)
            );
        }
        let (line, _) = self.file.place(self.record, 0);
        Ok((name.to_owned(), Observation { seed, value: number, line }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        read("r.csv", text).unwrap_err().to_string()
    }

    #[test]
    fn columns_come_in_any_order_and_rows_in_any() {
        let text =
            "\u{feff}value, seed ,variant\r\n2.5,1,relu\r\n\r\n\"1.5\",0,\"relu, wide\"\r\n3e0,0,relu\r\n";
        let samples = read("r.csv", text).unwrap();
        let names: Vec<&str> = samples.variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names, ["relu", "relu, wide"]);
        assert_eq!(samples.variants[0].values(), [3.0, 2.5], "by seed");
        let lines: Vec<usize> = samples.variants[0].observations.iter().map(|o| o.line).collect();
        assert_eq!(lines, [5, 2]);
    }

    #[test]
    fn mistakes_in_the_header() {
        let named = "the first line names the columns variant, seed, value, in any order";
        assert_eq!(refused(""), "r.csv: empty; it needs the columns variant, seed, value and a row per run");
        assert_eq!(
            refused("variant,sed,value\n"),
            format!("r.csv:1:9: unknown column \"sed\" (did you mean \"seed\"?); {named}")
        );
        assert_eq!(refused("relu,0,2.5\n"), format!("r.csv:1:1: unknown column \"relu\"; {named}"));
        assert_eq!(refused("seed,value\n"), format!("r.csv:1:1: there is no column \"variant\"; {named}"));
        assert_eq!(refused("seed,value,seed\n"), "r.csv:1:12: a second column \"seed\"");
        assert_eq!(
            refused("variant;seed;value\n"),
            "r.csv:1:1: columns are separated by commas, not by semicolons"
        );
        assert_eq!(refused("variant,seed,value\n"), "r.csv: no rows below the header");
    }

    #[test]
    fn mistakes_in_a_row() {
        let row = |row: &str| refused(&format!("variant,seed,value\na,0,1\n\n{row}\n"));
        assert_eq!(row("a,1,2.4x"), "r.csv:4:5: value \"2.4x\" is not a number");
        assert_eq!(
            row("a, 1,  nan"),
            "r.csv:4:8: value nan is not finite; leave the run out, and say that you did"
        );
        assert_eq!(row("\"a, b\",-1,2"), "r.csv:4:8: seed \"-1\" is not a whole number from 0");
        assert_eq!(row("a,0,2"), "r.csv:4:3: seed 0 of \"a\" is already on line 2");
        assert_eq!(row(",0,2"), "r.csv:4:1: the variant has no name");
        assert_eq!(row("a,1"), "r.csv:4:1: 2 fields, but the header has 3");
        assert_eq!(row("a,1,2,4"), "r.csv:4:1: 4 fields, but the header has 3");
        assert_eq!(row("a,1,"), "r.csv:4:5: value \"\" is not a number");
    }
}

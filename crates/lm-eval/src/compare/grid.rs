//! A comparison as text cells: which columns there are, what they show and with how many digits.
//!
//! Shared by the formats for readers (table, Markdown, LaTeX), so that all of them show the same figures.

use super::comparison::{Arm, Comparison, Standing};
use super::notes::{PARAMS_TOLERANCE, percent};
use super::precision::FULL;
use crate::shazeer::TABLE;
use crate::stats::PairedDifference;

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    Arm,
    DFf,
    Params,
    Flops,
    LearningRate,
    Seeds,
    Diverged,
    Loss,
    Perplexity,
    BitsPerByte,
    AboveFloor,
    Difference,
    Wins,
    GapFp32,
    Published,
    PublishedDifference,
}

impl Column {
    pub const ALL: [Self; 16] = [
        Self::Arm,
        Self::DFf,
        Self::Params,
        Self::Flops,
        Self::LearningRate,
        Self::Seeds,
        Self::Diverged,
        Self::Loss,
        Self::Perplexity,
        Self::BitsPerByte,
        Self::AboveFloor,
        Self::Difference,
        Self::Wins,
        Self::GapFp32,
        Self::Published,
        Self::PublishedDifference,
    ];

    /// Heading, with a line break where it may be split.
    fn heading(self, comparison: &Comparison) -> String {
        match self {
            Self::Arm if comparison.has_precisions() => "FFN\nprecision".to_owned(),
            Self::Arm => "FFN".to_owned(),
            Self::DFf => "d_ff".to_owned(),
            Self::Params => "params".to_owned(),
            Self::Flops => "FLOPs\n/token".to_owned(),
            Self::LearningRate => "lr".to_owned(),
            Self::Seeds => "seeds".to_owned(),
            Self::Diverged => "diverged".to_owned(),
            Self::Loss => "val loss\n(sd)".to_owned(),
            Self::Perplexity => "ppl".to_owned(),
            Self::BitsPerByte => "bits\n/byte".to_owned(),
            Self::AboveFloor => "above\nfloor".to_owned(),
            Self::Difference => {
                let name = &comparison.baseline;
                let against = if name.chars().count() <= 12 { name } else { "baseline" };
                format!("Δ {against}{}", interval(comparison, |arm| arm.difference.as_ref()))
            }
            Self::Wins => "wins".to_owned(),
            Self::GapFp32 => format!("Δ {FULL}{}", interval(comparison, |arm| arm.gap_fp32.as_ref())),
            Self::Published => "Shazeer\n(sd)".to_owned(),
            Self::PublishedDifference => format!("Shazeer\nΔ {}", TABLE[0].ffn),
        }
    }

    /// Order in which columns are given up on a narrow screen, first the lowest; `None`: never.
    pub fn expendable(self) -> Option<u8> {
        match self {
            Self::Flops => Some(0),
            Self::BitsPerByte => Some(1),
            Self::DFf => Some(2),
            Self::AboveFloor => Some(3),
            Self::Wins => Some(4),
            Self::PublishedDifference => Some(5),
            Self::Params => Some(6),
            Self::Perplexity => Some(7),
            Self::Published => Some(8),
            Self::GapFp32 => Some(9),
            Self::LearningRate => Some(10),
            Self::Arm | Self::Seeds | Self::Diverged | Self::Loss | Self::Difference => None,
        }
    }

    fn cell(self, arm: &Arm, comparison: &Comparison, decimals: usize) -> Cell {
        match self {
            Self::Arm => Cell::whole(arm.label.clone() + mark(arm.standing)),
            Self::DFf => Cell::whole(arm.d_ff.to_string()),
            Self::Params => Cell {
                head: si(arm.params.total as f64),
                tail: if arm.params_excess.abs() > PARAMS_TOLERANCE {
                    format!(" {}", percent(arm.params_excess))
                } else {
                    String::new()
                },
            },
            Self::Flops => Cell::whole(si(arm.flops_per_token as f64)),
            Self::LearningRate => Cell::number(arm.lr, |lr| lr.to_string()),
            Self::Seeds => Cell::whole(arm.seeds.len().to_string()),
            Self::Diverged => Cell::when(!arm.diverged.is_empty(), || {
                format!("{}/{}", arm.diverged.len(), arm.diverged.len() + arm.seeds.len())
            }),
            Self::Loss => match arm.loss {
                None => Cell::word("diverged"),
                Some(loss) => Cell {
                    head: format!("{:.decimals$}", loss.mean),
                    tail: loss.sd.map_or_else(String::new, |sd| format!(" ({sd:.decimals$})")),
                },
            },
            Self::Perplexity => Cell::number(arm.perplexity, four_digits),
            Self::BitsPerByte => Cell::number(arm.bits_per_byte, |x| format!("{x:.decimals$}")),
            Self::AboveFloor => Cell::number(arm.above_floor, |x| format!("{x:.decimals$}")),
            Self::Difference => match &arm.difference {
                None if arm.label == comparison.baseline => Cell::word("baseline"),
                None => Cell::missing(),
                Some(difference) => Cell::difference(difference, decimals),
            },
            Self::Wins => {
                Cell::number(arm.difference.as_ref(), |d| format!("{}/{}", d.wins, d.seeds_used.len()))
            }
            Self::GapFp32 => match &arm.gap_fp32 {
                None => Cell::missing(),
                Some(gap) => Cell::difference(gap, decimals),
            },
            Self::Published => Cell::number(arm.published, |p| format!("{:.3} ({:.3})", p.early, p.early_sd)),
            Self::PublishedDifference => {
                Cell::number(arm.published, |p| format!("{:+.3}", p.early_minus_relu()))
            }
        }
    }
}

/// Follows the heading of a difference where any arm has an interval of it.
fn interval(comparison: &Comparison, difference: fn(&Arm) -> Option<&PairedDifference>) -> &'static str {
    let mut differences = comparison.arms.iter().filter_map(difference);
    if differences.any(|difference| difference.estimate.ci95.is_some()) { "\n± 95%" } else { "" }
}

/// Follows a label.
fn mark(standing: Standing) -> &'static str {
    match standing {
        Standing::Best => " *",
        Standing::Tied => " ≈",
        Standing::Worse | Standing::Unranked => "",
    }
}

/// A figure and what belongs to it: a mean and its spread. Tails of a column are padded to one width, so that figures
/// line up even where a tail is missing.
pub(crate) struct Cell {
    head: String,
    tail: String,
}

const MISSING: &str = "–";

impl Cell {
    pub fn whole(head: String) -> Self {
        Self { head, tail: String::new() }
    }

    /// A word in place of a figure, flush with the end of the column.
    pub fn word(word: impl Into<String>) -> Self {
        Self { head: String::new(), tail: word.into() }
    }

    pub fn missing() -> Self {
        Self::word(MISSING)
    }

    /// A mean difference and half its interval.
    pub fn difference(difference: &PairedDifference, decimals: usize) -> Self {
        let half = difference.estimate.half_width();
        Self {
            head: format!("{:+.decimals$}", difference.estimate.mean),
            tail: half.map_or_else(String::new, |half| format!(" ± {half:.decimals$}")),
        }
    }

    fn when(present: bool, text: impl FnOnce() -> String) -> Self {
        if present { Self::whole(text()) } else { Self::missing() }
    }

    fn number<T>(value: Option<T>, text: impl FnOnce(T) -> String) -> Self {
        value.map_or_else(Self::missing, |value| Self::whole(text(value)))
    }
}

/// Headings and cells as text. The first column holds labels, which read from the left; all others hold figures.
pub(crate) struct Text {
    /// With line breaks where they may be split.
    pub headings: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Text {
    /// Lays out `columns`: a heading, and a cell for every row.
    pub fn new(columns: Vec<(String, Vec<Cell>)>) -> Self {
        let (headings, columns): (_, Vec<Vec<String>>) =
            columns.into_iter().map(|(heading, cells)| (heading, padded(cells))).unzip();
        let height = columns.first().map_or(0, Vec::len);
        let row = |row: usize| columns.iter().map(|column| column[row].clone()).collect();
        Self { headings, rows: (0..height).map(row).collect() }
    }

    /// Drops a column.
    pub fn remove(&mut self, column: usize) {
        self.headings.remove(column);
        for row in &mut self.rows {
            row.remove(column);
        }
    }
}

/// The table of arms.
pub(crate) struct Grid {
    pub columns: Vec<Column>,
    pub text: Text,
}

impl Grid {
    /// All columns that have something to show.
    pub fn new(comparison: &Comparison) -> Self {
        let arms = &comparison.arms;
        let decimals = decimals(comparison);
        let shown = |column: &Column| match column {
            Column::Arm | Column::DFf | Column::Params | Column::Flops | Column::Seeds => true,
            Column::Loss | Column::Perplexity => true,
            Column::LearningRate => comparison.own_rates,
            Column::Diverged => arms.iter().any(|arm| !arm.diverged.is_empty()),
            Column::BitsPerByte => arms.iter().any(|arm| arm.bits_per_byte.is_some()),
            Column::AboveFloor => arms.iter().any(|arm| arm.above_floor.is_some()),
            Column::Difference | Column::Wins => arms.iter().any(|arm| arm.difference.is_some()),
            Column::GapFp32 => arms.iter().any(|arm| arm.gap_fp32.is_some()),
            Column::Published | Column::PublishedDifference => arms.iter().any(|arm| arm.published.is_some()),
        };
        let columns: Vec<Column> = Column::ALL.into_iter().filter(shown).collect();
        let cells = |column: &Column| arms.iter().map(|arm| column.cell(arm, comparison, decimals)).collect();
        let text = columns.iter().map(|column| (column.heading(comparison), cells(column))).collect();
        Self { text: Text::new(text), columns }
    }

    /// Drops a column.
    pub fn remove(&mut self, column: usize) {
        self.columns.remove(column);
        self.text.remove(column);
    }
}

/// A heading without its line break.
pub(crate) fn on_one_line(heading: &str) -> String {
    heading.replace("\n/", "/").replace('\n', " ")
}

/// A column's cells as text, all tails as wide as the longest.
fn padded(cells: Vec<Cell>) -> Vec<String> {
    let figures = cells.iter().filter(|cell| !cell.head.is_empty());
    let width = figures.map(|cell| cell.tail.chars().count()).max().unwrap_or(0);
    let text = |Cell { head, tail }| if head.is_empty() { tail } else { format!("{head}{tail:width$}") };
    cells.into_iter().map(text).collect()
}

/// Decimals of losses: four, or more when a spread or half-width would otherwise lose its second digit.
pub(crate) fn decimals(comparison: &Comparison) -> usize {
    let spreads = comparison.arms.iter().flat_map(|arm| {
        let half_width = |difference: &Option<PairedDifference>| difference.as_ref()?.estimate.half_width();
        [arm.loss.and_then(|loss| loss.sd), half_width(&arm.difference), half_width(&arm.gap_fp32)]
    });
    let least = spreads.flatten().filter(|spread| *spread > 0.0).fold(f64::INFINITY, f64::min);
    // Precisions differ from fp32 by a hair or by much; the finest of them shall not set the digits of all.
    let most = if comparison.has_precisions() { 5 } else { 6 };
    (4..=most).find(|&decimals| least * 10f64.powi(decimals) >= 9.5).unwrap_or(most) as usize
}

/// Four significant digits with an SI suffix: 3.152M.
pub(crate) fn si(x: f64) -> String {
    let (scaled, suffix) = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")]
        .into_iter()
        .find(|(unit, _)| x >= 0.99995 * unit)
        .map_or((x, ""), |(unit, suffix)| (x / unit, suffix));
    if suffix.is_empty() { format!("{x}") } else { four_digits(scaled) + suffix }
}

/// Four significant digits; all of them before the point for large numbers.
fn four_digits(x: f64) -> String {
    let before = x.abs().max(1.0).log10().floor() as usize + 1;
    format!("{x:.*}", 4usize.saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_short() {
        for (x, text) in [
            (0.0, "0"),
            (999.0, "999"),
            (1000.0, "1.000k"),
            (12_345.0, "12.35k"),
            (3_152_640.0, "3.153M"),
            (999_999.0, "1.000M"),
            (223e6, "223.0M"),
            (1.5e9, "1.500G"),
        ] {
            assert_eq!(si(x), text);
        }
    }

    #[test]
    fn perplexities_keep_four_digits() {
        for (x, text) in
            [(1.0, "1.000"), (7.12345, "7.123"), (25.3149, "25.31"), (1234.5, "1234"), (50257.3, "50257")]
        {
            assert_eq!(four_digits(x), text);
        }
    }

    #[test]
    fn every_column_but_the_essential_ones_has_its_own_turn_to_go() {
        let mut turns: Vec<u8> = Column::ALL.into_iter().filter_map(Column::expendable).collect();
        turns.sort_unstable();
        assert_eq!(turns, (0..turns.len() as u8).collect::<Vec<_>>());
    }
}

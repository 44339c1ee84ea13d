//! Claims and verdicts as text.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, ContentArrangement};
use toml::Table;

use super::claim::Claim;
use super::comparison::{Comparison, Outcome};
use super::exact::Check;
use super::ledger::Registration;
use super::plan::Scale;
use super::rule::{DecidedBy, Rule};
use super::verdict::{Assessment, Setting, State, Verdict};
use super::words::short;
use crate::plain::{section, table};

/// Columns of text where nothing else is known.
const COLUMNS: usize = 110;

/// Everything that a claim's file says.
pub fn describe(claim: &Claim) -> String {
    let mut text = format!("{}\n", heading(claim));
    let mut line = |name: &str, value: &str| text += &entry(name, value);
    line("claim", &claim.claim);
    line("source", &claim.sources.join("; "));
    line("expected", &claim.expected);
    line("hypothesis", &claim.hypothesis);
    line("rule", &claim.rule_in_words);
    line("kind", &claim.rule.kinds());
    let by = claim.rule.decided_by();
    if let Some(missing) = claim.rule.missing() {
        line("missing", missing);
    } else if by.contains(&DecidedBy::Runs) {
        let runs = claim.arms.len() as u64 * claim.seeds;
        let cost = |scale: Scale| {
            let steps = claim.steps(scale).map_or_else(|error| error.to_string(), |n| n.to_string());
            format!("{} runs x {steps} steps ({})", runs, scale.name())
        };
        let mut costs = Scale::ALL.map(cost).join(", ");
        if by.contains(&DecidedBy::Timing) {
            costs += "; and a moment of timing on an idle machine";
        }
        line("cost", &costs);
        line("seeds", &format!("{} per arm, alpha {}", claim.seeds, claim.alpha));
    } else if by.contains(&DecidedBy::Timing) {
        line("cost", "a moment of timing on an idle machine, no training");
    } else {
        line("cost", "seconds, no training");
    }
    for condition in &claim.preconditions {
        let arms = if condition.arms.is_empty() { "every arm".to_owned() } else { condition.arms.join(", ") };
        let asked = format!("{} of at least {} in {arms}", condition.metric.name(), condition.at_least);
        line("needs", &format!("{asked}: {}", condition.because));
    }
    line("file", &format!("{}, content {}", claim.file, claim.hash));
    let _ = write!(text, "\n[rule]\n{}", indent(&in_toml(&claim.rule)));
    if !claim.arms.is_empty() {
        text += "\n[arms]\n";
        for arm in &claim.arms {
            let keys: Vec<String> =
                super::plan::leaves(&arm.keys).iter().map(|(k, v)| format!("{k} = {v}")).collect();
            let _ = writeln!(text, "  {:<14} {}", arm.name, keys.join(", "));
        }
    }
    if !claim.config.is_empty() {
        let _ = write!(
            text,
            "\n[config] of all arms, on top of the scale's\n{}",
            indent(&claim.config.to_string())
        );
    }
    for (scale, keys) in &claim.scale {
        let _ = write!(text, "\n[config] at scale {}\n{}", scale.name(), indent(&keys.to_string()));
    }
    text
}

/// A rule as its file spells it.
fn in_toml(rule: &Rule) -> String {
    let part = |part: &Rule| -> Option<String> {
        let table = Table::try_from(part).ok()?;
        let lines = table.iter().map(|(kind, numbers)| format!("[[all]]\n{kind} = {numbers}\n"));
        Some(lines.collect())
    };
    match rule.parts() {
        [one] => toml::to_string(one).unwrap_or_default(),
        several => several.iter().filter_map(part).collect(),
    }
}

/// A claim and what it comes to. `width`: columns of the terminal, none for a file.
pub fn report(assessment: &Assessment, width: Option<usize>) -> String {
    let claim = &assessment.claim;
    let mut text = format!("{}\n", heading(claim));
    text += &entry("hypothesis", &claim.hypothesis);
    text += &entry("rule", &claim.rule_in_words);
    match &assessment.state {
        State::Judged(verdicts) => {
            if verdicts.len() > 1 {
                let _ =
                    writeln!(text, "\n{} settings have all arms; each is decided by itself", verdicts.len());
            }
            for verdict in verdicts {
                text += &of_verdict(verdict, width);
            }
        }
        State::Incomplete { runs, reasons } => {
            let _ = writeln!(text, "\nNOT DECIDED: {runs} of its runs are there");
            reasons.iter().for_each(|reason| text += &item(reason));
        }
        State::NoRuns => text += "\nNO RUNS: `ffnlab claims run` makes them\n",
        State::Untimed { runs } => {
            let _ = write!(text, "\nTO BE TIMED\n{}", item(&format!("{runs} of its runs are there")));
        }
        State::NotYetTestable { missing } => {
            let _ = write!(text, "\nNOT YET TESTABLE\n{}", item(&format!("missing: {missing}")));
        }
    }
    text
}

fn heading(claim: &Claim) -> String {
    format!("Claim {}: {} [{}]", claim.number, claim.title, claim.name)
}

fn of_verdict(verdict: &Verdict, width: Option<usize>) -> String {
    let mut text =
        format!("\n{}", wrap(&format!("{}: {}", verdict.decision.name().to_uppercase(), verdict.reason), 0));
    if let Some(setting) = &verdict.setting {
        text += &of_setting(setting);
    }
    let alike = |a: &Comparison, b: &Comparison| {
        (&a.measured, a.quantity, &a.unit) == (&b.measured, b.quantity, &b.unit)
    };
    for comparisons in verdict.comparisons.chunk_by(alike) {
        text += &of_comparisons(comparisons, verdict.alpha, width);
    }
    if !verdict.checks.is_empty() {
        let mut shown = table(&["computed", "value", "true value within", "asked", "holds"]);
        for check in &verdict.checks {
            let interval = check.interval.map_or_else(String::new, |interval| {
                let digits = |x: f64| if interval.level < 1.0 { short(x) } else { format!("{x:.9}") };
                format!("[{}, {}]", digits(interval.low), digits(interval.high))
            });
            let holds = match (check.asked.is_empty(), check.holds) {
                (true, _) => "",
                (false, true) => "yes",
                (false, false) => "no",
            };
            let row = [check.what.clone(), with_unit(check), interval, check.asked.clone(), holds.to_owned()];
            shown.add_row(aligned(row, &[1, 2]));
        }
        text += &section("Computed", shown);
    }
    for condition in &verdict.preconditions {
        let found = condition.found.map_or_else(|| "nothing".to_owned(), short);
        let met = if condition.met { "met" } else { "NOT MET" };
        let asked = short(condition.at_least);
        text += &item(&format!(
            "needs {} of at least {asked}: {found} in {}, {met}",
            condition.metric.name(),
            condition.arm
        ));
    }
    if verdict.registration == Some(Registration::Before) {
        text += &item("the rule was fixed before every one of these runs, and has not been changed since");
    }
    if verdict.comparisons.len() > 1 {
        text += &item(&format!(
            "p values are adjusted by Holm over {} comparisons; intervals are not",
            verdict.comparisons.len()
        ));
    }
    verdict.notes.iter().for_each(|note| text += &item(note));
    text
}

/// A table of comparisons that are about the same.
fn of_comparisons(comparisons: &[Comparison], alpha: f64, width: Option<usize>) -> String {
    let Some(Comparison { measured, quantity, unit, .. }) = comparisons.first() else { return String::new() };
    let level = format!("{:.0} % interval", 100.0 * (1.0 - alpha));
    let number = match unit.as_str() {
        "" => quantity.name().to_owned(),
        unit => format!("{}, {unit}", quantity.name()),
    };
    let headings = ["comparison", &number, &level, "sd", quantity.repeats(), "p for", "p against", "outcome"];
    let mut shown = table(&headings);
    shown.set_content_arrangement(ContentArrangement::Dynamic);
    shown.set_width(u16::try_from(width.unwrap_or(COLUMNS)).unwrap_or(u16::MAX));
    for comparison in comparisons {
        shown.add_row(aligned(row(comparison), &[1, 2, 3, 4, 5, 6]));
    }
    section(&capital(measured), shown)
}

fn of_setting(setting: &Setting) -> String {
    let (least, most) = setting.params;
    let params = if least == most {
        thousands(least as u64)
    } else {
        format!("{} to {}", thousands(least as u64), thousands(most as u64))
    };
    let data: String = setting.data_fingerprint.chars().take(8).collect();
    let mut text = format!(
        "{} runs, {} steps, {} tokens, {params} parameters, data {data}\n",
        setting.runs,
        setting.steps,
        thousands(setting.tokens),
    );
    if !setting.differs.is_empty() {
        text += &wrap(&format!("unlike the others: {}", setting.differs.join(", ")), 0);
    }
    text
}

fn row(comparison: &Comparison) -> [String; 8] {
    let p = |p: f64| if p < 0.0001 { "<0.0001".to_owned() } else { format!("{p:.4}") };
    [
        comparison.label.clone(),
        comparison.quantity.show(comparison.difference),
        interval(comparison).unwrap_or_else(|| "none".to_owned()),
        comparison.sd.map_or_else(|| "none".to_owned(), |sd| format!("{sd:.4}")),
        comparison.n.to_string(),
        p(comparison.p_claim),
        p(comparison.p_against),
        match comparison.outcome {
            Outcome::Confirmed => "as claimed".to_owned(),
            Outcome::Refuted => "excluded".to_owned(),
            Outcome::Undecided => "open".to_owned(),
        },
    ]
}

/// A row of text on the left and, in the columns named, figures on the right.
pub(super) fn aligned<const N: usize>(texts: [String; N], figures: &[usize]) -> Vec<Cell> {
    let alignment = |i| if figures.contains(&i) { CellAlignment::Right } else { CellAlignment::Left };
    texts.into_iter().enumerate().map(|(i, text)| Cell::new(text).set_alignment(alignment(i))).collect()
}

/// `-0.0123 nats [-0.0200, -0.0046], n = 5`; `unit` may be empty.
pub(crate) fn difference_in_words(comparison: &Comparison, unit: &str) -> String {
    let interval = interval(comparison).unwrap_or_else(|| "(no interval)".to_owned());
    let gap = if unit.is_empty() { "" } else { " " };
    let value = comparison.quantity.show(comparison.difference);
    format!("{value}{gap}{unit} {interval}, n = {}", comparison.n)
}

/// `[-0.0200, -0.0046]`.
fn interval(comparison: &Comparison) -> Option<String> {
    let show = |x| comparison.quantity.show(x);
    comparison.interval.map(|interval| format!("[{}, {}]", show(interval.low), show(interval.high)))
}

/// `gain by smoothing: 12.3 dB`.
pub(super) fn value(check: &Check) -> String {
    format!("{}: {}", check.what, with_unit(check))
}

fn with_unit(check: &Check) -> String {
    let value = short(check.value);
    if check.unit.is_empty() { value } else { format!("{value} {}", check.unit) }
}

/// 819,200.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A named paragraph with a hanging indent.
fn entry(name: &str, value: &str) -> String {
    const INDENT: usize = 12;
    let wrapped = wrap(value, INDENT);
    format!("{name:<INDENT$}{}", wrapped.trim_start())
}

/// `- text`, wrapped.
fn item(text: &str) -> String {
    let wrapped = wrap(text, 2);
    format!("- {}", wrapped.trim_start())
}

/// Words in lines of [`COLUMNS`], each indented by `indent`, with a final newline.
fn wrap(text: &str, indent: usize) -> String {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    lines.push(line);
    lines.iter().map(|line| format!("{}{line}\n", " ".repeat(indent))).collect()
}

fn indent(text: &str) -> String {
    text.lines().filter(|line| !line.is_empty()).map(|line| format!("  {line}\n")).collect()
}

//! Where the time of a step goes, beside the least time that this machine could have taken.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use kernels::profile::{Part, Span};
use serde::Serialize;

use super::machine::{Machine, SIDE};
use crate::output::plain_table;

/// What the timed steps reported.
#[derive(Debug, Default)]
pub struct Recording {
    steps: u32,
    /// Spent making batches.
    data: Duration,
    /// Spent in steps.
    step: Duration,
    spans: Vec<Span>,
}

impl Recording {
    /// Adds a step.
    pub fn add(&mut self, data: Duration, step: Duration, spans: Vec<Span>) {
        self.steps += 1;
        self.data += data;
        self.step += step;
        self.spans.extend(spans);
    }

    /// The mean step: means add up to the whole, which medians do not.
    pub fn profile(&self, machine: Machine) -> Profile {
        let steps = f64::from(self.steps.max(1));
        let ms = |time: Duration| time.as_secs_f64() * 1e3 / steps;
        let mut groups: BTreeMap<_, PartTime> = BTreeMap::new();
        for span in &self.spans {
            let group = groups.entry((span.part, span.shape)).or_insert_with(|| PartTime::new(span));
            group.calls += 1.0 / steps;
            group.ms += ms(span.time);
            group.floor_ms += machine.floor(span.work) * 1e3 / steps;
            group.flops += span.work.flops / steps;
            group.bytes += span.work.bytes / steps;
        }
        let parts: Vec<PartTime> = groups.into_values().collect();
        let step_ms = ms(self.step);
        Profile {
            steps: self.steps,
            data_ms: ms(self.data),
            step_ms,
            rest_ms: step_ms - parts.iter().map(|part| part.ms).sum::<f64>(),
            floor_ms: parts.iter().map(|part| part.floor_ms).sum(),
            machine,
            parts,
        }
    }
}

/// One part of the mean step, in one shape where it has one.
#[derive(Debug, Serialize)]
struct PartTime {
    #[serde(serialize_with = "name")]
    part: Part,
    /// \[m, k, n\] of a matrix product.
    shape: Option<[usize; 3]>,
    calls: f64,
    ms: f64,
    floor_ms: f64,
    /// Of matrix products.
    flops: f64,
    /// Read and written at least.
    bytes: f64,
}

fn name<S: serde::Serializer>(part: &Part, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(part.name())
}

impl PartTime {
    fn new(span: &Span) -> Self {
        let Span { part, shape, .. } = *span;
        Self { part, shape, calls: 0.0, ms: 0.0, floor_ms: 0.0, flops: 0.0, bytes: 0.0 }
    }
}

/// The mean step.
#[derive(Debug, Serialize)]
pub struct Profile {
    steps: u32,
    /// Making the batch, outside of the step.
    data_ms: f64,
    step_ms: f64,
    /// The step without its parts.
    rest_ms: f64,
    /// Of all parts.
    floor_ms: f64,
    machine: Machine,
    parts: Vec<PartTime>,
}

impl Profile {
    /// A row for every part, and what the floor is made of.
    pub fn text(&self, threads: usize) -> String {
        let Machine { gflops, gb_per_s } = self.machine;
        let products = self.parts.iter().filter(|part| part.shape.is_some());
        let (ms, flops) = products.fold((0.0, 0.0), |(ms, flops), part| (ms + part.ms, flops + part.flops));
        format!(
            "{}\n\n\
             Means of {} step(s), per step. Weight products took {} of a step, at {:.1} GFLOP/s.\n\
             Measured on {threads} thread(s): {:.1} GFLOP/s (median {:.1}) in products of f32 matrices of side {SIDE},\n\
             {:.1} GB/s (median {:.1}) from memory to memory; medians far below the best are a sign of other load.\n\
             The floor of a part is the time of its products at the best rate, or of reading its operands and writing\n\
             its results once at the best bandwidth, whichever is longer. All other arithmetic is free in it,\n\
             exponentials too, and what is still in a cache can be faster.",
            self.table().trim_fmt(),
            self.steps,
            percent(ms / self.step_ms),
            rate(flops, ms),
            gflops.best,
            gflops.median,
            gb_per_s.best,
            gb_per_s.median,
        )
    }

    fn table(&self) -> Table {
        let total_ms = self.data_ms + self.step_ms;
        let mut table =
            plain_table(&["part", "m x k x n", "calls", "ms", "share", "floor ms", "times\nthe floor"]);
        let mut row = |part: &str, shape: Option<[usize; 3]>, calls: Option<f64>, ms: f64, floor: f64| {
            table.add_row([
                part.to_owned(),
                shape.map(|[m, k, n]| format!("{m}x{k}x{n}")).unwrap_or_default(),
                calls.map(count).unwrap_or_default(),
                format!("{ms:.2}"),
                percent(ms / total_ms),
                if floor > 0.0 { format!("{floor:.2}") } else { String::new() },
                if floor > 0.0 { format!("{:.2}", ms / floor) } else { String::new() },
            ]);
        };
        row("data", None, None, self.data_ms, 0.0);
        for part in &self.parts {
            row(part.part.name(), part.shape, Some(part.calls), part.ms, part.floor_ms);
        }
        row(REST, None, None, self.rest_ms, 0.0);
        row("total", None, None, total_ms, self.floor_ms);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

/// What no part reports.
const REST: &str = "graph, gradients' sums, allocation";

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A whole number, unless steps differ.
fn count(calls: f64) -> String {
    if (calls - calls.round()).abs() < 1e-6 { format!("{calls:.0}") } else { format!("{calls:.1}") }
}

/// 10⁹ operations a second.
fn rate(flops: f64, ms: f64) -> f64 {
    if ms > 0.0 { flops / ms / 1e6 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::bench::machine::Rate;
    use kernels::profile::Work;

    const RATE: Rate = Rate { best: 1.0, median: 0.5 };
    const MACHINE: Machine = Machine { gflops: RATE, gb_per_s: RATE };

    fn span(part: Part, shape: Option<[usize; 3]>, millions: f64, ms: u64) -> Span {
        let work = match shape {
            Some(_) => Work { flops: millions * 1e6, bytes: 0.0 },
            None => Work { flops: 0.0, bytes: millions * 1e6 },
        };
        Span { part, shape, work, time: Duration::from_millis(ms) }
    }

    fn two_steps() -> Profile {
        let mut recording = Recording::default();
        for norms in [1, 2] {
            let mut spans = vec![
                span(Part::MatmulForward, Some([2, 3, 4]), 4.0, 5),
                span(Part::MatmulForward, Some([1, 3, 4]), 1.0, 2),
                span(Part::MatmulForward, Some([2, 3, 4]), 4.0, 7),
            ];
            spans.extend(vec![span(Part::Norm, None, 2.0, 4); norms]);
            recording.add(Duration::from_millis(2), Duration::from_millis(30), spans);
        }
        recording.profile(MACHINE)
    }

    #[test]
    fn spans_are_grouped_by_part_and_shape() {
        let profile = two_steps();
        let rows: Vec<_> = profile.parts.iter().map(|p| (p.part, p.shape, p.calls)).collect();
        assert_eq!(
            rows,
            [
                (Part::Norm, None, 1.5),
                (Part::MatmulForward, Some([1, 3, 4]), 1.0),
                (Part::MatmulForward, Some([2, 3, 4]), 2.0),
            ]
        );
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        for (part, (ms, floor_ms)) in profile.parts.iter().zip([(6.0, 3.0), (2.0, 1.0), (12.0, 8.0)]) {
            near(part.ms, ms);
            near(part.floor_ms, floor_ms);
        }
        near(profile.parts[2].flops, 8e6);
        near(profile.parts[0].bytes, 3e6);
        for (got, expected) in [
            (profile.step_ms, 30.0),
            (profile.data_ms, 2.0),
            (profile.rest_ms, 10.0),
            (profile.floor_ms, 12.0),
        ] {
            near(got, expected);
        }
    }

    #[test]
    fn the_table_adds_up() {
        let text = two_steps().text(2);
        let row = |name: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.trim_start().starts_with(name));
            line.unwrap_or_else(|| panic!("no {name} in\n{text}")).split_whitespace().collect()
        };
        assert_eq!(row("norm"), ["norm", "1.5", "6.00", "18.8", "%", "3.00", "2.00"]);
        assert_eq!(row("total"), ["total", "32.00", "100.0", "%", "12.00", "2.67"]);
        assert!(row(REST).ends_with(&["10.00", "31.2", "%"]));
        assert!(text.contains("Weight products took 46.7 % of a step, at 0.6 GFLOP/s."), "{text}");
    }
}

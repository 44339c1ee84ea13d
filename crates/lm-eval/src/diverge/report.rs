//! A divergence as text for a terminal: what each run came to, what lies between them, when it arose, and
//! where.

use comfy_table::Table;

use super::spikes::{SPIKE_SIGMAS, SpikeScore};
use super::tensors::{TensorAngle, WeightGap};
use super::{Divergence, LossGap, Side};
use crate::compare::export::wrapped;
use crate::plain::{cells, section, table};

mod chart;

/// Tensors listed, those whose gradients differ most.
const TENSORS: usize = 5;

/// Columns of the curve where nothing says how many there are, and at most.
const CHART_WIDTH: (usize, usize) = (72, 120);

/// What stands for a figure that is not there.
const ABSENT: &str = "-";

/// Writes a divergence as text of at most `width` columns where that is possible, ending with a line break.
pub fn report(divergence: &Divergence, width: Option<usize>) -> String {
    let Divergence { a, b, seed, .. } = divergence;
    let mut text =
        format!("A  {}\nB  {}\nseed {seed}; gaps are B - A, losses nats per token\n", intro(a), intro(b));
    text += &section("Each run", each_run(divergence));
    text += &section("Between them", between(divergence));
    if let Some(loss) = &divergence.loss {
        text += &format!(
            "\nSmoothed gap of the training loss, half-life {}\n",
            steps(divergence.options.half_life)
        );
        let width = width.unwrap_or(CHART_WIDTH.0).min(CHART_WIDTH.1);
        let smoothed: Vec<f64> = divergence.curve.iter().map(|point| point.smoothed).collect();
        text += &chart::chart(&smoothed, &when(loss), width);
    }
    if let (Some(gradients), Some(weights)) = (&divergence.gradients, &divergence.weights) {
        let lowest = &gradients.tensors[..gradients.tensors.len().min(TENSORS)];
        text += &section("Tensors whose gradients differ most", tensors(lowest, weights));
    }
    if !divergence.notes.is_empty() {
        text.push('\n');
    }
    for note in &divergence.notes {
        text += &wrapped(&format!("Note: {note}"), width);
    }
    text
}

fn intro(side: &Side) -> String {
    use lm_train::record::RunStatus;
    let ended = match side.status {
        Some(RunStatus::Finished) => "finished",
        Some(RunStatus::Diverged) => "diverged",
        None => "not ended",
    };
    format!("{}  ({}, {}, {ended})", side.path.display(), side.ffn, steps(side.steps))
}

fn steps(count: u64) -> String {
    if count == 1 { "1 step".to_owned() } else { format!("{count} steps") }
}

/// Rows of figures that each run has: name, A, B, B - A.
fn each_run(divergence: &Divergence) -> Table {
    let Divergence { a, b, options, .. } = divergence;
    let mut table = table(&["", "A", "B", "B - A"]);
    let mut row = |name: String, a: String, b: String, gap: String| {
        table.add_row(cells([name, a, b, gap]));
    };
    if let Some(tail) = divergence.loss.map(|loss| loss.tail) {
        let name = format!("training loss, mean of the last {}", steps(tail.steps as u64));
        row(name, loss(tail.loss_a), loss(tail.loss_b), gap(tail.gap));
    }
    row(
        "final validation loss".to_owned(),
        a.val_loss.map_or(ABSENT.to_owned(), loss),
        b.val_loss.map_or(ABSENT.to_owned(), loss),
        divergence.val_gap.map_or(ABSENT.to_owned(), gap),
    );
    if let Some(outputs) = &divergence.outputs {
        let name = format!("held-out loss of the checkpoint, {} tokens", outputs.tokens);
        row(name, loss(outputs.loss_a), loss(outputs.loss_b), gap(outputs.loss_gap));
    }
    let name = format!("spike score, {SPIKE_SIGMAS} sd above {} steps (spikes)", options.window);
    row(name, spikes(a.spikes.as_ref()), spikes(b.spikes.as_ref()), String::new());
    if let Some(gradients) = &divergence.gradients {
        let name = format!("gradient norm on batch {}", gradients.batch);
        let difference = format!("{:+.4}", gradients.norm_b - gradients.norm_a);
        row(name, figure(gradients.norm_a), figure(gradients.norm_b), difference);
    }
    if a.diverged_at.is_some() || b.diverged_at.is_some() {
        let at = |side: &Side| side.diverged_at.map_or(ABSENT.to_owned(), |step| step.to_string());
        row("ended as diverged at step".to_owned(), at(a), at(b), String::new());
    }
    table
}

/// Rows of figures of the two together.
fn between(divergence: &Divergence) -> Table {
    let mut table = table(&["", ""]);
    let mut row = |name: String, value: String| {
        table.add_row(cells([name, value]));
    };
    if let Some(loss) = &divergence.loss {
        row(format!("smoothed gap at step {}", loss.last_step), gap(loss.smoothed));
        row(format!("widest smoothed gap, at step {}", loss.widest_step), gap(loss.widest));
        let onset = loss.onset.map_or("never".to_owned(), |step| format!("step {step}"));
        row(format!("gap stays beyond {} nats from", divergence.options.threshold), onset);
    }
    if let Some(outputs) = &divergence.outputs {
        row("KL(A‖B), nats per token".to_owned(), figure(outputs.kl_ab));
        row("KL(B‖A), nats per token".to_owned(), figure(outputs.kl_ba));
        row("same most probable token".to_owned(), format!("{:.2}%", 100.0 * outputs.top1_agreement));
    }
    if let Some(gradients) = &divergence.gradients {
        row(format!("cosine of gradients on batch {}", gradients.batch), maybe(gradients.cosine, cosine));
    }
    if let Some(weights) = &divergence.weights {
        row("distance of weights, ‖a - b‖ / ‖a‖".to_owned(), maybe(weights.distance, figure));
        row("cosine of weights".to_owned(), maybe(weights.cosine, cosine));
    }
    table
}

/// Where the gradients differ, and how far the weights are apart there.
fn tensors(lowest: &[TensorAngle], weights: &WeightGap) -> Table {
    let mut table = table(&["tensor", "cosine", "‖gradient A‖", "‖gradient B‖", "weight distance"]);
    for tensor in lowest {
        let weight = weights.tensors.iter().find(|weight| weight.name == tensor.name);
        let distance = weight.and_then(|weight| weight.distance);
        let name = tensor.name.trim_start_matches("model.").trim_end_matches(".weight").to_owned();
        table.add_row(cells([
            name,
            maybe(tensor.cosine, cosine),
            figure(tensor.norm_a),
            figure(tensor.norm_b),
            maybe(distance, figure),
        ]));
    }
    table
}

/// Where a curve begins and ends.
fn when(loss: &LossGap) -> (String, String) {
    (format!("step {}", loss.first_step), format!("step {}", loss.last_step))
}

fn spikes(score: Option<&SpikeScore>) -> String {
    score.map_or(ABSENT.to_owned(), |score| format!("{:.2}% ({})", 100.0 * score.score, score.steps.len()))
}

fn loss(nats: f64) -> String {
    format!("{nats:.4}")
}

fn gap(nats: f64) -> String {
    format!("{nats:+.4}")
}

/// Six decimals: close to 1, where cosines of like models lie, four would hide everything.
fn cosine(cosine: f64) -> String {
    format!("{cosine:.6}")
}

/// Four decimals, or three digits where four decimals would show less.
fn figure(x: f64) -> String {
    if x != 0.0 && x.abs() < 0.01 { format!("{x:.2e}") } else { format!("{x:.4}") }
}

fn maybe(x: Option<f64>, shown: fn(f64) -> String) -> String {
    x.map_or(ABSENT.to_owned(), shown)
}

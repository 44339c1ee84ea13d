//! A probe as text for a terminal: a table per question, a row per layer.

use comfy_table::Table;
use lm_train::probe::FfnFigures;
use lm_train::record::RunStatus;

use super::{CETT_LEVEL, GradientNorms, LayerReport, Outliers, ProbeReport};
use crate::compare::export::wrapped;
use crate::plain::{cells, section, table};

/// What stands for a figure that is not there.
const ABSENT: &str = "-";

/// Writes a probe as text of at most `width` columns where that is possible, ending with a line break.
pub fn report(probe: &ProbeReport, width: Option<usize>) -> String {
    let mut text = intro(probe);
    text += &section("Sparsity of the hidden activations", sparsity(probe));
    if let Some(saturation) = saturation(probe) {
        let heading = format!("Vanished derivatives, |f'(x)| < {}", probe.saturated_below);
        text += &section(&heading, saturation);
    }
    text += &section("Outliers of the hidden activations h and the residual stream x", outliers(probe));
    text += &section("Directions", directions(probe));
    let GradientNorms { tokens, norm, .. } = &probe.gradients;
    let heading = format!("Gradient norms on {tokens} tokens; of all tensors together {}", figure(*norm));
    text += &section(&heading, gradients(probe));
    if !probe.notes.is_empty() {
        text.push('\n');
    }
    for note in &probe.notes {
        text += &wrapped(&format!("Note: {note}"), width);
    }
    text
}

fn intro(probe: &ProbeReport) -> String {
    let ended = match probe.status {
        Some(RunStatus::Finished) => "finished",
        Some(RunStatus::Diverged) => "diverged",
        None => "not ended",
    };
    let ProbeReport { ffn, precision, step, tokens, loss, perplexity, .. } = probe;
    format!(
        "{}  ({ffn}, {precision}, step {step}, {ended})\n\
         {tokens} tokens: loss {loss:.4} nats per token, perplexity {perplexity:.4}\n",
        probe.run.display()
    )
}

/// Zeros, small activations, dead units, and what can be dropped.
fn sparsity(probe: &ProbeReport) -> Table {
    let ppl = &probe.ppl_sparsity;
    let dead = if probe.can_die { "dead units" } else { "small units" };
    // This version has counted signs, whatever the metrics of the run hold.
    let negative = |layer: &LayerReport| layer.hidden.negative_share().unwrap_or(0.0);
    let at_cett = format!("dropped at CETT {CETT_LEVEL}");
    let at_ppl = format!("at +{}% perplexity", 100.0 * ppl.rise);
    let mut table =
        table(&["layer", "units", "zero", "negative", "|h| < eps", "eps", dead, &at_cett, &at_ppl]);
    for ((i, layer), dropped) in probe.layers.iter().enumerate().zip(&ppl.layers) {
        table.add_row(cells([
            i.to_string(),
            layer.d_ff.to_string(),
            percent(layer.hidden.zero_share),
            percent(negative(layer)),
            percent(layer.hidden.small_share),
            format!("{:.2e}", layer.hidden.eps),
            layer.dead_units.unwrap_or(layer.small_units).to_string(),
            percent(layer.cett.sparsity),
            percent(*dropped),
        ]));
    }
    let mean = |of: &dyn Fn(&LayerReport) -> f64| {
        percent(probe.layers.iter().map(of).sum::<f64>() / probe.layers.len().max(1) as f64)
    };
    table.add_row(cells([
        "mean".to_owned(),
        String::new(),
        mean(&|layer| layer.hidden.zero_share),
        mean(&negative),
        mean(&|layer| layer.hidden.small_share),
        String::new(),
        String::new(),
        mean(&|layer| layer.cett.sparsity),
        percent(ppl.sparsity),
    ]));
    table
}

/// Before and after training, for every branch with a function; `None` when there is no such branch.
fn saturation(probe: &ProbeReport) -> Option<Table> {
    let of = |figures: &FfnFigures| -> Vec<(String, f64)> {
        let curved = figures.saturated.iter().filter(|branch| branch.activation != "identity");
        curved.map(|branch| (format!("{} ({})", branch.branch, branch.activation), branch.share)).collect()
    };
    let branches = of(&probe.layers.first()?.hidden);
    if branches.is_empty() {
        return None;
    }
    let mut headings = vec!["layer".to_owned()];
    for (branch, _) in &branches {
        headings.extend([format!("{branch} at initialisation"), format!("{branch} at step {}", probe.step)]);
    }
    let mut table = table(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for (i, layer) in probe.layers.iter().enumerate() {
        let shares = of(&layer.at_init).into_iter().zip(of(&layer.hidden));
        let shares = shares.flat_map(|((_, before), (_, after))| [percent(before), percent(after)]);
        table.add_row(cells(std::iter::once(i.to_string()).chain(shares)));
    }
    Some(table)
}

/// Of hidden activations and residual stream side by side.
fn outliers(probe: &ProbeReport) -> Table {
    let mut table =
        table(&["layer", "max |h|", "kurtosis", "top channel", "max |x|", "kurtosis", "top channel"]);
    let figures = |outliers: &Outliers| {
        let top = outliers.channels.first();
        let ratio = top.and_then(|top| Some((top.over_median?, top.channel)));
        [
            figure(outliers.max_abs),
            outliers.kurtosis.map_or(ABSENT.to_owned(), |kurtosis| format!("{kurtosis:.1}")),
            ratio.map_or(ABSENT.to_owned(), |(ratio, channel)| format!("{ratio:.1}x (#{channel})")),
        ]
    };
    for (i, layer) in probe.layers.iter().enumerate() {
        let row = std::iter::once(i.to_string()).chain(figures(&layer.outliers));
        table.add_row(cells(row.chain(figures(&layer.residual))));
    }
    table
}

/// Effective rank, and the angle between gate and up weights where there is a gate.
fn directions(probe: &ProbeReport) -> Table {
    let gated = probe.layers.iter().any(|layer| layer.gate_up_cosine.is_some());
    let mut headings = vec!["layer", "effective rank of h", "of units"];
    if gated {
        headings.extend(["|cos(gate, up)| mean", "largest"]);
    }
    let mut table = table(&headings);
    for (i, layer) in probe.layers.iter().enumerate() {
        let mut row = vec![
            i.to_string(),
            layer.effective_rank.map_or(ABSENT.to_owned(), |rank| format!("{rank:.1}")),
            layer.d_ff.to_string(),
        ];
        if let Some(cosines) = layer.gate_up_cosine {
            row.extend([format!("{:.4}", cosines.mean), format!("{:.4}", cosines.max)]);
        }
        table.add_row(cells(row));
    }
    table
}

/// A row per layer, a column per matrix. Tensors outside layers and the weights of norms are in the JSON object only.
fn gradients(probe: &ProbeReport) -> Table {
    let of_layer = |i: usize| {
        let prefix = format!("model.layers.{i}.");
        let tensors = probe.gradients.tensors.iter();
        tensors.filter_map(move |tensor| {
            let name = tensor.name.strip_prefix(&prefix)?.strip_suffix("_proj.weight")?;
            Some((name.rsplit('.').next().unwrap_or(name).to_owned(), tensor.norm))
        })
    };
    let mut headings = vec!["layer".to_owned()];
    headings.extend(of_layer(0).map(|(name, _)| name));
    let mut table = table(&headings.iter().map(String::as_str).collect::<Vec<_>>());
    for i in 0..probe.layers.len() {
        table.add_row(cells(std::iter::once(i.to_string()).chain(of_layer(i).map(|(_, norm)| figure(norm)))));
    }
    table
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

/// Four decimals, or three digits where four decimals would show less.
fn figure(x: f64) -> String {
    if x != 0.0 && !(0.01..1e4).contains(&x.abs()) { format!("{x:.2e}") } else { format!("{x:.4}") }
}

//! What hidden units of a feed-forward block do: how many are silent, and how their values are distributed.

use super::canvas::{Axis, Canvas, Frame, Margins, Marks, WIDTH};
use super::curves::{Curve, CurvePoint, Curves, Scale, curves};
use super::labels::{EndLabel, beside_ends, room_beside};
use super::palette::Stroke;
use super::svg::Svg;

/// Shares of hidden activations that are zero, or as good as zero, over time.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSparsity {
    /// The layer, as it is to be labelled.
    pub layer: String,
    /// (step, share between 0 and 1), by ascending step.
    pub shares: Vec<(u64, f64)>,
}

/// Draws a curve per layer, in percent; `None` for no points. `id` is unique on the page, `alt` says what the plot shows.
pub fn sparsity(id: &str, alt: &str, layers: &[LayerSparsity]) -> Option<Svg> {
    let curve = |(i, layer): (usize, &LayerSparsity)| {
        let point = |&(step, share): &(u64, f64)| {
            let percent = 100.0 * share;
            CurvePoint { x: step as f64, mean: percent, low: percent, high: percent }
        };
        // The first colour is for what others are compared with; no layer is that.
        Curve {
            label: layer.layer.clone(),
            stroke: Stroke::of(i + 1),
            points: layer.shares.iter().map(point).collect(),
            mark: None,
        }
    };
    let drawn = layers.iter().enumerate().map(curve).collect();
    let (x, y) = ("step", "hidden units at zero, %");
    curves(&Curves { id, alt, x, y, scale: Scale::Linear, difference: false, from: 0.0, curves: drawn })
}

/// Counts of values in bins, for one layer or one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Bins {
    /// What was counted, as it is to be labelled.
    pub label: String,
    /// Edges of the bins, ascending; one more than counts.
    pub edges: Vec<f64>,
    /// Values in each bin.
    pub counts: Vec<u64>,
}

/// A histogram and the corners of its outline.
type Outline<'a> = (&'a Bins, Vec<(f64, f64)>);

/// Draws outlines of histograms over each other, in shares of all values on a logarithmic axis, because most hidden
/// activations are near zero and the others matter; `None` where nothing was counted. `x` says what the values are.
pub fn histogram(id: &str, alt: &str, x: &str, sets: &[Bins]) -> Option<Svg> {
    let usable = |bins: &&Bins| {
        bins.edges.len() == bins.counts.len() + 1 && bins.counts.iter().any(|count| *count > 0)
    };
    let outlines: Vec<Outline<'_>> = sets.iter().filter(usable).map(|bins| (bins, shares(bins))).collect();
    let (first, last) =
        outlines.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(first, last), (bins, _)| {
            (first.min(bins.edges[0]), last.max(bins.edges[bins.edges.len() - 1]))
        });
    let least = outlines
        .iter()
        .flat_map(|(_, outline)| outline)
        .map(|point| point.1)
        .filter(|share| *share > 0.0)
        .fold(1.0, f64::min);
    if outlines.is_empty() || first >= last {
        return None;
    }
    let floor = 10f64.powf(least.log10().floor());
    let room = room_beside(outlines.iter().map(|(bins, _)| &bins.label), 0.4 * WIDTH);
    let size = (WIDTH, 280.0);
    let x = Axis { label: x.to_owned(), range: (first, last), log: false, ticks: 5, signed: false };
    let y =
        Axis { label: "share of values".to_owned(), range: (floor, 1.0), log: true, ticks: 4, signed: false };
    let margins = Margins { left: y.label_width() + 14.0, right: room, top: 30.0, bottom: 42.0 };
    let mut marks = Marks::default();
    for (i, (_, outline)) in outlines.iter().enumerate() {
        marks.steps(outline.iter().map(|&(x, share)| (x, share.max(floor))), Stroke::of(i + 1), 1.6);
    }
    let mut canvas = Canvas::new(Frame { size, margins, x, y, x_ticks: true, y_ticks: true }, marks);
    let label = |(i, (bins, outline)): (usize, &Outline<'_>)| EndLabel {
        text: bins.label.clone(),
        colour: Stroke::of(i + 1).colour(),
        y: canvas.place(last, outline[outline.len() - 1].1.max(floor)).1,
    };
    let labels: Vec<EndLabel> = outlines.iter().enumerate().map(label).collect();
    beside_ends(&mut canvas, (size.0 - margins.right, room), (margins.top, size.1 - margins.bottom), &labels);
    Some(canvas.finish(id, alt))
}

/// (left edge, share) of every bin, and the right edge of the last.
fn shares(bins: &Bins) -> Vec<(f64, f64)> {
    let total = bins.counts.iter().sum::<u64>() as f64;
    let last = bins.counts.last().copied().unwrap_or(0);
    let counts = bins.counts.iter().copied().chain([last]);
    bins.edges.iter().copied().zip(counts.map(|count| count as f64 / total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparsity_has_a_curve_per_layer_in_percent() {
        let layer = |name: &str, end: f64| LayerSparsity {
            layer: name.to_owned(),
            shares: vec![(10, 0.5), (500, end)],
        };
        let text = sparsity("sparsity", "Sparsity", &[layer("layer 0", 0.9), layer("layer 1", 0.7)])
            .unwrap()
            .inline();
        assert!(text.contains(">layer 0<") && text.contains(">layer 1<") && text.contains(">90<"), "{text}");
        assert_eq!(sparsity("sparsity", "", &[]), None);
    }

    #[test]
    fn a_histogram_is_in_shares() {
        let bins =
            Bins { label: "layer 0".to_owned(), edges: vec![-1.0, 0.0, 1.0, 2.0], counts: vec![90, 0, 10] };
        assert_eq!(shares(&bins), [(-1.0, 0.9), (0.0, 0.0), (1.0, 0.1), (2.0, 0.1)]);
        let text = histogram("values", "Values", "activation", std::slice::from_ref(&bins)).unwrap().inline();
        assert!(text.contains(">layer 0<") && text.contains(">0.1<") && !text.contains("NaN"), "{text}");
        let empty = Bins { counts: vec![0, 0, 0], ..bins.clone() };
        let torn = Bins { counts: vec![1], ..bins };
        assert_eq!(histogram("values", "", "x", &[empty, torn]), None);
    }
}

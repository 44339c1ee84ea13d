//! A histogram of values of both signs, on an axis that is logarithmic to both sides of zero.

use super::canvas::{Anchor, Axis, Canvas, Frame, Margins, Marks, TEXT, WIDTH};
use super::labels::width;
use super::palette::{INK, MUTED, RULE, Stroke};
use super::svg::Svg;

/// Values of one layer by sign and size.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedOctaves {
    /// The layer, as it is to be labelled.
    pub label: String,
    /// Share of all values that are exactly zero.
    pub zero_share: f64,
    /// (k, number of values x with 2^k <= -x < 2^(k + 1)), by ascending k.
    pub negative: Vec<(i32, u64)>,
    /// (k, number of values x with 2^k <= x < 2^(k + 1)), by ascending k.
    pub positive: Vec<(i32, u64)>,
}

/// Sizes that such a plot shows: octaves from the first to the last; smaller values are counted in the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octaves {
    first: i32,
    last: i32,
}

/// Octaves that are shown, at most: values smaller than a millionth of the largest are as good as zero.
const OCTAVES: i32 = 20;
/// Shares below this one are not told apart.
const LEAST_SHARE: f64 = 1e-6;
/// Layers whose labels have room for their share of zeros.
const WITH_ZEROS: usize = 7;

impl Octaves {
    /// Those that all layers together need, so that plots with one range can be compared; `None` where every value is zero.
    pub fn of<'a>(layers: impl IntoIterator<Item = &'a SignedOctaves>) -> Option<Self> {
        let counted = layers.into_iter().flat_map(|layer| layer.negative.iter().chain(&layer.positive));
        let octaves = counted.filter(|(_, count)| *count > 0).map(|(k, _)| *k);
        let (first, last) = octaves.fold(None, |range: Option<(i32, i32)>, k| {
            Some(range.map_or((k, k), |(first, last)| (first.min(k), last.max(k))))
        })?;
        Some(Self { first: first.max(last - OCTAVES + 1), last })
    }

    fn count(self) -> i32 {
        self.last + 1 - self.first
    }

    /// Half of the space that zero has between both sides.
    fn zero(self) -> f64 {
        (0.07 * f64::from(self.count())).max(0.5)
    }

    /// Where 2^k lies, in octaves from the middle.
    fn place(self, k: i32) -> f64 {
        self.zero() + f64::from(k - self.first)
    }

    /// Powers of two that get a tick: three to a side, or about that.
    fn ticks(self) -> Vec<i32> {
        let step = [1, 2, 4, 8].into_iter().find(|step| self.count() / step <= 3).unwrap_or(8);
        (self.first..=self.last + 1).filter(|k| k.rem_euclid(step) == 0).collect()
    }
}

/// Corners of an outline: (place, share), from the left.
type Outline = Vec<(f64, f64)>;

impl SignedOctaves {
    /// Outlines of both sides, in shares of all values: negative, positive.
    fn outlines(&self, octaves: Octaves, floor: f64) -> [Outline; 2] {
        let total =
            [&self.negative, &self.positive].into_iter().flatten().map(|(_, count)| *count).sum::<u64>();
        let share = |count: u64| (1.0 - self.zero_share) * count as f64 / total.max(1) as f64;
        let side = |counts: &[(i32, u64)]| -> Outline {
            let of = |k: i32| {
                let here = counts.iter().filter(|(other, _)| (*other).max(octaves.first) == k);
                share(here.map(|(_, count)| *count).sum()).max(floor)
            };
            let counted: Vec<i32> = (octaves.first..=octaves.last).filter(|k| of(*k) > floor).collect();
            let (Some(&first), Some(&last)) = (counted.first(), counted.last()) else { return Vec::new() };
            let tops =
                (first..=last).flat_map(|k| [(octaves.place(k), of(k)), (octaves.place(k + 1), of(k))]);
            let start = (octaves.place(first), floor);
            [start].into_iter().chain(tops).chain([(octaves.place(last + 1), floor)]).collect()
        };
        let mirrored = side(&self.negative).into_iter().rev().map(|(place, share)| (-place, share));
        [mirrored.collect(), side(&self.positive)]
    }

    /// Least share above zero of any bar.
    fn least_share(&self, octaves: Octaves) -> f64 {
        let outlines = self.outlines(octaves, 0.0).into_iter().flatten().map(|(_, share)| share);
        outlines.chain([self.zero_share]).filter(|share| *share > 0.0).fold(1.0, f64::min)
    }
}

/// Draws outlines of layers over each other, in shares of all values on a logarithmic axis, because most hidden activations
/// are near zero and the others matter: negative values to the left, positive ones to the right, exact zeros as bars
/// in the middle. `None` where nothing was counted. `id` is unique on the page, `alt` says what the plot shows.
pub fn signed_histogram(id: &str, alt: &str, octaves: Octaves, layers: &[SignedOctaves]) -> Option<Svg> {
    let least = layers.iter().map(|layer| layer.least_share(octaves)).fold(f64::INFINITY, f64::min);
    if layers.is_empty() {
        return None;
    }
    // At least a power of ten is shown, even where every value is zero.
    let floor = 10f64.powf(least.max(LEAST_SHARE).log10().floor().min(-1.0));
    let edge = octaves.place(octaves.last + 1);
    let label = "hidden activation: size in powers of two, with its sign".to_owned();
    let x = Axis { label, range: (-edge, edge), log: false, ticks: 5, signed: false };
    let y =
        Axis { label: "share of values".to_owned(), range: (floor, 1.0), log: true, ticks: 4, signed: false };
    let texts: Vec<[String; 2]> = layers.iter().map(|layer| [layer.label.clone(), zeros(layer)]).collect();
    let shown = if layers.len() <= WITH_ZEROS { 2 } else { 1 };
    let widest =
        texts.iter().flat_map(|lines| &lines[..shown]).map(|text| width(text, TEXT)).fold(0.0, f64::max);
    let size = (WIDTH, 280.0);
    let margins = Margins {
        left: y.label_width() + 14.0,
        right: (widest + 18.0).min(0.4 * WIDTH),
        top: 30.0,
        bottom: 42.0,
    };

    let mut marks = Marks::default();
    let half = 0.8 * octaves.zero();
    for (i, layer) in layers.iter().enumerate() {
        let bar = |j: usize| -half + 2.0 * half * j as f64 / layers.len() as f64;
        let (left, right, share) = (bar(i), bar(i + 1), layer.zero_share.max(floor));
        let zero = vec![(left, floor), (left, share), (right, share), (right, floor)];
        let zero = if layer.zero_share > 0.0 { zero } else { Vec::new() };
        let [negative, positive] = layer.outlines(octaves, floor);
        for (outline, opacity) in [(negative, 0.12), (zero, 0.45), (positive, 0.12)] {
            if !outline.is_empty() {
                let area: Vec<_> = outline.iter().map(|&(x, share)| (x, floor, share)).collect();
                marks.band(&area, Stroke::of(i + 1), opacity);
                marks.line(outline, Stroke::of(i + 1), 1.6);
            }
        }
    }
    let mut canvas = Canvas::new(Frame { size, margins, x, y, x_ticks: false, y_ticks: true }, marks);
    let bottom = size.1 - margins.bottom;
    let at = |k: i32| canvas.place(octaves.place(k), 1.0).0 - canvas.place(0.0, 1.0).0;
    // The label of zero keeps its place; those beside it need room on both sides.
    let has_room = |k: &i32| at(*k) > (width(&signed_power(*k), TEXT) + width("0", TEXT)) / 2.0 + 6.0;
    let ticks: Vec<i32> = octaves.ticks().into_iter().filter(has_room).collect();
    let both =
        ticks.into_iter().flat_map(|k| [(-octaves.place(k), signed_power(k)), (octaves.place(k), power(k))]);
    for (place, text) in both.chain([(0.0, "0".to_owned())]) {
        let x = canvas.place(place, 1.0).0;
        canvas.segment((x, bottom), (x, bottom + 4.0), RULE, 1.0, None);
        canvas.text((x, bottom + 17.0), &text, Anchor::Middle, INK);
    }
    let rows = (bottom - margins.top) / layers.len() as f64;
    let left = size.0 - margins.right + 10.0;
    for (i, lines) in texts.iter().enumerate() {
        let at = margins.top + f64::from(TEXT) + i as f64 * rows.min(20.0 * shown as f64);
        canvas.text((left, at), &lines[0], Anchor::Start, &Stroke::of(i + 1).colour());
        if shown > 1 {
            canvas.text((left, at + 16.0), &lines[1], Anchor::Start, MUTED);
        }
    }
    Some(canvas.finish(id, alt))
}

/// Share of zeros, as it is said beside a layer.
fn zeros(layer: &SignedOctaves) -> String {
    let percent = 100.0 * layer.zero_share;
    match percent {
        _ if percent == 0.0 => "no zero".to_owned(),
        _ if percent < 0.1 => "0: < 0.1\u{a0}%".to_owned(),
        _ => format!("0: {percent:.1}\u{a0}%"),
    }
}

/// -(2^k), as a label.
fn signed_power(k: i32) -> String {
    format!("\u{2212}{}", power(k))
}

/// 2^k, as a label.
fn power(k: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let sign = if k < 0 { "⁻" } else { "" };
    let digits = k.unsigned_abs().to_string();
    let raised = digits.bytes().filter_map(|digit| DIGITS.get(usize::from(digit - b'0')));
    format!("2{sign}{}", raised.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(zero_share: f64, negative: &[(i32, u64)], positive: &[(i32, u64)]) -> SignedOctaves {
        let label = "layer 0".to_owned();
        SignedOctaves { label, zero_share, negative: negative.to_vec(), positive: positive.to_vec() }
    }

    #[test]
    fn sides_are_mirrored_and_shares_are_of_all_values() {
        let layer = layer(0.5, &[(-1, 10)], &[(-1, 20), (1, 10)]);
        let octaves = Octaves::of([&layer]).unwrap();
        assert_eq!((octaves, octaves.zero()), (Octaves { first: -1, last: 1 }, 0.5));
        let [negative, positive] = layer.outlines(octaves, 0.001);
        assert_eq!(negative, [(-1.5, 0.001), (-1.5, 0.125), (-0.5, 0.125), (-0.5, 0.001)]);
        let tops = [(0.5, 0.25), (1.5, 0.25), (1.5, 0.001), (2.5, 0.001), (2.5, 0.125), (3.5, 0.125)];
        assert_eq!(positive, [&[(0.5, 0.001)], &tops[..], &[(3.5, 0.001)]].concat());
    }

    #[test]
    fn what_is_as_good_as_zero_is_counted_in_the_first_octave() {
        let layer = layer(0.0, &[(-90, 3), (-5, 1)], &[(-60, 1), (3, 5)]);
        let octaves = Octaves::of([&layer]).unwrap();
        assert_eq!(octaves, Octaves { first: 4 - OCTAVES, last: 3 });
        let [negative, positive] = layer.outlines(octaves, 1e-6);
        assert_eq!((negative.len(), negative[negative.len() - 2].1), (2 + 2 * 12, 0.3));
        assert_eq!(positive[1], (octaves.zero(), 0.1));
    }

    #[test]
    fn a_side_without_values_and_zeros_that_never_were_are_not_drawn() {
        let octaves = Octaves { first: -8, last: 2 };
        let draw =
            |layer: SignedOctaves| signed_histogram("values", "Values", octaves, &[layer]).unwrap().inline();
        let bands = |text: &str| text.matches("fill-opacity").count() + text.matches(" opacity=").count();
        let relu = draw(layer(0.875, &[], &[(-3, 7), (1, 1)]));
        assert!(relu.contains(">0: 87.5\u{a0}%<") && bands(&relu) == 2, "{relu}");
        let swiglu = draw(layer(0.0, &[(-3, 7)], &[(-3, 7), (1, 1)]));
        assert!(swiglu.contains(">no zero<") && bands(&swiglu) == 2, "{swiglu}");
        for tick in [">\u{2212}2⁰<", ">0<", ">2⁻⁴<"] {
            assert!(relu.contains(tick), "{tick} in {relu}");
        }
        assert!(!relu.contains(">2⁻⁸<"), "no room beside zero: {relu}");
    }

    #[test]
    fn there_is_no_plot_of_nothing() {
        assert_eq!(Octaves::of([&layer(1.0, &[], &[])]), None);
        assert_eq!(signed_histogram("values", "", Octaves { first: 0, last: 0 }, &[]), None);
        let silent = layer(1.0, &[], &[]);
        let text = signed_histogram("values", "", Octaves { first: 0, last: 0 }, &[silent]).unwrap().inline();
        assert!(!text.contains("NaN") && text.contains(">0: 100.0\u{a0}%<"), "{text}");
    }

    #[test]
    fn exponents_are_raised() {
        assert_eq!([0, -12, 3].map(power), ["2⁰", "2⁻¹²", "2³"]);
    }
}

//! Labels: how numbers are written, how wide a text is, and labels at the ends of lines that do not cover each other.

use super::canvas::{Anchor, Canvas, TEXT};

/// A number with so many decimals and a real minus sign.
pub(super) fn plain(x: f64, decimals: usize, signed: bool) -> String {
    let text = format!("{:.decimals$}", x.abs());
    let is_zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    match x {
        _ if is_zero => text,
        _ if x < 0.0 => format!("\u{2212}{text}"),
        _ if signed => format!("+{text}"),
        _ => text,
    }
}

/// About how wide a text is in units of the view box. Fonts differ; this is for the wider ones among those of pages.
pub(super) fn width(text: &str, size: u32) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | '.' | ',' | '\'' | '|' | ':' | ';' | ' ' | 'I' | '(' | ')' | '[' | ']' => 0.34,
        'f' | 't' | 'r' | '-' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.92,
        'A'..='Z' | '+' | '±' | '\u{2212}' | '=' => 0.7,
        _ => 0.6,
    };
    text.chars().map(em).sum::<f64>() * f64::from(size)
}

/// Shortens a text that is wider than `room` and marks the cut.
pub(super) fn fitted(text: &str, room: f64, size: u32) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut kept = text.to_owned();
    while !kept.is_empty() && width(&kept, size) + width("…", size) > room {
        kept.pop();
    }
    kept.trim_end().to_owned() + "…"
}

/// The label of a line that ends at a place.
pub(super) struct EndLabel {
    pub text: String,
    pub colour: String,
    /// Height at which the line ends, in units of the view box.
    pub y: f64,
}

/// Length of the line from the end of a curve to its label.
const LEAD: f64 = 14.0;
/// Space after a label.
const AIR: f64 = 8.0;

/// Writes `labels` to the right of x within `room`, as near to the ends of their lines as they go without covering each other, and
/// joins those that had to move to their lines.
pub(super) fn beside_ends(
    canvas: &mut Canvas,
    (x, room): (f64, f64),
    (top, bottom): (f64, f64),
    labels: &[EndLabel],
) {
    let wanted: Vec<f64> = labels.iter().map(|label| label.y).collect();
    for (label, y) in labels.iter().zip(spread(&wanted, f64::from(TEXT) + 2.0, (top, bottom))) {
        let end = label.y.clamp(top, bottom);
        canvas.segment((x + 2.0, end), (x + LEAD - 2.0, y), &label.colour, 1.0, None);
        let text = fitted(&label.text, room - LEAD, TEXT);
        canvas.text((x + LEAD, y + f64::from(TEXT) * 0.36), &text, Anchor::Start, &label.colour);
    }
}

/// Room at the right of the data that the widest of these labels needs, or as much of `most` as it may have.
pub(super) fn room_beside(labels: impl Iterator<Item = impl AsRef<str>>, most: f64) -> f64 {
    (LEAD + AIR + labels.map(|label| width(label.as_ref(), TEXT)).fold(0.0, f64::max)).min(most)
}

/// Moves heights apart until neighbours are `gap` from each other, inside `range` if they fit, with their order kept and
/// as little movement as that takes: heights that would collide become a block around their common middle.
pub(super) fn spread(wanted: &[f64], gap: f64, (top, bottom): (f64, f64)) -> Vec<f64> {
    struct Block {
        members: Vec<usize>,
        first: f64,
    }
    let gap = gap.min((bottom - top) / wanted.len().saturating_sub(1).max(1) as f64);
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&i, &j| wanted[i].total_cmp(&wanted[j]));
    let place = |members: &[usize]| {
        let offsets = members.iter().enumerate().map(|(k, &i)| wanted[i] - k as f64 * gap);
        let height = (members.len() - 1) as f64 * gap;
        (offsets.sum::<f64>() / members.len() as f64).min(bottom - height).max(top)
    };
    let mut blocks: Vec<Block> = Vec::new();
    for i in order {
        let mut block = Block { members: vec![i], first: place(&[i]) };
        while let Some(above) =
            blocks.pop_if(|above| above.first + above.members.len() as f64 * gap > block.first)
        {
            let members = [above.members, block.members].concat();
            block = Block { first: place(&members), members };
        }
        blocks.push(block);
    }
    let mut places = vec![0.0; wanted.len()];
    for block in blocks {
        for (k, i) in block.members.into_iter().enumerate() {
            places[i] = block.first + k as f64 * gap;
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers() {
        assert_eq!((plain(-0.05, 2, false), plain(0.05, 2, true)), ("\u{2212}0.05".into(), "+0.05".into()));
        assert_eq!((plain(-0.001, 2, true), plain(3.0, 0, false)), ("0.00".into(), "3".into()));
    }

    #[test]
    fn long_texts_are_cut_and_marked() {
        assert_eq!(fitted("relu", 100.0, 13), "relu");
        let cut = fitted("swiglu fp8_delayed smooth=true", 100.0, 13);
        assert!(cut.ends_with('…') && width(&cut, 13) <= 100.0 && cut.starts_with("swiglu"), "{cut}");
    }

    #[test]
    fn labels_that_are_apart_stay_and_others_give_way_evenly() {
        assert_eq!(spread(&[10.0, 50.0], 15.0, (0.0, 100.0)), [10.0, 50.0]);
        assert_eq!(spread(&[50.0, 50.0], 20.0, (0.0, 100.0)), [40.0, 60.0]);
        assert_eq!(spread(&[99.0, 100.0], 20.0, (0.0, 100.0)), [80.0, 100.0]);
        assert_eq!(spread(&[7.0], 20.0, (0.0, 100.0)), [7.0]);
        assert_eq!(spread(&[], 20.0, (0.0, 100.0)), [0.0; 0]);
    }

    proptest! {
        #[test]
        fn labels_keep_their_order_distance_and_frame(wanted in prop::collection::vec(0.0..200.0f64, 1..12)) {
            let placed = spread(&wanted, 15.0, (0.0, 200.0));
            let mut order: Vec<usize> = (0..wanted.len()).collect();
            order.sort_by(|&i, &j| wanted[i].total_cmp(&wanted[j]));
            for pair in order.windows(2) {
                prop_assert!(placed[pair[1]] - placed[pair[0]] >= 15.0 - 1e-9, "{wanted:?} {placed:?}");
            }
            prop_assert!(placed.iter().all(|y| (-1e-9..=200.0 + 1e-9).contains(y)), "{placed:?}");
        }
    }
}

//! A curve drawn with block characters.

/// Eighths of a character cell, from empty to full.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Lines of text the curve is high.
const LINES: usize = 5;

/// Fewest columns of curve that are worth drawing.
const LEAST: usize = 20;

/// Draws `values` from left to right as bars over a range that holds zero and every value, with its ends at
/// the left and `ends` below, in `width` columns (or slightly more, when that would leave no room for the
/// curve). Where there are more values than columns, a column shows the mean of its values.
pub(super) fn chart(values: &[f64], ends: &(String, String), width: usize) -> String {
    let (low, high) = values.iter().fold((0.0f64, 0.0f64), |(low, high), v| (low.min(*v), high.max(*v)));
    let (top, bottom) = (format!("{high:+.4}"), format!("{low:+.4}"));
    let label = top.chars().count().max(bottom.chars().count());
    let columns = columns(values, width.saturating_sub(label + 2).max(LEAST));
    let range = high - low;
    let eighths = |value: f64| {
        let share = if range > 0.0 { (value - low) / range } else { 0.0 };
        // An eighth at least, so that the lowest value is seen.
        ((share * (8 * LINES) as f64).round() as usize).max(1)
    };
    let heights: Vec<usize> = columns.iter().map(|value| eighths(*value)).collect();
    let mut text = String::new();
    for line in (0..LINES).rev() {
        let at = if line + 1 == LINES {
            &top
        } else if line == 0 {
            &bottom
        } else {
            ""
        };
        let bars: String =
            heights.iter().map(|height| EIGHTHS[height.saturating_sub(8 * line).min(8)]).collect();
        text += format!("{at:>label$} ┤{bars}").trim_end();
        text.push('\n');
    }
    let (first, last) = ends;
    let room = columns.len().saturating_sub(first.chars().count() + 1);
    text + &format!("{:label$}  {first} {last:>room$}\n", "")
}

/// Means of `count` stretches of about equal length; the values themselves where they are no more than that.
fn columns(values: &[f64], count: usize) -> Vec<f64> {
    let count = count.min(values.len());
    let edge = |i: usize| i * values.len() / count;
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (0..count).map(|i| mean(&values[edge(i)..edge(i + 1)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (String, String) {
        ("step 1".to_owned(), "step 9".to_owned())
    }

    #[test]
    fn bars_rise_with_the_values() {
        // Heights 0, 2, 4, ... 40 eighths of the five lines, the first raised to 1.
        let values: Vec<f64> = (0..21).map(|i| f64::from(i) / 20.0).collect();
        let text = chart(&values, &ends(), 60);
        let expected = "\
+1.0000 ┤                 ▂▄▆█
        ┤             ▂▄▆█████
        ┤         ▂▄▆█████████
        ┤     ▂▄▆█████████████
+0.0000 ┤▁▂▄▆█████████████████
         step 1         step 9
";
        assert_eq!(text, expected);
    }

    #[test]
    fn many_values_share_columns_and_fit_the_width() {
        assert_eq!(columns(&[1.0, 3.0, 5.0, 5.0, 7.0, 9.0], 3), [2.0, 5.0, 8.0]);
        assert_eq!(columns(&[1.0, 2.0], 9), [1.0, 2.0]);
        assert!(columns(&[], 9).is_empty());
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i % 77) - 30.0).collect();
        for width in [30, 40, 100] {
            let text = chart(&values, &ends(), width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert!(text.contains("-30.0000") && text.contains("step 9"));
        }
    }

    #[test]
    fn no_gap_is_a_flat_line() {
        let text = chart(&[0.0; 12], &ends(), 60);
        assert_eq!(text.lines().nth(4).unwrap(), "+0.0000 ┤▁▁▁▁▁▁▁▁▁▁▁▁");
        assert_eq!(text.matches('▁').count(), 12);
    }
}

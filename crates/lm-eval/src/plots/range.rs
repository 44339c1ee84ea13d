//! Which values an axis shows.

/// Least and greatest of some values.
pub(super) fn range(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    values.into_iter().fold(None, |range, x| match range {
        None => Some((x, x)),
        Some((low, high)) => Some((low.min(x), high.max(x))),
    })
}

/// Share of differences that an axis has to show whole.
const WHOLE: f64 = 0.65;
/// How many times as far as those the farthest has to reach before the axis is cut.
const FAR: f64 = 5.0;
/// How many times as far as those the axis goes when it is cut.
const REACH: f64 = 1.6;

/// Where to cut an axis around zero so that a few differences many times as large as the others do not squeeze these to
/// nothing; `None` if everything fits on one axis. `sizes` tells how far from zero each row or curve reaches.
pub(super) fn cut(sizes: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut sizes: Vec<f64> = sizes.into_iter().filter(|size| *size > 0.0).collect();
    sizes.sort_by(f64::total_cmp);
    let typical = *sizes.get(((sizes.len() as f64 * WHOLE).ceil() as usize).checked_sub(1)?)?;
    (*sizes.last()? > FAR * typical).then_some(REACH * typical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_is_cut_only_where_a_few_reach_far_beyond_the_rest() {
        assert_eq!(cut([0.1, 0.2, 0.3, 0.9]), None);
        assert_eq!(cut([0.01, 0.02, 0.01, 5.0]), Some(REACH * 0.02));
        assert_eq!(cut([0.01, 5.0, 4.0]), None, "two of three are not a few");
        assert_eq!(cut([]), None);
        assert_eq!(cut([0.0, 0.0]), None);
    }
}

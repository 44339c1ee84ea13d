//! Colours by name: CSS variables, so that one picture serves light and dark.

/// What the variables mean, in light, in dark and on paper. Hues are those of Okabe & Ito 2008 ("Color Universal Design"),
/// which people with the common kinds of colour blindness can tell apart, darkened or lightened until they stand out from
/// the page; yellow, which does not, is replaced by brown.
pub const STYLE: &str = include_str!("plots.css");

/// Number of series that have a colour of their own.
pub const SERIES: usize = 8;

/// Text and whatever is neutral.
pub(super) const INK: &str = "var(--ink)";
/// What belongs to the plot but is not data.
pub(super) const MUTED: &str = "var(--muted)";
/// Axes.
pub(super) const RULE: &str = "var(--rule)";
/// Lines behind the data.
pub(super) const GRID: &str = "var(--grid)";
/// The page.
pub(super) const PAPER: &str = "var(--paper)";
/// A difference that is surely below zero.
pub(super) const LOWER: &str = "var(--lower)";
/// A difference that is surely above zero.
pub(super) const HIGHER: &str = "var(--higher)";
/// A difference that may be either.
pub(super) const UNSURE: &str = "var(--unsure)";

/// How a series is drawn: its colour, and a dash once all colours are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stroke(usize);

impl Stroke {
    /// The stroke of the series with this index. 0 is the colour of text, for what the others are compared with.
    pub fn of(series: usize) -> Self {
        Self(series)
    }

    /// Its colour.
    pub fn colour(self) -> String {
        format!("var(--s{})", self.0 % SERIES)
    }

    /// Lengths of dashes and gaps; `None` for a solid line.
    pub fn dashes(self) -> Option<&'static str> {
        match self.0 / SERIES {
            0 => None,
            1 => Some("6 3"),
            _ => Some("2 2"),
        }
    }
}

/// Blends from the page towards `colour`, `share` of the way.
pub(super) fn tint(colour: &str, share: f64) -> String {
    format!("color-mix(in oklab, {colour} {:.0}%, {PAPER})", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_colour_is_defined_in_light_dark_and_print() {
        let names = [INK, MUTED, RULE, GRID, PAPER, LOWER, HIGHER, UNSURE].map(str::to_owned);
        let series = (0..SERIES).map(|i| Stroke::of(i).colour());
        for name in names.into_iter().chain(series) {
            let variable = name.trim_start_matches("var(").trim_end_matches(')');
            assert_eq!(STYLE.matches(&format!("{variable}: #")).count(), 3, "{variable}");
        }
    }

    #[test]
    fn no_two_series_look_the_same() {
        let looks: std::collections::BTreeSet<_> =
            (0..3 * SERIES).map(|i| (Stroke::of(i).colour(), Stroke::of(i).dashes())).collect();
        assert_eq!(looks.len(), 3 * SERIES);
    }

    /// Contrast of WCAG 2.2 (success criterion 1.4.11 asks for 3 : 1 between graphics and what is around them).
    fn contrast(a: &str, b: &str) -> f64 {
        let luminance = |hex: &str| {
            let channel = |i: usize| {
                let c = f64::from(u8::from_str_radix(&hex[i..i + 2], 16).unwrap()) / 255.0;
                if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055f64).powf(2.4) }
            };
            0.2126 * channel(0) + 0.7152 * channel(2) + 0.0722 * channel(4)
        };
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn series_stand_out_from_the_page() {
        let values = |name: &str| {
            let definition = format!("--{name}: #");
            STYLE.split(&definition).skip(1).map(|rest| rest[..6].to_owned()).collect::<Vec<_>>()
        };
        let papers = values("paper");
        let series = (0..SERIES).map(|i| format!("s{i}"));
        for name in ["ink", "muted", "lower", "higher", "unsure"].map(str::to_owned).into_iter().chain(series)
        {
            for (colour, paper) in values(&name).iter().zip(&papers) {
                assert!(
                    contrast(colour, paper) >= 2.9,
                    "--{name}: #{colour} on #{paper}: {:.2}",
                    contrast(colour, paper)
                );
            }
        }
    }
}

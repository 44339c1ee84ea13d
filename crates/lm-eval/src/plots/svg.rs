//! The finished picture: what the plotting crate writes, made fit for a page.

use super::palette::STYLE;

/// A picture. It has a view box and no size: it fills the width it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Svg {
    /// Width and height of the view box.
    size: (u32, u32),
    /// What it shows, for those who cannot see it.
    alt: String,
    /// The elements.
    body: String,
}

impl Svg {
    /// Takes the elements out of a document of the plotting crate. `id` has to be unique on a page: names inside the
    /// picture, which share one space with those of all other pictures on the page, are made of it.
    pub(super) fn new(document: &str, size: (f64, f64), id: &str, alt: &str) -> Self {
        let inside = document.split_once('>').map_or("", |(_, rest)| rest);
        let inside = inside.rsplit_once("</svg>").map_or(inside, |(body, _)| body);
        let body = without_comments(inside).replace("kuva-", &format!("{id}-"));
        Self {
            size: (size.0.ceil() as u32, size.1.ceil() as u32),
            alt: alt.to_owned(),
            body: short_numbers(&body),
        }
    }

    /// Width of the view box: the width in pixels at which text has its natural size.
    pub fn width(&self) -> u32 {
        self.size.0
    }

    /// The element to put into a page that defines the colours of [`STYLE`].
    pub fn inline(&self) -> String {
        let (width, height) = self.size;
        let alt = escaped(&self.alt);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{alt}\" \
             fill=\"var(--ink)\" font-family=\"inherit\">{}</svg>",
            self.body
        )
    }

    /// A file of its own, with its colours.
    pub fn standalone(&self) -> String {
        let (width, height) = self.size;
        let style =
            "svg { background: var(--paper); font-family: system-ui, 'Helvetica Neue', Arial, sans-serif; }";
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\" \
             fill=\"var(--ink)\">\n<style>\n{STYLE}{style}\n</style>\n{}</svg>\n",
            escaped(&self.alt),
            self.body
        )
    }
}

/// Text for an attribute or an element.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn without_comments(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("<!--") {
        kept += before;
        rest = comment.split_once("-->").map_or("", |(_, after)| after);
    }
    kept + rest
}

/// Cuts coordinates to two decimals, a hundredth of a pixel. What stands between tags is text and stays.
fn short_numbers(svg: &str) -> String {
    let mut short = String::with_capacity(svg.len());
    let (mut in_tag, mut decimals) = (false, None);
    for c in svg.chars() {
        decimals = match (decimals, c) {
            (_, '.') if in_tag => Some(0),
            (Some(n), '0'..='9') => Some(n + 1),
            (_, _) => None,
        };
        match c {
            '<' => in_tag = true,
            '>' => in_tag = false,
            _ => {}
        }
        if decimals.is_none_or(|n| n <= 2) {
            short.push(c);
        }
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Svg {
        let document = "<svg width=\"10\" height=\"5\"><!-- Generated --><clipPath id=\"kuva-clip-0\"/>\
                        <line x1=\"1.23456\" stroke=\"var(--s1)\"/><text x=\"0.5\">0.123456 &lt; 1</text></svg>";
        Svg::new(document, (10.0, 4.5), "loss", "Loss of a \"b\" & c")
    }

    #[test]
    fn a_picture_has_a_view_box_and_no_size() {
        let inline = picture().inline();
        assert!(
            inline.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 10 5\" role=\"img\""),
            "{inline}"
        );
        assert!(!inline.contains(" width=") && inline.ends_with("</svg>"), "{inline}");
        assert!(inline.contains("aria-label=\"Loss of a &quot;b&quot; &amp; c\""), "{inline}");
    }

    #[test]
    fn names_are_the_pictures_own_and_coordinates_are_short() {
        let inline = picture().inline();
        assert!(
            inline.contains("id=\"loss-clip-0\"")
                && !inline.contains("kuva")
                && !inline.contains("Generated")
        );
        assert!(inline.contains("x1=\"1.23\"") && inline.contains(">0.123456 &lt; 1<"), "{inline}");
    }

    #[test]
    fn a_file_brings_its_colours() {
        let file = picture().standalone();
        assert!(
            file.contains("--s1: #")
                && file.contains("prefers-color-scheme: dark")
                && file.ends_with("</svg>\n")
        );
    }
}

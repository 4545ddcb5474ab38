//! The report as bars on a logarithmic axis: an order of magnitude is what one looks for.

use std::fmt::Write as _;

use crate::report::Row;

const WIDTH: f64 = 960.0;
const LEFT: f64 = 330.0;
const BAR: f64 = 11.0;
const GAP: f64 = 10.0;
const TOP: f64 = 48.0;
const COLOURS: [&str; 5] = ["#1b7f5c", "#b0563b", "#4a6fa5", "#8a6d3b", "#777777"];

/// An SVG of every row.
pub(crate) fn svg(titles: &[String], rows: &[Row]) -> String {
    let figures = rows
        .iter()
        .flat_map(|row| row.figures.iter().flatten().chain(row.limit.as_ref()))
        .copied()
        .filter(|figure| *figure > 0.0);
    let (lowest, highest) = figures.fold((f64::MAX, f64::MIN), |(low, high), figure| {
        (low.min(figure), high.max(figure))
    });
    let scale = Scale::over(lowest.min(highest), highest.max(lowest));
    #[expect(clippy::cast_precision_loss, reason = "a few dozen rows")]
    let height = TOP + rows.len() as f64 * (titles.len() as f64 * BAR + GAP) + 16.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    legend(&mut text, titles);
    let mut y = TOP;
    for row in rows {
        draw(&mut text, row, &scale, y);
        #[expect(clippy::cast_precision_loss, reason = "a handful of contenders")]
        let bars = row.figures.len() as f64 * BAR;
        y += bars + GAP;
    }
    text.push_str("</svg>\n");
    text
}

fn legend(text: &mut String, titles: &[String]) {
    let mut x = LEFT;
    for (title, colour) in titles.iter().zip(COLOURS.iter().cycle()) {
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"14\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"23\">{}</text>",
            x + 14.0,
            escaped(title)
        );
        x += 180.0;
    }
    let _ = writeln!(
        text,
        "<text x=\"{LEFT}\" y=\"40\" fill=\"#555\">logarithmic; the black tick is the machine's own limit</text>"
    );
}

fn draw(text: &mut String, row: &Row, scale: &Scale, y: f64) {
    let _ = writeln!(
        text,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        LEFT - 8.0,
        y + BAR,
        escaped(&row.name)
    );
    let mut top = y;
    for (figure, colour) in row.figures.iter().zip(COLOURS.iter().cycle()) {
        if let Some(figure) = figure.filter(|figure| *figure > 0.0) {
            let width = scale.of(figure);
            let _ = writeln!(
                text,
                "<rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\">{figure:.2}</text>",
                BAR - 2.0,
                LEFT + width + 4.0,
                top + BAR - 3.0
            );
        }
        top += BAR;
    }
    if let Some(limit) = row.limit.filter(|limit| *limit > 0.0) {
        let x = LEFT + scale.of(limit);
        let _ = writeln!(
            text,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{top:.1}\" stroke=\"#000\" stroke-width=\"2\"/>",
            y - 1.0
        );
    }
}

struct Scale {
    low: f64,
    span: f64,
}

impl Scale {
    fn over(low: f64, high: f64) -> Self {
        let low = low.max(1e-3).log10() - 0.3;
        Self {
            low,
            span: (high.max(1e-3).log10() - low).max(1e-3),
        }
    }

    fn of(&self, figure: f64) -> f64 {
        ((figure.log10() - self.low) / self.span * (WIDTH - LEFT - 70.0)).max(1.0)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

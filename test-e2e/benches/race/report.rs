//! Rows of figures, one column per contender: printed, and written as Markdown and SVG.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use crate::plot;
use crate::sample::{Samples, milliseconds};

/// One line of the table.
pub(crate) struct Row {
    /// What was measured, with its unit.
    pub(crate) name: String,
    /// One figure per contender, in the unit; `None` where it could not be taken.
    pub(crate) figures: Vec<Option<f64>>,
    /// The cells as they are printed.
    cells: Vec<String>,
    /// The machine's own limit, in the unit.
    pub(crate) limit: Option<f64>,
    limit_cell: String,
}

/// What was found.
pub(crate) struct Report {
    machine: String,
    titles: Vec<String>,
    rows: Vec<Row>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(machine: String, titles: impl Iterator<Item = String>) -> Self {
        Self {
            machine,
            titles: titles.collect(),
            rows: Vec::new(),
        }
    }

    /// A call's durations: p50 / p95 / max in milliseconds, and the machine's limit where there is one.
    pub(crate) fn spread<'a>(
        &mut self,
        name: &str,
        cells: impl Iterator<Item = &'a Samples>,
        limit: Option<Duration>,
    ) {
        let (mut figures, mut texts) = (Vec::new(), Vec::new());
        for samples in cells {
            figures.push(Some(samples.quantile(0.5).as_secs_f64() * 1000.0));
            texts.push(samples.spread());
        }
        self.rows.push(Row {
            name: format!("{name}, ms"),
            figures,
            cells: texts,
            limit: limit.map(|limit| limit.as_secs_f64() * 1000.0),
            limit_cell: limit.map(milliseconds).unwrap_or_default(),
        });
    }

    /// One figure per contender.
    pub(crate) fn row(&mut self, name: &str, unit: &str, figures: impl IntoIterator<Item = Option<f64>>) {
        self.row_beside(name, unit, figures, None);
    }

    /// As [`Report::row`], beside the machine's own limit in that unit.
    pub(crate) fn row_beside(
        &mut self,
        name: &str,
        unit: &str,
        figures: impl IntoIterator<Item = Option<f64>>,
        limit: Option<f64>,
    ) {
        let figures: Vec<_> = figures.into_iter().collect();
        let cells = figures
            .iter()
            .map(|figure| figure.map_or_else(|| "–".to_owned(), plain))
            .collect();
        self.rows.push(Row {
            name: format!("{name}, {unit}"),
            figures,
            cells,
            limit,
            limit_cell: limit.map(plain).unwrap_or_default(),
        });
    }

    /// The table on stdout.
    pub(crate) fn print(&self) {
        println!("{}", self.markdown());
    }

    /// `race.md` and `race.svg` in `directory`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(crate) fn write(&self, directory: &Path) -> io::Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("race.md"), self.markdown())?;
        fs::write(directory.join("race.svg"), plot::svg(&self.titles, &self.rows))
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "{}\n\n| | {} | limit |\n|---|",
            self.machine,
            self.titles.join(" | ")
        );
        text.push_str(&"---|".repeat(self.titles.len() + 1));
        text.push('\n');
        for row in &self.rows {
            text.push_str(&format!(
                "| {} | {} | {} |\n",
                row.name,
                row.cells.join(" | "),
                row.limit_cell
            ));
        }
        text.push_str("\nCalls: p50 / p95 / max. Limit: the bare work of the same step, p50.\n");
        text
    }
}

fn plain(figure: f64) -> String {
    match figure {
        figure if figure < 10.0 => format!("{figure:.2}"),
        figure if figure < 100.0 => format!("{figure:.1}"),
        figure => format!("{figure:.0}"),
    }
}

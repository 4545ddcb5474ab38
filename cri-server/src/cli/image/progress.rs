//! How far a transfer is: one line drawn over and over on a terminal, a line per step otherwise.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};

use cri_api::admin::{PullProgress, PushProgress};

use super::super::output::{short, size};

const BAR: usize = 24;

/// Shows progress on stderr, so that stdout has only results.
pub(super) struct Shower {
    way: Way,
    /// What was told already.
    told: HashSet<String>,
}

enum Way {
    /// Drawn in place; whether a line stands there.
    Terminal {
        drawn: bool,
    },
    Lines,
    Silent,
}

impl Shower {
    pub(super) fn new(quiet: bool) -> Self {
        let way = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Way::Silent,
            (false, true) => Way::Terminal { drawn: false },
            (false, false) => Way::Lines,
        };
        Self {
            way,
            told: HashSet::new(),
        }
    }

    pub(super) fn pulling(&mut self, progress: &PullProgress) {
        match self.way {
            Way::Silent => {}
            Way::Terminal { .. } => self.draw(&pull_line(progress)),
            Way::Lines => {
                for line in pull_steps(progress) {
                    self.tell(line);
                }
            }
        }
    }

    pub(super) fn pushing(&mut self, progress: &PushProgress) {
        match self.way {
            Way::Silent => {}
            Way::Terminal { .. } => self.draw(&push_line(progress)),
            Way::Lines if progress.done > 0 => {
                self.tell(format!(
                    "{} of {} layers are there",
                    progress.done, progress.layers
                ));
            }
            Way::Lines => {}
        }
    }

    /// Takes the line away, so that what follows stands alone.
    pub(super) fn end(&mut self) {
        if matches!(self.way, Way::Terminal { drawn: true }) {
            self.draw("");
        }
    }

    fn draw(&mut self, line: &str) {
        // Carriage return, and erase to the end of the line (ECMA-48). A terminal that is gone is no error.
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
        self.way = Way::Terminal {
            drawn: !line.is_empty(),
        };
    }

    fn tell(&mut self, line: String) {
        if self.told.insert(line.clone()) {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

fn pull_line(progress: &PullProgress) -> String {
    let layers = &progress.layers;
    if layers.is_empty() {
        return progress.stage.clone();
    }
    let received: u64 = layers.iter().map(|layer| layer.received).sum();
    let total: u64 = layers.iter().map(|layer| layer.total).sum();
    let done = layers.iter().filter(|layer| layer.stage == "done").count();
    format!(
        "{} {} / {}, {done} of {} layers, {}",
        bar(received, total),
        size(received),
        size(total),
        layers.len(),
        progress.stage
    )
}

fn push_line(progress: &PushProgress) -> String {
    format!(
        "{} {} of {} layers, {} of the next sent",
        bar(progress.done, progress.layers),
        progress.done,
        progress.layers,
        size(progress.sent)
    )
}

/// What has happened so far, each step once.
fn pull_steps(progress: &PullProgress) -> Vec<String> {
    let done = progress.layers.iter().filter(|layer| layer.stage == "done");
    let mut steps: Vec<String> = done
        .map(|layer| format!("layer {} {}: done", short(&layer.digest), size(layer.total)))
        .collect();
    if !progress.stage.is_empty() {
        steps.insert(0, progress.stage.clone());
    }
    steps
}

fn bar(part: u64, whole: u64) -> String {
    let filled = match whole {
        0 => 0,
        _ => (u128::from(part.min(whole)) * BAR as u128 / u128::from(whole)) as usize,
    };
    format!("[{}{}]", "#".repeat(filled), "-".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use cri_api::admin::LayerProgress;

    use super::*;

    fn layer(received: u64, stage: &str) -> LayerProgress {
        LayerProgress {
            digest: format!("sha256:{}", "ab".repeat(32)),
            received,
            total: 2048,
            stage: stage.into(),
        }
    }

    #[test]
    fn a_line_shows_bytes_and_layers() {
        let progress = PullProgress {
            stage: "layers".into(),
            layers: vec![layer(2048, "done"), layer(1024, "fetching")],
        };
        assert_eq!(
            pull_line(&progress),
            "[##################------] 3.0 KiB / 4.0 KiB, 1 of 2 layers, layers"
        );
        assert_eq!(
            pull_steps(&progress),
            ["layers", "layer abababababab 2.0 KiB: done"]
        );
        assert_eq!(bar(9, 3), format!("[{}]", "#".repeat(BAR)));
        assert_eq!(bar(0, 0), format!("[{}]", "-".repeat(BAR)));
    }
}

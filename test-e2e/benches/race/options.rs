//! What the command line asks for.

use std::path::PathBuf;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Each call of a pod's life, one pod after the other.
    Cycle,
    /// Forty pods up and down, eight at a time.
    Crowd,
    /// What thirty idle pods cost.
    Memory,
    /// From the daemon's exec to its first answer, with thirty pods running.
    Answer,
    /// What the log path carries.
    Logs,
    /// Images from a registry on loopback.
    Pull,
}

impl Part {
    const ALL: [Self; 6] = [
        Self::Cycle,
        Self::Crowd,
        Self::Memory,
        Self::Answer,
        Self::Logs,
        Self::Pull,
    ];

    /// As `--only` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cycle => "cycle",
            Self::Crowd => "crowd",
            Self::Memory => "memory",
            Self::Answer => "answer",
            Self::Logs => "logs",
            Self::Pull => "pull",
        }
    }
}

/// The parsed command line.
#[derive(Debug)]
pub(crate) struct Options {
    /// Cycles per contender.
    pub(crate) cycles: usize,
    /// Only these parts; all when empty.
    only: Vec<Part>,
    /// Runtimes that already serve: name and socket.
    pub(crate) endpoints: Vec<(String, PathBuf)>,
    /// Other builds of crisp to start: name and program.
    pub(crate) beside: Vec<(String, PathBuf)>,
    /// Where the report goes.
    pub(crate) report: PathBuf,
    /// Whether containerd is left out.
    pub(crate) alone: bool,
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// # Errors
    /// Which argument is wrong, and what was expected.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            cycles: 60,
            only: Vec::new(),
            endpoints: Vec::new(),
            beside: Vec::new(),
            report: std::env::temp_dir().join("crisp-race-report"),
            alone: false,
        };
        while let Some(argument) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or_else(|| format!("{argument} wants a value"))
            };
            match argument.as_str() {
                // What cargo adds to every bench.
                "--bench" => {}
                "--alone" => options.alone = true,
                "--cycles" => {
                    let text = value()?;
                    options.cycles = text
                        .parse()
                        .ok()
                        .filter(|cycles| *cycles > 0)
                        .ok_or_else(|| format!("--cycles: {text} is not a positive number"))?;
                }
                "--only" => {
                    let text = value()?;
                    let part = Part::ALL.into_iter().find(|part| part.name() == text);
                    options
                        .only
                        .push(part.ok_or_else(|| format!("--only: {text} is none of the parts"))?);
                }
                "--endpoint" => options.endpoints.push(named(&argument, &value()?)?),
                "--beside" => options.beside.push(named(&argument, &value()?)?),
                "--report" => options.report = PathBuf::from(value()?),
                other => return Err(format!("{other} is not an option")),
            }
        }
        Ok(options)
    }

    /// What to measure, in order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Part> + '_ {
        Part::ALL
            .into_iter()
            .filter(|part| self.only.is_empty() || self.only.contains(part))
    }
}

/// NAME=PATH.
fn named(option: &str, text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) => Ok((name.to_owned(), PathBuf::from(path))),
        None => Err(format!("{option}: {text} is not NAME=PATH")),
    }
}

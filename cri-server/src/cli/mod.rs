//! The command line: one binary that is the daemon and what people type at its side.
//!
//! | command | talks to | exit code |
//! |---|---|---|
//! | `crisp`, `crisp serve` | is the daemon | 1 when it cannot start |
//! | `crisp check` | the host | 1 when something essential is lacking |
//! | `crisp config`, `crisp version` | nobody | |
//! | `crisp status` | the daemon's admin service | 1 when the node is not ready |
//! | `crisp image …` | admin service, CRI | 1 when an image is missing or refused |
//! | `crisp demo` | CRI, as kubelet does | 1 when a step fails or leaves something behind |
//!
//! Everywhere: 0 is fine, 1 a problem, 2 a wrong command line or configuration, 3 no daemon. Results go to stdout, with
//! `-o json` as one JSON document; everything else goes to stderr.

mod check;
mod client;
mod demo;
mod error;
mod image;
mod output;
mod status;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use futures::FutureExt;

use crate::config::{Config, Overrides};
use crate::telemetry;
pub(crate) use error::CliError;
use output::Format;

type Result<T> = std::result::Result<T, CliError>;

/// A Kubernetes container runtime: without a command, the daemon.
#[derive(Debug, Parser)]
#[command(
    name = "crisp",
    version,
    after_help = "Exit codes: 0 fine, 1 problem, 2 wrong usage or configuration, 3 no daemon.\n\
                  Without a configuration file all defaults hold; `crisp config` prints them."
)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Flags that win over the configuration files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Configuration")]
struct Settings {
    /// Read this file and FILE.d/*.toml instead of /etc/crisp/config.toml and its drop-ins
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve, or call, on this socket
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<String>,
    /// Directory for what dies with the boot
    #[arg(long, global = true, value_name = "DIR")]
    state_dir: Option<String>,
    /// Directory for images and records
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// error, warn, info, debug or trace; MODULE=LEVEL for exceptions, with commas between
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Shape of log lines
    #[arg(long, global = true, value_name = "text|json")]
    log_format: Option<String>,
    /// The crisp-pod binary
    #[arg(long, global = true, value_name = "FILE")]
    supervisor: Option<String>,
    /// Directory of CNI conflists
    #[arg(long, global = true, value_name = "DIR")]
    cni_conf_dir: Option<String>,
    /// Directory of CNI plugins; may be given several times
    #[arg(long = "cni-bin-dir", global = true, value_name = "DIR")]
    cni_bin_dirs: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon (also without a command)
    Serve,
    /// Tell what this host offers and lacks, each lack with its effect and remedy
    Check(Shown),
    /// Print the effective configuration, every key with what it means
    Config(Shown),
    /// Take one pod through its life, timed, and prove that nothing is left behind
    Demo,
    /// Show pods, containers, network, operations in flight and warnings
    Status(Shown),
    /// Pull, push, import, export, list, tag, commit, prune and remove images
    #[command(subcommand)]
    Image(image::Command),
    /// Print the version
    Version(Shown),
    /// What runs in the demo's container
    #[command(hide = true)]
    DemoWorkload,
}

#[derive(Debug, Clone, Copy, Args)]
struct Shown {
    /// Print as text or as JSON
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// Parses the command line and does what it says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    match cli.execute() {
        Ok(code) => code,
        Err(error) => {
            if !error.is_silent() {
                eprintln!("crisp: {error}");
            }
            error.exit_code()
        }
    }
}

impl Cli {
    fn execute(self) -> Result<ExitCode> {
        let settings = self.settings;
        match self.command.unwrap_or(Command::Serve) {
            Command::Serve => serve(settings.load()?),
            Command::Check(shown) => check::run(&settings.load()?, shown.output),
            Command::Config(shown) => print_config(&settings.load()?, shown.output),
            Command::Demo => block_on(demo::run(&settings.load()?)),
            Command::Status(shown) => block_on(status::run(&settings.load()?.socket, shown.output)),
            Command::Image(command) => block_on(image::run(&settings.load()?.socket, command)),
            Command::Version(shown) => version::run(shown.output),
            Command::DemoWorkload => block_on(demo::workload()),
        }
    }
}

impl Settings {
    fn load(&self) -> Result<Config> {
        Ok(Config::load(self.config.as_deref(), &self.overrides())?)
    }

    fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        for (flag, key, value) in [
            ("--socket", "socket", &self.socket),
            ("--state-dir", "state_dir", &self.state_dir),
            ("--data-dir", "data_dir", &self.data_dir),
            ("--log-level", "log.level", &self.log_level),
            ("--log-format", "log.format", &self.log_format),
            ("--supervisor", "supervisor.path", &self.supervisor),
            ("--cni-conf-dir", "network.conf_dir", &self.cni_conf_dir),
        ] {
            if let Some(value) = value {
                overrides.set(flag, key, value.clone());
            }
        }
        if !self.cni_bin_dirs.is_empty() {
            overrides.set("--cni-bin-dir", "network.bin_dirs", self.cni_bin_dirs.clone());
        }
        overrides
    }
}

fn serve(config: Config) -> Result<ExitCode> {
    telemetry::init(&config.log);
    // Half of the processors: the other half of a call is waited for, the kernel's work in threads that may block, the
    // supervisors', the containers'. A worker without work costs those a wake and a look, each time there is some.
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((processors / 2).max(1))
        .enable_all()
        .build()
        .map_err(CliError::Threads)?;
    // Boxed, here and below: the runtime has several ways to wait, and the whole program would be compiled into each.
    runtime
        .block_on(crate::serve::serve(config).boxed_local())
        .map_err(CliError::Serve)?;
    Ok(ExitCode::SUCCESS)
}

/// Clients need one thread.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Threads)?;
    let done = runtime.block_on(work.boxed_local());
    // A read from a terminal that nobody types on must not hold the command up.
    runtime.shutdown_background();
    done
}

fn print_config(config: &Config, format: Format) -> Result<ExitCode> {
    match format {
        Format::Text => output::print(&config.to_toml())?,
        Format::Json => output::print_json(&config.to_json())?,
    }
    Ok(ExitCode::SUCCESS)
}

impl ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Text, Self::Json]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(match self {
            Self::Text => "text",
            Self::Json => "json",
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_is_the_daemon_and_flags_may_stand_anywhere() {
        let cli = Cli::try_parse_from(["crisp"]).expect("no arguments");
        assert!(cli.command.is_none());
        let cli = Cli::try_parse_from(["crisp", "status", "--socket", "/run/x.sock", "-o", "json"])
            .expect("status");
        assert_eq!(cli.settings.socket.as_deref(), Some("/run/x.sock"));
        assert!(matches!(
            cli.command,
            Some(Command::Status(Shown { output: Format::Json }))
        ));
        let refused = Cli::try_parse_from(["crisp", "statsu"]).expect_err("a typo");
        assert_eq!(refused.exit_code(), 2);
    }

    #[test]
    fn flags_reach_the_configuration() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "socket = \"/run/from-file.sock\"\n").expect("a file");
        let file = file.to_str().expect("UTF-8");
        let parsed = Cli::try_parse_from([
            "crisp",
            "--config",
            file,
            "--cni-bin-dir",
            "/a",
            "--cni-bin-dir",
            "/b",
        ])
        .expect("flags");
        let config = parsed.settings.load().expect("a configuration");
        assert_eq!(config.socket.to_str(), Some("/run/from-file.sock"));
        assert_eq!(
            config.network.bin_dirs,
            [PathBuf::from("/a"), PathBuf::from("/b")]
        );
        let parsed = Cli::try_parse_from(["crisp", "--config", file, "--log-level", "[["]).expect("flags");
        let refused = parsed.settings.load().expect_err("no filter");
        assert!(
            refused.to_string().starts_with("--log-level: `log.level`"),
            "{refused}"
        );
    }
}

//! `weir check`: all findings about a configuration, and what it would do.

mod against;
#[cfg(test)]
mod tests;
mod worst;

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use clap::Args;
use weir_engine::spec::Durability;
use weir_plugin_api::{options::Severity, units::format_duration};

use super::{ConfigArgs, DONE, FAILED, WRONG, print, show};
use crate::config::{self, Config, System};

/// `weir check`.
#[derive(Args, Debug)]
pub struct Check {
    #[command(flatten)]
    config: ConfigArgs,
    /// Memory the agent may have, such as "64MiB"; absent: `MemoryMax` of the installed unit, or what the machine has.
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<String>,
    /// Say what would become of the state of the running agent, part by part, were it given this configuration.
    #[arg(long)]
    against_running: bool,
    /// Say what would become of the state in this directory; it is only read.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "against_running")]
    against: Option<PathBuf>,
    /// The running agent's control socket, if it is not where this configuration says.
    #[arg(long, value_name = "PATH", requires = "against_running")]
    socket: Option<PathBuf>,
}

impl Check {
    /// Runs it.
    pub fn run(self) -> u8 {
        let environment = System::default();
        match config::load(&(&self.config).into(), &environment) {
            Ok((config, warnings)) => {
                show(&warnings);
                let limit = match worst::limit(self.memory_max.as_deref(), Path::new("/")) {
                    Ok(limit) => limit,
                    Err(reason) => {
                        eprintln!("weir: {reason}");
                        return WRONG;
                    }
                };
                let worst = worst::parts(&config);
                let over = worst::over(&worst, limit.as_ref());
                if let Some(over) = &over {
                    eprintln!("warning: {over}");
                }
                print(&summary(&config, warnings.count(Severity::Warning) + usize::from(over.is_some()), &worst));
                self.compare(&config)
            }
            Err(report) => {
                show(&report);
                let errors = report.count(Severity::Error);
                eprintln!("{errors} {} found, nothing was touched", if errors == 1 { "error" } else { "errors" });
                WRONG
            }
        }
    }
}

impl Check {
    /// Compares with what runs, or lies there, if that is asked.
    fn compare(&self, config: &Config) -> u8 {
        let before = match (&self.against, self.against_running) {
            (Some(directory), _) => against::stored(directory),
            (None, true) => against::running(self.socket.as_deref().or(config.status.socket.as_deref())),
            (None, false) => return DONE,
        };
        match before {
            Ok(before) => {
                print(&against::table(&before, &config.engine));
                DONE
            }
            Err(reason) => {
                eprintln!("weir: {reason}");
                FAILED
            }
        }
    }
}

fn summary(config: &Config, warnings: usize, worst: &[worst::Part]) -> String {
    let mut out = String::new();
    let mut line = |what: &str, names: Vec<&str>| {
        if !names.is_empty() {
            let _ = writeln!(out, "{what:<8} {:>3}  {}", names.len(), names.join(", "));
        }
    };
    let engine = &config.engine;
    line("inputs", config.inputs.iter().map(|i| i.name.as_str()).collect());
    line("windows", engine.windows.iter().map(|w| w.name.as_str()).collect());
    line("alerts", engine.alerts.iter().map(|a| a.name.as_str()).collect());
    line("actions", config.actions.iter().map(|a| a.name.as_str()).collect());
    line("outputs", config.outputs.iter().map(|o| o.name.as_str()).collect());
    for output in &config.outputs {
        if let Some(guarantee) = output.output.guarantee() {
            let _ = writeln!(out, "output {}: {guarantee}", output.name);
        }
    }
    let storage = &engine.storage;
    let durability = match storage.durability {
        Durability::Power => "power",
        Durability::Crash => "crash",
        Durability::None => "none",
    };
    let commit = format_duration(std::time::Duration::from_nanos(storage.commit_interval.unsigned_abs()));
    let _ = writeln!(out, "durability \"{durability}\", a commit at least every {commit} while readings come in");
    out.push_str(&worst::table(worst));
    let _ = writeln!(
        out,
        "ok, {}",
        match warnings {
            0 => "no warnings".to_owned(),
            1 => "1 warning".to_owned(),
            n => format!("{n} warnings"),
        }
    );
    out
}

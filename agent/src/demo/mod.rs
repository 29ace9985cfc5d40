//! `weir demo`: a whole gateway in one process, with simulated sensors that come in over the real inputs.

mod broker;
mod screen;
mod sensors;

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::TcpListener;
use weir_engine::spec::OutputSpec;
use weir_plugin_api::plugin::Stop;

use self::screen::SharedScreen;
use crate::{
    config::{Config, Environment, System, types::ConfiguredOutput},
    run::{RunOptions, Running, start::start, stop::Ended, writes::SharedWrites},
    sys::clock::SystemClock,
};

/// The configuration, which also runs by itself.
const CONFIG: &str = include_str!("../../../configs/demo.toml");
/// How often the table is drawn anew.
const DRAW: Duration = Duration::from_millis(500);

/// What the demo is asked to do.
pub struct Options {
    /// End after this long.
    pub for_: Option<Duration>,
    /// Where state and results are kept; a temporary directory otherwise.
    pub directory: Option<PathBuf>,
}

/// The world with the demo's own variables in it.
struct DemoEnvironment {
    system: System,
    state: PathBuf,
    variables: [(&'static str, String); 3],
}

impl Environment for DemoEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        let own = self.variables.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        own.or_else(|| self.system.variable(name))
    }

    fn read(&self, path: &Path) -> std::io::Result<Vec<u8>> {
        self.system.read(path)
    }

    fn list(&self, path: &Path) -> std::io::Result<Option<Vec<PathBuf>>> {
        self.system.list(path)
    }

    fn hostname(&self) -> String {
        self.system.hostname()
    }

    fn is_root(&self) -> bool {
        self.system.is_root()
    }

    fn directory(&self) -> Option<PathBuf> {
        Some(self.state.clone())
    }
}

/// Runs the demo.
///
/// # Errors
/// What kept it from starting, as a sentence.
pub fn run(options: &Options) -> Result<(), String> {
    let (directory, temporary) = match &options.directory {
        Some(directory) => (directory.clone(), false),
        None => (std::env::temp_dir().join(format!("weir-demo-{}", std::process::id())), true),
    };
    std::fs::create_dir_all(&directory).map_err(|e| format!("can't make {}: {e}", directory.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(demo(options, &directory));
    // A demo that was told of no directory leaves nothing behind.
    if temporary {
        let _ = std::fs::remove_dir_all(&directory);
    }
    result
}

async fn demo(options: &Options, directory: &Path) -> Result<(), String> {
    let end = Stop::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| format!("no port for the demo's broker: {e}"))?;
    let port = listener.local_addr().map_err(|e| e.to_string())?.port();
    tokio::spawn(broker::serve(listener, end.clone()));
    // Containers and emulators may have none. The input then looks for a port that does not come.
    let serial = sensors::pump(end.clone()).unwrap_or_else(|error| {
        eprintln!("weir: no pseudo-terminal, so the demo goes without its serial sensor: {error}");
        directory.join("no-serial-port").display().to_string()
    });
    let results = directory.join("results.lp");
    let environment = DemoEnvironment {
        system: System::default(),
        state: directory.join("state"),
        variables: [
            ("WEIR_DEMO_BROKER", format!("tcp://127.0.0.1:{port}")),
            ("WEIR_DEMO_SERIAL", serial),
            ("WEIR_DEMO_RESULTS", results.display().to_string()),
        ],
    };
    let (mut config, _) = Config::from_str(CONFIG, "demo.toml", &environment).map_err(|report| report.render(false))?;
    let screen = SharedScreen::default();
    show_on(&screen, &mut config);
    let clock = Arc::new(SystemClock::default());
    let run_options = RunOptions { once: false, directory: Some(directory.join("state")), root: None };
    let running = start(config, &run_options, &clock, &SharedWrites::new(clock.clone())).map_err(|error| error.to_string())?;
    tokio::spawn(sensors::boiler(port, end.clone()));
    let ended = watch(running, options, &screen, &results).await;
    end.request();
    summary(&ended, &screen, options.directory.as_ref().map(|_| results));
    Ok(())
}

/// The screen is one more output, before the actions.
fn show_on(screen: &SharedScreen, config: &mut Config) {
    let at = config.outputs.len();
    let spec = OutputSpec { name: "screen".into(), alerts: true, results: true, ..OutputSpec::default() };
    config.engine.outputs.insert(at, spec);
    for alert in &mut config.engine.alerts {
        // Bits of the actions move up by the one that was put before them.
        let below = alert.edge_actions & ((1 << at) - 1);
        alert.edge_actions = below | (alert.edge_actions >> at) << (at + 1);
    }
    config.outputs.push(ConfiguredOutput {
        name: "screen".into(),
        plugin: "screen",
        filter: Default::default(),
        name_override: None,
        name_prefix: String::new(),
        name_suffix: String::new(),
        batch: 1000,
        flush_interval: Duration::from_millis(100),
        flush_jitter: Duration::ZERO,
        output: Box::new(screen.clone()),
    });
}

async fn watch(running: Running, options: &Options, screen: &SharedScreen, results: &Path) -> Ended {
    let terminal = std::io::stdout().is_terminal();
    let started = Instant::now();
    let time_is_up = async {
        match options.for_ {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let mut draw = tokio::time::interval(DRAW);
    if !terminal {
        print(&format!("weir demo: five simulated sensors, results in {}\n", results.display()));
    }
    tokio::pin!(time_is_up);
    loop {
        tokio::select! {
            () = &mut time_is_up => break,
            _ = tokio::signal::ctrl_c() => break,
            _ = draw.tick() => {
                let lines = screen.take_lines();
                if !terminal {
                    lines.iter().for_each(|line| print(&format!("{:>6.1} s  {line}\n", started.elapsed().as_secs_f64())));
                } else if let Some(ledger) = running.core.ledger().await {
                    print(&screen.draw(&ledger, &results.display().to_string(), started.elapsed().as_secs()));
                }
            }
        }
    }
    running.stop().await
}

fn summary(ended: &Ended, screen: &SharedScreen, kept: Option<PathBuf>) {
    if !std::io::stdout().is_terminal() {
        screen.take_lines().iter().for_each(|line| print(&format!("          {line}\n")));
    }
    print("\n");
    if let Some(ledger) = &ended.ledger {
        print(&crate::http::report::Report::of_ledger(ledger).table());
    }
    if let Some(results) = kept {
        print(&format!("state and results are kept: {}\n", results.display()));
    }
}

/// A reader that has gone away is no failure.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

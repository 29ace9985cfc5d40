//! `weir run`: starts the agent and answers signals.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weir_plugin_api::plugin::{InternalPoint, Stop};
use weir_store::RealFiles;

use super::{ConfigArgs, DONE, FAILED, WRONG, show};
use crate::{
    config::{self, Config, System, environment::Internal, types::StatusOptions},
    http::{self, Shown, report::Report},
    run::{CoreHandle, RunOptions, Running, StartError, start::start, writes::SharedWrites},
    sys::{clock::SystemClock, log, notify},
};

/// What an answer under way gets when its server ends.
const SERVERS_GRACE: Duration = Duration::from_millis(300);

/// `weir run`.
#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask every input once (a file or standard input to its end), close the windows, deliver, and end.
    #[arg(long)]
    once: bool,
    /// Keep the state here, whatever the configuration says.
    #[arg(long, value_name = "PATH")]
    directory: Option<PathBuf>,
}

impl Run {
    /// Runs it.
    pub fn run(self) -> u8 {
        let core = SharedCore::default();
        let environment = System::with_internal(core.internal()).with_directory(self.directory.clone());
        let sources = (&self.config).into();
        let config = match config::load(&sources, &environment) {
            Ok((config, warnings)) => {
                show(&warnings);
                config
            }
            Err(report) => {
                show(&report);
                return WRONG;
            }
        };
        log::start(&config.agent.log_level);
        let options = RunOptions { once: self.once, directory: self.directory, root: None };
        run(config, &options, &core, || match config::load(&sources, &environment) {
            Ok((config, warnings)) => {
                show(&warnings);
                Some(config)
            }
            Err(report) => {
                show(&report);
                None
            }
        })
    }
}

/// The core that runs now, for the `internal` input, which is built before there is one.
#[derive(Clone, Default)]
pub struct SharedCore(Arc<Mutex<Option<CoreHandle>>>);

impl SharedCore {
    /// The agent's counters as points.
    pub fn internal(&self) -> Internal {
        let core = Arc::clone(&self.0);
        Arc::new(move || {
            let core = core.lock().unwrap_or_else(PoisonError::into_inner).clone();
            core.and_then(|core| core.ledger_now()).map_or_else(Vec::new, |ledger| internal_points(&Report::of_ledger(&ledger)))
        })
    }

    fn set(&self, core: &CoreHandle) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(core.clone());
    }
}

/// One point per row of the report, named as Telegraf names its own: `internal_…`.
fn internal_points(report: &Report) -> Vec<InternalPoint> {
    let fields = |numbers: &std::collections::BTreeMap<String, u64>| numbers.iter().map(|(k, v)| (k.clone(), *v)).collect();
    let mut points = Vec::new();
    for (kind, rows) in [("input", &report.inputs), ("operator", &report.operators), ("output", &report.outputs)] {
        points.extend(rows.iter().map(|row| InternalPoint {
            measurement: format!("internal_{kind}"),
            tags: vec![(kind.to_owned(), row.name.clone())],
            fields: fields(&row.numbers),
        }));
    }
    for (name, numbers) in [("internal_engine", &report.engine), ("internal_store", &report.store)] {
        points.push(InternalPoint { measurement: name.into(), tags: Vec::new(), fields: fields(numbers) });
    }
    points
}

/// Why a run ended.
enum Ending {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP, with the configuration to go on with.
    Reload(Box<Config>),
    /// Every input has come to its end.
    Finished {
        /// One of them failed.
        failed: bool,
    },
}

/// Runs until a signal or, with `once`, until everything is delivered. `reload` reads the configuration anew and prints what is wrong.
pub fn run(config: Config, options: &RunOptions, core: &SharedCore, reload: impl Fn() -> Option<Config>) -> u8 {
    let workers = config.agent.workers;
    let runtime = if workers > 1 {
        tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    };
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(generations(config, options, core, reload));
            // Everything has ended in order; a name that is still being looked up, or a disk that takes nothing, must not hold up the end.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            tracing::error!(%error, "can't start the runtime");
            FAILED
        }
    }
}

/// What the agent is told by signals. They are listened for from the very start to the end: one that comes before there is an agent, or while
/// one gives way to the next, is answered by the next.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// A checkpoint is asked for.
    asked: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            asked: signal(SignalKind::user_defined1())?,
        })
    }
}

/// One generation per configuration: a reload stops the old agent in order and starts the new one on the same state.
async fn generations(mut config: Config, options: &RunOptions, core: &SharedCore, reload: impl Fn() -> Option<Config>) -> u8 {
    let clock = Arc::new(SystemClock::default());
    let writes = SharedWrites::new(clock.clone());
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "can't listen for signals");
            return FAILED;
        }
    };
    loop {
        let (status, hash) = (config.status.clone(), config.hash);
        let running = match start(config, options, &clock, &writes) {
            Ok(running) => running,
            Err(error) => return refuse(&error),
        };
        tracing::debug!(configuration = format!("{hash:016x}"), "configuration in force");
        core.set(&running.core);
        match generation(running, status, options, &mut signals, &reload).await {
            Ok(next) => {
                notify::reloading();
                config = *next;
            }
            Err(code) => return code,
        }
    }
}

fn refuse(error: &StartError) -> u8 {
    let mut text = format!("weir: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    eprintln!("{text}");
    if matches!(error, StartError::Endless(_)) { WRONG } else { FAILED }
}

/// Runs one agent; the configuration of the next, or the exit code.
async fn generation(
    mut running: Running,
    status: StatusOptions,
    options: &RunOptions,
    signals: &mut Signals,
    reload: &impl Fn() -> Option<Config>,
) -> Result<Box<Config>, u8> {
    let (served, servers) = serve(&running, status, options);
    served.ready.request();
    let watched = Stop::default();
    let watch = running.power_fail.take().map(|line| tokio::spawn(line.watch(watched.clone(), power_fails(&running))));
    notify::ready();
    tracing::info!(directory = %running.directory.display(), inputs = running.names.inputs.len(), outputs = running.names.outputs.len(), "running");
    let directory = running.directory.clone();
    let ending = wait(&mut running, signals, &|| reload().filter(|next| can_open(next, options, &directory))).await;
    if matches!(ending, Ending::Stop) {
        notify::stopping();
    }
    let ended = match ending {
        Ending::Finished { failed } => running.finish(failed).await,
        Ending::Stop | Ending::Reload(_) => running.stop().await,
    };
    servers.end().await;
    // To the last: the line is free for the next agent then, which looks at its level.
    watched.request();
    if let Some(watch) = watch {
        let _ = watch.await;
    }
    for residue in ended.ledger.iter().flat_map(weir_engine::core::Ledger::residues) {
        tracing::error!(%residue, "the ledger does not balance");
    }
    if ended.undelivered > 0 {
        tracing::warn!(points = ended.undelivered, "not delivered yet, kept in the store");
    }
    if !matches!(ending, Ending::Reload(_)) {
        tracing::info!("stopped");
    }
    match ending {
        Ending::Reload(next) => Ok(next),
        Ending::Stop => Err(DONE),
        Ending::Finished { .. } if ended.failed || ended.undelivered > 0 => Err(FAILED),
        Ending::Finished { .. } => Err(DONE),
    }
}

/// Whether the state directory of the next configuration can be opened, if it is another one: after the old agent has ended is too late to ask.
fn can_open(next: &Config, options: &RunOptions, current: &Path) -> bool {
    let directory = options.state_directory(next);
    let is_ours = matches!((directory.canonicalize(), current.canonicalize()), (Ok(next), Ok(current)) if next == current);
    match if is_ours { Ok(()) } else { RealFiles::open(&directory).map(drop) } {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(directory = %directory.display(), error = error.with_causes(), "the state directory can't be opened");
            false
        }
    }
}

/// What is done when the power-fail line becomes active.
fn power_fails(running: &Running) -> impl FnMut() + Send + 'static {
    let checkpoints = running.checkpoints.clone();
    move || {
        tracing::warn!("the power is about to go");
        let checkpoints = checkpoints.clone();
        // It says itself how it went.
        tokio::spawn(async move { checkpoints.make("power_fail").await });
    }
}

/// The servers of one agent's status.
struct Servers {
    end: Stop,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Servers {
    /// Ends them: when this returns, their addresses are free for the next agent, whoever is still connected.
    async fn end(self) {
        self.end.request();
        for mut task in self.tasks {
            if tokio::time::timeout(SERVERS_GRACE, &mut task).await.is_err() {
                task.abort();
                let _ = task.await;
            }
        }
    }
}

fn serve(running: &Running, status: StatusOptions, options: &RunOptions) -> (Arc<Shown>, Servers) {
    let (end, mut tasks) = (Stop::default(), Vec::new());
    let shown = Arc::new(Shown {
        engine: Arc::clone(&running.engine),
        core: running.core.clone(),
        checkpoints: running.checkpoints.clone(),
        input_health: running.input_health.clone(),
        health: running.health.clone(),
        writes: running.writes.clone(),
        endurance_bytes: running.endurance_bytes,
        bound: running.bound,
        directory: running.directory.clone(),
        ready: Stop::default(),
    });
    if !options.once {
        match config::control_socket(status.socket.as_deref(), &System::default()) {
            Some(socket) => tasks.push(tokio::spawn(http::serve_unix(socket, Arc::clone(&shown), end.clone()))),
            None => tracing::warn!("no place for a control socket, `weir status` won't work: set `socket` in [status]"),
        }
    }
    if let Some(address) = status.listen {
        tasks.push(tokio::spawn(http::serve_tcp(address, Arc::clone(&shown), end.clone())));
    }
    (shown, Servers { end, tasks })
}

/// Waits for whatever ends this agent. A reload that is refused ends nothing.
async fn wait(running: &mut Running, signals: &mut Signals, reload: &impl Fn() -> Option<Config>) -> Ending {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return Ending::Stop,
            _ = signals.interrupt.recv() => return Ending::Stop,
            _ = signals.hangup.recv() => match reload() {
                Some(config) => {
                    tracing::info!("configuration read again");
                    return Ending::Reload(Box::new(config));
                }
                None => tracing::error!("new configuration refused, the old one goes on"),
            },
            _ = signals.asked.recv() => {
                let checkpoints = running.checkpoints.clone();
                // It says itself how it went.
                tokio::spawn(async move { checkpoints.make("SIGUSR1").await });
            }
            failed = running.inputs_end() => return Ending::Finished { failed },
        }
    }
}

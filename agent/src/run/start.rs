//! Starting: store, recovery, threads, then outputs before inputs, so that nothing arrives that could not leave.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering, mpsc},
};

use tokio::{
    sync::{mpsc as async_mpsc, watch},
    task::JoinSet,
};
use weir_engine::core::{Core, FoundBlock};
use weir_plugin_api::{
    Collector, Lane,
    plugin::{AnyAction, AnyInput, InputContext, InputHealth, Notification, OutputResume, Stop},
    ring::{RingReceiver, RingSender, WakeCore, ring},
    time::Clock,
};
use weir_store::{RealFiles, Recovered, Store, StoreOptions};

use super::{
    Names, OutputHealth, RunOptions, Running, StartError, Stops,
    actions::{EdgeTask, LevelTask},
    bind::{self, bind},
    checkpoint::OnRequest,
    core_thread::CoreThread,
    dead_letters::DeadLetters,
    delivery::{Delivery, DeliveryOptions, Offered},
    disk_thread::{self, core_found, core_meta},
    handle::CoreHandle,
    inputs::{self, Schedule},
    transform::Transform,
    writes::SharedWrites,
};
use crate::{
    config::types::{Config, ConfiguredInput},
    sys::{clock::SystemClock, machine::Machine, notify},
};

type Offers = (Vec<async_mpsc::UnboundedSender<Offered>>, Vec<async_mpsc::UnboundedReceiver<Offered>>);

/// How often a block of the outbox is read that can't be, at a start without a state.
const READS: usize = 3;

/// Starts an agent of this configuration.
///
/// # Errors
/// See [`StartError`]; nothing is left running then.
pub fn start(mut config: Config, options: &RunOptions, clock: &Arc<SystemClock>, writes: &SharedWrites) -> Result<Running, StartError> {
    if options.once {
        refuse_endless(&config.inputs)?;
    }
    let directory = options.state_directory(&config);
    let (store, core) = recover(&config, &directory, clock)?;
    let (handle, inbox) = CoreHandle::new();
    let names = Names {
        inputs: config.inputs.iter().map(|i| i.name.clone()).collect(),
        outputs: config.engine.outputs.iter().map(|o| o.name.clone()).collect(),
    };

    let wake: WakeCore = {
        let handle = handle.clone();
        Arc::new(move || handle.wake())
    };
    let (senders, rings): (Vec<RingSender>, Vec<RingReceiver>) =
        config.inputs.iter().map(|_| ring(config.agent.ring_batches.max(2), Arc::clone(&wake))).unzip();
    let (offer_senders, offer_receivers): Offers = config.engine.outputs.iter().map(|_| async_mpsc::unbounded_channel()).unzip();
    let (alarm_senders, alarm_receivers): (Vec<_>, Vec<_>) =
        (0..config.engine.outputs.len()).filter(|o| config.engine.outputs[*o].edge).map(|o| alarms(o as u16)).unzip();
    let (level_senders, level_receivers): (Vec<_>, Vec<_>) = config.engine.levels.iter().map(|_| watch::channel(None)).unzip();

    let stops = Stops::default();
    let shutdown_timeout = config.agent.shutdown_timeout;
    let health: Vec<Arc<OutputHealth>> = config.engine.outputs.iter().map(|_| Arc::default()).collect();
    let resumes: Vec<_> = (0..config.inputs.len()).map(|i| core.resume(i as u16).clone()).collect();
    let held: Vec<bool> = (0..config.engine.outputs.len()).map(|o| core.is_held(o as u16)).collect();
    health.iter().zip(&held).for_each(|(health, held)| health.held.store(*held, Ordering::Relaxed));
    let bound = bind(&bind::Start {
        directory: &directory,
        store: store.id(),
        recovered: core.last_record(),
        machine: &Machine::read(options.root.as_deref().unwrap_or(Path::new("/"))),
        new_id: random(clock.wall()),
    });
    let output_resumes: Vec<_> =
        (0..config.engine.outputs.len()).map(|o| OutputResume { agent: bound.id, ..core.output_resume(o as u16) }).collect();

    // Before the journal says that they are there.
    config.outputs.iter_mut().zip(&output_resumes).filter(|(_, resume)| !resume.known).for_each(|(output, _)| output.output.forget());

    let (disk_sender, disk_receiver) = mpsc::channel();
    let disk_thread = {
        let (handle, writes) = (handle.clone(), writes.clone());
        spawn("disk", move || disk_thread::run(store, &disk_receiver, &handle, &writes))?
    };
    let core_thread = {
        let thread = CoreThread {
            core,
            rings,
            can_wait: config.inputs.iter().map(|i| i.built.input.can_wait()).collect(),
            inbox,
            disk: disk_sender,
            outputs: offer_senders,
            levels: level_senders,
            alarms: alarm_senders,
            tags: config.engine.global_tags.clone(),
            clock: Arc::clone(clock),
            handle: handle.clone(),
        };
        spawn("core", move || thread.run())?
    };

    if let Some(every) = notify::watchdog_interval() {
        tokio::spawn(handle.clone().keep_alive(every));
    }

    let mut running = Running {
        checkpoints: OnRequest::new(handle.clone(), clock.clone()),
        core: handle,
        input_health: Vec::new(),
        health,
        bound,
        names,
        engine: Arc::new(config.engine.clone()),
        directory,
        inputs: JoinSet::new(),
        outputs: JoinSet::new(),
        stops,
        flushed: Vec::new(),
        core_thread,
        disk_thread,
        writes: writes.clone(),
        endurance_bytes: config.endurance_bytes,
        power_fail: config.power_fail,
        shutdown_timeout,
    };
    let round = config.agent.round_interval;
    let engine_outputs = config.engine.outputs.clone();
    let mut receivers = offer_receivers.into_iter();
    for (index, output) in config.outputs.into_iter().enumerate() {
        let Some(offers) = receivers.next() else { break };
        let spec = &engine_outputs[index];
        tracing::debug!(output = %output.name, plugin = output.plugin, "output");
        let transform = Transform::of(&output);
        let delivery = Delivery::new(
            DeliveryOptions {
                name: output.name.clone(),
                index: index as u16,
                batch: output.batch,
                flush_interval: output.flush_interval,
                flush_jitter: output.flush_jitter,
                lanes: Lane::ALL.into_iter().filter(|l| if *l == Lane::Alerts { spec.alerts } else { spec.results }).collect(),
                held: held[index],
                dead_letters: DeadLetters::new(
                    &running.directory,
                    &output.name,
                    config.dead_letter_bytes_max,
                    Arc::clone(&running.health[index]),
                    writes.clone(),
                ),
            },
            output.output,
            transform,
            offers,
            running.core.clone(),
            Arc::clone(&running.health[index]),
            seed(clock, index),
        );
        running.outputs.spawn(delivery.run(output_resumes[index], running.stops.hurry.clone(), running.stops.end.clone()));
    }
    spawn_actions(&mut running, config.actions, &engine_outputs, receivers.zip(alarm_receivers), level_receivers, clock);
    for ((index, (input, sender)), resume) in config.inputs.into_iter().zip(senders).enumerate().zip(resumes) {
        let schedule = Schedule { interval: input.interval, jitter: input.jitter, offset: input.offset, round, once: options.once };
        spawn_input(&mut running, input, sender, resume, schedule, seed(clock, 1000 + index), clock);
    }
    Ok(running)
}

/// A channel past the store to an edge action.
fn alarms(index: u16) -> ((u16, async_mpsc::UnboundedSender<Notification>), async_mpsc::UnboundedReceiver<Notification>) {
    let (sender, receiver) = async_mpsc::unbounded_channel();
    ((index, sender), receiver)
}

fn spawn_actions(
    running: &mut Running,
    actions: Vec<crate::config::types::ConfiguredAction>,
    specs: &[weir_engine::spec::OutputSpec],
    mut receivers: impl Iterator<Item = (async_mpsc::UnboundedReceiver<Offered>, async_mpsc::UnboundedReceiver<Notification>)>,
    levels: Vec<watch::Receiver<Option<bool>>>,
    clock: &Arc<SystemClock>,
) {
    let mut levels = levels.into_iter();
    let mut index = specs.iter().position(|o| o.edge).unwrap_or(specs.len());
    for action in actions {
        tracing::debug!(action = %action.name, plugin = action.plugin, "action");
        match action.action {
            AnyAction::Edge(edge) => {
                let Some((offers, alarms)) = receivers.next() else { break };
                let task = EdgeTask {
                    agent: running.bound.id,
                    name: action.name,
                    index: index as u16,
                    expires_after: specs[index].expires_after,
                    action: edge,
                    offers,
                    alarms,
                    core: running.core.clone(),
                    clock: clock.clone(),
                    health: Arc::clone(&running.health[index]),
                };
                index += 1;
                running.outputs.spawn(task.run(running.stops.end.clone()));
            }
            AnyAction::Level(level) => {
                let Some(wanted) = levels.next() else { break };
                let task = LevelTask { name: action.name, action: level, wanted };
                running.outputs.spawn(task.run(running.stops.end.clone(), seed(clock, 2000)));
            }
        }
    }
}

fn spawn_input(
    running: &mut Running,
    input: ConfiguredInput,
    sender: RingSender,
    resume: weir_plugin_api::Resume,
    schedule: Schedule,
    seed: u64,
    clock: &Arc<SystemClock>,
) {
    tracing::debug!(input = %input.name, plugin = input.plugin, "input");
    let (flushed, health) = (Stop::default(), Arc::<InputHealth>::default());
    let context = InputContext {
        name: input.name,
        collector: Collector::new(sender, input.shape, clock.clone()),
        health: Arc::clone(&health),
        resume,
        stop: running.stops.stop.clone(),
        flushed: flushed.clone(),
        drained: running.stops.drained.clone(),
    };
    running.flushed.push(flushed);
    running.input_health.push(health);
    running.inputs.spawn(inputs::run(input.built.input, context, schedule, seed));
}

/// Opens the store and brings the core to where it was.
fn recover(config: &Config, directory: &Path, clock: &SystemClock) -> Result<(Store<RealFiles>, Core), StartError> {
    let failed = |source| StartError::Store { directory: directory.to_owned(), source };
    let files = RealFiles::open(directory).map_err(failed)?;
    // Only a new store takes the id.
    let options = StoreOptions { journal_bytes_max: config.engine.storage.journal_bytes_max, new_id: random(clock.wall()) };
    let (mut store, recovered) = Store::open(files, &options).map_err(failed)?;
    let Recovered { checkpoint, blocks, outbox, cursors, damage } = recovered;
    let outbox: Vec<FoundBlock> = outbox.iter().map(core_found).collect();
    let spec = Arc::new(config.engine.clone());
    let (has_state, nothing_waits) = (checkpoint.is_some(), outbox.is_empty());
    let mut core = match checkpoint {
        Some(checkpoint) => Core::restore(spec, &checkpoint.state, &outbox, clock.now())
            .map_err(|error| StartError::State { directory: directory.to_owned(), reason: error.to_string() })?,
        None => Core::new(spec, clock.now()),
    };
    if !has_state && !outbox.is_empty() {
        tracing::warn!(blocks = outbox.len(), "no state is left: what waits in the outbox may be delivered again");
        let newest = blocks.last().map_or(0, |b| b.meta.first_record + u64::from(b.meta.records) - 1);
        let mut tries = |block: &FoundBlock| {
            // A card that hangs for a moment must not cost a block.
            (0..READS).find_map(|_| store.read_outbox(block.lane, disk_thread::store_place(block.place)).ok()).flatten()
        };
        let read = |block: &FoundBlock| (*block, tries(block));
        core.adopt_outbox(outbox.iter().map(read).collect(), newest);
    }
    if !has_state {
        let had_state = !nothing_waits || damage.iter().any(|d| d.place.starts_with("checkpoint"));
        let journal = blocks.iter().map(|block| (core_meta(&block.meta), block.bytes.as_slice()));
        if core.start_above(clock.now(), journal, had_state) {
            tracing::warn!("no state is left: windows that had begun by then are not delivered again, what comes for them is late");
        }
    }
    let replayed = blocks.len();
    for block in blocks {
        if let Err(error) = core.replay(&core_meta(&block.meta), &block.bytes) {
            tracing::error!(%error, first_record = block.meta.first_record, records = block.meta.records, "journal block can't be replayed");
        }
    }
    for damage in &damage {
        tracing::error!(%damage, "damaged store");
        if damage.records > 0 {
            core.note_damage(damage.records, damage.points);
        }
    }
    core.set_boot(clock.boot());
    core.adopt();
    if let Some(saved) = cursors {
        // Of records that are lost, or of another version: it must not be believed when others have their numbers.
        let cleared = match core.set_saved_cursors(&saved.bytes) {
            Ok(None) => Ok(()),
            Ok(Some(kept)) => store.save_cursors(saved.checkpoint, &kept).or_else(|_| store.clear_cursors()),
            Err(_) => store.clear_cursors(),
        };
        if let Err(error) = cleared {
            tracing::error!(error = error.with_causes(), "saved cursors of lost records can't be cleared");
        }
    }
    if replayed > 0 {
        tracing::info!(blocks = replayed, "journal replayed");
    }
    Ok((store, core))
}

fn refuse_endless(inputs: &[ConfiguredInput]) -> Result<(), StartError> {
    let endless = inputs.iter().find(|i| matches!(&i.built.input, AnyInput::Streaming(input) if !input.is_finite()));
    endless.map_or(Ok(()), |input| Err(StartError::Endless(input.name.clone())))
}

fn spawn<T: Send + 'static>(
    name: &'static str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<T>, StartError> {
    std::thread::Builder::new().name(name.into()).stack_size(1 << 20).spawn(body).map_err(|source| StartError::Thread { name, source })
}

/// A number nobody else has: the hasher's keys are drawn from the system.
fn random(salt: i64) -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), salt)
}

/// A number that separates tasks and processes, for jitter.
fn seed(clock: &SystemClock, index: usize) -> u64 {
    (clock.wall() as u64).rotate_left(17) ^ (index as u64).wrapping_mul(0x9e37_79b9) ^ u64::from(std::process::id())
}

//! A full outbox that is thinned: what goes, what stays, and that it is the same after a crash wherever it comes.

use super::*;
use crate::spec::OnFull;

/// Points of a block.
const BLOCK: usize = 40;

fn thinned(bound: u64) -> EngineSpec {
    let mut spec = spec();
    spec.storage.on_full = OnFull::Downsample;
    spec.storage.outbox_bytes_max = bound;
    spec.alerts[0].when = Expr::parse("v > 100000").unwrap();
    spec
}

/// A world, and what lies on its disk: the last state and the segments that a checkpoint has freed are forgotten as a store would.
struct Outage {
    world: World,
    state: Vec<u8>,
    next: f64,
    /// Segments are removed when a checkpoint says so.
    frees: bool,
}

impl Outage {
    fn new(bound: u64) -> Self {
        Self { world: World::new(thinned(bound)), state: Vec::new(), next: 0.0, frees: true }
    }

    /// Takes a block of points; it is spilled.
    fn block(&mut self) {
        let values: Vec<f64> = (0..BLOCK).map(|i| self.next + i as f64).collect();
        self.next += BLOCK as f64;
        self.world.take(&values);
        let effects = self.world.step(Event::Checkpoint);
        self.world.sync();
        self.perform(effects);
    }

    /// Answers what the core asks of the disk, until it asks for nothing more.
    fn perform(&mut self, mut effects: Vec<Effect>) {
        for _ in 0..1000 {
            let Some(next) = self.answer(effects) else { return };
            effects = next;
        }
        panic!("the disk is kept busy for ever");
    }

    fn answer(&mut self, effects: Vec<Effect>) -> Option<Vec<Effect>> {
        let asked = effects.iter().find_map(|e| match e {
            Effect::ReadOutbox { output: u16::MAX, lane, place } => Some((*lane, *place)),
            _ => None,
        });
        if let Some((lane, place)) = asked {
            let bytes = self.world.outbox.get(&place).map(|b| b.bytes.clone());
            let mut effects = self.world.step(Event::OutboxRead { output: u16::MAX, lane, place, bytes });
            if checkpoints(&effects) > 0 {
                self.world.sync();
            } else {
                effects.extend(self.world.commit());
            }
            return Some(effects);
        }
        let below = effects
            .iter()
            .find_map(|e| if let Effect::Checkpoint { outbox_free_below, .. } = e { Some(outbox_free_below[1]) } else { None })?;
        let newest = self.world.outbox.keys().map(|p| p.segment).max().unwrap_or(0);
        self.state = self.world.write_checkpoint(effects);
        if self.frees {
            self.world.outbox.retain(|place, block| block.lane == 0 || place.segment >= below || place.segment > newest);
        }
        Some(std::mem::take(&mut self.world.after_checkpoint))
    }

    /// Everything an output can get, what it waits for made durable.
    fn drain(&mut self, output: u16) -> Vec<f64> {
        let mut values = self.world.drain(output);
        for _ in 0..1000 {
            let effects = self.world.commit();
            let points = self.world.offered(output, effects);
            if points.is_empty() {
                return values;
            }
            values.extend(points.iter().map(|(_, value)| *value));
            self.world.delivered(output, &points);
            values.extend(self.world.drain(output));
        }
        panic!("it never ends");
    }

    fn bytes(&self) -> u64 {
        self.world.core.waiting.lanes.iter().map(waiting::LaneQueue::disk_bytes).sum()
    }
}

#[test]
fn a_long_outage_keeps_its_whole_length_the_older_the_coarser() {
    let mut outage = Outage::new(3000);
    for _ in 0..200 {
        outage.block();
        assert!(outage.bytes() <= 3000, "{} bytes", outage.bytes());
        outage.world.balances();
    }
    let line = outage.world.line(0);
    assert_eq!(line.expired_bytes, 0, "nothing is dropped while there is something to leave out");
    assert!(line.expired_downsampled > 0);
    let on_disk: u64 = outage.world.outbox.keys().map(|p| u64::from(p.bytes)).sum();
    assert!(on_disk <= 3500, "{on_disk} bytes lie on the disk: files in front are freed");
    for output in 0..2 {
        let values = outage.drain(output);
        assert!(values.is_sorted(), "in order");
        assert_eq!(values.len() as u64, line.routed - line.expired_downsampled);
        assert_eq!((values[0], values[values.len() - 1]), (0.0, outage.next - 1.0), "from the beginning to the end");
        let in_part = |from: f64, to: f64| values.iter().filter(|v| **v >= from * outage.next && **v < to * outage.next).count();
        let (old, middle, new) = (in_part(0.0, 0.1), in_part(0.45, 0.55), in_part(0.9, 1.0));
        // The beginning stays always.
        assert!(old > 1 && old <= middle + 1 && middle < new, "{old} old, {middle} in the middle, {new} new");
        let hole = values.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        assert!(hole < outage.next / 10.0, "a hole of {hole} in {}", outage.next);
        assert_eq!(outage.world.line(usize::from(output)).waiting(), 0);
    }
    outage.world.balances();
}

/// Every place where a crash can come while blocks are thinned: after so many answers of the disk.
#[test]
fn wherever_a_crash_comes_what_is_left_is_delivered_once() {
    for frees in [true, false] {
        for cut in 0..40 {
            let mut outage = Outage::new(2000);
            outage.frees = frees;
            for _ in 0..9 {
                outage.block();
            }
            let mut effects = outage.world.step(Event::Checkpoint);
            outage.world.sync();
            for _ in 0..cut {
                match outage.answer(effects) {
                    Some(next) => effects = next,
                    None => {
                        effects = outage.world.step(Event::Checkpoint);
                        outage.world.sync();
                    }
                }
            }
            let told = outage.world.line(0);
            let state = outage.state.clone();
            outage.world.restart(Some(&state));
            let line = outage.world.line(0);
            assert!(line.expired_downsampled <= told.expired_downsampled);
            outage.world.balances();
            for output in 0..2 {
                let values = outage.drain(output);
                let line = outage.world.line(usize::from(output));
                assert_eq!(values.len() as u64, line.delivered, "cut at {cut}");
                assert_eq!(line.routed, line.delivered + line.expired_downsampled, "cut at {cut}: {line:?}");
                assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "once each, in order");
            }
            outage.world.balances();
            assert_eq!(outage.world.core.ledger().damage, DamageLine::default());
        }
    }
}

#[test]
fn nobody_gets_a_thinned_block_before_its_record_is_durable() {
    let mut outage = Outage::new(1 << 20);
    outage.block();
    let mut smaller = (*outage.world.spec).clone();
    // Full enough to be thinned, not so full that a checkpoint is made at once.
    smaller.storage.outbox_bytes_max = outage.bytes() + 1;
    outage.world.core.spec = Arc::new(smaller);
    let effects = outage.world.step(Event::Time);
    let Some(Effect::ReadOutbox { lane, place, .. }) = effects.first() else { panic!("it is read: {effects:?}") };
    let bytes = outage.world.outbox.get(place).map(|b| b.bytes.clone());
    outage.world.step(Event::OutboxRead { output: u16::MAX, lane: *lane, place: *place, bytes });
    assert!(outage.world.line(0).expired_downsampled > 0);
    assert_eq!(outage.world.want(0), []);
    let effects = outage.world.commit();
    let points = outage.world.offered(0, effects);
    assert_eq!(points.len() as u64, BLOCK as u64 - outage.world.line(0).expired_downsampled);
}

#[test]
fn a_block_an_output_has_begun_with_stays_whole() {
    let mut outage = Outage::new(1000);
    outage.block();
    let held = outage.world.want(0);
    assert_eq!(held.len(), BLOCK);
    for _ in 0..20 {
        outage.block();
    }
    outage.world.delivered(0, &held);
    let values = outage.drain(1);
    assert_eq!(values[..BLOCK], (0..BLOCK).map(|v| v as f64).collect::<Vec<_>>());
    assert!(outage.world.line(1).expired_downsampled > 0, "others were thinned");
    outage.world.balances();
}

#[test]
fn a_checkpoint_that_fails_leaves_the_old_block_and_thins_again() {
    let mut outage = Outage::new(1 << 20);
    for _ in 0..4 {
        outage.block();
    }
    let mut smaller = (*outage.world.spec).clone();
    smaller.storage.outbox_bytes_max = outage.bytes() - 1;
    outage.world.core.spec = Arc::new(smaller);
    let mut effects = outage.world.step(Event::Time);
    while checkpoints(&effects) == 0 {
        effects = outage.answer(effects).unwrap();
    }
    let gone = outage.world.line(0).expired_downsampled;
    let number = outage.world.core.checkpoint.number;
    let again = outage.world.step(Event::CheckpointFailed { number, no_space: false, reason: "disk".into() });
    outage.world.balances();
    outage.perform(again);
    for _ in 0..5 {
        outage.world.pass(2 * S);
        let effects = outage.world.step(Event::Time);
        outage.perform(effects);
    }
    assert!(outage.bytes() < outage.world.core.spec.storage.outbox_bytes_max, "it got through at last");
    let line = outage.world.line(0);
    assert!(line.expired_downsampled >= gone, "what was decided stays decided");
    assert_eq!(outage.drain(0).len() as u64, line.routed - line.expired_downsampled);
    outage.world.balances();
}

#[test]
fn a_start_from_the_checkpoint_before_knows_what_was_left_out() {
    let mut outage = Outage::new(2000);
    let mut older = Vec::new();
    let mut journal = Vec::new();
    let world = &mut outage.world;
    let values: Vec<f64> = (0..BLOCK).map(|i| i as f64).collect();
    // The journal since the beginning, as if no checkpoint had survived.
    world.take(&values);
    journal.append(&mut world.blocks.clone());
    older.clone_from(&outage.state);
    let effects = outage.world.step(Event::Checkpoint);
    outage.world.sync();
    outage.perform(effects);
    let mut smaller = (*outage.world.spec).clone();
    smaller.storage.outbox_bytes_max = outage.bytes() - 1;
    outage.world.core.spec = Arc::new(smaller);
    let effects = outage.world.step(Event::Time);
    let effects = outage.answer(effects).unwrap();
    outage.world.sync();
    drop(effects);
    let gone = outage.world.line(0).expired_downsampled;
    assert!(gone > 0);
    journal.append(&mut outage.world.blocks);
    outage.world.blocks = journal;
    outage.world.outbox.clear();
    outage.world.restart(None);
    assert_eq!(outage.world.line(0).expired_downsampled, gone);
    outage.world.balances();
    assert_eq!(outage.drain(0).len() as u64, BLOCK as u64 - gone);
    outage.world.balances();
}

#[test]
fn alerts_are_never_thinned() {
    let mut outage = Outage::new(1500);
    outage.world.take(&[100_001.0]);
    outage.world.take(&[7.0]);
    for _ in 0..60 {
        outage.block();
    }
    let transitions = outage.world.core.waiting.lanes[Lane::Alerts as usize].cursors[0].outstanding;
    assert!(transitions >= 2, "{transitions} transitions wait");
    assert!(outage.world.line(0).expired_downsampled > 0);
    assert_eq!(outage.world.line(0).expired_bytes, 0);
    outage.world.balances();
}

/// One point each of series that never come again.
#[test]
fn what_cant_be_thinned_is_dropped_oldest_first() {
    let mut spec = thinned(400_000);
    spec.outputs.truncate(1);
    let mut outage = Outage { world: World::new(spec), state: Vec::new(), next: 0.0, frees: true };
    for block in 0..40u32 {
        let world = &mut outage.world;
        let mut batch = Batch { number: u64::from(block) + 1, read_at: world.now.steady, points: 1000, ..Batch::default() };
        batch.counts.read = 1000;
        for n in 0..1000 {
            let device = format!("device-{block}-{n}");
            batch.new_series.push(Arc::new(Series::from_parts("m", &[("device", &device)])));
            batch.new_partitions.push("p".into());
            let value = f64::from(block * 1000 + n);
            let (series, time) = (block * 1000 + n, world.now.wall);
            batch.cells.push(Cell { series, field: 0, kind: Kind::Float as u8, flags: Cell::START, time, value: value.to_bits() });
        }
        if block == 0 {
            batch.new_fields.push("v".into());
        }
        world.step(Event::Batch { input: 0, batch });
        world.commit();
        let effects = world.step(Event::Checkpoint);
        world.sync();
        outage.perform(effects);
        assert!(outage.bytes() <= 400_000, "{} bytes", outage.bytes());
        outage.world.balances();
    }
    let line = outage.world.line(0);
    assert_eq!(line.expired_downsampled, 0);
    assert!(line.expired_bytes > 0);
    let values = outage.drain(0);
    assert_eq!(values.len() as u64, line.routed - line.expired_bytes);
    assert_eq!(values.last(), Some(&39_999.0), "the newest are there");
    assert!(values[0] > 10_000.0, "the oldest are not");
    assert!(values.len() > 3000);
}

/// Blocks are written again when they are thinned, and older versions lie beside them until their segments are free.
#[test]
fn without_a_state_the_newest_version_of_a_block_counts_and_an_older_one_where_it_is_damaged() {
    let mut outage = Outage::new(2000);
    outage.frees = false;
    for _ in 0..12 {
        outage.block();
    }
    let effects = outage.world.step(Event::Checkpoint);
    outage.world.sync();
    outage.perform(effects);
    let left = outage.world.line(0).waiting();
    let world = &mut outage.world;
    let found = |world: &World, damaged: Option<OutboxPlace>| -> Vec<(FoundBlock, Option<Vec<u8>>)> {
        let block = |(place, b): (&OutboxPlace, &OutboxBlock)| {
            let bytes = (Some(*place) != damaged).then(|| b.bytes.clone());
            (FoundBlock { lane: b.lane, place: *place, first: b.first, points: b.points }, bytes)
        };
        world.outbox.iter().map(block).collect()
    };
    let newest = world.core.ledger().records;
    let waiting = |world: &World, found| {
        let mut core = Core::new(Arc::clone(&world.spec), world.now);
        core.adopt_outbox(found, newest);
        core.ledger().outputs[0].waiting()
    };
    let adopted = waiting(world, found(world, None));
    // What was left out since the last checkpoint no file knows.
    assert!((left..left + BLOCK as u64).contains(&adopted), "what was left out stays away: {adopted} wait, {left} did");
    // The block with the first results, in its newest version.
    let first = world.outbox.values().map(|b| b.first).min().unwrap();
    let versions: Vec<OutboxPlace> = world.outbox.iter().filter(|(_, b)| b.first == first).map(|(place, _)| *place).collect();
    assert!(versions.len() > 1, "it was thinned");
    let older = waiting(world, found(world, versions.last().copied()));
    assert!(older > adopted, "what the version before has is better than nothing: {older} and {adopted}");
}

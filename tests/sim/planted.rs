//! Whether the simulator would notice: each bug is planted between the parts, and must be found within a few seeds.

use super::{
    plan::{Bug, Plan},
    simulator::live,
};

/// Seeds within which a bug must be found.
const SEEDS: u64 = 40;

/// The first seed that finds a bug.
fn found(bug: Bug) {
    let found = (0..SEEDS).find_map(|seed| live(Plan::planted(seed, bug)).err().map(|error| (seed, error)));
    let Some((seed, error)) = found else { panic!("{bug:?} went unnoticed for {SEEDS} seeds") };
    println!("{bug:?} is found by seed {seed}: {}", error.lines().next().unwrap_or_default());
}

#[test]
fn a_journal_that_is_not_synced_is_found() {
    found(Bug::JournalNotSynced);
}

#[test]
fn an_outbox_that_is_not_synced_is_found() {
    found(Bug::OutboxNotSynced);
}

#[test]
fn a_checkpoint_that_is_not_synced_is_found() {
    found(Bug::CheckpointNotSynced);
}

#[test]
fn names_that_are_not_synced_are_found() {
    found(Bug::NamesNotSynced);
}

#[test]
fn an_early_acknowledgement_is_found() {
    found(Bug::AcknowledgedEarly);
}

#[test]
fn a_redelivery_that_is_counted_is_found() {
    found(Bug::RedeliveryCounted);
}

#[test]
fn a_running_number_for_an_identity_is_found() {
    found(Bug::RunningIdentity);
}

#[test]
fn an_outbox_that_is_not_cut_is_found() {
    found(Bug::OutboxNotCut);
}

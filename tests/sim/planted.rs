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

#[test]
fn a_checkpoint_before_its_outbox_is_found() {
    found(Bug::CheckpointBeforeOutbox);
}

#[test]
fn a_journal_that_is_freed_early_is_found() {
    found(Bug::JournalFreedEarly);
}

#[test]
fn a_place_that_is_not_asked_for_is_found() {
    found(Bug::CursorForgotten);
}

#[test]
fn a_forgotten_floor_is_found() {
    found(Bug::FloorForgotten);
}

#[test]
fn a_result_that_leaves_early_is_found() {
    found(Bug::ReleasedEarly);
}

#[test]
fn a_tail_replayed_under_another_configuration_is_found() {
    found(Bug::ReplayedUnderNew);
}

#[test]
fn alerts_that_go_before_results_are_found() {
    found(Bug::AlertsFirst);
}

#[test]
fn a_block_that_is_applied_twice_is_found() {
    found(Bug::AppliedTwice);
}

#[test]
fn a_level_that_is_not_set_again_is_found() {
    found(Bug::LevelForgotten);
}

#[test]
fn a_lost_session_that_goes_unnoticed_is_found() {
    found(Bug::SessionKept);
}

#[test]
fn an_interval_without_a_sync_is_found() {
    found(Bug::IntervalNotSynced);
}

#[test]
fn points_left_out_that_come_back_with_a_restart_are_found() {
    found(Bug::ThinnedForgotten);
}

#[test]
fn syncs_that_nobody_is_told_of_are_found() {
    found(Bug::SyncsUntold);
}

#[test]
fn a_backlog_that_goes_unsaid_is_found() {
    found(Bug::BacklogUntold);
}

#[test]
fn outputs_that_keep_their_places_are_found() {
    found(Bug::PlacesKept);
}

#[test]
fn an_outbox_that_is_left_alone_without_a_state_is_found() {
    found(Bug::OutboxForgotten);
}

#[test]
fn floors_that_are_not_asked_for_without_a_state_are_found() {
    found(Bug::FloorsForgotten);
}

#[test]
fn a_destination_that_believes_in_a_lost_life_is_found() {
    found(Bug::LostLifeBelieved);
}

#[test]
fn segments_freed_before_the_cursors_are_saved_are_found() {
    found(Bug::CursorsSavedLate);
}

#[test]
fn a_dedup_that_forgets_with_a_restart_is_found() {
    found(Bug::SeenForgotten);
}

//! The core and the store through crashes: the process dies between any two effects or in the middle of a checkpoint, power fails, outputs
//! go away, acknowledgements are lost; afterwards everything that was promised is there, and every result arrives.
//!
//! `WEIR_SIM_SEED=n` repeats one seed, `WEIR_SIM_SEEDS=n` runs that many, `WEIR_SIM_TRACE=1` prints every step.

mod disk;
mod simulator;
mod world;

use simulator::{Options, Seen, live};
use weir_engine::spec::Durability;

/// Seeds of an ordinary test run.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn options(seed: u64) -> Options {
    // A killed process keeps what was written: the weaker mode promises as much then.
    let crash = seed % 5 == 4;
    Options {
        seed,
        durability: if crash { Durability::Crash } else { Durability::Power },
        power_cuts: !crash,
        lying_sync: false,
        bounded: seed % 4 == 3,
        knowing: seed % 3 == 2 && seed % 4 != 3,
        batches: if seed % 7 == 6 { 150 } else { 40 },
    }
}

#[test]
fn what_was_promised_survives_and_every_result_arrives() {
    let seeds = match number("WEIR_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WEIR_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let count = seeds.end - seeds.start;
    let mut all = Seen::default();
    let mut failures = Vec::new();
    for seed in seeds {
        match live(options(seed)) {
            Ok(seen) => {
                all.crashes += seen.crashes;
                all.steps += seen.steps;
                all.outbox_reads += seen.outbox_reads;
                all.digests += seen.digests;
                all.repeated += seen.repeated;
            }
            Err(error) => failures.push(format!("{error}\nrepeat it with: WEIR_SIM_SEED={seed} cargo test -p weir --test sim what_was")),
        }
    }
    println!("{count} seeds: {all:?}");
    assert!(failures.is_empty(), "{} of {count} seeds failed\n{}", failures.len(), failures[..failures.len().min(8)].join("\n"));
    if count >= SEEDS {
        assert!(all.crashes > count && all.outbox_reads > count && all.digests > count && all.repeated > count, "too tame: {all:?}");
    }
}

#[test]
fn syncs_that_are_not_done_are_caught() {
    let caught =
        (0..40).any(|seed| live(Options { lying_sync: true, durability: Durability::Power, power_cuts: true, ..options(seed) }).is_err());
    assert!(caught, "power cuts without syncs went unnoticed");
}

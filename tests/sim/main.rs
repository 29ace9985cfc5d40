//! The core and the store through crashes: the process dies between any two effects or in the middle of a checkpoint, power fails, the disk
//! errs, fills and rots, sources repeat themselves, outputs go away and answers are lost; afterwards everything that was promised is there,
//! every reading is counted once, and every result arrives.
//!
//! `WEIR_SIM_SEED=n` repeats one seed, `WEIR_SIM_SEEDS=n` runs that many of either kind, `WEIR_SIM_MINUTES=n` runs new ones for that long
//! (from the seed `WEIR_SIM_FIRST=n` on, where it is set; `WEIR_SIM_ONLY="stateless: true"`: only such whose plan says so), `WEIR_SIM_SHORT=n` lets that many short lives end at every effect,
//! `WEIR_SIM_TRACE=1` prints every step.
//!
//! | module | holds |
//! | --- | --- |
//! | `plan`, `edits` | what a life is like, and how its configuration changes |
//! | `simulator`, `recovery` | what happens, and what must hold after a death |
//! | `world`, `sources`, `sinks` | readings, where they come from, where results go |
//! | `disk`, `files` | the disk thread, and files that die in the middle |
//! | `oracle`, `naive` | what the committed records mean, by the operators in one go and once more naively |
//! | `dedup`, `thinned`, `budget` | what is recognised because it is remembered, what of a full outbox stays, and how often the disk is synced |
//! | `planted` | bugs that must be found |
//! | `watch` | no life goes on for ever |

mod budget;
mod dedup;
mod disk;
mod edits;
mod files;
mod naive;
mod oracle;
mod plan;
mod planted;
mod recovery;
mod simulator;
mod sinks;
mod sources;
mod thinned;
mod watch;
mod world;

use std::{
    panic::catch_unwind,
    sync::OnceLock,
    time::{Duration, Instant},
};

use plan::{BARE, Death, FURTHEST, Plan, WIDE, WIDER_STILL, WIDEST};
use simulator::{Seen, live};

/// Seeds of an ordinary test run, of plain lives, of such that mix everything these have, and of such that have all there is: a million steps
/// and more.
const SEEDS: u64 = 40;

/// Seeds that found something beyond the ordinary ones: a segment of the outbox that was begun anew after it was freed, a simulator that acted
/// after its death, an acknowledgement behind a failed write, an outbox overwritten by the checkpoint after one that seemed to fail, a block
/// given up for ever, what a destination had of a block whose checkpoint failed.
const FOUND: &[u64] = &[587, 440, 100, 122, 160, 14, 25, 323];

/// The same among lives that mix everything: windows re-opened by a longer `allowed_lateness`, stuck under a shorter one, and begun anew below
/// what was sent; results of the end that left while the disk was dead, and no batch was lost with it; a block of
/// the outbox that was damaged when what it had left had been settled by results of a lost record; one that died too often ever to deliver.
const FOUND_WIDE: &[u64] = &[
    1007,
    1015,
    1031,
    1035,
    1882475464753388,
    1882475464754461,
    1882477291372608,
    1882475464754974,
    1882475464755875,
    1882487884087547,
    1882487884087886,
    1882487884087978,
];

/// The same among lives that have all there is: a block that was thinned after its end had been given up in a life before;
/// an older version of a thinned block where the newer one was damaged, or could not be read; a list of points seen that knew more before
/// every checkpoint was lost; a first configuration that was lost before there was any checkpoint, and one of another day in its place;
/// a deadline's results that left before their block rotted; a list of points seen that was full of what is lost now; readings that were dated
/// by a clock that was lost with the states; a level that moved when there was no room in the write budget.
const FOUND_WIDEST: &[u64] = &[
    6386089434546409,
    6386089434546401,
    6386090294378801,
    6386093341540411,
    7052747666882701,
    8774159462039835,
    9100000000000520,
    9400000000003632,
    13740785790877797,
    13740785790880567,
];

/// And among those whose states are lost whatever else there is: an outbox that was only written when its states were lost, and relied on since;
/// records that only a state had; an outbox that was thrown away though the journal had a hole;
/// results that were left out and settled, and are still in a file; floors
/// under a configuration that another one follows at once; a window that had found room for all its points, and had none for some;
/// readings that had waited for a clock.
const FOUND_WIDER_STILL: &[u64] =
    &[18014398509483407, 18014398509482146, 18014398509482388, 18400000000000660, 18600000000000383, 18014398509483552, 20611178686316825];

/// And among those whose outputs tell or cut back what they have whatever else there is: segments that were removed once the journal said so,
/// which was not synced, or while an output that lived again had them in memory alone; what a sync between two that are told of together had.
const FOUND_BARE: &[u64] = &[
    72057594039937952,
    72057594037938127,
    72057594037938126,
    72057594037927969,
    72057594100000401,
    72057594100000671,
    72057594100000972,
    72057594100000854,
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Whether every step is printed.
pub fn is_traced() -> bool {
    static TRACED: OnceLock<bool> = OnceLock::new();
    *TRACED.get_or_init(|| std::env::var_os("WEIR_SIM_TRACE").is_some())
}

/// Lives lives and says what they were like.
///
/// # Panics
/// When something did not hold in one of them.
fn run(plans: impl Iterator<Item = Plan>) -> (u64, Seen) {
    let (mut all, mut lives, mut failures) = (Seen::default(), 0, Vec::new());
    let started = Instant::now();
    for plan in plans {
        lives += 1;
        if is_traced() {
            eprintln!("{plan:?}");
        }
        // One that panics is to say its seed, too, and others go on.
        let lived = catch_unwind(|| live(plan)).unwrap_or_else(|_| Err("panicked, see above".into()));
        match lived {
            Ok(seen) => all += seen,
            Err(error) => {
                let failure = format!("{plan:?}: {error}\nrepeat it with: {}", plan.repeat());
                println!("{failure}");
                failures.push(failure);
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!("{lives} lives, {:.0} steps per second: {all:?}", all.steps as f64 / seconds);
    assert!(failures.is_empty(), "{} of {lives} lives failed\n{}", failures.len(), failures[..failures.len().min(8)].join("\n"));
    (lives, all)
}

#[test]
fn what_was_promised_survives_and_every_result_arrives() {
    if let Some(seed) = number("WEIR_SIM_SEED") {
        run([Plan::of(seed)].into_iter());
        return;
    }
    if let Some(minutes) = number("WEIR_SIM_MINUTES") {
        let end = Instant::now() + Duration::from_secs(60 * minutes);
        let never_yet = || BARE + std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs() << 20);
        let first = number("WEIR_SIM_FIRST").unwrap_or_else(never_yet);
        let only = std::env::var("WEIR_SIM_ONLY").unwrap_or_default();
        run((first..).take_while(|_| Instant::now() < end).map(Plan::of).filter(|plan| format!("{plan:?}").contains(&only)));
        return;
    }
    let count = number("WEIR_SIM_SEEDS").unwrap_or(SEEDS);
    let seeds = (0..count).chain(FOUND.iter().copied()).chain(WIDE..WIDE + count).chain(FOUND_WIDE.iter().copied());
    let seeds = seeds.chain(WIDEST..WIDEST + count).chain(FOUND_WIDEST.iter().copied());
    let seeds = seeds.chain(WIDER_STILL..WIDER_STILL + count).chain(FOUND_WIDER_STILL.iter().copied());
    let seeds = seeds.chain(FURTHEST..FURTHEST + count / 2);
    let seeds = seeds.chain(BARE..BARE + count / 2).chain(FOUND_BARE.iter().copied());
    let (lives, all) = run(seeds.map(Plan::of));
    if count >= SEEDS {
        let often = [all.crashes, all.outbox_reads, all.digests, all.repeated, all.recognised, all.transitions, all.deduped];
        let later = [all.saved_cursors, all.stateless, all.dropped, all.thinned, all.over_budget, all.held_by_budget];
        let seldom = [all.damages, all.failures, all.expired, all.edits, all.weak_losses, all.unsafe_batches];
        assert!(
            all.steps >= 1_000_000 && often.iter().all(|times| *times > lives) && seldom.iter().chain(&later).all(|times| *times > 0),
            "too tame: {all:?}"
        );
    }
}

#[test]
fn a_death_at_every_effect_of_a_short_life_costs_nothing() {
    let only = number("WEIR_SIM_EFFECT").map(|effect| effect as u32);
    let mut plans = Vec::new();
    let seeds = number("WEIR_SIM_SEED").map_or(0..number("WEIR_SIM_SHORT").unwrap_or(1), |seed| seed..seed + 1);
    for seed in seeds {
        let whole = live(Plan::short(seed, Death::Never)).expect("a life without a death");
        let effects = 0..whole.effects as u32;
        plans.extend(effects.filter(|e| only.is_none_or(|o| o == *e)).map(|effect| Plan::short(seed, Death::At(effect))));
    }
    assert!(plans.len() > 200 || only.is_some(), "only {} effects", plans.len());
    run(plans.into_iter());
}

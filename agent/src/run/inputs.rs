//! Tasks of inputs: streaming ones are started again when they fail, polled ones are asked at their interval.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use weir_plugin_api::{
    Position,
    plugin::{AnyInput, InputContext, PluginError, PolledInput, StreamingInput},
    time::Clock,
};

use super::backoff::{Backoff, Random};

/// First and longest delay before a failed input is started again.
const RESTART: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A gather that takes longer is told of: bus and file systems can keep whoever reads for ever.
const SLOW: Duration = Duration::from_secs(30);

/// When a polled input is asked.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// How often.
    pub interval: Duration,
    /// Random delay before each, up to this.
    pub jitter: Duration,
    /// Fixed shift.
    pub offset: Duration,
    /// At multiples of the interval.
    pub round: bool,
    /// Once, and then it ends.
    pub once: bool,
}

/// Runs an input to its end.
///
/// # Errors
/// With `once`, what the input failed with; otherwise failures are logged and tried again.
pub async fn run(input: AnyInput, mut context: InputContext, schedule: Schedule, seed: u64) -> Result<(), PluginError> {
    let name = context.name.clone();
    let flushed = context.flushed.clone();
    let result = match input {
        AnyInput::Streaming(mut input) => stream(&mut *input, &mut context, schedule.once, seed).await,
        AnyInput::Polled(mut input) => poll(&mut *input, &mut context, schedule, seed).await,
    };
    if let Err(error) = &result {
        tracing::error!(input = %name, %error, "input ended");
    }
    flushed.request();
    result
}

async fn stream(input: &mut dyn StreamingInput, context: &mut InputContext, once: bool, seed: u64) -> Result<(), PluginError> {
    let mut backoff = Backoff::new(RESTART.0, RESTART.1, seed);
    loop {
        let started = Instant::now();
        match run_watched(input, context).await {
            Ok(()) => return Ok(()),
            Err(error) if once || context.stop.is_requested() => return Err(error),
            Err(error) => {
                if started.elapsed() > RESTART.1 {
                    backoff.reset();
                }
                let delay = backoff.step();
                context.health.failed();
                tracing::warn!(input = %context.name, %error, restart_in = ?delay, "input failed");
                tokio::select! {
                    () = context.stop.requested() => return Ok(()),
                    () = tokio::time::sleep(delay) => {}
                }
            }
        }
    }
}

/// Runs it; one that has failed before works when it goes on for as long as the longest delay.
async fn run_watched(input: &mut dyn StreamingInput, context: &mut InputContext) -> Result<(), PluginError> {
    let health = Arc::clone(&context.health);
    let failures = health.failures();
    let mut run = input.run(context);
    tokio::select! {
        outcome = &mut run => return outcome,
        () = tokio::time::sleep(RESTART.1), if health.is_failing() => {}
    }
    // Unless it says otherwise by itself.
    if health.failures() == failures {
        health.works();
    }
    run.await
}

async fn poll(input: &mut dyn PolledInput, context: &mut InputContext, schedule: Schedule, seed: u64) -> Result<(), PluginError> {
    if schedule.once {
        input.start(context).await?;
        input.gather(context).await?;
        context.collector.flush(Position::None).await?;
        return Ok(());
    }
    let mut random = Random(seed);
    let mut backoff = Backoff::new(RESTART.0, RESTART.1, seed);
    while let Err(error) = input.start(context).await {
        let delay = backoff.step();
        context.health.failed();
        tracing::warn!(input = %context.name, %error, retry_in = ?delay, "input can't start");
        tokio::select! {
            () = context.stop.requested() => return Ok(()),
            () = tokio::time::sleep(delay) => {}
        }
    }
    let mut failing = false;
    let clock = Arc::clone(context.collector.clock());
    let mut next = Instant::now() + first(&schedule, &*clock);
    loop {
        let at = next + random.up_to(schedule.jitter);
        tokio::select! {
            () = context.stop.requested() => return Ok(()),
            () = tokio::time::sleep_until(at) => {}
        }
        match gather_watched(input, context, SLOW).await {
            Ok(()) => {
                context.health.works();
                if std::mem::take(&mut failing) {
                    tracing::info!(input = %context.name, "input gathers again");
                }
            }
            Err(error) => {
                context.health.failed();
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(input = %context.name, %error, "input could not gather");
                }
            }
        }
        // What was polled can't wait: with the ring full the newest is dropped and counted.
        context.collector.try_flush(Position::None)?;
        next += schedule.interval;
        let now = Instant::now();
        if next < now {
            // Missed turns are skipped, as in Telegraf, and the rhythm kept.
            let missed = (now - next).as_nanos() / schedule.interval.as_nanos().max(1) + 1;
            next += schedule.interval * u32::try_from(missed).unwrap_or(u32::MAX);
        }
    }
}

/// Gathers, and tells of it when that takes longer than `slow`.
async fn gather_watched(input: &mut dyn PolledInput, context: &mut InputContext, slow: Duration) -> Result<(), PluginError> {
    let (name, health) = (context.name.clone(), Arc::clone(&context.health));
    let mut gather = input.gather(context);
    tokio::select! {
        outcome = &mut gather => return outcome,
        () = tokio::time::sleep(slow) => {}
    }
    health.failed();
    tracing::warn!(input = %name, after = ?slow, "input still gathers: what it reads does not answer");
    gather.await
}

/// Time to the first gather.
fn first(schedule: &Schedule, clock: &dyn Clock) -> Duration {
    if !schedule.round {
        return schedule.offset;
    }
    let interval = i64::try_from(schedule.interval.as_nanos()).unwrap_or(i64::MAX).max(1);
    let rest = (interval - clock.wall().rem_euclid(interval)) % interval;
    Duration::from_nanos(u64::try_from(rest).unwrap_or(0)) + schedule.offset
}

#[cfg(test)]
mod tests {
    use weir_plugin_api::{
        plugin::BoxFuture,
        position::Resume,
        testing::{collector, context},
    };

    use super::*;

    /// Reads what never answers.
    struct Stuck;

    impl PolledInput for Stuck {
        fn gather<'a>(&'a mut self, _: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_gather_that_does_not_end_is_told_of() {
        let (collector, _receiver) = collector();
        let mut context = context(collector, Resume::default());
        let health = Arc::clone(&context.health);
        let mut input = Stuck;
        let told = async {
            while !health.is_failing() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            outcome = gather_watched(&mut input, &mut context, Duration::from_millis(5)) => panic!("it ended: {outcome:?}"),
            outcome = tokio::time::timeout(Duration::from_secs(60), told) => outcome.expect("it is told of"),
        }
        assert_eq!(health.failures(), 1);
    }
}

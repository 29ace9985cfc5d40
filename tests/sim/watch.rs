//! No life goes on for ever: one that takes too many steps or too long fails with its seed, and where a single step does not return, which
//! nobody can fail from within, the process ends after saying which life it was.

use std::{
    io::Write,
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::plan::Plan;

/// Steps after which a life that has not come to rest never will.
const STEPS_MAX: usize = 100_000;
/// A life takes a second or two of a processor, whatever else the machine has to do.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Between two steps its time is looked at; a step takes less than a millisecond. By the clock on the wall, of a machine that has much else
/// to do.
const HANGING: Duration = Duration::from_secs(900);

/// Looks at a life from outside until it is dropped.
pub struct Watch {
    /// Processor time of the thread when it began.
    begun: Duration,
    /// Closed at the end of the life: so its watcher knows.
    _alive: Sender<()>,
}

impl Watch {
    /// Watches a life that begins.
    pub fn over(plan: Plan) -> Self {
        let (alive, ended) = channel::<()>();
        std::thread::spawn(move || {
            if ended.recv_timeout(HANGING) == Err(RecvTimeoutError::Timeout) {
                // Past what the harness captures, as nothing will be printed by it any more.
                let _ = writeln!(std::io::stderr(), "a step of this life never ends: {plan:?}\nrepeat it with: {}", plan.repeat());
                std::process::abort();
            }
        });
        Self { begun: spent(), _alive: alive }
    }

    /// Whether it may take another step.
    ///
    /// # Errors
    /// When it took too many, or too long.
    pub fn check(&self, steps: usize) -> Result<(), String> {
        self.judge(steps, spent)
    }

    fn judge(&self, steps: usize, spent: impl FnOnce() -> Duration) -> Result<(), String> {
        if steps > STEPS_MAX {
            return Err(format!("does not come to rest within {STEPS_MAX} steps"));
        }
        // Reading the clock costs as much as a step, nearly.
        if steps.is_multiple_of(256) && spent().saturating_sub(self.begun) > LIFE_MAX {
            return Err(format!("does not come to rest within {LIFE_MAX:?}, after {steps} steps"));
        }
        Ok(())
    }
}

/// Processor time of this thread so far.
fn spent() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_of_too_many_steps_fails() {
        let watch = Watch::over(Plan::of(0));
        assert_eq!(watch.check(STEPS_MAX), Ok(()));
        assert!(watch.check(STEPS_MAX + 1).is_err());
    }

    #[test]
    fn a_life_of_too_long_fails() {
        let watch = Watch::over(Plan::of(0));
        let judge = |steps, more| watch.judge(steps, || watch.begun + LIFE_MAX + Duration::from_secs(more));
        assert_eq!(judge(1, 1), Ok(()), "looked at now and then");
        assert_eq!(judge(256, 0), Ok(()));
        assert!(judge(256, 1).is_err());
    }
}

//! Holds a GPIO line at a level that follows an alert: a siren, a lamp, a relay.

use std::time::Duration;

use weir_plugin_api::{
    options::Section,
    plugin::{ActionEntry, AnyAction, BoxFuture, BuildContext, LevelAction, PluginError},
};

use crate::gpio::{Chip, Device, Output, chip_path};

weir_plugin_api::choice! {
    /// When a level is set.
    pub enum Fire {
        /// When its cause is on disk.
        Durable = "durable",
        /// At once: it may have to be taken back after a crash.
        AtOnce = "at_once",
    }
}

weir_plugin_api::choice! {
    /// What becomes of the line at a clean stop.
    pub enum OnExit {
        /// Its level is left as it is; whether it stays when nobody holds the line is up to the chip's driver.
        Keep = "keep",
        /// It gets the safe level.
        Safe = "safe",
    }
}

weir_plugin_api::options! {
    /// Options of `gpio`.
    pub struct Options {
        /// The chip's device file, such as `/dev/gpiochip0`.
        chip: String,
        /// The line's number on the chip.
        line: u32,
        /// The line is active when its voltage is low.
        active_low: bool = false,
        /// The level that does no harm, `true` for active: what a stop sets with `on_exit = "safe"`.
        safe_level: bool = false,
        /// What becomes of the line at a clean stop: `keep`, `safe`.
        on_exit: OnExit = OnExit::Safe,
        /// `at_once` sets the level before its cause is on disk.
        fire: Fire = Fire::Durable,
    }
}

/// The registry's entry.
pub static ENTRY: ActionEntry =
    ActionEntry { name: "gpio", about: "a GPIO line that is active while an alert fires", specs: Options::specs, unsupported: &[], build };

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<AnyAction> {
    let options = Options::read(section)?;
    let path = chip_path(section, &options.chip)?;
    let claim = format!("gpio:{}:{}", crate::claim::canonical(&path).display(), options.line);
    Some(AnyAction::Level(Box::new(Level { chip: Box::new(Device::new(path)), options, claim, output: None })))
}

/// A chip on USB may be pulled out and come back while an alert fires.
const AGAIN: Duration = Duration::from_secs(10);

struct Level {
    chip: Box<dyn Chip>,
    options: Options,
    claim: String,
    /// The line, once it was set: before that, nothing is known of what it should be.
    output: Option<Box<dyn Output>>,
}

impl Level {
    fn drive(&mut self, active: bool) -> Result<(), PluginError> {
        let driven = match &mut self.output {
            Some(output) => output.set(active),
            None => {
                self.output = Some(self.chip.output(self.options.line, self.options.active_low, active)?);
                Ok(())
            }
        };
        if driven.is_err() {
            // A chip that was pulled out and is back needs a new request.
            self.output = None;
        }
        driven
    }
}

impl LevelAction for Level {
    fn set<'a>(&'a mut self, on: bool) -> BoxFuture<'a, Result<(), PluginError>> {
        let driven = self.drive(on);
        Box::pin(std::future::ready(driven))
    }

    fn exit<'a>(&'a mut self) -> BoxFuture<'a, ()> {
        if self.options.on_exit == OnExit::Safe
            && let Err(error) = self.drive(self.options.safe_level)
        {
            tracing::error!(line = self.options.line, reason = %error, "the line could not be set to its safe level");
        }
        Box::pin(std::future::ready(()))
    }

    fn claims(&self) -> Vec<String> {
        vec![self.claim.clone()]
    }

    fn at_once(&self) -> bool {
        self.options.fire == Fire::AtOnce
    }

    fn again_every(&self) -> Option<Duration> {
        Some(AGAIN)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::gpio::scripted::Script;

    fn level(script: &Script, on_exit: OnExit) -> Level {
        let options = Options { chip: "/dev/gpiochip0".into(), line: 4, active_low: false, safe_level: false, on_exit, fire: Fire::AtOnce };
        Level { chip: Box::new(script.clone()), options, claim: String::new(), output: None }
    }

    #[tokio::test]
    async fn the_line_follows_and_is_safe_at_the_end() {
        let script = Script::new();
        let mut action = level(&script, OnExit::Safe);
        assert!(action.at_once());
        action.set(true).await.unwrap();
        action.set(true).await.unwrap();
        action.exit().await;
        let world = script.world();
        assert_eq!((world.driven.as_slice(), world.requests), (&[true, true, false][..], 1));
    }

    #[tokio::test]
    async fn a_line_that_is_kept_is_not_touched_at_the_end() {
        let script = Script::new();
        let mut action = level(&script, OnExit::Keep);
        action.set(true).await.unwrap();
        action.exit().await;
        assert_eq!(script.world().driven, [true]);
    }

    #[tokio::test]
    async fn a_chip_that_is_away_is_an_error_and_is_requested_again() {
        let script = Script::new();
        let mut action = level(&script, OnExit::Safe);
        action.set(false).await.unwrap();
        script.change(|world| world.present = false);
        assert!(action.set(true).await.is_err());
        assert!(action.set(true).await.is_err());
        script.change(|world| world.present = true);
        action.set(true).await.unwrap();
        let world = script.world();
        assert_eq!((world.driven.as_slice(), world.requests), (&[false, true][..], 3));
    }
}

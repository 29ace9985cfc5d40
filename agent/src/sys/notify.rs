//! What systemd is told (sd_notify(3)): ready, reloading, stopping, and that it is alive.

use std::time::Duration;

use sd_notify::NotifyState;

/// The service is ready.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        send(&[NotifyState::Reloading, now]);
    }
}

/// The service stops.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// It is alive: said by the core thread, each time the other one has told it so, so that neither hangs unnoticed.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] must be called, half of what the unit allows; `None` without a watchdog.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "could not notify the service manager");
    }
}

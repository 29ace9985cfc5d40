//! When to connect again, and the suspicion that another client goes by our id.
//!
//! A broker closes the connection of the client that was there before. Two of one id that come back at once would take the session from each
//! other for ever, thousands of times an hour, and log each. Version 5 says why a connection is closed; before that it only is.

use std::{
    hash::{BuildHasher, Hasher},
    io::ErrorKind,
    time::Duration,
};

use tokio::time::Instant;

use super::connection::ConnectionError;

/// Longest wait: longer than that nobody who comes back stays away, so lives of twice that tell of him.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A connection that the broker closed sooner was a short one.
const SHORT: Duration = Duration::from_secs(90);
/// So many short ones in a row are no coincidence.
const SUSPICIOUS: u32 = 3;
/// The same where the broker said that another client has come.
const SUSPICIOUS_IF_SAID: u32 = 2;
/// How often the suspicion is told.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What the log says of the suspicion.
pub const RIVAL: &str = "the broker keeps closing the connection: another client with this `client_id` may be taking its place";

/// What to do after a connection has ended, or did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Again {
    /// Wait so long.
    pub wait: Duration,
    /// What to say of it.
    pub say: Say,
}

/// What is to be logged of the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// That there is no connection.
    Lost,
    /// That another client may have the same id, which has ended so many connections in a row.
    Rival(u32),
    /// Nothing: that was said less than a minute ago.
    Nothing,
}

/// Counts failures, and short lives in a row.
#[derive(Debug, Default)]
pub struct Reconnect {
    failures: u32,
    connected: Option<Instant>,
    /// Connections in a row that the broker closed soon.
    closed: u32,
    told: Option<Instant>,
}

impl Reconnect {
    /// The broker has accepted a connection.
    pub fn connected(&mut self, now: Instant) {
        self.connected = Some(now);
    }

    /// The connection does what it is for.
    pub fn works(&mut self) {
        if !self.is_suspicious() {
            self.failures = 0;
        }
    }

    /// Whether another client seems to go by our id: then the log has enough lines already.
    pub fn is_suspicious(&self) -> bool {
        self.told.is_some()
    }

    /// A connection has ended, or did not come about, for this reason if the network or the broker had one.
    pub fn ended(&mut self, error: Option<&ConnectionError>, now: Instant) -> Again {
        let lived = self.connected.take().map(|at| now - at);
        let said = matches!(error, Some(ConnectionError::Disconnected { taken_over: true, .. }));
        match lived {
            Some(_) if said => self.closed += 1,
            Some(lived) if lived < SHORT && error.is_some_and(is_closed) => self.closed += 1,
            // It had another reason.
            Some(_) => {
                self.closed = 0;
                if self.told.take().is_some() {
                    self.failures = 0;
                }
            }
            // Nobody listens: the broker was stopped, which explains how the connection before ended.
            None if error.is_some_and(is_refused) => {
                self.closed = 0;
                self.told = None;
            }
            None => {}
        }
        let enough = if said { SUSPICIOUS_IF_SAID } else { SUSPICIOUS };
        let say = match self.told {
            _ if lived.is_none() || (self.told.is_none() && self.closed < enough) => Say::Lost,
            Some(told) if now - told < TELL_EVERY => Say::Nothing,
            _ => {
                self.told = Some(now);
                Say::Rival(self.closed)
            }
        };
        Again { wait: self.next_wait(), say }
    }

    /// Doubled each time up to a minute, with jitter so that a fleet, or two of one id, do not return in step.
    fn next_wait(&mut self) -> Duration {
        let full = Duration::from_millis(100 << self.failures.min(10)).min(WAIT_MAX);
        self.failures += 1;
        // The standard library's only source of randomness: the keys of its hash maps.
        let random = std::hash::RandomState::new().build_hasher().finish() % 1000;
        full.mul_f64(0.5 + random as f64 / 2000.0)
    }
}

/// Whether the far side closed the connection.
fn is_closed(error: &ConnectionError) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    match error {
        ConnectionError::Closed => true,
        ConnectionError::Io { source, .. } => matches!(source.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof),
        _ => false,
    }
}

/// Whether nobody took the connection.
fn is_refused(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::Io { source, .. } if source.kind() == ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(reconnect: &mut Reconnect, error: &ConnectionError, now: Instant) -> Say {
        reconnect.connected(now);
        reconnect.works();
        reconnect.ended(Some(error), now).say
    }

    fn taken() -> ConnectionError {
        ConnectionError::Disconnected { reason: "session taken over".into(), taken_over: true }
    }

    #[test]
    fn the_back_off_grows_and_stays_below_a_minute() {
        let mut reconnect = Reconnect::default();
        let waits: Vec<_> = (0..12).map(|_| reconnect.ended(None, Instant::now()).wait).collect();
        assert!(waits[0] <= Duration::from_millis(500));
        assert!(waits[11] >= Duration::from_secs(30) && waits[11] <= Duration::from_secs(60));
    }

    #[test]
    fn connections_closed_soon_and_in_a_row_are_a_suspicion_told_once_a_minute_and_waited_for() {
        for (error, ordinary) in [(ConnectionError::Closed, 2), (taken(), 1)] {
            let (mut reconnect, start) = (Reconnect::default(), Instant::now());
            for _ in 0..ordinary {
                assert_eq!(after(&mut reconnect, &error, start), Say::Lost);
            }
            assert_eq!(after(&mut reconnect, &error, start), Say::Rival(ordinary + 1));
            let (mut now, mut told, mut connections) = (start, 0, 0);
            while now - start < Duration::from_secs(3600) {
                reconnect.connected(now);
                reconnect.works();
                let again = reconnect.ended(Some(&error), now);
                connections += 1;
                told += u32::from(matches!(again.say, Say::Rival(_)));
                assert_ne!(again.say, Say::Lost);
                now += again.wait;
            }
            assert!((30..=60).contains(&told) && connections < 140, "{told} lines of {connections} connections in an hour");
        }
    }

    #[test]
    fn a_rival_that_waits_as_long_as_we_do_is_noticed_and_one_that_is_gone_is_forgotten() {
        let (mut reconnect, mut now) = (Reconnect::default(), Instant::now());
        for _ in 0..5 {
            reconnect.connected(now);
            now += WAIT_MAX;
            reconnect.ended(Some(&ConnectionError::Closed), now);
        }
        assert!(reconnect.is_suspicious());
        reconnect.connected(now);
        now += SHORT;
        assert_eq!(reconnect.ended(Some(&ConnectionError::Closed), now).say, Say::Lost, "the broker was started anew");
        reconnect.connected(now);
        reconnect.works();
        assert!(reconnect.ended(None, now).wait <= Duration::from_millis(200), "and nobody waits longer for that");
    }

    #[test]
    fn a_broker_that_is_restarted_again_and_again_is_no_rival() {
        let (mut reconnect, now) = (Reconnect::default(), Instant::now());
        let refused = ConnectionError::Io { what: "can't connect", source: ErrorKind::ConnectionRefused.into() };
        for _ in 0..20 {
            assert_eq!(after(&mut reconnect, &ConnectionError::Closed, now), Say::Lost);
            assert_eq!(reconnect.ended(Some(&refused), now).say, Say::Lost);
            reconnect.connected(now);
            reconnect.works();
            assert!(reconnect.ended(None, now).wait <= Duration::from_millis(100), "it does not wait longer for that");
        }
    }

    #[test]
    fn a_network_that_comes_and_goes_is_no_rival() {
        let (mut reconnect, now) = (Reconnect::default(), Instant::now());
        for _ in 0..20 {
            assert_eq!(after(&mut reconnect, &ConnectionError::Timeout(Duration::from_secs(1)), now), Say::Lost);
            assert_eq!(after(&mut reconnect, &ConnectionError::Closed, now), Say::Lost);
            let refused = ConnectionError::Io { what: "can't connect", source: ErrorKind::ConnectionRefused.into() };
            assert_eq!(reconnect.ended(Some(&refused), now).say, Say::Lost);
        }
    }
}

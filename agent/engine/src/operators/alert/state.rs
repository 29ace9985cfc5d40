//! One group of one alert: `ok → pending → firing → resolved → ok`, in non-decreasing event time.

/// Where it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing to see.
    #[default]
    Ok,
    /// The condition holds since this event time, but not yet long enough.
    Pending { since: i64 },
    /// It fires; `clear` holds since this event time, if it does.
    Firing { clear_since: Option<i64> },
}

/// Whose time the event times in a state are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Axis {
    /// The points' own.
    #[default]
    Event = 0,
    /// Ours: steady plus offset. When the offset moves, so do they.
    Clock = 1,
    /// Ours of another boot: only differences mean anything.
    Stale = 2,
}

impl Axis {
    pub fn from_u8(raw: u8) -> Option<Self> {
        [Self::Event, Self::Clock, Self::Stale].into_iter().find(|a| *a as u8 == raw)
    }
}

/// What leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    Firing,
    Resolved,
}

/// The state of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub state: State,
    /// Event time of the last point looked at; `None` before the first.
    pub last: Option<i64>,
    pub axis: Axis,
    /// Transitions so far: the number of the last one.
    pub n: u64,
    /// It fires on live data, so its level actions are wanted.
    pub level: bool,
}

impl Memory {
    /// Times move with the clock they were taken from.
    pub fn shift(&mut self, delta: i64) {
        if let Some(last) = &mut self.last {
            *last = last.saturating_add(delta);
        }
        match &mut self.state {
            State::Pending { since } | State::Firing { clear_since: Some(since) } => *since = since.saturating_add(delta),
            State::Ok | State::Firing { clear_since: None } => {}
        }
    }

    /// Whether a point of this time and axis may be looked at; durations survive a change of axis.
    pub fn admit(&mut self, time: i64, axis: Axis) -> bool {
        if self.axis != axis {
            if let Some(last) = self.last {
                self.shift(time.saturating_sub(last));
            }
            self.axis = axis;
        }
        if self.last.is_some_and(|last| time < last) {
            return false;
        }
        self.last = Some(time);
        true
    }

    /// Whether it fires: `clear` is asked then, `when` otherwise.
    pub fn is_firing(&self) -> bool {
        matches!(self.state, State::Firing { .. })
    }

    /// Moves on, `holds` being the answer to what was asked; what leaves, if anything.
    pub fn step(&mut self, time: i64, holds: bool, hold: i64, keep: i64) -> Option<Transition> {
        match self.state {
            State::Ok | State::Pending { .. } => {
                if !holds {
                    self.state = State::Ok;
                    return None;
                }
                let since = if let State::Pending { since } = self.state { since } else { time };
                if time.saturating_sub(since) < hold {
                    self.state = State::Pending { since };
                    return None;
                }
                self.state = State::Firing { clear_since: None };
                self.n += 1;
                Some(Transition::Firing)
            }
            State::Firing { clear_since } => {
                if !holds {
                    self.state = State::Firing { clear_since: None };
                    return None;
                }
                let since = clear_since.unwrap_or(time);
                if time.saturating_sub(since) < keep {
                    self.state = State::Firing { clear_since: Some(since) };
                    return None;
                }
                self.state = State::Ok;
                self.n += 1;
                Some(Transition::Resolved)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(hold: i64, keep: i64, points: &[(i64, Option<bool>, Option<bool>)]) -> Vec<(i64, Transition)> {
        let mut memory = Memory::default();
        let mut out = Vec::new();
        for (time, when, clear) in points {
            let asked = if memory.is_firing() { clear } else { when };
            let Some(holds) = *asked else { continue };
            if memory.admit(*time, Axis::Event)
                && let Some(t) = memory.step(*time, holds, hold, keep)
            {
                out.push((*time, t));
            }
        }
        out
    }

    const YES: Option<bool> = Some(true);
    const NO: Option<bool> = Some(false);

    #[test]
    fn it_fires_when_the_condition_has_held_long_enough() {
        assert_eq!(run(30, 0, &[(0, YES, NO), (20, YES, NO), (29, YES, NO), (30, YES, NO)]), [(30, Transition::Firing)]);
        assert_eq!(run(30, 0, &[(0, YES, NO), (20, NO, YES), (30, YES, NO), (59, YES, NO)]), []);
        assert_eq!(run(0, 0, &[(5, YES, NO)]), [(5, Transition::Firing)]);
    }

    #[test]
    fn it_resolves_when_clear_has_held_long_enough() {
        let points = [(0, YES, NO), (1, NO, YES), (5, NO, NO), (6, NO, YES), (10, NO, YES), (16, NO, YES)];
        assert_eq!(run(0, 10, &points), [(0, Transition::Firing), (16, Transition::Resolved)]);
        assert_eq!(run(0, 0, &points), [(0, Transition::Firing), (1, Transition::Resolved)]);
    }

    #[test]
    fn what_is_undefined_changes_nothing() {
        assert_eq!(run(10, 0, &[(0, YES, NO), (5, None, None), (10, YES, NO)]), [(10, Transition::Firing)]);
        assert_eq!(run(0, 10, &[(0, YES, NO), (1, NO, YES), (5, None, None), (11, NO, YES)]).len(), 2);
    }

    #[test]
    fn an_older_point_is_not_looked_at_and_an_equal_one_is() {
        let mut memory = Memory::default();
        assert!(memory.admit(10, Axis::Event));
        assert!(!memory.admit(9, Axis::Event));
        assert!(memory.admit(10, Axis::Event));
    }

    #[test]
    fn a_duration_survives_the_setting_of_the_clock() {
        let mut memory = Memory::default();
        assert!(memory.admit(1_000, Axis::Clock));
        assert_eq!(memory.step(1_000, true, 30, 0), None);
        memory.shift(1_000_000);
        assert!(memory.admit(1_001_029, Axis::Clock));
        assert_eq!(memory.step(1_001_029, true, 30, 0), None);
        assert!(memory.admit(1_001_030, Axis::Clock));
        assert_eq!(memory.step(1_001_030, true, 30, 0), Some(Transition::Firing));
    }
}

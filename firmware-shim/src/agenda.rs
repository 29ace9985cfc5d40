//! When which sensor is read, and what of it is worth sending.
//!
//! Each task has a period and a jitter: starts lie on a grid, so that nothing drifts, and each is put off by a random part of the jitter,
//! so that tasks of one period (and boards of one batch) do not all want the bus at once.

use heapless::Vec;

use crate::{deadband::Deadband, fault::Fault, frame::Value, link::Device, sensor::Sensor};

/// When a sensor is read and what for.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'s> {
    /// Index of its first field in the device's schema.
    pub first_field: usize,
    /// One per field.
    pub deadbands: &'s [Deadband],
    /// Time from start to start, microseconds; 0 counts as 1.
    pub period_us: u64,
    /// A start is put off by less than that, microseconds.
    pub jitter_us: u32,
    /// With nothing worth sending it is sent all the same after that long, microseconds.
    pub silent_us_max: u64,
}

/// Why a task can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// There is no room for another task.
    Full,
    /// Its fields are not all in the schema's, or it has none.
    Fields,
}

struct Task<'s> {
    sensor: &'s mut dyn Sensor,
    plan: Plan<'s>,
    /// Next place on the grid, and the start: that and its jitter.
    grid_us: u64,
    start_us: u64,
    /// A measurement is under way: when it began, and when it can be read.
    under_way: Option<(u64, u64)>,
    sent_us: Option<u64>,
}

/// All sensors of a device: `TASKS` of them at most, `FIELDS` as the device's.
pub struct Agenda<'s, const TASKS: usize, const FIELDS: usize> {
    tasks: Vec<Task<'s>, TASKS>,
    /// What was sent last of each field.
    sent: [Option<Value>; FIELDS],
    random: u32,
    skipped: u64,
}

impl<'s, const TASKS: usize, const FIELDS: usize> Agenda<'s, TASKS, FIELDS> {
    /// No tasks yet; `seed` is for the jitter.
    pub fn new(seed: u32) -> Self {
        Self { tasks: Vec::new(), sent: [None; FIELDS], random: seed.max(1), skipped: 0 }
    }

    /// Adds a sensor that is read from `now_us` on.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn add(&mut self, sensor: &'s mut dyn Sensor, plan: Plan<'s>, now_us: u64) -> Result<(), PlanError> {
        let end = plan.first_field.checked_add(plan.deadbands.len()).ok_or(PlanError::Fields)?;
        if plan.deadbands.is_empty() || end > FIELDS {
            return Err(PlanError::Fields);
        }
        let start_us = now_us + self.jitter(plan.jitter_us);
        let task = Task { sensor, plan, grid_us: now_us, start_us, under_way: None, sent_us: None };
        self.tasks.push(task).map_err(|_| PlanError::Full)
    }

    /// Does what is due at `now_us`.
    pub fn run<const DEPTH: usize>(&mut self, now_us: u64, device: &mut Device<'_, DEPTH, FIELDS>) {
        for i in 0..self.tasks.len() {
            let task = &mut self.tasks[i];
            task.sensor.poll();
            match task.under_way {
                Some((began_us, ready_us)) if now_us >= ready_us => {
                    task.under_way = None;
                    let mut values = [None; FIELDS];
                    let fields = task.plan.first_field..task.plan.first_field + task.plan.deadbands.len();
                    if let Err(fault) = task.sensor.read(&mut values[fields.clone()]) {
                        values[fields].fill(Some(Value::Fault(fault)));
                    }
                    self.take(i, began_us, values, device);
                }
                None if now_us >= task.start_us => {
                    match task.sensor.begin() {
                        Ok(takes_us) => task.under_way = Some((now_us, now_us + u64::from(takes_us))),
                        Err(fault) => {
                            let mut values = [None; FIELDS];
                            values[task.plan.first_field..][..task.plan.deadbands.len()].fill(Some(Value::Fault(fault)));
                            self.take(i, now_us, values, device);
                        }
                    }
                    self.schedule(i, now_us);
                }
                _ => {}
            }
        }
    }

    /// When [`Agenda::run`] has something to do next, microseconds of the device's uptime.
    pub fn deadline_us(&self) -> u64 {
        self.tasks.iter().map(|task| task.under_way.map_or(task.start_us, |(_, ready_us)| ready_us)).min().unwrap_or(u64::MAX)
    }

    /// Starts that were left out because the one before was not over or the loop was held up.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn schedule(&mut self, i: usize, now_us: u64) {
        let jitter = self.jitter(self.tasks[i].plan.jitter_us);
        let task = &mut self.tasks[i];
        let period_us = task.plan.period_us.max(1);
        // The grid's first place after now.
        let periods = now_us.saturating_sub(task.grid_us) / period_us + 1;
        self.skipped += periods - 1;
        task.grid_us += periods * period_us;
        task.start_us = task.grid_us + jitter;
    }

    fn take<const DEPTH: usize>(
        &mut self,
        i: usize,
        taken_us: u64,
        mut values: [Option<Value>; FIELDS],
        device: &mut Device<'_, DEPTH, FIELDS>,
    ) {
        let task = &mut self.tasks[i];
        let mut recovered = [None; FIELDS];
        let mut is_worth_it = task.sent_us.is_none_or(|sent| taken_us.saturating_sub(sent) >= task.plan.silent_us_max);
        for (at, deadband) in task.plan.deadbands.iter().enumerate().map(|(k, band)| (task.plan.first_field + k, band)) {
            values[at] = values[at].map(Value::checked);
            is_worth_it |= deadband.is_left(self.sent[at], values[at]);
            let was_faulty = matches!(self.sent[at], Some(Value::Fault(_)));
            if was_faulty && values[at].is_some_and(|value| !matches!(value, Value::Fault(_))) {
                recovered[at] = Some(Value::Fault(Fault::None));
            }
        }
        if !is_worth_it {
            device.count_held_back(1);
            return;
        }
        task.sent_us = Some(taken_us);
        let fields = task.plan.first_field..task.plan.first_field + task.plan.deadbands.len();
        if recovered.iter().any(Option::is_some) {
            push(device, taken_us, &recovered);
        }
        if push(device, taken_us, &values) {
            self.sent[fields.clone()].copy_from_slice(&values[fields]);
        }
    }

    fn jitter(&mut self, below_us: u32) -> u64 {
        // Xorshift (Marsaglia, 2003): any sequence that differs from board to board will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        if below_us == 0 { 0 } else { u64::from(self.random % below_us) }
    }
}

/// A sensor that gives another kind than its field's is a mistake in the firmware: the device hears of it as a fault of the whole task.
fn push<const DEPTH: usize, const FIELDS: usize>(
    device: &mut Device<'_, DEPTH, FIELDS>,
    taken_us: u64,
    values: &[Option<Value>; FIELDS],
) -> bool {
    let values = &values[..device.fields().min(FIELDS)];
    if device.push(taken_us, values).is_ok() {
        return true;
    }
    let mut faults = [None; FIELDS];
    for (fault, _) in faults.iter_mut().zip(values).filter(|(_, value)| value.is_some()) {
        *fault = Some(Value::Fault(Fault::Other(u8::MAX)));
    }
    device.push(taken_us, &faults[..values.len()]).is_ok()
}

#[cfg(test)]
mod tests;

//! An agenda over a script of measurements, and the device's queue behind it.

use std::{cell::RefCell, collections::VecDeque, rc::Rc};

use super::*;
use crate::{
    frame::{Data, Field, FieldKind, FrameDecoder, Message, WIRE_MAX},
    link::{Schema, Start},
};

const FIELDS: [Field<'static>; 2] = [Field { name: "a", kind: FieldKind::Scaled(0) }, Field { name: "b", kind: FieldKind::Scaled(0) }];
const SCHEMA: Schema<'static> = Schema { device: "d", measurement: "m", fields: &FIELDS };
const BAND: [Deadband; 1] = [Deadband::Change(5.0)];
const SECOND: u64 = 1_000_000;

type Script = Rc<RefCell<VecDeque<Result<i64, Fault>>>>;

/// Gives one result after the other; repeats the last.
struct Scripted(Script, u32);

impl Sensor for Scripted {
    fn begin(&mut self) -> Result<u32, Fault> {
        Ok(self.1)
    }

    fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
        let mut script = self.0.borrow_mut();
        let next = if script.len() > 1 { script.pop_front() } else { script.front().copied() };
        values[0] = Some(Value::Scaled(next.expect("a script")?));
        Ok(())
    }
}

fn scripted(results: &[Result<i64, Fault>], takes_us: u32) -> Scripted {
    Scripted(Rc::new(RefCell::new(results.iter().copied().collect())), takes_us)
}

fn plan(first_field: usize) -> Plan<'static> {
    Plan { first_field, deadbands: &BAND, period_us: SECOND, jitter_us: 0, silent_us_max: 60 * SECOND }
}

/// Runs to `until_us` in steps of a millisecond and gives what is in the queue then: when, and the values.
fn run(agenda: &mut Agenda<'_, 2, 2>, until_us: u64) -> std::vec::Vec<(u64, std::vec::Vec<Option<Value>>)> {
    let mut device = Device::<64, 2>::new(SCHEMA, Start::Nonce(1), Box::leak(Box::default())).expect("a schema that fits");
    for now_us in (0..until_us).step_by(1000) {
        agenda.run(now_us, &mut device);
    }
    let (mut out, mut decoder, mut got) = ([0; WIRE_MAX], FrameDecoder::default(), std::vec::Vec::new());
    loop {
        let len = device.poll(until_us, &mut out);
        if len == 0 {
            return got;
        }
        for byte in &out[..len] {
            if decoder.push(*byte) == Some(Ok(()))
                && let Ok(Message::Data(data)) = decoder.message()
            {
                got.extend(readings(&data, until_us));
            }
        }
    }
}

fn readings(data: &Data<'_>, now_us: u64) -> std::vec::Vec<(u64, std::vec::Vec<Option<Value>>)> {
    data.readings(&FIELDS.map(|f| f.kind)).map(|r| (now_us - r.age_us, r.values.to_vec())).collect()
}

fn firsts(got: &[(u64, std::vec::Vec<Option<Value>>)]) -> std::vec::Vec<Option<Value>> {
    got.iter().map(|(_, values)| values[0]).collect()
}

#[test]
fn a_reading_has_the_time_its_measurement_began() {
    let mut sensor = scripted(&[Ok(1), Ok(100), Ok(200)], 750_000);
    let mut agenda = Agenda::<2, 2>::new(1);
    agenda.add(&mut sensor, plan(0), 0).expect("it fits");
    let got = run(&mut agenda, 2_900_000);
    assert_eq!(got.iter().map(|(at, _)| *at).collect::<std::vec::Vec<_>>(), [0, SECOND, 2 * SECOND]);
    assert_eq!(agenda.skipped(), 0);
}

#[test]
fn what_stays_in_its_band_is_held_back_until_the_silence_is_too_long() {
    let mut sensor = scripted(&[Ok(100), Ok(103), Ok(96), Ok(110), Ok(110)], 0);
    let mut agenda = Agenda::<2, 2>::new(1);
    agenda.add(&mut sensor, Plan { silent_us_max: 4 * SECOND, ..plan(0) }, 0).expect("it fits");
    let got = run(&mut agenda, 10 * SECOND);
    let at: std::vec::Vec<u64> = got.iter().map(|(at, _)| at / SECOND).collect();
    assert_eq!((at, firsts(&got)), ([0, 3, 7].to_vec(), [100, 110, 110].map(|n| Some(Value::Scaled(n))).to_vec()));
}

#[test]
fn a_fault_is_sent_when_it_comes_and_its_end_before_the_next_value() {
    let mut sensor = scripted(&[Ok(1), Err(Fault::Missing), Err(Fault::Missing), Err(Fault::Checksum), Ok(2)], 0);
    let mut agenda = Agenda::<2, 2>::new(1);
    agenda.add(&mut sensor, plan(0), 0).expect("it fits");
    let got = firsts(&run(&mut agenda, 8 * SECOND));
    let fault = |fault| Some(Value::Fault(fault));
    let value = |n| Some(Value::Scaled(n));
    assert_eq!(got, [value(1), fault(Fault::Missing), fault(Fault::Checksum), fault(Fault::None), value(2)]);
}

#[test]
fn two_sensors_share_a_schema_and_each_reading_has_only_its_own_fields() {
    let (mut first, mut second) = (scripted(&[Ok(1)], 0), scripted(&[Ok(2)], 10_000));
    let mut agenda = Agenda::<2, 2>::new(1);
    agenda.add(&mut first, plan(0), 0).expect("it fits");
    agenda.add(&mut second, Plan { first_field: 1, ..plan(0) }, 0).expect("it fits");
    let got = run(&mut agenda, SECOND / 2);
    let values: std::vec::Vec<_> = got.into_iter().map(|(_, values)| values).collect();
    assert_eq!(values, [[Some(Value::Scaled(1)), None], [None, Some(Value::Scaled(2))]]);
}

#[test]
fn jitter_puts_starts_off_and_never_moves_the_grid() {
    let mut sensor = scripted(&(0..40).map(|n| Ok(n * 10)).collect::<std::vec::Vec<_>>(), 0);
    let mut agenda = Agenda::<2, 2>::new(7);
    agenda.add(&mut sensor, Plan { jitter_us: 300_000, ..plan(0) }, 0).expect("it fits");
    let got = run(&mut agenda, 30 * SECOND);
    let off: std::vec::Vec<u64> = got.iter().enumerate().map(|(i, (at, _))| at - i as u64 * SECOND).collect();
    assert_eq!(off.len(), 30);
    assert!(off.iter().all(|off| *off < 301_000) && off.iter().any(|o| *o > 100_000) && off.iter().any(|o| *o < 100_000), "{off:?}");
}

#[test]
fn a_loop_that_was_held_up_leaves_starts_out_and_counts_them() {
    let mut sensor = scripted(&[Ok(1)], 0);
    let mut agenda = Agenda::<2, 2>::new(1);
    agenda.add(&mut sensor, plan(0), 0).expect("it fits");
    let mut device = Device::<4, 2>::new(SCHEMA, Start::Nonce(1), Box::leak(Box::default())).expect("a schema that fits");
    for now_us in [0, 5_500_000, 5_600_000] {
        agenda.run(now_us, &mut device);
    }
    agenda.run(5_600_001, &mut device);
    assert_eq!((agenda.skipped(), agenda.deadline_us()), (4, 6 * SECOND));
}

#[test]
fn a_sensor_of_the_wrong_kind_is_a_fault_and_a_plan_past_the_schema_is_refused() {
    struct Wrong;
    impl Sensor for Wrong {
        fn begin(&mut self) -> Result<u32, Fault> {
            Ok(0)
        }
        fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
            values[0] = Some(Value::Bool(true));
            Ok(())
        }
    }
    let (mut wrong, mut other) = (Wrong, Wrong);
    let mut agenda = Agenda::<2, 2>::new(1);
    assert_eq!(agenda.add(&mut other, plan(2), 0), Err(PlanError::Fields));
    agenda.add(&mut wrong, plan(0), 0).expect("it fits");
    assert_eq!(firsts(&run(&mut agenda, 1000 * 10)), [Some(Value::Fault(Fault::Other(255)))]);
}

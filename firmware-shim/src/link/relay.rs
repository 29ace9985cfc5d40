//! Both ends over a line that loses, damages, cuts, repeats and holds up, with resets of one and restarts of the other, against what must come out: every reading once, in order, or counted as lost.

use proptest::prelude::*;

use super::{Device, Event, Gateway, Schema, Start};
use crate::frame::{Field, FieldKind, Value, WIRE_MAX, write_ack};

const FIELDS: [Field<'static>; 2] = [Field { name: "n", kind: FieldKind::Scaled(0) }, Field { name: "x", kind: FieldKind::F32 }];
const SCHEMA: Schema<'static> = Schema { device: "relay", measurement: "m", fields: &FIELDS };
const DEPTH: usize = 32;
const CLOCK: u32 = 3;
/// The gateway's clock is ahead of the device's.
const AHEAD_US: u64 = 5_000_000_000;

/// A step of the world.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Readings are taken.
    Read(u8),
    /// What the gateway has to say and so many frames of the device cross the line, damaged as said.
    Cross(Damage, u8),
    /// What the gateway took becomes durable and is acknowledged, the acknowledgement damaged as said.
    Commit(Damage),
    /// The gateway dies and comes back with what was durable.
    Restart,
    /// The device is reset and goes on with its row; what its queue held is gone.
    Reset,
    /// Time passes.
    Wait,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    Lost,
    Flipped(u8),
    Noise(u8),
    /// It comes twice.
    Doubled,
    /// Its end is missing.
    Cut(u8),
    /// It comes before whatever crosses next.
    Late,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![3 => Just(Damage::None), 1 => Just(Damage::Lost), 1 => any::<u8>().prop_map(Damage::Flipped), 1 => any::<u8>().prop_map(Damage::Noise), 1 => Just(Damage::Doubled), 1 => any::<u8>().prop_map(Damage::Cut), 1 => Just(Damage::Late)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..20).prop_map(Step::Read),
        6 => (damage(), 1u8..4).prop_map(|(damage, frames)| Step::Cross(damage, frames)),
        3 => damage().prop_map(Step::Commit),
        1 => Just(Step::Restart),
        1 => Just(Step::Reset),
        2 => Just(Step::Wait),
    ]
}

/// What arrives of `frame`; `late` is what was held up before.
fn damaged(frame: &[u8], damage: Damage, late: &mut Vec<u8>) -> Vec<u8> {
    let mut arrives = std::mem::take(late);
    arrives.extend(match damage {
        Damage::None => frame.to_vec(),
        Damage::Lost => Vec::new(),
        Damage::Flipped(at) => {
            let mut bytes = frame.to_vec();
            bytes[usize::from(at) % frame.len()] ^= 1 << (at % 8);
            bytes
        }
        Damage::Noise(byte) => [&[byte, byte ^ 0x55], frame].concat(),
        Damage::Doubled => [frame, frame].concat(),
        Damage::Cut(at) => frame[..usize::from(at) % frame.len()].to_vec(),
        Damage::Late => {
            *late = frame.to_vec();
            Vec::new()
        }
    });
    arrives
}

struct World {
    device: Device<'static, DEPTH, 2>,
    gateway: Gateway,
    now_us: u64,
    /// When the device last began: its uptime counts from there.
    boot_us: u64,
    pushed: i64,
    /// Numbers taken since the last commit, and the durable ones.
    open: Vec<i64>,
    durable: Vec<i64>,
    lost_open: u64,
    lost: u64,
    resume: Option<(u32, u64)>,
    /// Held up on the way to the gateway, and to the device.
    late: [Vec<u8>; 2],
}

impl World {
    fn new() -> Self {
        Self {
            device: Device::new(SCHEMA, Start::Nonce(77), Box::leak(Box::default())).expect("a schema that fits"),
            gateway: Gateway::new(None, CLOCK),
            now_us: 0,
            boot_us: 0,
            pushed: 0,
            open: Vec::new(),
            durable: Vec::new(),
            lost_open: 0,
            lost: 0,
            resume: None,
            late: Default::default(),
        }
    }

    fn uptime_us(&self) -> u64 {
        self.now_us - self.boot_us
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Read(count) => {
                for _ in 0..count {
                    self.pushed += 1;
                    self.now_us += 1000;
                    self.device.push(self.uptime_us(), &[Some(Value::Scaled(self.pushed)), None]).expect("the schema's values");
                }
            }
            Step::Cross(damage, frames) => self.cross(damage, frames),
            Step::Commit(damage) => {
                self.durable.append(&mut self.open);
                self.lost += std::mem::take(&mut self.lost_open);
                self.resume = self.gateway.taken();
                let Some((nonce, sequence)) = self.resume else { return };
                let (mut ack, uptime_us) = ([0; WIRE_MAX], self.uptime_us());
                let len = write_ack(nonce, sequence, &mut ack);
                damaged(&ack[..len], damage, &mut self.late[1]).iter().for_each(|b| self.device.receive(*b, uptime_us));
            }
            Step::Restart => {
                self.open.clear();
                self.lost_open = 0;
                self.gateway = Gateway::new(self.resume, CLOCK);
            }
            Step::Reset => {
                let row = self.device.row().expect("it drew a nonce");
                self.device = Device::new(SCHEMA, Start::Row(row), Box::leak(Box::default())).expect("a schema that fits");
                self.now_us += 1_000_000;
                self.boot_us = self.now_us;
            }
            Step::Wait => self.now_us += 31_000_000,
        }
    }

    fn cross(&mut self, damage: Damage, frames: u8) {
        let (mut frame, uptime_us) = ([0; WIRE_MAX], self.uptime_us());
        loop {
            let len = self.gateway.reply(self.now_us + AHEAD_US, &mut frame);
            if len == 0 {
                break;
            }
            damaged(&frame[..len], damage, &mut self.late[1]).iter().for_each(|b| self.device.receive(*b, uptime_us));
        }
        for _ in 0..frames {
            let len = self.device.poll(uptime_us, &mut frame);
            if len == 0 {
                return;
            }
            for byte in damaged(&frame[..len], damage, &mut self.late[0]) {
                let event = self.gateway.push(byte, self.now_us + AHEAD_US);
                if let Some(Event::Hello { lost, .. }) = event {
                    self.lost_open += lost;
                }
                if let Some(Event::Data { new, lost, .. }) = event {
                    let before = self.open.len();
                    self.open.extend(self.gateway.readings().filter_map(|r| match r.values[0] {
                        Some(Value::Scaled(n)) => Some(n),
                        _ => None,
                    }));
                    assert_eq!((self.open.len() - before) as u64, new);
                    self.lost_open += lost;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(400), ..ProptestConfig::default() })]
    #[test]
    fn every_reading_arrives_once_and_in_order_or_is_counted(steps in proptest::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        steps.into_iter().for_each(|step| world.step(step));
        // The line heals.
        for _ in 0..60 {
            world.step(Step::Wait);
            world.step(Step::Cross(Damage::None, 3));
            world.step(Step::Cross(Damage::None, 3));
            world.step(Step::Commit(Damage::None));
        }
        prop_assert_eq!(world.device.waiting(), 0);
        prop_assert!(world.durable.windows(2).all(|w| w[0] < w[1]), "{:?}", world.durable);
        prop_assert_eq!(world.durable.len() as u64 + world.lost, world.pushed as u64);
        prop_assert!(world.lost <= world.device.dropped());
    }
}

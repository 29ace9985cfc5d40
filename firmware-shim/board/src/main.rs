//! A weather station: the firmware shim on a Cortex-M3, its sensors simulated behind the same buses real ones would hang on.
//!
//! A BME280 is read by its registers, a DS18B20 by the level of its pin. Both fail now and then, by the count of their measurements, so
//! that whoever listens sees every fault and its end. Each reading carries its number as `n`: a listener can tell what it missed.
#![no_std]
#![no_main]

mod chip;

use core::cell::{Cell, RefCell};

use static_cell::{ConstStaticCell, StaticCell};
use weir_firmware_shim::{
    agenda::{Agenda, Plan},
    deadband::Deadband,
    frame::{Field, FieldKind},
    link::{Device, Schema, Start},
    node::Node,
    retain::Retain,
    row::KeptRow,
    sensor::Sensor,
    sensors::{
        analog::{Analog, Channel, Scale},
        bme280, ds18b20,
        one_wire::OneWire,
        registers::OverI2c,
    },
    sim::{Bme280Chip, Ds18b20Chip, SimBus, SimDelay, SimPin},
};

const FIELDS: usize = 6;
const NUMBER: usize = 5;
const TASKS: usize = 3;
const SCHEMA: Schema<'static> = Schema {
    device: "station",
    measurement: "climate",
    fields: &[
        bme280::FIELDS[0],
        bme280::FIELDS[1],
        bme280::FIELDS[2],
        Field { name: "ground", kind: ds18b20::FIELD.kind },
        Field { name: "supply", kind: FieldKind::Scaled(-2) },
        Field { name: "n", kind: FieldKind::Scaled(0) },
    ],
};
/// Readings kept until they are acknowledged: four seconds at this rate.
const DEPTH: usize = 64;

/// Everything is worth sending of the supply; the climate and the ground have bands, in hundredths.
const ALWAYS: [Deadband; 1] = [Deadband::None];
const CLIMATE: [Deadband; 3] = [Deadband::Change(5.0), Deadband::Change(5.0), Deadband::Change(20.0)];
const GROUND: [Deadband; 1] = [Deadband::Change(10.0)];

// All that lasts is static, so that the linker counts it: what it leaves is stack.
static WORLD: StaticCell<World> = StaticCell::new();
static AIR: StaticCell<bme280::Bme280<OverI2c<SimBus<'static>>>> = StaticCell::new();
static GROUND_SENSOR: StaticCell<ds18b20::Ds18b20<SimPin<'static>, SimDelay<'static>>> = StaticCell::new();
static SUPPLY: StaticCell<Analog<Supply>> = StaticCell::new();
static RETAIN: ConstStaticCell<Retain<DEPTH, FIELDS>> = ConstStaticCell::new(Retain::new());
static NODE: StaticCell<Node<'static, chip::Kept, DEPTH, FIELDS, TASKS>> = StaticCell::new();

/// The simulated world: chips, and the time of the pin.
struct World {
    air: RefCell<Bme280Chip>,
    ground: RefCell<Ds18b20Chip>,
    now_ns: Cell<u64>,
}

impl World {
    fn new() -> Self {
        Self { air: RefCell::new(Bme280Chip::default()), ground: RefCell::new(Ds18b20Chip::default()), now_ns: Cell::new(0) }
    }

    /// Time passes, the weather changes, and chips fail and recover.
    fn pass(&self, before_us: u64, now_us: u64) {
        let phase = (now_us / 100_000) as u32;
        let mut air = self.air.borrow_mut();
        air.pass((now_us - before_us) as u32);
        air.temperature = 519_888 + phase % 200 * 40;
        air.pressure = 415_148 + phase % 90 * 20;
        air.is_there = phase % 64 < 60;
        let mut ground = self.ground.borrow_mut();
        ground.temperature = 200 + (phase % 100) as i16;
        // Every sixth second it loses its supply, in the middle of a conversion.
        if phase % 60 == 35 && before_us / 100_000 != now_us / 100_000 {
            ground.reset();
        }
        // The pin's time runs ahead while it is read, and waits for ours then.
        self.now_ns.set(self.now_ns.get().max(now_us * 1000));
    }
}

/// A converter that sees the supply sag a little.
struct Supply(u16);

/// 3.30 V at 4095, through a divider by two.
const SUPPLY_SCALE: Scale = Scale { raw_min: 1000, raw_max: 4095, at_min: 161, at_max: 660 };

impl Channel for Supply {
    type Error = core::convert::Infallible;

    fn read(&mut self) -> Result<u16, Self::Error> {
        self.0 = (self.0 + 7) % 200;
        Ok(2900 + self.0)
    }
}

fn plan(first_field: usize, deadbands: &'static [Deadband], period_ms: u64) -> Plan<'static> {
    let jitter_us = if first_field == 4 { 0 } else { 20_000 };
    Plan { first_field, deadbands, period_us: period_ms * 1000, jitter_us, silent_us_max: 5_000_000 }
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let (mut uart, mut uptime, memory) = chip::start();
    let world = WORLD.init_with(World::new);
    let pin = SimPin::new(&world.ground, &world.now_ns);
    let air = AIR.init(bme280::Bme280::new(SimBus(&world.air), bme280::ADDRESS));
    let ground = GROUND_SENSOR.init(ds18b20::Ds18b20::new(OneWire::new(pin, SimDelay(&world.now_ns)), None));
    let supply = SUPPLY.init(Analog::new(Supply(0), SUPPLY_SCALE, 4));

    let kept = KeptRow::new(memory);
    // This board has nothing random: over a reset the row goes on, and after a power cut the gateway's clock makes the nonce.
    let start = kept.row().map_or(Start::Seed(0), Start::Row);
    let device = Device::new(SCHEMA, start, RETAIN.take()).and_then(|device| device.numbered(NUMBER));
    let Ok(device) = device else { panic!("a schema that fits") };
    let mut agenda = Agenda::new(1);
    let tasks: [(&mut dyn Sensor, Plan<'_>); TASKS] =
        [(air, plan(0, &CLIMATE, 200)), (ground, plan(3, &GROUND, 1000)), (supply, plan(4, &ALWAYS, 100))];
    for (sensor, plan) in tasks {
        if agenda.add(sensor, plan, 0).is_err() {
            panic!("a plan that fits");
        }
    }
    let node = NODE.init(Node { device: device.time_every(2_000_000), agenda, kept });
    let mut now_us = 0;
    loop {
        let before_us = now_us;
        now_us = uptime.now_us();
        world.pass(before_us, now_us);
        // The port cannot fail.
        let _ = node.turn(&mut uart, now_us);
    }
}

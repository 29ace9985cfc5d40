//! A weather station: the firmware shim on a Cortex-M3.
#![no_std]
#![no_main]

mod chip;

use weir_firmware_shim::{
    frame::{Field, FieldKind, Value, WIRE_MAX},
    link::{Device, Schema, Start},
};

const FIELDS: [Field<'static>; 1] = [Field { name: "n", kind: FieldKind::Scaled(0) }];
const SCHEMA: Schema<'static> = Schema { device: "station", measurement: "climate", fields: &FIELDS };

#[cortex_m_rt::entry]
fn main() -> ! {
    let (mut uart, mut uptime) = chip::start();
    let boots = chip::kept_read(0).wrapping_add(1);
    chip::kept_write(0, boots);
    let Ok(mut device) = Device::<64, 1>::new(SCHEMA, Start::Seed(boots)) else { panic!() };
    let (mut out, mut n, mut due) = ([0; WIRE_MAX], 0, 0);
    loop {
        let now = uptime.now_us();
        if now >= due {
            n += 1;
            due = now + 100_000;
            let _ = device.push(now, &[Some(Value::Scaled(n))]);
        }
        while let Some(byte) = uart.read() {
            device.receive(byte, now);
        }
        let len = device.poll(now, &mut out);
        uart.write(&out[..len]);
    }
}

//! Bytes from anywhere, on both ends of the frame protocol's line.

#![no_main]

use weir_firmware_shim::{
    frame::{Field, FieldKind, Value, WIRE_MAX},
    link::{Device, Gateway, Schema, Start},
    retain::Retain,
};

const FIELDS: [Field<'static>; 1] = [Field { name: "n", kind: FieldKind::Scaled(0) }];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let schema = Schema { device: "d", measurement: "m", fields: &FIELDS };
    let (mut retain, mut out) = (Retain::<8, 1>::new(), [0; WIRE_MAX]);
    let mut device = Device::new(schema, Start::Nonce(1), &mut retain).expect("the schema fits");
    let mut gateway = Gateway::new(None, 1);
    for (now_us, byte) in (0u64..).zip(bytes) {
        device.receive(*byte, now_us);
        if byte % 16 == 0 {
            device.push(now_us, &[Some(Value::Scaled(i64::from(*byte)))]).expect("the schema's value");
        }
        gateway.push(*byte, now_us);
        assert!(gateway.readings().count() <= 255);
        while gateway.reply(now_us, &mut out) > 0 {}
    }
    assert!(device.waiting() <= 8);
    let later = bytes.len() as u64 + 100_000_000;
    for _ in 0..16 {
        device.poll(later, &mut out);
    }
    assert_eq!(device.poll(later, &mut out), 0, "what is due comes to an end");
});

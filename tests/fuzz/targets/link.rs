//! A line whose harm the fuzzer chooses: every reading arrives once, in order, or is counted as lost.

#![no_main]

use weir_firmware_shim::{
    frame::{Field, FieldKind, Value, WIRE_MAX, write_ack},
    link::{Device, Event, Gateway, Schema, Start},
    retain::Retain,
};

const FIELDS: [Field<'static>; 1] = [Field { name: "n", kind: FieldKind::Scaled(0) }];

libfuzzer_sys::fuzz_target!(|choices: &[u8]| {
    let schema = Schema { device: "d", measurement: "m", fields: &FIELDS };
    let (mut retain, mut frame) = (Retain::<8, 1>::new(), [0; WIRE_MAX]);
    let mut device = Device::new(schema, Start::Nonce(1), &mut retain).expect("the schema fits");
    let mut gateway = Gateway::new(None, 1);
    let (mut pushed, mut taken, mut lost, mut now_us) = (0, Vec::new(), 0, 0);
    // Then the line heals.
    for (step, choice) in choices.iter().copied().chain([0; 64]).enumerate() {
        now_us += 1_000_000;
        if step < choices.len() && choice & 1 == 1 {
            pushed += 1;
            device.push(now_us, &[Some(Value::Scaled(pushed))]).expect("the schema's value");
        }
        let harm = |frame: &mut [u8]| match choice >> 1 & 7 {
            _ if step >= choices.len() || frame.is_empty() => (0, frame.len()),
            1 => (0, 0),
            2 => (0, frame.len() / 2),
            3 => (frame.len() / 2, frame.len()),
            4 => {
                let at = usize::from(choice >> 4) % frame.len();
                frame[at] ^= 1 << (choice & 7);
                (0, frame.len())
            }
            _ => (0, frame.len()),
        };
        for _ in 0..4 {
            let len = device.poll(now_us, &mut frame);
            let (from, to) = harm(&mut frame[..len]);
            for byte in &frame[from..to] {
                let event = gateway.push(*byte, now_us);
                if let Some(Event::Data { lost: more, .. } | Event::Hello { lost: more, .. }) = event {
                    lost += more;
                }
                if let Some(Event::Data { .. }) = event {
                    taken.extend(gateway.readings().filter_map(|reading| reading.values[0]));
                }
            }
            let mut len = gateway.reply(now_us, &mut frame);
            if len == 0
                && let Some((nonce, sequence)) = gateway.taken()
            {
                len = write_ack(nonce, sequence, &mut frame);
            }
            let (from, to) = harm(&mut frame[..len]);
            frame[from..to].iter().for_each(|byte| device.receive(*byte, now_us));
        }
    }
    let numbers: Vec<i64> = taken.iter().map(|value| if let Value::Scaled(n) = value { *n } else { panic!("{value:?}") }).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "once, in order: {numbers:?}");
    assert_eq!(numbers.len() as u64 + lost, pushed as u64);
});

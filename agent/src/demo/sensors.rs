//! The demo's sensors that are not the mock input: one publishes over MQTT, one speaks the serial frame protocol over a pseudo-terminal.

use std::{
    io::{Read, Write},
    time::Duration,
};

use rumqttc::{AsyncClient, MqttOptions, QoS};
use rustix::{
    fs::{OFlags, fcntl_setfl},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};
use weir_firmware_shim::{
    frame::{Field, FieldKind, Value, WIRE_MAX},
    link::{Device, Schema, Start},
    retain::Retain,
};
use weir_plugin_api::plugin::Stop;

/// A boiler on MQTT: its temperature swings so that the demo's alert fires and clears about every twenty seconds.
pub async fn boiler(port: u16, end: Stop) {
    let mut options = MqttOptions::new("demo-boiler", "127.0.0.1", port);
    options.set_keep_alive(Duration::from_secs(30));
    let (client, mut connection) = AsyncClient::new(options, 16);
    let poll = async {
        loop {
            if connection.poll().await.is_err() {
                // The broker is in this process: it comes, or everything ends.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let publish = async {
        let mut every = tokio::time::interval(Duration::from_millis(200));
        let mut step = 0u32;
        loop {
            every.tick().await;
            let phase = f64::from(step) * 0.2 * std::f64::consts::TAU / 20.0;
            let payload = format!("{{\"temperature\":{:.1},\"pressure\":{:.2}}}", 75.0 - 12.0 * phase.cos(), 2.0 + 0.3 * phase.sin());
            if client.publish("demo/boiler", QoS::AtLeastOnce, false, payload).await.is_err() {
                return;
            }
            step = step.wrapping_add(1);
        }
    };
    tokio::select! {
        () = end.requested() => {}
        () = poll => {}
        () = publish => {}
    }
}

/// Readings a second of the microcontroller.
const PUMP_RATE: u64 = 4;
/// How often its line is looked at.
const LOOK: Duration = Duration::from_millis(25);

/// A pump's microcontroller at the far end of a pseudo-terminal, running firmware-shim's own code. Returns the path of the gateway's end;
/// the thread ends with `end`.
///
/// # Errors
/// When there is no pseudo-terminal to be had.
pub fn pump(end: Stop) -> std::io::Result<String> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
    fcntl_setfl(&master, OFlags::NONBLOCK)?;
    // Held open here, or the line would hang up whenever the gateway closes its end.
    let held = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let mut terminal = tcgetattr(&held)?;
    terminal.make_raw();
    tcsetattr(&held, OptionalActions::Now, &terminal)?;
    std::thread::Builder::new().name("demo-pump".into()).spawn(move || {
        let _held = held;
        run_pump(&mut std::fs::File::from(master), &end);
    })?;
    Ok(path)
}

fn run_pump(line: &mut std::fs::File, end: &Stop) {
    let fields = [Field { name: "temperature", kind: FieldKind::Scaled(-1) }, Field { name: "flow", kind: FieldKind::Scaled(-2) }];
    let schema = Schema { device: "pump", measurement: "climate", fields: &fields };
    let mut retain = Retain::<256, 2>::new();
    let Ok(mut device) = Device::new(schema, Start::Seed(std::process::id()), &mut retain) else { return };
    let start = std::time::Instant::now();
    let (mut taken, mut bytes, mut frame) = (0u64, [0; 512], [0; WIRE_MAX]);
    while !end.is_requested() {
        let now = start.elapsed();
        let now_us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        if now.as_secs_f64() * PUMP_RATE as f64 >= taken as f64 {
            let phase = now.as_secs_f64() * std::f64::consts::TAU / 12.0;
            let values =
                [Some(Value::Scaled((450.0 + 30.0 * phase.sin()) as i64)), Some(Value::Scaled((1250.0 + 200.0 * phase.cos()) as i64))];
            // The values are those of the schema above.
            let _ = device.push(now_us, &values);
            taken += 1;
        }
        loop {
            let length = device.poll(now_us, &mut frame);
            if length == 0 || line.write_all(&frame[..length]).is_err() {
                break;
            }
        }
        while let Ok(read @ 1..) = line.read(&mut bytes) {
            bytes[..read].iter().for_each(|byte| device.receive(*byte, now_us));
        }
        std::thread::sleep(LOOK);
    }
}

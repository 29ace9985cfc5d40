//! Inputs, one file or folder each.

use weir_plugin_api::plugin::InputEntry;

#[cfg(any(feature = "input-stdin", feature = "input-tail"))]
mod blocks;
#[cfg(any(feature = "input-i2c", feature = "input-spi"))]
mod chips;
#[cfg(feature = "input-file")]
pub mod file;
#[cfg(feature = "input-gpio")]
pub mod gpio;
#[cfg(feature = "input-i2c")]
pub mod i2c;
#[cfg(any(feature = "input-influxdb_listener", feature = "input-influxdb_v2_listener"))]
#[cfg_attr(
    not(all(feature = "input-influxdb_listener", feature = "input-influxdb_v2_listener")),
    allow(dead_code, reason = "one listener, one API")
)]
mod influx_http;
#[cfg(feature = "input-influxdb_listener")]
pub mod influxdb_listener;
#[cfg(feature = "input-influxdb_v2_listener")]
pub mod influxdb_v2_listener;
#[cfg(feature = "input-internal")]
pub mod internal;
#[cfg(feature = "input-mock")]
pub mod mock;
#[cfg(feature = "input-mqtt_consumer")]
pub mod mqtt_consumer;
#[cfg(feature = "input-file")]
mod paths;
#[cfg(any(feature = "input-serial", feature = "input-gpio"))]
pub(crate) mod retry;
#[cfg(any(feature = "input-w1", feature = "input-iio", feature = "input-hwmon", feature = "input-i2c", feature = "input-spi"))]
pub(crate) mod sensing;
#[cfg(feature = "input-serial")]
pub mod serial;
#[cfg(feature = "input-socket_listener")]
pub mod socket_listener;
#[cfg(feature = "input-spi")]
pub mod spi;
#[cfg(feature = "input-stdin")]
pub mod stdin;
#[cfg(any(feature = "input-w1", feature = "input-iio", feature = "input-hwmon"))]
#[cfg_attr(
    not(all(feature = "input-w1", feature = "input-iio", feature = "input-hwmon")),
    allow(dead_code, reason = "not every kind of file has every part")
)]
pub mod sysfs;
#[cfg(feature = "input-tail")]
pub mod tail;

/// Every input of this build, by name.
pub fn all() -> Vec<&'static InputEntry> {
    vec![
        #[cfg(feature = "input-file")]
        &file::ENTRY,
        #[cfg(feature = "input-gpio")]
        &gpio::ENTRY,
        #[cfg(feature = "input-hwmon")]
        &sysfs::hwmon::ENTRY,
        #[cfg(feature = "input-i2c")]
        &i2c::ENTRY,
        #[cfg(feature = "input-iio")]
        &sysfs::iio::ENTRY,
        #[cfg(feature = "input-internal")]
        &internal::ENTRY,
        #[cfg(feature = "input-mock")]
        &mock::ENTRY,
        #[cfg(feature = "input-influxdb_listener")]
        &influxdb_listener::ENTRY,
        #[cfg(feature = "input-influxdb_v2_listener")]
        &influxdb_v2_listener::ENTRY,
        #[cfg(feature = "input-mqtt_consumer")]
        &mqtt_consumer::ENTRY,
        #[cfg(feature = "input-serial")]
        &serial::ENTRY,
        #[cfg(feature = "input-socket_listener")]
        &socket_listener::ENTRY,
        #[cfg(feature = "input-spi")]
        &spi::ENTRY,
        #[cfg(feature = "input-stdin")]
        &stdin::ENTRY,
        #[cfg(feature = "input-tail")]
        &tail::ENTRY,
        #[cfg(feature = "input-w1")]
        &sysfs::w1::ENTRY,
    ]
}

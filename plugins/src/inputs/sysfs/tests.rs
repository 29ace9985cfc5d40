//! The inputs over directories that look like the kernel's.
#![allow(clippy::unwrap_used)]

use std::{os::unix::fs::symlink, path::PathBuf, sync::Arc};

use weir_plugin_api::{
    collector::Collector,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::{AnyInput, BuildContext, InputEntry, PolledInput},
    position::{Position, Resume},
    testing::{Receiver, collector, context},
};

use super::*;

/// A `/sys` of our own.
struct Sys {
    directory: tempfile::TempDir,
}

impl Sys {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, tail: &str) -> PathBuf {
        self.directory.path().join(tail)
    }

    fn write(&self, tail: &str, text: &str) {
        let path = self.path(tail);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// As the kernel does: the bus or class only points at where the device is.
    fn link(&self, from: &str, to: &str) {
        let from = self.path(from);
        fs::create_dir_all(from.parent().unwrap()).unwrap();
        symlink(self.path(to), from).unwrap();
    }

    fn build(&self, entry: &InputEntry, more: Vec<(&str, Item)>) -> Option<Gathering> {
        let node = |item| Node { place: Place::default(), item, secret: false };
        let root = Item::Text(self.directory.path().to_str().unwrap().into());
        let entries =
            std::iter::once(("root", root)).chain(more).map(|(key, item)| (key.to_owned(), Place::default(), node(item))).collect();
        let (table, diagnostics) = (Table { entries }, Diagnostics::default());
        let section = Section::new("inputs.test", &table, Place::default(), &diagnostics);
        let build = BuildContext {
            name: "test".into(),
            interval: std::time::Duration::from_secs(1),
            internal: Arc::new(Vec::new),
            directory: PathBuf::new(),
        };
        let AnyInput::Polled(input) = (entry.build)(&section, &build)?.input else { panic!("it is polled") };
        Some(Gathering { input, both: Some(collector()) })
    }
}

struct Gathering {
    input: Box<dyn PolledInput>,
    both: Option<(Collector, Receiver)>,
}

impl Gathering {
    async fn gather(&mut self) -> Result<Vec<String>, String> {
        let (collector, mut receiver) = self.both.take().unwrap();
        let mut context = context(collector, Resume::default());
        let outcome = self.input.gather(&mut context).await;
        context.collector.try_flush(Position::None).unwrap();
        let lines = receiver.take();
        self.both = Some((context.collector, receiver));
        outcome.map(|()| lines).map_err(|error| error.to_string())
    }
}

const GOOD: &str = "4b 01 4b 46 7f ff 05 10 e1 : crc=e1 YES\n4b 01 4b 46 7f ff 05 10 e1 t=20687\n";
const POWER_ON: &str = "50 05 4b 46 7f ff 0c 10 1c : crc=1c YES\n50 05 4b 46 7f ff 0c 10 1c t=85000\n";
const BAD_CRC: &str = "4b 01 4b 46 7f ff 05 10 e2 : crc=e1 NO\n4b 01 4b 46 7f ff 05 10 e1 t=20687\n";
const ZEROS: &str = "00 00 00 00 00 00 00 00 00 : crc=00 YES\n00 00 00 00 00 00 00 00 00 t=0\n";
const WIRE: &str = "devices/w1_bus_master1/28-0316a2794aff/w1_slave";

fn wire() -> Sys {
    let sys = Sys::new();
    sys.write(WIRE, GOOD);
    sys.link("bus/w1/devices/28-0316a2794aff", "devices/w1_bus_master1/28-0316a2794aff");
    sys.link("bus/w1/devices/w1_bus_master1", "devices/w1_bus_master1");
    sys
}

fn fault(name: &str, code: u8) -> Vec<String> {
    vec![format!("w1_fault,device=28-0316a2794aff,field=temperature fault=\"{name}\",code={code}i ?")]
}

#[tokio::test]
async fn a_thermometer_is_read_and_each_of_its_faults_has_its_name() {
    let sys = wire();
    let mut input = sys.build(&w1::ENTRY, vec![]).unwrap();
    sys.write(WIRE, POWER_ON);
    assert_eq!(input.gather().await.unwrap(), fault("power_on_value", 5));
    sys.write(WIRE, GOOD);
    let well = "w1,device=28-0316a2794aff temperature=20.6875 ?".to_owned();
    assert_eq!(input.gather().await.unwrap(), [vec![well.clone()], fault("none", 0)].concat());
    assert_eq!(input.gather().await.unwrap(), [well]);
    for (text, name, code) in [(BAD_CRC, "checksum", 2), (ZEROS, "checksum", 2), (POWER_ON, "power_on_value", 5), ("", "not_a_number", 3)] {
        sys.write(WIRE, text);
        assert_eq!(input.gather().await.unwrap(), fault(name, code), "{text}");
    }
}

#[tokio::test]
async fn a_thermometer_that_should_be_there_and_is_not_is_missing() {
    let sys = wire();
    let names =
        ["28-0316a2794aff", "28-000000000001"].map(|name| Node { place: Place::default(), item: Item::Text(name.into()), secret: false });
    let mut input = sys.build(&w1::ENTRY, vec![("devices", Item::Array(names.into()))]).unwrap();
    let got = input.gather().await.unwrap();
    assert_eq!(got[1], "w1_fault,device=28-000000000001,field=temperature fault=\"missing\",code=1i ?");
    assert!(sys.build(&w1::ENTRY, vec![("devices", Item::Array(vec![]))]).is_none(), "an empty list");
}

#[tokio::test]
async fn without_the_bus_there_is_an_error_that_names_the_directory() {
    let sys = Sys::new();
    let error = sys.build(&w1::ENTRY, vec![]).unwrap().gather().await.unwrap_err();
    assert!(error.contains("bus/w1/devices"), "{error}");
    assert!(sys.build(&iio::ENTRY, vec![]).unwrap().gather().await.is_err());
    assert!(sys.build(&hwmon::ENTRY, vec![]).unwrap().gather().await.is_err());
}

#[tokio::test]
async fn channels_of_a_device_are_one_point_in_whole_units() {
    let sys = Sys::new();
    let at = "devices/platform/i2c-1/1-0076/iio:device0";
    for (file, text) in [
        ("name", "bme280\n"),
        ("in_temp_input", "25080\n"),
        ("in_pressure_input", "100.653270000\n"),
        ("in_humidityrelative_input", "55040\n"),
        ("in_voltage0_raw", "2048\n"),
        ("in_voltage_scale", "0.805664062\n"),
        ("in_voltage1_raw", "100\n"),
        ("in_voltage1_scale", "2\n"),
        ("in_voltage1_offset", "-50\n"),
        ("sampling_frequency", "50\n"),
    ] {
        sys.write(&format!("{at}/{file}"), text);
    }
    sys.link("bus/iio/devices/iio:device0", at);
    sys.write("bus/iio/devices/trigger0/name", "sysfstrig0\n");
    let mut input = sys.build(&iio::ENTRY, vec![]).unwrap();
    let got = input.gather().await.unwrap();
    assert_eq!(
        got,
        ["iio,device=bme280,place=1-0076 humidityrelative=55.04,pressure=1006.5327,temp=25.08,voltage0=1.649999999,voltage1=0.1 ?"]
    );
    sys.write(&format!("{at}/in_temp_input"), "nan\n");
    let got = input.gather().await.unwrap();
    assert!(!got[0].contains(",temp="), "{got:?}");
    assert_eq!(got[1], "iio_fault,device=bme280,field=temp,place=1-0076 fault=\"not_a_number\",code=3i ?");
}

#[tokio::test]
async fn sensors_of_a_chip_have_their_labels_and_a_broken_probe_is_a_fault() {
    let sys = Sys::new();
    for (file, text) in [
        ("hwmon/hwmon3/name", "tmp105\n"),
        ("hwmon/hwmon3/temp1_input", "25500\n"),
        ("hwmon/hwmon3/temp2_input", "-40000\n"),
        ("hwmon/hwmon3/temp2_label", "inlet\n"),
        ("hwmon/hwmon3/temp2_fault", "0\n"),
        ("hwmon/hwmon3/in0_input", "3312\n"),
        ("hwmon/hwmon3/fan1_input", "1200\n"),
        ("hwmon/hwmon3/pwm1", "128\n"),
    ] {
        sys.write(&format!("devices/i2c-1/1-0048/{file}"), text);
    }
    sys.link("class/hwmon/hwmon3", "devices/i2c-1/1-0048/hwmon/hwmon3");
    sys.link("devices/i2c-1/1-0048/hwmon/hwmon3/device", "devices/i2c-1/1-0048");
    // An old driver's files are at the device.
    sys.write("devices/old/name", "lm75\n");
    sys.write("devices/old/temp1_input", "19000\n");
    sys.link("devices/old/hwmon/hwmon4/device", "devices/old");
    sys.link("class/hwmon/hwmon4", "devices/old/hwmon/hwmon4");
    let mut input = sys.build(&hwmon::ENTRY, vec![]).unwrap();
    assert_eq!(
        input.gather().await.unwrap(),
        [
            "hwmon,chip=tmp105,device=1-0048,sensor=fan1 fan=1200 ?",
            "hwmon,chip=tmp105,device=1-0048,sensor=in0 voltage=3.312 ?",
            "hwmon,chip=tmp105,device=1-0048,sensor=temp1 temperature=25.5 ?",
            "hwmon,chip=tmp105,device=1-0048,sensor=inlet temperature=-40 ?",
            "hwmon,chip=lm75,device=old,sensor=temp1 temperature=19 ?",
        ]
    );
    sys.write("devices/i2c-1/1-0048/hwmon/hwmon3/temp2_fault", "1\n");
    let got = input.gather().await.unwrap();
    assert!(
        got.contains(&"hwmon_fault,chip=tmp105,device=1-0048,field=temperature,sensor=inlet fault=\"missing\",code=1i ?".into()),
        "{got:?}"
    );
    assert_eq!(got.len(), 5);
}

#[tokio::test]
async fn thermometers_of_other_families_are_read_and_have_the_same_faults() {
    // A DS1825 whose address pins are not all high, and a DS18S20.
    for (name, good) in [("3b-0000000a5c1f", "4b 01 4b 46 73 ff 05 10 2b"), ("10-000801b5a2d3", "29 00 4b 46 ff ff 0c 10 9d")] {
        let sys = Sys::new();
        let mut input = sys.build(&w1::ENTRY, vec![]).unwrap();
        let mut gather = async |pad: &str, thousandths: i32| {
            sys.write(&format!("bus/w1/devices/{name}/w1_slave"), &format!("{pad} : crc=00 YES\n{pad} t={thousandths}\n"));
            let lines = input.gather().await.unwrap();
            lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned()
        };
        assert_eq!(gather(good, 85_000).await, "fault=\"power_on_value\",code=5i");
        assert_eq!(gather(good, 20_687).await, "temperature=20.687");
        assert_eq!(gather("00 00 00 00 00 00 00 00 00", 0).await, "fault=\"checksum\",code=2i");
        assert_eq!(gather(good, 85_000).await, "fault=\"power_on_value\",code=5i");
        assert_eq!(gather(good, 83_500).await, "temperature=83.5");
        assert_eq!(gather(good, 85_000).await, "temperature=85", "it was nearly that warm before");
        assert_eq!(gather(good, 999_000).await, "fault=\"out_of_range\",code=4i");
    }
}

#[tokio::test]
async fn a_sensor_that_is_gone_is_told_of_once_and_so_is_its_return() {
    let sys = wire();
    let mut input = sys.build(&w1::ENTRY, vec![]).unwrap();
    let well = "w1,device=28-0316a2794aff temperature=20.6875 ?".to_owned();
    assert_eq!(input.gather().await.unwrap(), std::slice::from_ref(&well));
    let device = sys.path("bus/w1/devices/28-0316a2794aff");
    fs::remove_file(&device).unwrap();
    assert_eq!(input.gather().await.unwrap(), fault("missing", 1));
    assert_eq!(input.gather().await.unwrap(), Vec::<String>::new());
    sys.link("bus/w1/devices/28-0316a2794aff", "devices/w1_bus_master1/28-0316a2794aff");
    assert_eq!(input.gather().await.unwrap(), [vec![well], fault("none", 0)].concat());
}

#[tokio::test]
async fn of_too_many_devices_the_first_by_name_are_read_and_others_are_no_devices() {
    let sys = Sys::new();
    for number in 0..300 {
        sys.write(&format!("bus/w1/devices/28-{number:012x}/w1_slave"), GOOD);
        // What is no thermometer takes no place.
        sys.write(&format!("bus/w1/devices/00-{number:012x}/id"), "");
    }
    let got = sys.build(&w1::ENTRY, vec![]).unwrap().gather().await.unwrap();
    assert_eq!(got.len(), DEVICES_MAX);
    assert!(got.last().unwrap().starts_with("w1,device=28-0000000000ff "), "{:?}", got.last());
}

#[tokio::test]
async fn devices_keep_their_series_when_a_boot_numbers_them_otherwise() {
    let series = |lines: Vec<String>| {
        let mut series: Vec<String> = lines.into_iter().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect();
        series.sort();
        series
    };
    let mut boots = Vec::new();
    for numbers in [[0, 1, 2], [2, 0, 1]] {
        let sys = Sys::new();
        for (number, address, text) in [(numbers[0], "1-0076", "25080"), (numbers[1], "1-0077", "19000")] {
            let at = format!("devices/i2c-1/{address}/iio:device{number}");
            sys.write(&format!("{at}/name"), "bme280\n");
            sys.write(&format!("{at}/in_temp_input"), text);
            sys.link(&format!("bus/iio/devices/iio:device{number}"), &at);
        }
        // Two chips with a place each, and one without.
        for (number, address, text) in [(numbers[0], "1-0048", "25500"), (numbers[1], "1-0049", "26000")] {
            let at = format!("devices/i2c-1/{address}/hwmon/hwmon{number}");
            sys.write(&format!("{at}/name"), "tmp105\n");
            sys.write(&format!("{at}/temp1_input"), text);
            sys.link(&format!("class/hwmon/hwmon{number}"), &at);
            sys.link(&format!("{at}/device"), &format!("devices/i2c-1/{address}"));
        }
        let at = format!("devices/virtual/hwmon/hwmon{}", numbers[2]);
        sys.write(&format!("{at}/name"), "cpu_thermal\n");
        sys.write(&format!("{at}/temp1_input"), "48312\n");
        sys.link(&format!("class/hwmon/hwmon{}", numbers[2]), &at);
        let iio = sys.build(&iio::ENTRY, vec![]).unwrap().gather().await.unwrap();
        let hwmon = sys.build(&hwmon::ENTRY, vec![]).unwrap().gather().await.unwrap();
        boots.push([series(iio), series(hwmon)]);
    }
    assert_eq!(boots[0], boots[1]);
    assert_eq!(boots[0][0].len(), 2);
    assert_eq!(boots[0][1][0], "hwmon,chip=cpu_thermal,sensor=temp1 temperature=48.312");
}

#[tokio::test]
async fn differences_have_their_scale_and_a_channel_without_one_is_a_count() {
    let sys = Sys::new();
    let at = "devices/platform/adc/iio:device0";
    for (file, text) in [
        ("name", "mcp3304\n"),
        ("in_voltage0-voltage1_raw", "-1000\n"),
        ("in_voltage-voltage_scale", "1.25\n"),
        ("in_current0_raw", "40\n"),
        ("in_scale", "0.5\n"),
    ] {
        sys.write(&format!("{at}/{file}"), text);
    }
    sys.link("bus/iio/devices/iio:device0", at);
    let mut input = sys.build(&iio::ENTRY, vec![]).unwrap();
    let got = input.gather().await.unwrap();
    assert_eq!(got, ["iio,device=mcp3304,place=adc current0=0.02,voltage0-voltage1=-1.25 ?"]);
    fs::remove_file(sys.path(&format!("{at}/in_scale"))).unwrap();
    sys.write(&format!("{at}/in_voltage-voltage_scale"), "1,25\n");
    let got = input.gather().await.unwrap();
    assert_eq!(got[0], "iio,device=mcp3304,place=adc current0_raw=40 ?", "no milliamperes without a scale");
    let faults: Vec<&str> = got[1..].iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(faults, ["fault=\"not_a_number\",code=3i", "fault=\"missing\",code=1i"], "{got:?}");
}

#[tokio::test]
async fn sensors_of_one_label_are_told_apart_by_their_numbers() {
    let sys = Sys::new();
    for (file, text) in [
        ("temp1_label", "probe"),
        ("temp1_input", "1000"),
        ("temp2_label", "probe"),
        ("temp2_input", "2000"),
        ("in1_label", "probe"),
        ("in1_input", "5000"),
    ] {
        sys.write(&format!("class/hwmon/hwmon0/{file}"), text);
    }
    sys.write("class/hwmon/hwmon0/name", "board\n");
    assert_eq!(
        sys.build(&hwmon::ENTRY, vec![]).unwrap().gather().await.unwrap(),
        [
            "hwmon,chip=board,sensor=probe voltage=5 ?",
            "hwmon,chip=board,sensor=temp1 temperature=1 ?",
            "hwmon,chip=board,sensor=temp2 temperature=2 ?",
        ]
    );
}

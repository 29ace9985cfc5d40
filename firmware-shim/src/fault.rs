//! What can be wrong with a sensor, as one byte on the wire and one word for people.

/// Why a field has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is wrong any more: sent once, when a field that had a fault has values again.
    None,
    /// Nobody answers at its address, or there is no presence pulse.
    Missing,
    /// It answers, and the checksum is wrong.
    Checksum,
    /// Not a number, or infinite.
    NotANumber,
    /// A value the sensor cannot measure.
    OutOfRange,
    /// The value it has before its first measurement: 85 °C of a DS18B20, 0x80000 of a BME280.
    PowerOn,
    /// The measurement did not end in its time.
    NotReady,
    /// Something else answers at its address.
    WrongDevice,
    /// The bus or the pin failed.
    Bus,
    /// One this version does not know.
    Other(u8),
}

impl Fault {
    /// Its byte on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Missing => 1,
            Self::Checksum => 2,
            Self::NotANumber => 3,
            Self::OutOfRange => 4,
            Self::PowerOn => 5,
            Self::NotReady => 6,
            Self::WrongDevice => 7,
            Self::Bus => 8,
            Self::Other(code) => code,
        }
    }

    /// The fault of a byte; every byte is one.
    pub fn from_code(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Missing,
            2 => Self::Checksum,
            3 => Self::NotANumber,
            4 => Self::OutOfRange,
            5 => Self::PowerOn,
            6 => Self::NotReady,
            7 => Self::WrongDevice,
            8 => Self::Bus,
            other => Self::Other(other),
        }
    }

    /// Its name in points and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Missing => "missing",
            Self::Checksum => "checksum",
            Self::NotANumber => "not_a_number",
            Self::OutOfRange => "out_of_range",
            Self::PowerOn => "power_on_value",
            Self::NotReady => "not_ready",
            Self::WrongDevice => "wrong_device",
            Self::Bus => "bus",
            Self::Other(_) => "other",
        }
    }
}

impl From<core::convert::Infallible> for Fault {
    fn from(never: core::convert::Infallible) -> Self {
        match never {}
    }
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Fault;

    #[test]
    fn every_byte_is_a_fault_and_every_fault_its_byte() {
        for code in 0..=u8::MAX {
            assert_eq!(Fault::from_code(code).code(), code);
        }
    }
}

//! Opens the port as configured.

use tokio_serial::{ClearBuffer, DataBits, FlowControl, Parity, SerialPort, SerialPortBuilderExt, SerialStream, StopBits};

/// How the port is set.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) path: String,
    pub(super) baud_rate: u32,
    pub(super) data_bits: DataBits,
    pub(super) parity: Parity,
    pub(super) stop_bits: StopBits,
    pub(super) flow_control: FlowControl,
    pub(super) exclusive: bool,
}

impl Settings {
    /// Opens it.
    pub(super) fn open(&self) -> tokio_serial::Result<SerialStream> {
        let port = tokio_serial::new(&self.path, self.baud_rate)
            .data_bits(self.data_bits)
            .parity(self.parity)
            .stop_bits(self.stop_bits)
            .flow_control(self.flow_control)
            .exclusive(self.exclusive)
            .open_native_async()?;
        // Old output of another program must not reach the device; old input is data like any other.
        let _ = port.clear(ClearBuffer::Output);
        Ok(port)
    }
}

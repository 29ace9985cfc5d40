//! The socket listener: any format over TCP, UDP and local sockets, as Telegraf's `socket_listener`.

mod address;
mod datagram;
mod framing;
mod stream;

use std::time::Duration;

use weir_plugin_api::{
    Position,
    options::{Section, Size},
    plugin::{AnyInput, BoxFuture, BuildContext, BuiltInput, Decoder, InputContext, InputEntry, InputMemory, PluginError, StreamingInput},
};

use self::{
    address::{Address, Bound},
    framing::Framing,
    stream::{Listener, StreamSettings},
};
use crate::{codecs, net::tls::ServerTlsOptions};

weir_plugin_api::choice! {
    /// How a stream is parted into messages.
    pub enum Splitting {
        /// At newlines.
        Newline = "newline",
        /// At bytes of zero.
        Null = "null",
        /// At `splitting_delimiter`.
        Delimiter = "delimiter",
        /// Every `splitting_length` bytes.
        FixedLength = "fixed length",
    }
}

weir_plugin_api::options! {
    /// Options of the socket listener.
    pub struct SocketListenerOptions {
        /// Where to listen: `tcp://:8094`, `udp://127.0.0.1:8094`, `unix:///run/weir.sock`, `unixgram:///run/weir.sock`; also tcp4, tcp6, udp4, udp6.
        service_address: String,
        /// Permissions of a local socket, octal: `0770`.
        socket_mode: Option<String> = None,
        /// Connections at a time, 0 for no limit; further ones are closed at once.
        max_connections: usize = 0,
        /// A connection that is silent for so long is closed, 0 for never.
        read_timeout: Duration = Duration::ZERO,
        /// Bytes the system keeps for a UDP socket, 0 for its default.
        read_buffer_size: Size = Size(0),
        /// TCP keep-alive of connections, 0 for none.
        keep_alive_period: Duration = Duration::from_secs(300),
        /// How a stream is parted into messages; a datagram is one message.
        splitting_strategy: Splitting = Splitting::Newline,
        /// Delimiter in hexadecimal, `0x0d0a`, for the strategy of that name.
        splitting_delimiter: String = String::new(),
        /// Bytes of a message for the strategy "fixed length".
        splitting_length: usize = 0,
        /// Bytes one message of a stream may have; a longer one is thrown away and counted.
        message_bytes_max: Size = Size(1 << 20),
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry {
    name: "socket_listener",
    about: "takes any format over TCP, UDP and local sockets",
    specs: || [SocketListenerOptions::specs(), ServerTlsOptions::specs(), codecs::decoder_specs()].concat(),
    unsupported: &[
        "content_encoding",
        "max_decompression_size",
        "splitting_length_field",
        "use_vsock",
        "tls_key_pwd",
        "tls_allowed_dns_names",
        "tls_cipher_suites",
        "tls_min_version",
        "tls_max_version",
        "allowed_sources",
        "max_parallel_parsers",
    ],
    build,
};

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let (options, tls, decoder) = (SocketListenerOptions::read(section), ServerTlsOptions::read(section), codecs::decoder(section));
    let (options, tls, decoder) = (options?, tls?.acceptor(section), decoder?);
    let named = |key: &str, message: String| section.error_at(key, format!("`{key}`: {message}"));
    let address = Address::parse(&options.service_address).map_err(|message| named("service_address", message)).ok();
    let framing = match options.splitting_strategy {
        Splitting::Newline => Some(Framing::Byte(b'\n')),
        Splitting::Null => Some(Framing::Byte(0)),
        Splitting::Delimiter => {
            Framing::delimiter(&options.splitting_delimiter).map_err(|message| named("splitting_delimiter", message)).ok()
        }
        Splitting::FixedLength if options.splitting_length == 0 => {
            named("splitting_length", "the strategy \"fixed length\" needs the number of bytes".into());
            None
        }
        Splitting::FixedLength => Some(Framing::Fixed(options.splitting_length)),
    };
    let mode = match options.socket_mode.as_deref().map(|mode| u32::from_str_radix(mode.trim_start_matches("0o"), 8)) {
        Some(Err(_)) => {
            named("socket_mode", "expected permissions in octal such as \"0770\"".into());
            return None;
        }
        Some(Ok(mode)) => Some(mode),
        None => None,
    };
    let format: String = section.get("data_format").unwrap_or_else(|| "influx".into());
    let together = format == "influx" && options.splitting_strategy == Splitting::Newline;
    let (address, framing, tls) = (address?, framing?, tls?);
    if tls.is_some() && !matches!(address, Address::Tcp(..)) {
        named("service_address", "TLS needs a tcp:// address".into());
        return None;
    }
    let stream = StreamSettings {
        framing,
        together,
        connections_max: options.max_connections,
        tls,
        read_timeout: options.read_timeout,
        keep_alive: options.keep_alive_period,
        message_max: usize::try_from(options.message_bytes_max.0).unwrap_or(usize::MAX).max(1),
    };
    let claims = address.claim().into_iter().collect();
    let buffer = usize::try_from(options.read_buffer_size.0).unwrap_or(usize::MAX);
    let input = SocketListener { address, mode, buffer, stream, decoder };
    Some(BuiltInput { input: AnyInput::Streaming(Box::new(input)), claims })
}

struct SocketListener {
    address: Address,
    mode: Option<u32>,
    /// Receive buffer of a UDP socket, 0 for the system's.
    buffer: usize,
    stream: StreamSettings,
    decoder: Box<dyn Decoder>,
}

impl SocketListener {
    async fn serve(&mut self, mut bound: Bound, context: &mut InputContext) -> Result<(), PluginError> {
        tracing::info!(input = %context.name, address = %bound.local(), "listening");
        let decoder = &mut *self.decoder;
        match &mut bound {
            Bound::Udp(socket) => {
                if self.buffer > 0
                    && let Err(error) = socket2::SockRef::from(&*socket).set_recv_buffer_size(self.buffer)
                {
                    tracing::warn!(input = %context.name, %error, "cannot set `read_buffer_size`");
                }
                datagram::udp(socket, decoder, context).await
            }
            Bound::Unixgram(socket, _) => datagram::unixgram(socket, decoder, context).await,
            Bound::Tcp(listener) => stream::serve(Listener::Tcp(listener), self.stream.clone(), decoder, context).await,
            Bound::Unix(listener, _) => stream::serve(Listener::Unix(listener), self.stream.clone(), decoder, context).await,
        }
    }
}

impl StreamingInput for SocketListener {
    fn can_wait(&self) -> bool {
        // The system throws away datagrams nobody reads; a local socket's sender waits.
        !matches!(self.address, Address::Udp(..))
    }

    fn memory(&self) -> InputMemory {
        let (message, connections) = (self.stream.message_max as u64, self.stream.connections_max as u64);
        match self.address {
            Address::Udp(..) => InputMemory { buffers: 1 << 17, message: 1 << 16 },
            _ if connections == 0 => InputMemory { buffers: u64::MAX, message },
            _ => InputMemory { buffers: connections.saturating_mul(message.saturating_mul(2)), message },
        }
    }

    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async move {
            let bound = self.address.bind(self.mode).await?;
            self.serve(bound, context).await
        })
    }
}

/// Decodes a whole payload, flushing whenever the collector is full.
async fn feed(decoder: &mut dyn Decoder, payload: &[u8], context: &mut InputContext) -> Result<(), PluginError> {
    let mut rest = payload;
    loop {
        let used = decoder.decode(rest, &mut context.collector);
        rest = &rest[used.min(rest.len())..];
        if context.collector.is_full() || !rest.is_empty() {
            context.collector.flush(Position::None).await?;
        }
        if rest.is_empty() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;

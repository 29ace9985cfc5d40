//! Where a socket listener listens: the address as written, and the socket bound to it.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use weir_plugin_api::plugin::PluginError;

/// What a scheme stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Any,
    V4,
    V6,
}

/// An address as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(Family, String),
    Udp(Family, String),
    Unix(PathBuf),
    Unixgram(PathBuf),
}

/// A socket that is bound.
pub(super) enum Bound {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Unix(UnixListener, PathBuf),
    Unixgram(UnixDatagram, PathBuf),
}

impl Address {
    /// Reads `scheme://rest`; the host may be left out.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const SCHEMES: &str = "expected tcp://, tcp4://, tcp6://, udp://, udp4://, udp6://, unix:// or unixgram:// and an address";
        let (scheme, rest) = text.split_once("://").ok_or(SCHEMES)?;
        let family = match scheme.as_bytes().last() {
            Some(b'4') => Family::V4,
            Some(b'6') => Family::V6,
            _ => Family::Any,
        };
        let with_port = || match rest.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => Ok(rest.to_owned()),
            _ => Err("expected a host and a port, for example tcp://:8094".to_owned()),
        };
        match scheme {
            "tcp" | "tcp4" | "tcp6" => Ok(Self::Tcp(family, with_port()?)),
            "udp" | "udp4" | "udp6" => Ok(Self::Udp(family, with_port()?)),
            "unix" | "unixgram" if rest.is_empty() => Err("expected the path of a socket".into()),
            "unix" => Ok(Self::Unix(rest.into())),
            "unixgram" => Ok(Self::Unixgram(rest.into())),
            _ => Err(SCHEMES.into()),
        }
    }

    /// What only one input can have.
    pub(super) fn claim(&self) -> Option<String> {
        let port = |host: &str| host.ends_with(":0");
        match self {
            Self::Tcp(_, host) | Self::Udp(_, host) if port(host) => None,
            Self::Tcp(_, host) => Some(format!("tcp:{}", full(host))),
            Self::Udp(_, host) => Some(format!("udp:{}", full(host))),
            Self::Unix(path) | Self::Unixgram(path) => Some(format!("unix:{}", path.display())),
        }
    }

    /// Binds it; `mode` is for sockets that are files.
    pub(super) async fn bind(&self, mode: Option<u32>) -> Result<Bound, PluginError> {
        let failed = |error: io::Error| PluginError::because(format!("cannot listen on {self}"), &error);
        Ok(match self {
            Self::Tcp(family, host) => {
                let mut result = Err(nothing());
                for address in resolve(*family, host).await.map_err(failed)? {
                    result = TcpListener::bind(address).await;
                    if result.is_ok() {
                        break;
                    }
                }
                Bound::Tcp(result.map_err(failed)?)
            }
            Self::Udp(family, host) => {
                let mut result = Err(nothing());
                for address in resolve(*family, host).await.map_err(failed)? {
                    result = UdpSocket::bind(address).await;
                    if result.is_ok() {
                        break;
                    }
                }
                Bound::Udp(result.map_err(failed)?)
            }
            Self::Unix(path) => {
                remove_stale(path, |path| std::os::unix::net::UnixStream::connect(path).is_ok()).map_err(failed)?;
                let listener = UnixListener::bind(path).map_err(failed)?;
                set_mode(path, mode).map_err(failed)?;
                Bound::Unix(listener, path.clone())
            }
            Self::Unixgram(path) => {
                let in_use = |path: &Path| std::os::unix::net::UnixDatagram::unbound().is_ok_and(|socket| socket.connect(path).is_ok());
                remove_stale(path, in_use).map_err(failed)?;
                let socket = UnixDatagram::bind(path).map_err(failed)?;
                set_mode(path, mode).map_err(failed)?;
                Bound::Unixgram(socket, path.clone())
            }
        })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(_, host) => write!(f, "tcp://{host}"),
            Self::Udp(_, host) => write!(f, "udp://{host}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Unixgram(path) => write!(f, "unixgram://{}", path.display()),
        }
    }
}

impl Bound {
    /// The address with the port that was given.
    pub(super) fn local(&self) -> String {
        let shown = |address: io::Result<SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
        match self {
            Self::Tcp(listener) => format!("tcp://{}", shown(listener.local_addr())),
            Self::Udp(socket) => format!("udp://{}", shown(socket.local_addr())),
            Self::Unix(_, path) => format!("unix://{}", path.display()),
            Self::Unixgram(_, path) => format!("unixgram://{}", path.display()),
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Self::Unix(_, path) | Self::Unixgram(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

/// The host written out, as other inputs claim it.
fn full(host: &str) -> String {
    if host.starts_with(':') { format!("0.0.0.0{host}") } else { host.to_owned() }
}

fn nothing() -> io::Error {
    io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no such address")
}

async fn resolve(family: Family, host: &str) -> io::Result<Vec<SocketAddr>> {
    let fits = |address: &SocketAddr| match family {
        Family::Any => true,
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
    };
    if let Some(port) = host.strip_prefix(':').and_then(|port| port.parse().ok()) {
        // The first takes both families where the system has both.
        let all = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        return Ok(all.map(|ip| SocketAddr::new(ip, port)).into_iter().filter(fits).collect());
    }
    Ok(tokio::net::lookup_host(host).await?.filter(fits).collect())
}

/// Removes the socket a crash left behind; one that somebody listens on stays, and binding will say so.
fn remove_stale(path: &Path, in_use: impl Fn(&Path) -> bool) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() && !in_use(path) => fs::remove_file(path),
        _ => Ok(()),
    }
}

fn set_mode(path: &Path, mode: Option<u32>) -> io::Result<()> {
    mode.map_or(Ok(()), |mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_host() {
        assert_eq!(Address::parse("tcp://:8094"), Ok(Address::Tcp(Family::Any, ":8094".into())));
        assert_eq!(Address::parse("udp4://10.0.0.1:1"), Ok(Address::Udp(Family::V4, "10.0.0.1:1".into())));
        assert_eq!(Address::parse("unix:///run/x.sock"), Ok(Address::Unix("/run/x.sock".into())));
        for wrong in ["8094", "tcp://8094", "http://:8094", "unix://", "tcp://:99999"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Address::parse("tcp://:8094").ok().and_then(|a| a.claim()).as_deref(), Some("tcp:0.0.0.0:8094"));
    }
}

//! A network link in front of a server, which can lose what the client sends while everything still reaches the client.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A port that leads to a server.
pub struct Link {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// Connections up to this one have lost their way to the server.
    deaf: Arc<AtomicU64>,
    opened: Arc<AtomicU64>,
}

impl Link {
    /// A link to a port on 127.0.0.1.
    pub fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let port = listener.local_addr().expect("its address").port();
        let (deaf, opened) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let (is_deaf, count) = (Arc::clone(&deaf), Arc::clone(&opened));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                let never = Arc::<AtomicU64>::default();
                carry(&client, &server, number, Arc::clone(&is_deaf));
                carry(&server, &client, number, never);
            }
        });
        Self { port, deaf, opened }
    }

    /// From now on nothing the client sends on the connections that stand arrives; new connections are whole.
    pub fn lose_what_is_sent(&self) {
        self.deaf.store(self.opened.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Carries bytes one way until either end is gone, or throws them away once the connection is deaf.
fn carry(from: &TcpStream, to: &TcpStream, number: u64, deaf: Arc<AtomicU64>) {
    let (mut from, mut to) = (from.try_clone().expect("a second handle"), to.try_clone().expect("a second handle"));
    std::thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(count) = from.read(&mut bytes)
            && count > 0
        {
            let is_lost = number <= deaf.load(Ordering::Relaxed);
            if !is_lost && to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    });
}

//! A very small MQTT 3.1.1 broker for the demo: loopback only, nothing kept, QoS 0 and 1. The packets are read and written by rumqttc.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::BytesMut;
use rumqttc::mqttbytes::{
    Error, QoS, matches,
    v4::{ConnAck, ConnectReturnCode, Packet, PingResp, PubAck, Publish, SubAck, SubscribeReasonCode, UnsubAck},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use weir_plugin_api::plugin::Stop;

/// Packets larger than this end a connection.
const PACKET_MAX: usize = 64 * 1024;
/// Messages that may wait for one subscriber; past it the newest is dropped, this broker promises nothing.
const WAITING_MAX: usize = 1024;

#[derive(Clone, Default)]
struct Routes(Arc<Mutex<Vec<Route>>>);

struct Route {
    client: u64,
    filter: String,
    to: mpsc::Sender<Publish>,
}

impl Routes {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<Route>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, publish: &Publish) {
        self.with(|routes| {
            for route in routes.iter().filter(|r| matches(&publish.topic, &r.filter)) {
                // A subscriber that does not keep up misses something.
                let _ = route.to.try_send(publish.clone());
            }
        });
    }
}

/// Serves until `end`.
pub async fn serve(listener: TcpListener, end: Stop) {
    let routes = Routes::default();
    let mut clients = 0;
    loop {
        let accepted = tokio::select! {
            () = end.requested() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        clients += 1;
        let (client, routes, end) = (clients, routes.clone(), end.clone());
        tokio::spawn(async move {
            let result = tokio::select! {
                () = end.requested() => Ok(()),
                result = connection(stream, client, &routes) => result,
            };
            routes.with(|all| all.retain(|r| r.client != client));
            if let Err(error) = result {
                tracing::debug!(%error, "demo broker: connection ended");
            }
        });
    }
}

async fn connection(mut stream: TcpStream, client: u64, routes: &Routes) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (to, mut from_others) = mpsc::channel::<Publish>(WAITING_MAX);
    let (mut input, mut output) = (BytesMut::with_capacity(4096), BytesMut::with_capacity(4096));
    let mut next_id = 0u16;
    loop {
        loop {
            match Packet::read(&mut input, PACKET_MAX) {
                Ok(Packet::Disconnect) => return Ok(()),
                Ok(packet) => answer(packet, client, routes, &to, &mut output)?,
                Err(Error::InsufficientBytes(_)) => break,
                Err(error) => return Err(invalid(error)),
            }
        }
        if !output.is_empty() {
            stream.write_all_buf(&mut output).await?;
        }
        tokio::select! {
            read = stream.read_buf(&mut input) => if read? == 0 { return Ok(()) },
            publish = from_others.recv() => {
                let Some(mut publish) = publish else { return Ok(()) };
                if publish.qos != QoS::AtMostOnce {
                    next_id = next_id.checked_add(1).unwrap_or(1);
                    publish.pkid = next_id;
                }
                publish.write(&mut output).map_err(invalid)?;
            }
        }
    }
}

fn answer(packet: Packet, client: u64, routes: &Routes, to: &mpsc::Sender<Publish>, output: &mut BytesMut) -> io::Result<()> {
    let written = match packet {
        Packet::Connect(_) => ConnAck::new(ConnectReturnCode::Success, false).write(output),
        Packet::Publish(mut publish) => {
            let acknowledge = (publish.qos != QoS::AtMostOnce).then_some(publish.pkid);
            publish.dup = false;
            routes.publish(&publish);
            match acknowledge {
                Some(id) => PubAck::new(id).write(output),
                None => Ok(0),
            }
        }
        Packet::Subscribe(subscribe) => {
            let codes = subscribe
                .filters
                .iter()
                .map(|f| SubscribeReasonCode::Success(if f.qos == QoS::AtMostOnce { f.qos } else { QoS::AtLeastOnce }))
                .collect();
            routes.with(|all| {
                for filter in subscribe.filters {
                    all.push(Route { client, filter: filter.path, to: to.clone() });
                }
            });
            SubAck::new(subscribe.pkid, codes).write(output)
        }
        Packet::Unsubscribe(unsubscribe) => {
            routes.with(|all| all.retain(|r| r.client != client || !unsubscribe.topics.contains(&r.filter)));
            UnsubAck::new(unsubscribe.pkid).write(output)
        }
        Packet::PingReq => PingResp.write(output),
        _ => Ok(0),
    };
    written.map(drop).map_err(invalid)
}

fn invalid(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

//! Servers that are none: portals, proxies, peers that hang, answers without an end. None may cost a point or stop an output.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use weir_plugin_api::options::Item;

use super::*;
use crate::{
    net::testing::{Act, Hostile, Peer},
    outputs::{
        influxdb, influxdb_v2,
        testing::{built, numbered, text, texts},
    },
};

/// Longest time one of these writes may take: the configured timeout and some slack of a busy machine.
const BOUND: Duration = Duration::from_secs(40);
/// Within which there is an answer where there is one, on a busy machine too.
const ANSWERED: &str = "20s";
/// For servers that never come to an end.
const HURRIED: &str = "300ms";

fn output_within(timeout: &str, url: &str) -> Box<dyn Output> {
    let options = [("urls", texts(&[url])), ("bucket", text("b")), ("token", text("s3cret")), ("timeout", text(timeout))];
    built(&influxdb_v2::ENTRY, &options)
}

fn output(url: &str) -> Box<dyn Output> {
    output_within(ANSWERED, url)
}

async fn write(output: &mut Box<dyn Output>, count: usize) -> Outcome {
    let start = Instant::now();
    let outcome = output.write(Lane::Results, &numbered(count)).await;
    assert!(start.elapsed() < BOUND, "{outcome:?} took {:?}", start.elapsed());
    outcome
}

/// What a write comes to whose request is answered by this script.
async fn scripted(script: Vec<Act>) -> Outcome {
    let timeout = if script.iter().any(|act| matches!(act, Act::SayForever(_) | Act::Hang)) { HURRIED } else { ANSWERED };
    let peer = Hostile::start(script).await;
    write(&mut output_within(timeout, &peer.url()), 2).await
}

fn kept(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { .. } | Outcome::Hold { .. })
}

fn retry_after(outcome: &Outcome) -> Option<Duration> {
    match outcome {
        Outcome::Retry { after, .. } => *after,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn only_204_is_a_delivery() {
    let answers = [
        (200, "Content-Type: text/html\r\n", "<html><body>Please sign in</body></html>"),
        (200, "Content-Type: text/html; charset=utf-8\r\n", "<script>location='http://portal/'</script>"),
        (200, "Content-Type: text/html\r\n", "Welcome! Accept the terms to go on."),
        (200, "", "\u{feff}<!-- portal --><HTML></HTML>"),
        (200, "Content-Type: application/json\r\n", "{\"captive\":true}"),
        (200, "Content-Type: text/plain\r\n", ""),
        (202, "", ""),
        (201, "", "created"),
    ];
    for (status, headers, body) in answers {
        let peer = Peer::start(move |_| (status, headers, body.into())).await;
        let outcome = write(&mut output(&peer.url()), 2).await;
        assert!(kept(&outcome), "{status} {body:?}: {outcome:?}");
        let mut first = built(&influxdb::ENTRY, &[("urls", texts(&[&peer.url()])), ("skip_database_creation", Item::Bool(true))]);
        let outcome = write(&mut first, 2).await;
        assert!(kept(&outcome), "1.x, {status} {body:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_no_trap() {
    let head = "HTTP/1.1 503 X\r\n";
    let scripts = [
        // A header that never ends, in one line and in many.
        vec![Act::say(head), Act::say("X-Endless: "), Act::SayForever(vec![b'a'; 4096])],
        vec![Act::say(head), Act::SayForever(b"X-Endless: yes\r\n".to_vec())],
        // A body that never ends, with a length that cannot be and in pieces.
        vec![Act::say(head), Act::say("Content-Length: 9999999999999\r\n\r\n"), Act::SayForever(vec![b'a'; 4096])],
        vec![Act::say(head), Act::say("Transfer-Encoding: chunked\r\n\r\n"), Act::SayForever(b"4\r\naaaa\r\n".to_vec())],
        // Provisional answers without the final one.
        vec![Act::SayForever(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())],
    ];
    for script in scripts {
        let outcome = scripted(script.clone()).await;
        assert!(matches!(outcome, Outcome::Retry { .. }), "{script:.200?}: {outcome:?}");
    }
}

#[tokio::test]
async fn an_answer_that_stops_short_is_a_reason_to_write_again() {
    let scripts = [
        vec![],
        vec![Act::say("HTT")],
        vec![Act::say("HTTP/1.1 204 No")],
        vec![Act::say("HTTP/1.1 400 X\r\nContent-Length: 50\r\n\r\n{\"code\":")],
        vec![Act::say("HTTP/1.1 503 X\r\nContent-Length: 50\r\n\r\n"), Act::Hang],
        vec![Act::say("HTTP/1.1 204 No Content\r\n"), Act::Hang],
        vec![Act::Hang],
        vec![Act::say("220 mail.example.org ESMTP\r\n"), Act::Hang],
        vec![Act::say([0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46])],
    ];
    for script in scripts {
        let outcome = scripted(script.clone()).await;
        assert!(matches!(outcome, Outcome::Retry { .. }), "{script:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_no_token_anywhere() {
    let elsewhere = Peer::start(|_| (204, "", String::new())).await;
    for status in [301, 302, 303, 307, 308] {
        let head = format!("HTTP/1.1 {status} X\r\nLocation: {}/api/v2/write\r\nContent-Length: 0\r\n\r\n", elsewhere.url());
        let outcome = scripted(vec![Act::say(head)]).await;
        assert!(matches!(outcome, Outcome::Hold { .. }), "{status}: {outcome:?}");
    }
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
}

#[tokio::test]
async fn what_a_server_asks_to_wait_is_bounded_and_nonsense_is_ignored() {
    let asked = |value: &'static str| async move {
        scripted(vec![Act::say(format!(
            "HTTP/1.1 503 X\r\nDate: Wed, 21 Oct 2015 07:28:00 GMT\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n"
        ))])
        .await
    };
    let most = crate::net::http_client::RETRY_AFTER_MAX;
    assert_eq!(retry_after(&asked("7").await), Some(Duration::from_secs(7)));
    for huge in ["86400000", "18446744073709551615", "99999999999999999999999", "Tue, 31 Dec 2999 23:59:59 GMT"] {
        assert_eq!(retry_after(&asked(huge).await), Some(most), "{huge}");
    }
    for nonsense in ["-5", "soon", "", "1e9", "Wed, 99 Oct 2015 07:28:00 GMT"] {
        assert_eq!(retry_after(&asked(nonsense).await), None, "{nonsense}");
    }
    assert_eq!(retry_after(&asked("Wed, 21 Oct 2015 07:28:30 GMT").await), Some(Duration::from_secs(30)));
    assert_eq!(retry_after(&asked("Wed, 21 Oct 2015 07:00:00 GMT").await), Some(Duration::ZERO));
}

#[tokio::test]
async fn a_compressed_answer_is_never_unpacked() {
    // A hundred thousand zeros in a hundred bytes; ten such members would fill a gateway's memory.
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut encoder, &vec![0; 1 << 24]).unwrap();
        encoder.finish().unwrap()
    };
    let head = format!("HTTP/1.1 503 X\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", bomb.len());
    let outcome = scripted(vec![Act::say(head), Act::Say(bomb)]).await;
    let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.len() < 2000, "{}", reason.len());
}

#[tokio::test]
async fn one_line_that_is_too_large_is_rejected_and_the_next_write_goes_on() {
    let peer = Peer::start(|request| (if request.body.contains("v=1 2") { 413 } else { 204 }, "", String::new())).await;
    let mut output = output(&peer.url());
    let outcome = write(&mut output, 3).await;
    let Outcome::Delivered { rejected, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(rejected.iter().map(|r| (r.index, &*r.status)).collect::<Vec<_>>(), [(1, "too_large")]);
}

/// Answers 400 without a word, or with one nobody can read, to every body with this line in it.
async fn mute(bad: &'static str, body: &'static str) -> Peer {
    Peer::start(move |request| if request.body.contains(bad) { (400, "", body.into()) } else { (204, "", String::new()) }).await
}

#[tokio::test]
async fn a_400_nobody_can_read_costs_the_line_it_is_about() {
    for body in ["", "cannot parse line", "{\"code\":", "[1,2]", "\u{0}\u{1}\u{2}"] {
        let peer = mute("v=3 4", body).await;
        let mut output = output(&peer.url());
        let outcome = write(&mut output, 10).await;
        let Outcome::Delivered { rejected, .. } = outcome else { panic!("{body:?}: {outcome:?}") };
        assert_eq!(rejected.iter().map(|r| r.index).collect::<Vec<_>>(), [3], "{body:?}");
        assert!(peer.requests().len() < 20);
    }
}

#[tokio::test]
async fn a_400_to_everything_from_who_has_never_taken_a_line_burns_nothing() {
    let peer = mute("", "Bad Request").await;
    let mut output = output(&peer.url());
    for count in [1, 2, 1000] {
        let outcome = write(&mut output, count).await;
        assert!(matches!(outcome, Outcome::Hold { .. }), "{count}: {outcome:?}");
    }
    assert!(peer.requests().len() < 40, "{}", peer.requests().len());
}

#[tokio::test]
async fn a_certificate_of_somebody_else_and_a_name_nobody_knows_are_waited_out_without_a_secret() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=other.example",
        ])
        .args(["-addext", "subjectAltName=DNS:other.example", "-keyout", &path("key.pem"), "-out", &path("cert.pem")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let certificates = rustls::pki_types::pem::PemObject::pem_file_iter(path("cert.pem")).unwrap().map(Result::unwrap).collect();
    let key = rustls::pki_types::pem::PemObject::from_pem_file(path("key.pem")).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let (config, plain) = (std::sync::Arc::new(config), std::sync::Arc::new(std::sync::Mutex::new(Vec::new())));
    let heard = std::sync::Arc::clone(&plain);
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Blocking is enough for a handshake with one peer; what it says after that is what must never come.
            let (config, heard) = (std::sync::Arc::clone(&config), std::sync::Arc::clone(&heard));
            let stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            tokio::task::spawn_blocking(move || {
                let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(config).unwrap(), stream);
                let mut bytes = Vec::new();
                let _ = std::io::Read::read_to_end(&mut stream, &mut bytes);
                heard.lock().unwrap().extend(bytes);
            });
        }
    });
    // Trusted, but for another name; and not trusted at all.
    for ca in [Some(path("cert.pem")), None] {
        let mut options = vec![
            ("urls", texts(&[&format!("https://u:hunter2@127.0.0.1:{port}/?p=hunter3")])),
            ("bucket", text("b")),
            ("token", text("s3cret")),
        ];
        options.extend(ca.map(|ca| ("tls_ca", text(&ca))));
        let outcome = write(&mut built(&influxdb_v2::ENTRY, &options), 2).await;
        let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("certificate"), "{reason}");
        assert!(!reason.contains("hunter") && !reason.contains("s3cret"), "{reason}");
    }
    assert!(plain.lock().unwrap().is_empty(), "nothing is said before the certificate is right");
    server.abort();
    let outcome = write(&mut output("http://u:hunter2@no-such-host.invalid:8086"), 2).await;
    let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(!reason.contains("hunter"), "{reason}");
}

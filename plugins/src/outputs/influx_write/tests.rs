//! The dialects against a scripted peer, and the whole against a real InfluxDB 1.x.

#![allow(clippy::unwrap_used)]

use std::{
    collections::HashMap,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use weir_plugin_api::{Value, plugin::OutputEntry};

use super::*;
use crate::{
    net::testing::{Peer, Reply, Request},
    outputs::{
        influxdb, influxdb_v2,
        testing::{build, built, numbered, points, text, texts},
    },
};

fn v2(urls: &[&str]) -> Box<dyn Output> {
    let options = [("urls", texts(urls)), ("bucket", text("b")), ("organization", text("o")), ("token", text("s3cret"))];
    built(&influxdb_v2::ENTRY, &options)
}

fn v1(url: &str) -> Box<dyn Output> {
    built(&influxdb::ENTRY, &[("urls", texts(&[url])), ("database", text("weir"))])
}

async fn write(output: &mut Box<dyn Output>, points: &Points) -> Outcome {
    output.write(Lane::Results, points).await
}

fn rejected(outcome: &Outcome) -> Vec<usize> {
    match outcome {
        Outcome::Delivered { rejected, .. } => rejected.iter().map(|r| r.index).collect(),
        other => panic!("{other:?}"),
    }
}

fn json(status: u16, body: impl Into<String>) -> Reply {
    (status, "Content-Type: application/json\r\n", body.into())
}

/// A server of version 2 that refuses everything because of the first line it does not like, naming it or not.
fn strict(bad: fn(&str) -> bool, naming: bool) -> impl Fn(&Request) -> Reply {
    move |request| match request.body.lines().find(|line| bad(line)) {
        Some(line) if naming => json(400, format!(r#"{{"code":"invalid","message":"unable to parse '{line}': bad"}}"#)),
        Some(_) => json(400, r#"{"code":"invalid","message":"no"}"#),
        None => json(204, ""),
    }
}

#[tokio::test]
async fn a_write_is_compressed_authorised_and_addressed() {
    let peer = Peer::start(|_| json(204, "")).await;
    assert_eq!(write(&mut v2(&[&peer.url()]), &numbered(2)).await, Outcome::delivered());
    let requests = peer.requests();
    assert_eq!(requests[0].target, "/api/v2/write?bucket=b&precision=ns&org=o");
    assert_eq!(requests[0].header("authorization"), Some("Token s3cret"));
    assert_eq!(requests[0].header("content-encoding"), Some("gzip"));
    assert_eq!(requests[0].body, "m v=0 1\nm v=1 2\n");
}

#[tokio::test]
async fn version_2_loses_only_the_lines_it_names() {
    let peer = Peer::start(strict(|line| line.ends_with("=3 4") || line.ends_with("=7 8"), true)).await;
    assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &numbered(10)).await), [3, 7]);
    let last = peer.requests().pop().unwrap();
    assert_eq!(last.body.lines().count(), 8);
}

#[tokio::test]
async fn a_refusal_nobody_can_read_is_taken_apart_to_the_line() {
    let peer = Peer::start(strict(|line| line.ends_with("=77 78") || line.ends_with("=500 501"), false)).await;
    assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &numbered(1000)).await), [77, 500]);
    assert!(peer.requests().len() < 64);
}

#[tokio::test]
async fn a_server_that_refuses_every_line_is_not_asked_for_ever() {
    let peer = Peer::start(strict(|_| true, false)).await;
    assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &numbered(2000)).await).len(), 2000);
    assert!(peer.requests().len() <= 2 * REQUESTS_MAX + 1, "{}", peer.requests().len());
}

#[tokio::test]
async fn version_2_after_422_has_all_but_the_points_of_the_other_type() {
    let body = r#"{"code":"unprocessable entity","message":"failure writing points to database: partial write: field type conflict: input field \"v\" on measurement \"m\" is type string, already exists as type float dropped=2"}"#;
    let peer = Peer::start(move |_| json(422, body)).await;
    let (float, text) = ([("v", Value::Float(1.0))], [("v", Value::Text("x"))]);
    let all = points(&[("m", &[], &float, 1), ("m", &[], &text, 2), ("n", &[], &text, 3), ("m", &[("a", "b")], &text, 4)]);
    assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &all).await), [1, 3]);
    assert_eq!(peer.requests().len(), 1);
}

#[tokio::test]
async fn points_beyond_the_retention_are_the_oldest() {
    let body = r#"{"code":"unprocessable entity","message":"partial write: points beyond retention policy dropped=2"}"#;
    let peer = Peer::start(move |_| json(422, body)).await;
    assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &numbered(5)).await), [0, 1]);
}

#[tokio::test]
async fn an_unnamed_drop_is_found_by_sending_parts_again() {
    let peer = Peer::start(|request| {
        let dropped = request.body.lines().filter(|line| line.contains("=5 ")).count();
        let body = format!(r#"{{"code":"x","message":"partial write: max-values-per-tag limit exceeded dropped={dropped}"}}"#);
        if dropped == 0 { json(204, "") } else { json(422, body) }
    })
    .await;
    assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &numbered(16)).await), [5]);
}

/// What a server keeps: of each series and time what came last. It says whether a line is in.
fn kept(request: &Request, kept: &mut HashMap<String, String>, taken: fn(&str) -> bool) -> usize {
    for line in request.body.lines().filter(|line| taken(line)) {
        let (series, rest) = line.split_once(' ').unwrap();
        let (fields, time) = rest.split_once(' ').unwrap();
        kept.insert(format!("{series} {time}"), fields.to_owned());
    }
    request.body.lines().filter(|line| !taken(line)).count()
}

#[tokio::test]
async fn a_correction_stays_above_what_it_corrects_when_parts_are_sent_again() {
    let values: Vec<[(&str, Value<'_>); 1]> = (0..32).map(|n| [("v", Value::Int(n))]).collect();
    // The first line and its neighbour are dropped; 2 is corrected by 20, 5 by 6 and by 30.
    let time = |n: i64| match n {
        20 => 2,
        6 | 30 => 5,
        other => other,
    };
    let all = points(
        &(0..32_usize).map(|n| (if n < 2 { "bad" } else { "m" }, &[] as &[_], &values[n] as &[_], time(n as i64))).collect::<Vec<_>>(),
    );
    for naming in [true, false] {
        let store = Arc::new(Mutex::new(HashMap::new()));
        let seen = Arc::clone(&store);
        let peer = Peer::start(move |request| {
            let mut store = seen.lock().unwrap();
            let bad = request.body.lines().find(|line| line.starts_with("bad"));
            if !naming && let Some(bad) = bad {
                // Nothing of it is in.
                return json(400, format!(r#"{{"code":"invalid","message":"unable to parse '{bad}': bad"}}"#));
            }
            let dropped = kept(request, &mut store, |line| !line.starts_with("bad"));
            let body = format!(r#"{{"code":"x","message":"partial write: max-values-per-tag limit exceeded dropped={dropped}"}}"#);
            if dropped == 0 { json(204, "") } else { json(422, body) }
        })
        .await;
        assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &all).await), [0, 1]);
        let store = store.lock().unwrap();
        assert_eq!((store["m 2"].as_str(), store["m 5"].as_str()), ("v=20i", "v=30i"), "{naming}");
        assert_eq!(store.len(), 27, "everything else is in");
    }
}

#[tokio::test]
async fn version_3_names_lines_by_number() {
    let body = r#"{"error":"partial write of line protocol occurred","data":[{"original_line":"m v=1 2","line_number":2,"error_message":"invalid column type"}]}"#;
    let peer = Peer::start(move |_| json(400, body)).await;
    let outcome = write(&mut v2(&[&peer.url()]), &numbered(3)).await;
    let expected = Rejection { index: 1, status: "partial".into(), reason: "invalid column type".into() };
    assert_eq!(outcome, Outcome::Delivered { rejected: vec![expected], collapsed: 0, token: 0 });
}

#[tokio::test]
async fn too_large_a_body_is_halved_and_the_size_remembered() {
    let peer = Peer::start(|request| if request.body.len() > 100 { json(413, "") } else { json(204, "") }).await;
    let mut output = v2(&[&peer.url()]);
    assert_eq!(write(&mut output, &numbered(40)).await, Outcome::delivered());
    let before = peer.requests().len();
    assert_eq!(write(&mut output, &numbered(40)).await, Outcome::delivered());
    let again = peer.requests();
    assert!(again[before..].iter().all(|r| r.body.len() <= 100));
    assert_eq!(again[before..].iter().map(|r| r.body.lines().count()).sum::<usize>(), 40);
}

#[tokio::test]
async fn a_line_that_is_too_large_by_itself_is_rejected_alone() {
    let peer = Peer::start(|request| if request.body.len() > 100 { json(413, "") } else { json(204, "") }).await;
    let long = "x".repeat(200);
    let (small, large) = ([("v", Value::Int(1))], [("v", Value::Text(&long))]);
    let all = points(&[("m", &[], &small, 1), ("m", &[], &large, 2), ("m", &[], &small, 3)]);
    assert_eq!(rejected(&write(&mut v2(&[&peer.url()]), &all).await), [1]);
}

#[tokio::test]
async fn a_busy_server_says_when_and_a_portal_is_no_success() {
    let busy = Peer::start(|_| (503, "Retry-After: 7\r\n", String::new())).await;
    let outcome = write(&mut v2(&[&busy.url()]), &numbered(1)).await;
    assert!(matches!(outcome, Outcome::Retry { after: Some(after), .. } if after == Duration::from_secs(7)), "{outcome:?}");
    let portal = Peer::start(|_| (200, "Content-Type: text/html\r\n", "<html>sign in</html>".into())).await;
    let outcome = write(&mut v2(&[&portal.url()]), &numbered(1)).await;
    assert!(matches!(&outcome, Outcome::Retry { reason, .. } if reason.contains("web page")), "{outcome:?}");
}

#[tokio::test]
async fn a_wrong_token_holds_and_no_error_shows_it() {
    let peer = Peer::start(|_| json(401, r#"{"code":"unauthorized","message":"unauthorized access"}"#)).await;
    let outcome = write(&mut v2(&[&peer.url()]), &numbered(1)).await;
    assert!(matches!(&outcome, Outcome::Hold { reason } if reason.contains("unauthorized")), "{outcome:?}");
    let mut gone = v1("http://weir:hunter2@127.0.0.1:1");
    let outcome = write(&mut gone, &numbered(1)).await;
    let Outcome::Retry { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("127.0.0.1:1") && !reason.contains("hunter2") && !reason.contains("weir:"), "{reason}");
}

#[tokio::test]
async fn the_next_address_takes_over_and_stays() {
    let peer = Peer::start(|_| json(204, "")).await;
    let mut output = v2(&["http://127.0.0.1:1", &peer.url()]);
    assert_eq!(write(&mut output, &numbered(1)).await, Outcome::delivered());
    assert_eq!(write(&mut output, &numbered(1)).await, Outcome::delivered());
    assert_eq!(peer.requests().len(), 2);
}

#[tokio::test]
async fn a_tag_chooses_the_bucket() {
    let peer = Peer::start(|_| json(204, "")).await;
    let options = [("urls", texts(&[&peer.url()])), ("bucket", text("b")), ("bucket_tag", text("to"))];
    let mut output = built(&influxdb_v2::ENTRY, &options);
    let v = [("v", Value::Int(1))];
    write(&mut output, &points(&[("m", &[], &v, 1), ("m", &[("to", "c")], &v, 2), ("n", &[], &v, 3)])).await;
    let mut sent: Vec<_> = peer.requests().into_iter().map(|r| (r.target, r.body)).collect();
    sent.sort();
    assert_eq!(sent[0], ("/api/v2/write?bucket=b&precision=ns".into(), "m v=1i 1\nn v=1i 3\n".into()));
    assert_eq!(sent[1], ("/api/v2/write?bucket=c&precision=ns".into(), "m,to=c v=1i 2\n".into()));
}

#[test]
fn wrong_options_are_all_named_and_no_address_is_shown() {
    let wrong = |entry: &OutputEntry, options: &[(&str, weir_plugin_api::options::Item)]| {
        build(entry, options, std::path::Path::new("/")).map(|_| ()).unwrap_err()
    };
    let said = wrong(&influxdb_v2::ENTRY, &[("urls", texts(&["udp://u:secret@host:8089"])), ("bucket", text("b")), ("bukcet", text("b"))]);
    assert!(said.contains("udp:// addresses are not supported") && said.contains("bukcet") && !said.contains("secret"), "{said}");
    let said = wrong(&influxdb::ENTRY, &[("udp_payload", text("512B")), ("write_consistency", text("most"))]);
    assert!(said.contains("does not support") && said.contains("one of any"), "{said}");
}

/// A real InfluxDB 1.x in a directory of its own.
struct Influxd {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Influxd {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (backup, http, root) = (free(), free(), directory.path().display());
        let config = format!(
            "reporting-disabled = true\nbind-address = \"{backup}\"\n[meta]\ndir = \"{root}/meta\"\n[data]\ndir = \"{root}/data\"\n\
             wal-dir = \"{root}/wal\"\n[monitor]\nstore-enabled = false\n[http]\nbind-address = \"{http}\"\n"
        );
        std::fs::write(directory.path().join("influxdb.conf"), config).unwrap();
        let child = Command::new("influxd")
            .args(["-config", "influxdb.conf"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let influxd = Self { child, url: format!("http://{http}"), _directory: directory };
        let begun = Instant::now();
        while influxd.query("SHOW DATABASES").await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "influxd did not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        influxd
    }

    async fn query(&self, query: &str) -> Result<String, String> {
        let tls =
            crate::net::tls::TlsOptions { tls_ca: None, tls_cert: None, tls_key: None, tls_server_name: None, insecure_skip_verify: false };
        let settings = http_client::ClientSettings {
            timeout: Duration::from_secs(5),
            tls: &tls,
            secure: false,
            user_agent: "",
            headers: reqwest::header::HeaderMap::new(),
        };
        let mut url = Url::parse(&format!("{}/query", self.url)).unwrap();
        url.query_pairs_mut().append_pair("db", "weir").append_pair("q", query).append_pair("epoch", "ns");
        http_client::send(http_client::client(settings).unwrap().post(url)).await.map(|answer| answer.body)
    }
}

impl Drop for Influxd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_real_influxdb_1_makes_its_database_takes_points_and_drops_the_wrong_type() {
    let influxd = Influxd::start().await;
    let mut output = v1(&influxd.url);
    assert_eq!(write(&mut output, &numbered(1000)).await, Outcome::delivered());
    let count = influxd.query("SELECT count(v), sum(v) FROM m").await.unwrap();
    assert!(count.contains("[0,1000,499500]"), "{count}");

    let (float, text) = ([("v", Value::Float(1.0))], [("v", Value::Text("a \"quoted\" \\ text"))]);
    let all = points(&[("m", &[], &float, 5000), ("m", &[], &text, 5001), ("odd, name", &[("t a", "x=,y")], &text, 5002)]);
    let outcome = write(&mut output, &all).await;
    let Outcome::Delivered { rejected, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].index, 1);
    assert!(rejected[0].reason.contains("field type conflict"), "{rejected:?}");
    let odd = influxd.query(r#"SELECT v, "t a" FROM "odd, name""#).await.unwrap();
    assert!(odd.contains(r#"[5002,"a \"quoted\" \\ text","x=,y"]"#), "{odd}");
    let last = influxd.query("SELECT v FROM m WHERE time > 1000").await.unwrap();
    assert!(last.contains("[5000,1]") && !last.contains("5001"), "{last}");
}

#[tokio::test]
async fn a_real_influxdb_1_without_the_database_or_policy_holds() {
    let influxd = Influxd::start().await;
    let options = [("urls", texts(&[&influxd.url])), ("skip_database_creation", weir_plugin_api::options::Item::Bool(true))];
    let outcome = write(&mut built(&influxdb::ENTRY, &options), &numbered(1)).await;
    assert!(matches!(&outcome, Outcome::Hold { reason } if reason.contains("database not found")), "{outcome:?}");
    let options = [("urls", texts(&[&influxd.url])), ("retention_policy", text("nope"))];
    let outcome = write(&mut built(&influxdb::ENTRY, &options), &numbered(1)).await;
    assert!(matches!(&outcome, Outcome::Hold { reason } if reason.contains("retention policy not found")), "{outcome:?}");
}

#[tokio::test]
async fn points_a_real_influxdb_1_finds_too_old_are_named() {
    let influxd = Influxd::start().await;
    influxd.query("CREATE DATABASE weir WITH DURATION 1h").await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let v = [("v", Value::Int(1))];
    let all = points(&[("m", &[], &v, now), ("m", &[], &v, 1_000_000_000), ("m", &[], &v, now + 1)]);
    assert_eq!(rejected(&write(&mut v1(&influxd.url), &all).await), [1]);
}

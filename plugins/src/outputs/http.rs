//! The HTTP output: each write of points is one request, or one request per point.
//!
//! What arrived cannot be seen from here when an answer gets lost, so every request carries an `Idempotency-Key` made of the
//! agent's id, the identities of its first and last point and a sum over what is sent: sent again, it has the same one.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use reqwest::{
    Client, Method, Url,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue},
};
use weir_plugin_api::{
    Identity, Lane, Points,
    options::{Secret, Section},
    plugin::{AgentId, BoxFuture, BuildContext, Encoder, Outcome, Output, OutputEntry, OutputResume, PluginError, Rejection},
};

use crate::{
    codecs,
    net::{
        http_client::{self, Answer, Authorization, ClientSettings, ContentEncoding},
        tls::TlsOptions,
    },
};

weir_plugin_api::choice! {
    /// Methods that carry a body.
    pub enum WriteMethod {
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// PATCH.
        Patch = "PATCH",
    }
}

weir_plugin_api::options! {
    /// Options of the HTTP output.
    pub struct HttpOptions {
        /// Address to send to.
        url: String = "http://127.0.0.1:8080/telegraf".into(),
        /// Method of the requests.
        method: WriteMethod = WriteMethod::Post,
        /// Longest time for a request, 0 for none.
        timeout: Duration = Duration::from_secs(5),
        /// User; also possible in the address.
        username: Secret = Secret::default(),
        /// Password.
        password: Secret = Secret::default(),
        /// Further headers; `Content-Type` replaces the format's own.
        headers: BTreeMap<String, Secret> = BTreeMap::new(),
        /// Name this agent goes by; empty for Weir's own.
        user_agent: String = String::new(),
        /// Compression of bodies.
        content_encoding: ContentEncoding = ContentEncoding::Identity,
        /// All points of a write in one request; otherwise one request per point.
        use_batch_format: bool = true,
        /// Answers after which points are given up (and counted as rejected) in place of being sent again.
        non_retryable_statuscodes: Vec<u16> = Vec::new(),
    }
}

/// The registry's entry.
pub static ENTRY: OutputEntry = OutputEntry {
    name: "http",
    about: "sends points in requests to an HTTP server",
    specs: || [HttpOptions::specs(), TlsOptions::specs(), codecs::encoder_specs()].concat(),
    unsupported: &[
        "client_id",
        "client_secret",
        "token_url",
        "audience",
        "scopes",
        "endpoint_params",
        "google_application_credentials",
        "aws_service",
        "region",
        "access_key",
        "secret_key",
        "role_arn",
        "web_identity_token_file",
        "role_session_name",
        "profile",
        "shared_credential_file",
        "cookie_auth_url",
        "cookie_auth_method",
        "cookie_auth_username",
        "cookie_auth_password",
        "cookie_auth_headers",
        "cookie_auth_body",
        "cookie_auth_renewal",
        "idle_conn_timeout",
        "max_idle_conn",
        "max_idle_conn_per_host",
        "response_timeout",
        "use_system_proxy",
        "http_proxy_url",
        "local_address",
        "tls_key_pwd",
        "tls_min_version",
        "tls_cipher_suites",
        "tls_renegotiation_method",
        "tls_enable",
    ],
    build,
};

fn build(section: &Section<'_>, context: &BuildContext) -> Option<Box<dyn Output>> {
    let (options, tls, encoder) = (HttpOptions::read(section), TlsOptions::read(section), codecs::encoder(section));
    let (options, tls, encoder) = (options?, tls?, encoder?);
    let url = http_client::address(section, "url", &options.url)?;
    let headers = http_client::headers(section, "headers", &options.headers)?;
    let own_type = headers.contains_key(CONTENT_TYPE);
    let secure = url.scheme() == "https";
    let settings = ClientSettings { timeout: options.timeout, tls: &tls, secure, user_agent: &options.user_agent, headers };
    let client = http_client::client_for(section, settings)?;
    let method = match options.method {
        WriteMethod::Post => Method::POST,
        WriteMethod::Put => Method::PUT,
        WriteMethod::Patch => Method::PATCH,
    };
    let content_type = (!own_type).then(|| HeaderValue::from_static(encoder.content_type()));
    let authorization = Authorization::basic(&options.username, &options.password);
    Some(Box::new(HttpOutput {
        name: context.name.clone(),
        agent: AgentId::default(),
        client,
        url,
        method,
        authorization,
        content_type,
        options,
        encoder,
        bytes: 4096,
    }))
}

struct HttpOutput {
    name: String,
    agent: AgentId,
    client: Client,
    url: Url,
    method: Method,
    authorization: Authorization,
    /// `None` when the configuration sets one.
    content_type: Option<HeaderValue>,
    options: HttpOptions,
    encoder: Box<dyn Encoder>,
    /// Bytes of the last body: what the next will need.
    bytes: usize,
}

impl HttpOutput {
    async fn write_all(&mut self, lane: Lane, points: &Points) -> Outcome {
        if self.options.use_batch_format {
            let mut body = Vec::with_capacity(self.bytes);
            self.encoder.encode_all(points, &mut body);
            self.bytes = body.len() + body.len() / 16;
            let key = self.key(lane, points.first_identity(), points.last_identity(), &body);
            return match self.send(body, key).await {
                Ok(None) => Outcome::delivered(),
                Ok(Some(answer)) => rejected(&answer, 0..points.len()),
                Err(outcome) => outcome,
            };
        }
        let mut refused = Vec::new();
        for (index, (point, identity)) in points.iter().zip(identities(points)).enumerate() {
            let mut body = Vec::new();
            self.encoder.encode(point, &mut body);
            let key = self.key(lane, identity, identity, &body);
            match self.send(body, key).await {
                Ok(None) => {}
                Ok(Some(answer)) => refused.push(rejection(&answer, index)),
                Err(Outcome::TooLarge) => {
                    refused.push(Rejection { index, status: "too_large".into(), reason: "larger than the server takes".into() })
                }
                Err(outcome) => return outcome,
            }
        }
        Outcome::Delivered { rejected: refused, collapsed: 0, token: 0 }
    }

    /// `Ok(None)` when it is there, `Ok(Some)` when it is given up for this answer.
    async fn send(&mut self, body: Vec<u8>, key: String) -> Result<Option<Answer>, Outcome> {
        if body.is_empty() {
            return Ok(None);
        }
        let encoding = self.options.content_encoding;
        let body = http_client::encode(encoding, Bytes::from(body));
        let mut request = self.client.request(self.method.clone(), self.url.clone()).header("idempotency-key", key).body(body);
        if let Some(content_type) = &self.content_type {
            request = request.header(CONTENT_TYPE, content_type.clone());
        }
        if encoding == ContentEncoding::Gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        let answer = match http_client::send(self.authorization.apply(request)).await {
            Ok(answer) => answer,
            Err(reason) => return Err(Outcome::Retry { after: None, reason }),
        };
        if self.options.non_retryable_statuscodes.contains(&answer.status) {
            return Ok(Some(answer));
        }
        match answer.common_outcome() {
            Some(Outcome::Delivered { .. }) => Ok(None),
            Some(other) => Err(other),
            // Refused as it is: sent again it would be refused again, but given up only when the configuration says so.
            None => Err(Outcome::Hold { reason: format!("{} (`non_retryable_statuscodes` says what is to be given up)", answer.shown()) }),
        }
    }

    fn key(&self, lane: Lane, first: Identity, last: Identity, body: &[u8]) -> String {
        let lane = if lane == Lane::Alerts { "alerts" } else { "results" };
        // Two agents number alike, and have outputs of one name.
        let agent = self.agent.of(last);
        // Where records were lost, their numbers are given to others.
        let sum = crc32c::crc32c(body);
        let (from, to) = (format!("{}.{}", first.record, first.ordinal), format!("{}.{}", last.record, last.ordinal));
        http_client::header_text(&format!("{agent:016x}/{}/{lane}/{from}-{to}/{sum:08x}", self.name))
    }
}

fn identities(points: &Points) -> impl Iterator<Item = Identity> + '_ {
    points.slices.iter().flat_map(|(chunk, range)| range.clone().map(move |i| chunk.identity(i)))
}

fn rejection(answer: &Answer, index: usize) -> Rejection {
    Rejection { index, status: answer.status.to_string(), reason: answer.shown() }
}

fn rejected(answer: &Answer, all: std::ops::Range<usize>) -> Outcome {
    Outcome::Delivered { rejected: all.map(|index| rejection(answer, index)).collect(), collapsed: 0, token: 0 }
}

impl Output for HttpOutput {
    fn open<'a>(&'a mut self, resume: OutputResume) -> BoxFuture<'a, Result<OutputResume, PluginError>> {
        self.agent = resume.agent;
        Box::pin(async move { Ok(resume) })
    }

    fn write<'a>(&'a mut self, lane: Lane, points: &'a Points) -> BoxFuture<'a, Outcome> {
        Box::pin(self.write_all(lane, points))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::{
        net::testing::Peer,
        outputs::testing::{PlainEncoder, numbered},
    };

    fn output(url: &str, change: impl FnOnce(&mut HttpOptions)) -> HttpOutput {
        let mut options = HttpOptions {
            url: url.into(),
            method: WriteMethod::Put,
            timeout: Duration::from_secs(5),
            username: Secret::new("u"),
            password: Secret::new("p"),
            headers: BTreeMap::new(),
            user_agent: String::new(),
            content_encoding: ContentEncoding::Gzip,
            use_batch_format: true,
            non_retryable_statuscodes: vec![400],
        };
        change(&mut options);
        let tls = TlsOptions { tls_ca: None, tls_cert: None, tls_key: None, tls_server_name: None, insecure_skip_verify: false };
        let headers = reqwest::header::HeaderMap::new();
        let settings = ClientSettings { timeout: options.timeout, tls: &tls, secure: false, user_agent: "", headers };
        HttpOutput {
            name: "cloud".into(),
            agent: AgentId { now: 0xab, earlier: Some((7, 0)) },
            client: http_client::client(settings).unwrap(),
            url: Url::parse(url).unwrap(),
            method: Method::PUT,
            authorization: Authorization::basic(&options.username, &options.password),
            content_type: Some(HeaderValue::from_static("text/plain; charset=utf-8")),
            options,
            encoder: Box::new(PlainEncoder),
            bytes: 0,
        }
    }

    #[tokio::test]
    async fn a_write_is_one_request_with_a_key_that_stays() {
        let peer = Peer::start(|_| (204, "", String::new())).await;
        let mut output = output(&peer.url(), |_| {});
        for _ in 0..2 {
            assert_eq!(output.write(Lane::Results, &numbered(3)).await, Outcome::delivered());
        }
        let requests = peer.requests();
        assert_eq!(requests[0].body, "m v=0 1\nm v=1 2\nm v=2 3\n");
        assert_eq!(requests[0].method, "PUT");
        assert_eq!(requests[0].header("content-encoding"), Some("gzip"));
        assert_eq!(requests[0].header("authorization"), Some("Basic dTpw"));
        let key = requests[0].header("idempotency-key").unwrap();
        assert!(key.starts_with("00000000000000ab/cloud/results/1.0-1.2/"), "{key}");
        assert_eq!(requests[1].header("idempotency-key"), Some(key));
    }

    #[tokio::test]
    async fn points_that_were_given_the_numbers_of_lost_ones_have_another_key() {
        let peer = Peer::start(|_| (204, "", String::new())).await;
        let mut output = output(&peer.url(), |_| {});
        let (field, series) = (std::sync::Arc::from("v"), std::sync::Arc::new(weir_plugin_api::Series::from_parts("m", &[])));
        for value in [1.0, 2.0] {
            let mut builder = weir_plugin_api::chunk::ChunkBuilder::default();
            builder.point(Identity { record: 7, ordinal: 0 }, &series, 1);
            builder.field(&field, 1, weir_plugin_api::Value::Float(value));
            let points = Points::from(std::sync::Arc::new(builder.finish()));
            assert_eq!(output.write(Lane::Results, &points).await, Outcome::delivered());
        }
        let requests = peer.requests();
        assert_ne!(requests[0].body, requests[1].body);
        assert_ne!(requests[0].header("idempotency-key"), requests[1].header("idempotency-key"));
    }

    #[tokio::test]
    async fn agents_of_one_configuration_have_keys_of_their_own_and_what_a_copy_found_waiting_has_that_of_the_first() {
        let peer = Peer::start(|_| (204, "", String::new())).await;
        let mut output = output(&peer.url(), |_| {});
        for (agent, key) in [
            (AgentId::from(7), "0000000000000007/cloud/results/1.0-1.2"),
            (AgentId::from(8), "0000000000000008/cloud/results/1.0-1.2"),
            (AgentId { now: 9, earlier: Some((7, 1)) }, "0000000000000007/cloud/results/1.0-1.2"),
        ] {
            output.open(OutputResume { agent, ..OutputResume::default() }).await.unwrap();
            assert_eq!(output.write(Lane::Results, &numbered(3)).await, Outcome::delivered());
            let requests = peer.requests();
            let sent = requests.last().unwrap().header("idempotency-key").unwrap();
            assert_eq!(sent.rsplit_once('/').unwrap().0, key);
        }
    }

    #[tokio::test]
    async fn without_batches_a_point_that_is_given_up_costs_only_itself() {
        let peer = Peer::start(|request| (if request.body.contains("v=1") { 400 } else { 200 }, "", "no".into())).await;
        let outcome = output(&peer.url(), |o| o.use_batch_format = false).write(Lane::Alerts, &numbered(3)).await;
        let Outcome::Delivered { rejected, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(rejected, [Rejection { index: 1, status: "400".into(), reason: "status 400: no".into() }]);
        let requests = peer.requests();
        let key = requests[2].header("idempotency-key").unwrap();
        assert!(key.starts_with("00000000000000ab/cloud/alerts/1.2-1.2/"), "{key}");
    }

    #[tokio::test]
    async fn an_answer_is_given_up_sent_again_or_waits_for_a_person() {
        for (status, body) in [(400, ""), (422, ""), (403, ""), (503, ""), (413, ""), (301, ""), (200, "<html>sign in</html>")] {
            let peer = Peer::start(move |_| (status, "", body.into())).await;
            let outcome = output(&peer.url(), |_| {}).write(Lane::Results, &numbered(2)).await;
            let right = match status {
                400 => matches!(&outcome, Outcome::Delivered { rejected, .. } if rejected.len() == 2),
                422 | 403 | 301 => matches!(outcome, Outcome::Hold { .. }),
                413 => outcome == Outcome::TooLarge,
                _ => matches!(outcome, Outcome::Retry { .. }),
            };
            assert!(right, "{status}: {outcome:?}");
        }
    }
}

//! The webhook action: one HTTP request per transition, at least once, with a key by which the far side can tell a repetition.

use std::{collections::BTreeMap, time::Duration};

use reqwest::{
    Client, Method, Url,
    header::{CONTENT_TYPE, HeaderValue},
};
use weir_plugin_api::{
    options::{Secret, Section},
    plugin::{ActionEntry, AnyAction, BoxFuture, BuildContext, EdgeAction, Notification, Outcome, Rejection},
};

use super::{notification_json, words};
use crate::net::{
    http_client::{self, Answer, Authorization, ClientSettings},
    template::{Part, Template},
    tls::TlsOptions,
};

/// What a body can name, besides tags.
const NAMES: &[&str] = &["Alert", "State", "Severity", "Value", "N", "Time", "Historical", "Tags", "Key", "Json"];

weir_plugin_api::choice! {
    /// Methods a webhook is called with.
    pub enum HookMethod {
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// PATCH.
        Patch = "PATCH",
        /// GET, without a body.
        Get = "GET",
    }
}

weir_plugin_api::options! {
    /// Options of the webhook action.
    pub struct WebhookOptions {
        /// Address to call. It is treated as a secret, because for many services it is one.
        url: Secret,
        /// Method of the request.
        method: HookMethod = HookMethod::Post,
        /// Further headers.
        headers: BTreeMap<String, Secret> = BTreeMap::new(),
        /// Body, with `{{ .Alert }}`, `{{ .State }}`, `{{ .Severity }}`, `{{ .Value }}`, `{{ .N }}`, `{{ .Time }}` (nanoseconds since 1970),
        /// `{{ .Historical }}`, `{{ .Tags }}`, `{{ .Tag "key" }}`, `{{ .Key }}` (the idempotency key) and `{{ .Json }}` (the document) filled
        /// in; empty for a JSON document that has them all.
        body: String = String::new(),
        /// Media type of the body; for JSON the filled-in values are escaped.
        content_type: String = "application/json".into(),
        /// Longest time for a call, 0 for none.
        timeout: Duration = Duration::from_secs(5),
        /// User.
        username: Secret = Secret::default(),
        /// Password.
        password: Secret = Secret::default(),
        /// Bearer token, in place of user and password.
        token: Secret = Secret::default(),
    }
}

/// The registry's entry.
pub static ENTRY: ActionEntry = ActionEntry {
    name: "webhook",
    about: "calls an address once per transition",
    specs: || [WebhookOptions::specs(), TlsOptions::specs()].concat(),
    unsupported: &[],
    build,
};

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<AnyAction> {
    let (options, tls) = (WebhookOptions::read(section), TlsOptions::read(section));
    let (options, tls) = (options?, tls?);
    let url = http_client::address(section, "url", options.url.expose());
    let template = Template::parse(&options.body, NAMES).map_err(|reason| section.error_at("body", format!("`body`: {reason}"))).ok();
    let Ok(content_type) = HeaderValue::from_str(&options.content_type) else {
        section.error_at("content_type", "`content_type`: can't be sent in a header");
        return None;
    };
    let authorization = if options.token.is_empty() {
        Authorization::basic(&options.username, &options.password)
    } else {
        Authorization::token(section, "token", "Bearer", &options.token)?
    };
    let headers = http_client::headers(section, "headers", &options.headers)?;
    let (url, template) = (url?, template?);
    let settings = ClientSettings { timeout: options.timeout, tls: &tls, secure: url.scheme() == "https", user_agent: "", headers };
    let client = http_client::client_for(section, settings)?;
    let method = match options.method {
        HookMethod::Post => Method::POST,
        HookMethod::Put => Method::PUT,
        HookMethod::Patch => Method::PATCH,
        HookMethod::Get => Method::GET,
    };
    let template = (!options.body.is_empty()).then_some(template);
    Some(AnyAction::Edge(Box::new(Webhook { client, url, method, template, content_type, authorization })))
}

struct Webhook {
    client: Client,
    url: Url,
    method: Method,
    /// `None` for the whole document.
    template: Option<Template>,
    content_type: HeaderValue,
    authorization: Authorization,
}

impl Webhook {
    async fn call(&self, notification: &Notification) -> Outcome {
        let key = http_client::header_text(&notification.idempotency_key);
        let mut request = self.client.request(self.method.clone(), self.url.clone()).header("idempotency-key", key);
        if self.method != Method::GET {
            let quoted = self.content_type.as_bytes().windows(4).any(|part| part.eq_ignore_ascii_case(b"json"));
            let body = match &self.template {
                Some(template) => fill(template, notification, quoted),
                None => notification_json::json(notification),
            };
            request = request.header(CONTENT_TYPE, self.content_type.clone()).body(body);
        }
        match http_client::send(self.authorization.apply(request)).await {
            Ok(answer) => outcome(&answer),
            Err(reason) => Outcome::Retry { after: None, reason },
        }
    }
}

/// The body for a transition; with `quoted` values are escaped for the inside of a JSON string.
fn fill(template: &Template, notification: &Notification, quoted: bool) -> String {
    let mut out = String::new();
    template.render(&mut out, |part, out| {
        let text = match part {
            Part::Name("Json") => return out.push_str(&notification_json::json(notification)),
            Part::Name(name) => named(name, notification),
            Part::Tag(key) => notification.tags.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap_or_default(),
            Part::Text(text) => text.clone(),
        };
        if quoted {
            let text = serde_json::Value::from(text).to_string();
            out.push_str(&text[1..text.len() - 1]);
        } else {
            out.push_str(&text);
        }
    });
    out
}

fn named(name: &str, notification: &Notification) -> String {
    match name {
        "Alert" => notification.alert.clone(),
        "State" => notification.state.clone(),
        "Severity" => notification.severity.clone(),
        "Value" => words::value(notification),
        "N" => notification.n.to_string(),
        "Time" => notification.time.to_string(),
        "Historical" => notification.historical.to_string(),
        "Tags" => words::tags(notification),
        _ => notification.idempotency_key.clone(),
    }
}

/// A transition that is refused for itself is given up: those behind it must not wait for it. One that is refused for its sender or
/// its address waits, until somebody acts or it expires; a page is nobody's answer.
fn outcome(answer: &Answer) -> Outcome {
    match answer.status {
        400 | 402 | 405..=499 if !matches!(answer.status, 407 | 408 | 425 | 429) => {
            let rejection = Rejection { index: 0, status: answer.status.to_string(), reason: answer.shown() };
            Outcome::Delivered { rejected: vec![rejection], collapsed: 0, token: 0 }
        }
        _ => answer.common_outcome().unwrap_or_else(|| Outcome::Retry { after: answer.retry_after, reason: answer.shown() }),
    }
}

impl EdgeAction for Webhook {
    fn fire<'a>(&'a mut self, notification: &'a Notification) -> BoxFuture<'a, Outcome> {
        Box::pin(self.call(notification))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        actions::words::sample,
        net::testing::Peer,
        outputs::testing::{build, built, text},
    };

    fn edge(action: AnyAction) -> Box<dyn EdgeAction> {
        match action {
            AnyAction::Edge(edge) => edge,
            AnyAction::Level(_) => panic!("a webhook is called once per transition"),
        }
    }

    #[tokio::test]
    async fn a_call_carries_the_document_the_token_and_the_key() {
        let peer = Peer::start(|_| (200, "", "ok".into())).await;
        let mut hook = edge(built(&ENTRY, &[("url", text(&peer.url())), ("token", text("t0ken"))]));
        assert_eq!(hook.fire(&sample()).await, Outcome::delivered());
        let request = peer.requests().remove(0);
        assert_eq!(request.body, notification_json::json(&sample()));
        assert_eq!(request.header("authorization"), Some("Bearer t0ken"));
        assert_eq!(request.header("idempotency-key"), Some("overheat/device=boiler%20\"1\"/3"));
        assert_eq!(request.header("content-type"), Some("application/json"));
    }

    #[tokio::test]
    async fn a_body_of_ones_own_is_filled_in() {
        let peer = Peer::start(|_| (200, "", String::new())).await;
        let options = [("url", text(&peer.url())), ("body", text("{{ .Alert }} is {{ .State }}")), ("content_type", text("text/plain"))];
        edge(built(&ENTRY, &options)).fire(&sample()).await;
        assert_eq!(peer.requests()[0].body, "overheat is firing");
    }

    #[tokio::test]
    async fn values_are_escaped_inside_a_json_body() {
        let peer = Peer::start(|_| (200, "", String::new())).await;
        let body = r#"{"text":"{{ .Alert }} on {{ .Tag "device" }}: {{ .Value }}"}"#;
        edge(built(&ENTRY, &[("url", text(&peer.url())), ("body", text(body))])).fire(&sample()).await;
        assert_eq!(peer.requests()[0].body, r#"{"text":"overheat on boiler \"1\": 81.5"}"#);
    }

    #[tokio::test]
    async fn a_refusal_is_given_up_a_busy_server_called_again_and_a_wrong_token_waits() {
        let page = "<html>sign in</html>";
        for (status, body) in
            [(200, ""), (200, page), (400, ""), (413, ""), (422, ""), (302, ""), (401, ""), (404, ""), (429, ""), (500, "")]
        {
            let peer = Peer::start(move |_| (status, "", body.into())).await;
            let outcome = edge(built(&ENTRY, &[("url", text(&peer.url()))])).fire(&sample()).await;
            let right = match status {
                200 if body.is_empty() => outcome == Outcome::delivered(),
                302 | 401 | 404 => matches!(outcome, Outcome::Hold { .. }),
                200 | 429 | 500 => matches!(outcome, Outcome::Retry { .. }),
                _ => matches!(&outcome, Outcome::Delivered { rejected, .. } if rejected[0].status == status.to_string()),
            };
            assert!(right, "{status}: {outcome:?}");
        }
    }

    #[test]
    fn wrong_options_are_named_and_the_address_is_not_shown() {
        let options = [("url", text("ftp://example.org/s3cret")), ("body", text("{{ .Nope }}"))];
        let Err(said) = build(&ENTRY, &options, std::path::Path::new("/")) else { panic!("it was built") };
        assert!(said.contains("`url`") && said.contains("`body`: expected .Alert") && !said.contains("s3cret"), "{said}");
    }
}

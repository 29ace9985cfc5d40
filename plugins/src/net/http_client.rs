//! HTTP towards servers: one client set up the same way for every plugin, and answers read within bounds.
//!
//! Apart because here is decided what must hold everywhere: no redirects (a POST would become a GET and its body be lost), no
//! address in an error (it may carry a password), no answer without a bound.

use std::{collections::BTreeMap, io::Write, sync::Arc, time::Duration};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use reqwest::{
    Client, RequestBuilder, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};
use rustls::{ClientConfig, RootCertStore};
use weir_plugin_api::{
    options::{Secret, Section},
    plugin::{Outcome, PluginError},
};

use super::tls::{self, TlsOptions};

/// Bytes of an answer that are read; the rest is of no interest.
const ANSWER_MAX: usize = 256 * 1024;
/// A server that wants to be left alone longer than this is asked again anyway.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(600);
/// Characters of an answer that are shown to a person.
const SHOWN_MAX: usize = 300;
/// Connections kept open without use, and for how long: shorter than the idle limits of common servers.
const IDLE: Duration = Duration::from_secs(60);

weir_plugin_api::choice! {
    /// How a body is compressed.
    pub enum ContentEncoding {
        /// With gzip, at its fastest level.
        Gzip = "gzip",
        /// Not at all.
        Identity = "identity",
    }
}

/// How a client is set up.
pub struct ClientSettings<'a> {
    /// From connecting to the last byte of the answer; zero is no limit.
    pub timeout: Duration,
    /// As configured.
    pub tls: &'a TlsOptions,
    /// Whether any address is `https`: only then are certificate authorities loaded.
    pub secure: bool,
    /// Sent as `User-Agent`; empty for Weir's own.
    pub user_agent: &'a str,
    /// Sent with every request.
    pub headers: HeaderMap,
}

/// Who a request comes from.
#[derive(Clone, Debug, Default)]
pub enum Authorization {
    /// Nobody in particular, or whoever the address names.
    #[default]
    None,
    /// User and password.
    Basic(Secret, Secret),
    /// A whole `Authorization` header.
    Header(HeaderValue),
}

impl Authorization {
    /// User and password, if there is a user.
    pub fn basic(username: &Secret, password: &Secret) -> Self {
        if username.is_empty() && password.is_empty() { Self::None } else { Self::Basic(username.clone(), password.clone()) }
    }

    /// `Authorization: <scheme> <token>`, if there is a token; one that can't be in a header is reported.
    pub fn token(section: &Section<'_>, key: &str, scheme: &str, token: &Secret) -> Option<Self> {
        if token.is_empty() {
            return Some(Self::None);
        }
        let Ok(mut value) = HeaderValue::from_str(&format!("{scheme} {}", token.expose().trim())) else {
            section.error_at(key, format!("`{key}`: has characters that can't be sent in a header"));
            return None;
        };
        value.set_sensitive(true);
        Some(Self::Header(value))
    }

    /// The request with it.
    pub fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Basic(user, password) => request.basic_auth(user.expose(), Some(password.expose())),
            Self::Header(value) => request.header(AUTHORIZATION, value.clone()),
        }
    }
}

/// A client of these settings for a plugin being built; what can't be used is reported.
pub fn client_for(section: &Section<'_>, settings: ClientSettings<'_>) -> Option<Client> {
    client(settings).map_err(|error| section.error(error.0)).ok()
}

/// A client of these settings.
///
/// # Errors
/// TLS files that can't be used.
pub fn client(settings: ClientSettings<'_>) -> Result<Client, PluginError> {
    let config = if settings.secure || settings.tls.is_set() {
        (*tls::required_client_config(settings.tls)?).clone()
    } else {
        without_authorities()?
    };
    let user_agent = if settings.user_agent.is_empty() { concat!("Weir/", env!("CARGO_PKG_VERSION")) } else { settings.user_agent };
    let mut builder = Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(redirect::Policy::none())
        .user_agent(user_agent)
        .default_headers(settings.headers)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(2)
        .tcp_nodelay(true);
    if !settings.timeout.is_zero() {
        builder = builder.timeout(settings.timeout);
    }
    builder.build().map_err(|e| PluginError::because("cannot set up HTTP", &e.without_url()))
}

/// A TLS configuration for clients that never use TLS: it trusts nobody and costs nothing.
fn without_authorities() -> Result<ClientConfig, PluginError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| PluginError::because("no TLS version is usable", &e))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// Reads an option that is an `http` or `https` address and reports what is wrong with it, without showing it.
pub fn address(section: &Section<'_>, key: &str, text: &str) -> Option<Url> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(url),
        Ok(url) if matches!(url.scheme(), "udp" | "unix" | "http+unix") => {
            section.error_at(key, format!("`{key}`: {}:// addresses are not supported, use http:// or https://", url.scheme()));
            None
        }
        _ => {
            section.error_at(key, format!("`{key}`: expected an address that begins with http:// or https://"));
            None
        }
    }
}

/// An address as it may be shown: without user, password and query.
pub fn shown(url: &Url) -> String {
    let port = url.port().map(|p| format!(":{p}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Headers from an option, their values kept out of every log; what cannot be a header is reported.
pub fn headers(section: &Section<'_>, key: &str, configured: &BTreeMap<String, Secret>) -> Option<HeaderMap> {
    let mut map = HeaderMap::new();
    for (name, value) in configured {
        let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
            section.error_at(key, format!("`{key}`: \"{name}\" can't be the name of a header"));
            return None;
        };
        let Ok(mut value) = HeaderValue::from_str(value.expose()) else {
            section.error_at(key, format!("`{key}`: the value of \"{name}\" can't be sent in a header"));
            return None;
        };
        value.set_sensitive(true);
        map.append(parsed, value);
    }
    Some(map)
}

/// Any text as the value of a header: what can't stand in one is percent-encoded.
pub fn header_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// `body` as `encoding` says.
pub fn encode(encoding: ContentEncoding, body: Bytes) -> Bytes {
    match encoding {
        ContentEncoding::Identity => body,
        ContentEncoding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4 + 64), Compression::fast());
            // Writing into memory does not fail; were it to, the body would go out empty and be refused, not lost.
            let _ = encoder.write_all(&body);
            encoder.finish().unwrap_or_default().into()
        }
    }
}

/// What a server said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// How long it wants to be left alone.
    pub retry_after: Option<Duration>,
    /// Media type, lower case, without parameters.
    pub content_type: String,
    /// Its beginning.
    pub body: String,
}

impl Answer {
    /// Whether it is a web page: then somebody else answered in place of the service (a portal, a proxy, a wrong address).
    pub fn is_page(&self) -> bool {
        let body = self.body.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}').as_bytes();
        let begins = |with: &str| body.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
        let page = ["<!doctype", "<!--", "<html", "<head", "<meta", "<title", "<script", "<body"].into_iter().any(begins);
        page || (self.content_type == "text/html" && begins("<"))
    }

    /// Status and the beginning of the body on one line, for a person.
    pub fn shown(&self) -> String {
        let text: String = self.body.split_whitespace().collect::<Vec<_>>().join(" ");
        let short: String = text.chars().take(SHOWN_MAX).collect();
        if self.is_page() || short.is_empty() {
            return format!("status {}{}", self.status, if self.is_page() { ", a web page" } else { "" });
        }
        format!("status {}: {short}", self.status)
    }

    /// The outcome for a status that means the same everywhere, `None` for the others. Success is only what has no page in it.
    pub fn common_outcome(&self) -> Option<Outcome> {
        let reason = || self.shown();
        Some(match self.status {
            200..=299 if self.is_page() => Outcome::Retry { after: None, reason: format!("{}, not the answer of this service", reason()) },
            200..=299 => Outcome::delivered(),
            300..=399 => Outcome::Hold { reason: format!("{}: redirects are not followed, configure the final address", reason()) },
            401 | 403 | 404 | 407 => Outcome::Hold { reason: reason() },
            413 => Outcome::TooLarge,
            408 | 425 | 429 | 500..=599 => Outcome::Retry { after: self.retry_after, reason: reason() },
            _ => return None,
        })
    }
}

/// Sends a request and reads the answer.
///
/// # Errors
/// Why there is no answer, without the address.
pub async fn send(request: RequestBuilder) -> Result<Answer, String> {
    let failed = |error: reqwest::Error| PluginError::because("no answer", &error.without_url()).0;
    let mut response = request.send().await.map_err(failed)?;
    let header = |name: HeaderName| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let content_type = header(CONTENT_TYPE).unwrap_or_default();
    let mut answer = Answer {
        status: response.status().as_u16(),
        retry_after: header(RETRY_AFTER).and_then(|after| retry_after(&after, header(DATE).as_deref())),
        content_type: content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase(),
        body: String::new(),
    };
    // A body is read to its end so that the connection can be used again; only its beginning is kept.
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(failed)? {
        body.extend_from_slice(&piece);
        if body.len() > ANSWER_MAX {
            body.truncate(ANSWER_MAX);
            break;
        }
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Ok(answer)
}

/// Seconds, or a date, which is compared with the server's own clock: ours may be wrong. Never more than [`RETRY_AFTER_MAX`].
fn retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // Too large for a number is too long for us as well.
        return Some(text.parse().map_or(RETRY_AFTER_MAX, Duration::from_secs).min(RETRY_AFTER_MAX));
    }
    let seconds = |text: &str| jiff::fmt::rfc2822::parse(text).ok().map(|time| time.timestamp().as_second());
    let wait = seconds(text)?.saturating_sub(seconds(date?)?);
    Some(Duration::from_secs(u64::try_from(wait).unwrap_or(0)).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_wait_is_read_as_seconds_or_as_a_date_of_the_servers_clock() {
        assert_eq!(retry_after("120", None), Some(Duration::from_secs(120)));
        let date = Some("Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:29:30 GMT", date), Some(Duration::from_secs(90)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:00:00 GMT", date), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", date), None);
    }

    #[test]
    fn an_address_is_shown_without_what_is_secret() {
        let url = Url::parse("https://weir:hunter2@example.org:8086/write?p=hunter3").unwrap();
        assert_eq!(shown(&url), "https://example.org:8086/write");
    }

    #[test]
    fn a_page_is_known_by_how_it_begins() {
        for body in [
            "<html>",
            "\u{feff}\n<!DOCTYPE html>",
            "<!-- portal --><HTML>",
            "<Script>location='//portal'</script>",
            "<META http-equiv=refresh>",
        ] {
            assert!(Answer { status: 200, body: body.into(), ..Answer::default() }.is_page(), "{body}");
        }
        for body in ["", "ok", "{}", "<ok/>", "<?xml version='1.0'?><ok/>"] {
            assert!(!Answer { status: 200, body: body.into(), ..Answer::default() }.is_page(), "{body}");
        }
    }

    #[test]
    fn a_page_is_no_success() {
        let answer = Answer { status: 200, body: "\n<!DOCTYPE html><html>sign in</html>".into(), ..Answer::default() };
        assert!(matches!(answer.common_outcome(), Some(Outcome::Retry { .. })));
        let answer = Answer { status: 204, ..Answer::default() };
        assert_eq!(answer.common_outcome(), Some(Outcome::delivered()));
    }
}

//! The InfluxDB 2 output, which also fits version 3 and whatever else speaks `/api/v2/write`.

use std::{collections::BTreeMap, time::Duration};

use weir_plugin_api::{
    options::{Secret, Section},
    plugin::{BuildContext, Output, OutputEntry},
};

use super::influx_write::{Api, LineOptions, Writer, WriterSettings};
use crate::net::{
    http_client::{self, Authorization, ClientSettings, ContentEncoding},
    tls::TlsOptions,
};

weir_plugin_api::options! {
    /// Options of the InfluxDB 2 output.
    pub struct InfluxdbV2Options {
        /// Addresses of the servers; one takes each write: that which answered last, or the next one that does.
        urls: Vec<String> = vec!["http://localhost:8086".into()],
        /// Token that may write to the bucket.
        token: Secret = Secret::default(),
        /// Organization, by name; version 3 has none.
        organization: String = String::new(),
        /// Bucket to write to.
        bucket: String,
        /// Tag whose value names the bucket instead, where a point has it.
        bucket_tag: Option<String> = None,
        /// Longest time for a write, 0 for none.
        timeout: Duration = Duration::from_secs(5),
        /// Name this agent goes by; empty for Weir's own.
        user_agent: String = String::new(),
        /// Further headers.
        http_headers: BTreeMap<String, Secret> = BTreeMap::new(),
        /// Compression of writes.
        content_encoding: ContentEncoding = ContentEncoding::Gzip,
        /// Write unsigned integers as such; otherwise they are written as signed ones, cut at the largest.
        influx_uint_support: bool = false,
        /// Move points of one write that would overwrite each other apart, nanosecond by nanosecond, in place of counting them.
        unique_time: bool = false,
    }
}

/// The registry's entry.
pub static ENTRY: OutputEntry = OutputEntry {
    name: "influxdb_v2",
    about: "writes to InfluxDB 2, 3 and what speaks its API",
    specs: || [InfluxdbV2Options::specs(), TlsOptions::specs()].concat(),
    unsupported: &[
        "exclude_bucket_tag",
        "http_proxy",
        "influx_omit_timestamp",
        "local_address",
        "ping_timeout",
        "read_idle_timeout",
        "concurrent_writes",
        "rate_limit",
        "rate_limit_period",
        "tls_key_pwd",
        "tls_min_version",
        "tls_cipher_suites",
        "tls_renegotiation_method",
    ],
    build,
};

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<Box<dyn Output>> {
    let (options, tls) = (InfluxdbV2Options::read(section), TlsOptions::read(section));
    let (options, tls) = (options?, tls?);
    let urls: Vec<_> = options.urls.iter().filter_map(|text| http_client::address(section, "urls", text)).collect();
    if options.urls.is_empty() {
        section.error_at("urls", "`urls`: needs at least one address");
    }
    let authorization = Authorization::token(section, "token", "Token", &options.token);
    let headers = http_client::headers(section, "http_headers", &options.http_headers)?;
    let secure = urls.iter().any(|url| url.scheme() == "https");
    let settings = ClientSettings { timeout: options.timeout, tls: &tls, secure, user_agent: &options.user_agent, headers };
    let client = http_client::client_for(section, settings)?;
    if urls.is_empty() {
        return None;
    }
    Some(Box::new(Writer::new(WriterSettings {
        client,
        urls,
        authorization: authorization?,
        api: Api::V2 { organization: options.organization },
        encoding: options.content_encoding,
        lines: LineOptions { unsigned: options.influx_uint_support, unique_time: options.unique_time },
        database: options.bucket,
        database_tag: options.bucket_tag.filter(|tag| !tag.is_empty()),
    })))
}

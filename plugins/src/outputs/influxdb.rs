//! The InfluxDB 1.x output, and whatever speaks its `/write`.

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
    /// Options of the InfluxDB 1.x output.
    pub struct InfluxdbOptions {
        /// Addresses of the servers; one takes each write: that which answered last, or the next one that does.
        urls: Vec<String> = vec!["http://127.0.0.1:8086".into()],
        /// Database to write to.
        database: String = "telegraf".into(),
        /// Tag whose value names the database instead, where a point has it.
        database_tag: Option<String> = None,
        /// Never try to make a database that is missing.
        skip_database_creation: bool = false,
        /// Retention policy; empty for the database's default.
        retention_policy: String = String::new(),
        /// `any`, `one`, `quorum` or `all`, for clusters; empty for the server's default.
        write_consistency: String = String::new(),
        /// Longest time for a write, 0 for none.
        timeout: Duration = Duration::from_secs(5),
        /// User; also possible in the address.
        username: Secret = Secret::default(),
        /// Password.
        password: Secret = Secret::default(),
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
    name: "influxdb",
    about: "writes to InfluxDB 1.x",
    specs: || [InfluxdbOptions::specs(), TlsOptions::specs()].concat(),
    unsupported: &[
        "exclude_database_tag",
        "retention_policy_tag",
        "exclude_retention_policy_tag",
        "udp_payload",
        "http_proxy",
        "influx_omit_timestamp",
        "local_address",
        "tls_key_pwd",
        "tls_min_version",
        "tls_cipher_suites",
        "tls_renegotiation_method",
    ],
    build,
};

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<Box<dyn Output>> {
    let (options, tls) = (InfluxdbOptions::read(section), TlsOptions::read(section));
    let (options, tls) = (options?, tls?);
    let urls: Vec<_> = options.urls.iter().filter_map(|text| http_client::address(section, "urls", text)).collect();
    if options.urls.is_empty() {
        section.error_at("urls", "`urls`: needs at least one address");
    }
    if !["", "any", "one", "quorum", "all"].contains(&options.write_consistency.as_str()) {
        section.error_at("write_consistency", "`write_consistency`: expected one of any, one, quorum, all");
    }
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
        authorization: Authorization::basic(&options.username, &options.password),
        api: Api::V1 {
            retention_policy: options.retention_policy,
            consistency: options.write_consistency,
            create: !options.skip_database_creation,
        },
        encoding: options.content_encoding,
        lines: LineOptions { unsigned: options.influx_uint_support, unique_time: options.unique_time },
        database: options.database,
        database_tag: options.database_tag.filter(|tag| !tag.is_empty()),
    })))
}

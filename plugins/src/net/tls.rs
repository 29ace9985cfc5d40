//! TLS towards servers and clients, from Telegraf's options: one way to read them, and one rustls configuration for every plugin.
//!
//! Apart because every network plugin needs the same few options, and because only here is decided whom a connection trusts.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
    server::WebPkiClientVerifier,
};
#[cfg(feature = "tls-server")]
use weir_plugin_api::options::Section;
use weir_plugin_api::plugin::PluginError;

weir_plugin_api::options! {
    /// TLS options of a client, with Telegraf's names.
    pub struct TlsOptions {
        /// File of the certificate authorities to trust, PEM, in place of the system's.
        tls_ca: Option<String> = None,
        /// File of the client's own certificate chain, PEM.
        tls_cert: Option<String> = None,
        /// File of the client's private key, PEM, not encrypted.
        tls_key: Option<String> = None,
        /// Name the server's certificate must carry, where it is not the one that was connected to.
        tls_server_name: Option<String> = None,
        /// Take any certificate: the connection is encrypted, but to anybody.
        insecure_skip_verify: bool = false,
    }
}

/// Telegraf's TLS options that are refused by name.
pub const UNSUPPORTED: &[&str] =
    &["tls_key_pwd", "tls_min_version", "tls_cipher_suites", "tls_renegotiation_method", "tls_allowed_cacerts"];

weir_plugin_api::options! {
    /// TLS options of a listener, with Telegraf's names.
    pub struct ServerTlsOptions {
        /// File of the listener's certificate chain, PEM: with it and `tls_key` connections are TLS, and no others are taken.
        tls_cert: Option<String> = None,
        /// File of its private key, PEM, not encrypted.
        tls_key: Option<String> = None,
        /// Files of certificate authorities, PEM: a client must show a certificate of one of them. None: any client is taken.
        tls_allowed_cacerts: Vec<String> = Vec::new(),
    }
}

/// Telegraf's TLS options of listeners that are refused by name.
#[cfg(feature = "tls-server")]
pub const SERVER_UNSUPPORTED: &[&str] =
    &["tls_key_pwd", "tls_min_version", "tls_max_version", "tls_cipher_suites", "tls_allowed_dns_names"];

#[cfg(feature = "tls-server")]
impl ServerTlsOptions {
    /// What accepts TLS connections; `Some(None)` without options. What can't be used is reported.
    pub fn acceptor(&self, section: &Section<'_>) -> Option<Option<tokio_rustls::TlsAcceptor>> {
        match server_config(self) {
            Ok(config) => Some(config.map(tokio_rustls::TlsAcceptor::from)),
            Err(error) => {
                let key = ["tls_cert", "tls_key", "tls_allowed_cacerts"].into_iter().find(|key| section.has(key)).unwrap_or("tls_cert");
                section.error_at(key, error.0);
                None
            }
        }
    }
}

/// The configuration of a listener; `None` without options.
///
/// # Errors
/// A file that can't be read or holds no certificate or key, one of certificate and key without the other.
pub fn server_config(options: &ServerTlsOptions) -> Result<Option<Arc<ServerConfig>>, PluginError> {
    let (cert, key) = match (&options.tls_cert, &options.tls_key) {
        (None, None) if options.tls_allowed_cacerts.is_empty() => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => return Err(PluginError::new("`tls_cert` needs `tls_key`")),
        (None, Some(_)) => return Err(PluginError::new("`tls_key` needs `tls_cert`")),
        (None, None) => return Err(PluginError::new("`tls_allowed_cacerts` needs `tls_cert` and `tls_key`")),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| PluginError::because("no TLS version is usable", &e))?;
    let builder = if options.tls_allowed_cacerts.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut allowed = RootCertStore::empty();
        for file in &options.tls_allowed_cacerts {
            add_certificates(&mut allowed, file)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(allowed), provider)
            .build()
            .map_err(|e| PluginError::because("the certificate authorities can't be used", &e))?;
        builder.with_client_cert_verifier(verifier)
    };
    let config = builder
        .with_single_cert(certificates(cert)?, private_key(key)?)
        .map_err(|e| PluginError::because(format!("the certificate {cert} and its key can't be used"), &e))?;
    Ok(Some(Arc::new(config)))
}

impl TlsOptions {
    /// Whether any of them is set.
    pub fn is_set(&self) -> bool {
        self.tls_ca.is_some()
            || self.tls_cert.is_some()
            || self.tls_key.is_some()
            || self.tls_server_name.is_some()
            || self.insecure_skip_verify
    }
}

/// The configuration the options ask for; `None` when none is set.
///
/// # Errors
/// A file that can't be read or holds no certificate or key, a certificate without its key, an impossible server name.
pub fn client_config(options: &TlsOptions) -> Result<Option<Arc<ClientConfig>>, PluginError> {
    if options.is_set() { required_client_config(options).map(Some) } else { Ok(None) }
}

/// The configuration for a connection that is TLS in any case, such as one to an `https` address: without options the system's
/// certificate authorities are trusted.
///
/// # Errors
/// As [`client_config`]; also a system without any certificate authority.
pub fn required_client_config(options: &TlsOptions) -> Result<Arc<ClientConfig>, PluginError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| PluginError::because("no TLS version is usable", &e))?;
    let verifier: Arc<dyn ServerCertVerifier> = if options.insecure_skip_verify {
        Arc::new(AcceptAny { provider })
    } else {
        let roots = Arc::new(roots(options.tls_ca.as_deref())?);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(|e| PluginError::because("the certificate authorities can't be used", &e))?;
        match &options.tls_server_name {
            None => inner,
            Some(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|_| PluginError::new("`tls_server_name` is no valid name"))?;
                Arc::new(NamedServer { inner, name })
            }
        }
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match (&options.tls_cert, &options.tls_key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let key = private_key(key)?;
            builder
                .with_client_auth_cert(certificates(cert)?, key)
                .map_err(|e| PluginError::because(format!("the certificate {cert} and its key can't be used"), &e))?
        }
        (Some(_), None) => return Err(PluginError::new("`tls_cert` needs `tls_key`")),
        (None, Some(_)) => return Err(PluginError::new("`tls_key` needs `tls_cert`")),
    };
    Ok(Arc::new(config))
}

fn roots(file: Option<&str>) -> Result<RootCertStore, PluginError> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => add_certificates(&mut roots, file)?,
        None => {
            let system = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(system.certs);
            if roots.is_empty() {
                return Err(PluginError::new("the system has no certificate authorities: set `tls_ca`"));
            }
        }
    }
    Ok(roots)
}

fn add_certificates(roots: &mut RootCertStore, file: &str) -> Result<(), PluginError> {
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|e| PluginError::because(format!("a certificate of {file} can't be used"), &e))?;
    }
    Ok(())
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, PluginError> {
    let certificates: Vec<_> =
        CertificateDer::pem_file_iter(Path::new(file)).and_then(Iterator::collect).map_err(|e| unreadable(file, &e))?;
    if certificates.is_empty() {
        return Err(PluginError::new(format!("{file} holds no certificate in PEM form")));
    }
    Ok(certificates)
}

fn private_key(file: &str) -> Result<PrivateKeyDer<'static>, PluginError> {
    PrivateKeyDer::from_pem_file(Path::new(file)).map_err(|e| match e {
        pem::Error::NoItemsFound => PluginError::new(format!("{file} holds no private key in PEM form that is not encrypted")),
        other => unreadable(file, &other),
    })
}

fn unreadable(file: &str, error: &pem::Error) -> PluginError {
    PluginError::because(format!("can't read {file}"), error)
}

/// Verifies against a given name in place of the one connected to.
#[derive(Debug)]
struct NamedServer {
    inner: Arc<WebPkiServerVerifier>,
    name: ServerName<'static>,
}

impl ServerCertVerifier for NamedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes every certificate (`insecure_skip_verify`); signatures are still checked, so that the handshake itself is sound.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn nothing() -> TlsOptions {
        TlsOptions { tls_ca: None, tls_cert: None, tls_key: None, tls_server_name: None, insecure_skip_verify: false }
    }

    #[test]
    fn without_options_there_is_no_configuration() {
        assert!(client_config(&nothing()).unwrap().is_none());
    }

    #[test]
    fn a_missing_file_is_named() {
        let options = TlsOptions { tls_ca: Some("/nowhere/ca.pem".into()), ..nothing() };
        let error = client_config(&options).unwrap_err();
        assert!(error.0.contains("/nowhere/ca.pem"), "{error}");
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        let options = TlsOptions { tls_ca: Some(file.path().display().to_string()), ..nothing() };
        assert!(client_config(&options).unwrap_err().0.contains("holds no certificate"));
    }

    #[test]
    fn a_listener_needs_both_certificate_and_key() {
        let server = |cert: Option<&str>, key: Option<&str>, allowed: &[&str]| {
            let tls_allowed_cacerts = allowed.iter().map(|a| (*a).to_owned()).collect();
            server_config(&ServerTlsOptions { tls_cert: cert.map(Into::into), tls_key: key.map(Into::into), tls_allowed_cacerts })
        };
        assert!(server(None, None, &[]).unwrap().is_none());
        assert_eq!(server(Some("c"), None, &[]).unwrap_err().0, "`tls_cert` needs `tls_key`");
        assert_eq!(server(None, Some("k"), &[]).unwrap_err().0, "`tls_key` needs `tls_cert`");
        assert!(server(None, None, &["ca"]).unwrap_err().0.starts_with("`tls_allowed_cacerts` needs"));
        assert!(server(Some("/nowhere/c.pem"), Some("k"), &[]).unwrap_err().0.contains("/nowhere/c.pem"));
    }

    #[test]
    fn a_certificate_needs_its_key() {
        let options = TlsOptions { tls_cert: Some("c.pem".into()), insecure_skip_verify: true, ..nothing() };
        assert_eq!(client_config(&options).unwrap_err().0, "`tls_cert` needs `tls_key`");
    }
}

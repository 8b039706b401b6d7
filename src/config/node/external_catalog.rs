//! How an external Iceberg catalog is reached: as settings, before anything of Iceberg's is known. Pure.

use std::path::PathBuf;

use super::{ConfigError, RawConfig};

/// The settings of an external catalog. It holds no secret: those are in files. Node-wide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExternalCatalog {
    pub uri: String,
    pub warehouse: Option<String>,
    /// A file with a bearer token; not together with the next.
    pub token_file: Option<PathBuf>,
    /// A file with `CLIENT_ID:SECRET`.
    pub oauth2_credential_file: Option<PathBuf>,
    pub oauth2_server_uri: Option<String>,
    pub oauth2_scope: Option<String>,
    /// `NAME=VALUE` of each.
    pub headers: Vec<String>,
}

impl ExternalCatalog {
    /// `None` without `--iceberg-catalog-uri`.
    ///
    /// # Errors
    /// A setting that means nothing without another, or two that exclude each other.
    pub(super) fn of(raw: &RawConfig) -> Result<Option<Self>, ConfigError> {
        let given = Self {
            uri: raw.iceberg_catalog_uri.clone().unwrap_or_default(),
            warehouse: raw.iceberg_catalog_warehouse.clone(),
            token_file: raw.iceberg_catalog_token_file.clone(),
            oauth2_credential_file: raw.iceberg_catalog_oauth2_credential_file.clone(),
            oauth2_server_uri: raw.iceberg_catalog_oauth2_server_uri.clone(),
            oauth2_scope: raw.iceberg_catalog_oauth2_scope.clone(),
            headers: raw.iceberg_catalog_headers.clone().unwrap_or_default(),
        };
        match raw.iceberg_catalog_uri {
            Some(_) => given.check("--iceberg-catalog-").map(Some),
            None if given == Self::default() => Ok(None),
            None => Err(ConfigError::ExternalCatalog(
                "--iceberg-catalog-… settings need --iceberg-catalog-uri, the URL of the external catalog".to_owned(),
            )),
        }
    }

    /// The settings, if they fit together; `flags` is what their flags begin with.
    ///
    /// # Errors
    /// Which do not.
    pub fn check(self, flags: &str) -> Result<Self, ConfigError> {
        let refused = |why: String| Err(ConfigError::ExternalCatalog(why));
        if self.token_file.is_some() && self.oauth2_credential_file.is_some() {
            return refused(format!("give {flags}token-file or {flags}oauth2-credential-file, not both"));
        }
        if self.oauth2_credential_file.is_none() && (self.oauth2_server_uri.is_some() || self.oauth2_scope.is_some()) {
            return refused(format!(
                "{flags}oauth2-server-uri and {flags}oauth2-scope need {flags}oauth2-credential-file"
            ));
        }
        // A header that is wrong may hold a secret: it is not repeated.
        match self.headers.iter().position(|header| !header.contains('=') || header.starts_with('=')) {
            Some(at) => refused(format!(
                "{flags}headers: number {} is no header; write NAME=VALUE, several with commas between them",
                at + 1
            )),
            None => Ok(self),
        }
    }

    /// The headers, each as name and value.
    pub fn header_pairs(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let pair = |header: &String| {
            let (name, value) = header.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        self.headers.iter().filter_map(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_do_not_fit_together_are_refused() {
        let uri = || RawConfig { iceberg_catalog_uri: Some("http://catalog".into()), ..RawConfig::default() };
        let refusal = |raw: RawConfig| raw.resolve().expect_err("is refused").to_string();
        let without = RawConfig { iceberg_catalog_warehouse: Some("lake".into()), ..RawConfig::default() };
        assert!(refusal(without).contains("--iceberg-catalog-uri"));
        let both = RawConfig {
            iceberg_catalog_token_file: Some("t".into()),
            iceberg_catalog_oauth2_credential_file: Some("c".into()),
            ..uri()
        };
        assert!(refusal(both).contains("not both"));
        let scope = RawConfig { iceberg_catalog_oauth2_scope: Some("s".into()), ..uri() };
        assert!(refusal(scope).contains("oauth2-credential-file"));
        for header in ["x", "=x"] {
            let headers = RawConfig { iceberg_catalog_headers: Some(vec![header.to_owned()]), ..uri() };
            assert!(refusal(headers).contains("NAME=VALUE"), "{header}");
        }
        let headers = Some(vec!["x-goog-user-project = p=1".to_owned()]);
        let resolved = RawConfig { iceberg_catalog_headers: headers, ..uri() }.resolve().expect("holds");
        let pairs: Vec<_> = resolved.external_catalog.iter().flat_map(ExternalCatalog::header_pairs).collect();
        assert_eq!(pairs, [("x-goog-user-project".to_owned(), "p=1".to_owned())]);
        assert_eq!(RawConfig::default().resolve().expect("holds").external_catalog, None);
    }
}

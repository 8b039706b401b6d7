//! The external catalog that the settings name, as the Iceberg crate takes it.

use tidewater_iceberg::catalog::rest::{Credentials, RestSettings};

use crate::config::node::ExternalCatalog;

/// How the catalog is reached.
#[must_use]
pub fn rest_settings(external: &ExternalCatalog) -> RestSettings {
    let credentials = match (&external.token_file, &external.oauth2_credential_file) {
        (Some(file), _) => Credentials::TokenFile(file.clone()),
        (None, Some(file)) => Credentials::OAuth2 {
            credential_file: file.clone(),
            server: external.oauth2_server_uri.clone(),
            scope: external.oauth2_scope.clone(),
        },
        (None, None) => Credentials::None,
    };
    RestSettings {
        warehouse: external.warehouse.clone(),
        credentials,
        headers: external.header_pairs().collect(),
        ..RestSettings::new(&external.uri)
    }
}

//! `tidewater iceberg check-catalog`: tries an external catalog before the tables of topics go there.
//!
//! It asks the catalog alone, with the settings that brokers would have, and needs no broker and no bucket. Exit code 0
//! if Tidewater can work with the catalog, 1 if not, 2 for a wrong command line. The steps are the Iceberg crate's.

use std::path::PathBuf;

use clap::Args;

use crate::config::node::ExternalCatalog;
use crate::console::CliError;

#[derive(Debug, Args)]
pub(in crate::cli) struct CheckCatalogArgs {
    /// URL of the catalog, below which /v1/config is
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_URI", value_name = "URL")]
    uri: String,
    /// The warehouse's name in the catalog
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_WAREHOUSE", value_name = "NAME")]
    warehouse: Option<String>,
    /// File with a bearer token
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File with CLIENT_ID:SECRET, for which an OAuth2 server gives tokens
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_OAUTH2_CREDENTIAL_FILE", value_name = "FILE")]
    oauth2_credential_file: Option<PathBuf>,
    /// The OAuth2 server's token endpoint [default: /v1/oauth/tokens of the catalog]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_OAUTH2_SERVER_URI", value_name = "URL")]
    oauth2_server_uri: Option<String>,
    /// The scope that the OAuth2 server is asked for [default: catalog]
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_OAUTH2_SCOPE", value_name = "SCOPE")]
    oauth2_scope: Option<String>,
    /// Headers of each request, comma-separated
    #[arg(long, env = "TIDEWATER_ICEBERG_CATALOG_HEADERS", value_name = "NAME=VALUE,…", value_delimiter = ',')]
    headers: Vec<String>,
    /// A namespace that is there, for the scratch tables [default: one is made, and dropped at the end]
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// URI in the brokers' bucket below which the scratch tables are put, as tables of topics will be [default: the
    /// catalog chooses]
    #[arg(long, value_name = "URI")]
    location: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl CheckCatalogArgs {
    fn catalog(&self) -> Result<ExternalCatalog, CliError> {
        let given = ExternalCatalog {
            uri: self.uri.clone(),
            warehouse: self.warehouse.clone(),
            token_file: self.token_file.clone(),
            oauth2_credential_file: self.oauth2_credential_file.clone(),
            oauth2_server_uri: self.oauth2_server_uri.clone(),
            oauth2_scope: self.oauth2_scope.clone(),
            headers: self.headers.clone(),
        };
        Ok(given.check("--")?)
    }
}

#[cfg(feature = "lakehouse")]
pub(super) async fn run(args: CheckCatalogArgs) -> Result<(), CliError> {
    use tidewater_iceberg::catalog::NamespaceIdent;
    use tidewater_iceberg::catalog::rest::check::{Probe, check};
    use tidewater_iceberg::names::Names;

    use crate::console::output;
    use crate::lakehouse::external::rest_settings;

    let settings = rest_settings(&args.catalog()?);
    let levels = args.namespace.as_ref().map(|name| name.split('.').map(ToOwned::to_owned).collect());
    let namespace = levels.map(NamespaceIdent::from_vec).transpose();
    let namespace = namespace.map_err(|error| CliError::Usage(format!("--namespace: {error}")))?;
    let probe = Probe { namespace, location: args.location.clone() };
    let report = check(&settings, &probe, Names::random()).await.map_err(|error| CliError::Usage(error.to_string()))?;
    if args.json {
        output::json(&report)?;
    } else {
        let mut rows = output::table(&["", "STEP", "FOUND"]);
        for step in &report.steps {
            rows.add_row([step.outcome.word(), step.step, &step.detail]);
        }
        output::print(&rows)?;
    }
    match (report.usable, args.json) {
        (true, true) => Ok(()),
        (true, false) => output::line("Tidewater can keep tables in this catalog"),
        (false, _) => Err(CliError::Refused(format!(
            "Tidewater cannot keep tables in the catalog at {}: a step failed",
            args.uri
        ))),
    }
}

#[cfg(not(feature = "lakehouse"))]
pub(super) async fn run(args: CheckCatalogArgs) -> Result<(), CliError> {
    args.catalog()?;
    let _ = (args.namespace, args.location, args.json);
    Err(CliError::Refused("this binary was built without tables (feature lakehouse)".to_owned()))
}

//! The probe of `tidewater iceberg check-catalog`: does with a scratch table what a sink does with its table, and says
//! of each step what came of it and what that means for Tidewater.
//!
//! It writes no files, so it needs no bucket: the table never gets a snapshot. What it makes it drops again, also when
//! a step fails; only a catalog that refuses drops, or is cut off in between, keeps something, and the report names it.

use std::collections::HashMap;

use iceberg::spec::FormatVersion;
use iceberg::{NamespaceIdent, TableIdent, TableRequirement, TableUpdate};
use serde::Serialize;
use tidewater_storage::model::TopicId;

use super::RestSettings;
use super::answers::lacks;
use super::api::{COMMIT_SEVERAL, LIST_VIEWS, RestApi};
use crate::catalog::{CatalogError, Loaded, NewTable, TableCommit};
use crate::commit::{TableOwner, identity};
use crate::names::Names;
use crate::schema;

/// A snapshot that no table has.
const NO_SNAPSHOT: i64 = 42;
/// The property that the probe's commits change.
const PROBED: &str = identity::EPOCH;

/// What the probe may use.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// A namespace that is there; `None` makes one.
    pub namespace: Option<NamespaceIdent>,
    /// URI below which the scratch tables are put; `None` lets the catalog choose.
    pub location: Option<String>,
}

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    Ok,
    /// The catalog does not have it, and Tidewater works without.
    NotOffered,
    /// Tidewater does not work without.
    Failed,
}

impl StepOutcome {
    /// As people read it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotOffered => "not offered",
            Self::Failed => "FAILED",
        }
    }
}

/// One step of the probe.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    pub step: &'static str,
    pub outcome: StepOutcome,
    /// What was found and what it means.
    pub detail: String,
}

/// What the probe found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether a sink can work with the catalog.
    pub usable: bool,
    pub steps: Vec<Step>,
}

/// Ends the probe: the steps after this one need what it did not get.
struct Ended;

struct Check<'a> {
    api: RestApi,
    probe: &'a Probe,
    names: Names,
    steps: Vec<Step>,
    /// To be dropped at the end.
    tables: Vec<TableIdent>,
    namespace: Option<NamespaceIdent>,
}

/// Probes the catalog at `settings`.
///
/// # Errors
/// A setting is not legal; everything else is in the report.
pub async fn check(settings: &RestSettings, probe: &Probe, names: Names) -> Result<Report, CatalogError> {
    let api = RestApi::new(settings)?;
    let mut check = Check { api, probe, names, steps: Vec::new(), tables: Vec::new(), namespace: None };
    let _ = check.run().await;
    check.clean_up().await;
    let usable = check.steps.iter().all(|step| step.outcome != StepOutcome::Failed);
    Ok(Report { usable, steps: check.steps })
}

impl Check<'_> {
    fn ok(&mut self, step: &'static str, detail: impl Into<String>) {
        self.steps.push(Step { step, outcome: StepOutcome::Ok, detail: detail.into() });
    }

    fn not_offered(&mut self, step: &'static str, detail: impl Into<String>) {
        self.steps.push(Step { step, outcome: StepOutcome::NotOffered, detail: detail.into() });
    }

    fn fail(&mut self, step: &'static str, detail: impl Into<String>) -> Ended {
        self.steps.push(Step { step, outcome: StepOutcome::Failed, detail: detail.into() });
        Ended
    }

    /// The value, or the step's failure with what it means.
    fn need<T>(&mut self, step: &'static str, result: Result<T, CatalogError>, meaning: &str) -> Result<T, Ended> {
        result.map_err(|error| self.fail(step, format!("{error}. {meaning}")))
    }

    async fn run(&mut self) -> Result<(), Ended> {
        self.configuration().await?;
        let namespace = self.make_namespace().await?;
        let made = self.create(&namespace).await?;
        let table = TableIdent::new(namespace.clone(), made.0);
        let loaded = self.load(&table, &made.1).await?;
        self.commit(&table, &loaded).await?;
        self.conflict(&table, &loaded).await?;
        self.several(&namespace, &table, &loaded).await?;
        self.views(&namespace).await;
        self.drop_table(&table).await
    }

    async fn configuration(&mut self) -> Result<(), Ended> {
        let token = self.api.authorise().await;
        match self.need("token", token, "Without a token nothing can be asked")? {
            true => self.ok("token", "there is one"),
            false => self.ok("token", "none is set"),
        }
        let session = self.api.session().await.cloned();
        let session = self.need("config", session, "Without GET /v1/config there is no catalog to work with")?;
        let listed = if session.offers("").is_some() { "lists its endpoints" } else { "lists no endpoints" };
        self.ok("config", format!("paths begin with {}, the catalog {listed}", session.root()));
        Ok(())
    }

    async fn make_namespace(&mut self) -> Result<NamespaceIdent, Ended> {
        if let Some(namespace) = self.probe.namespace.clone() {
            let exists = self.api.namespace_exists(&namespace).await;
            return match self.need("namespace", exists, "A sink looks for the namespace of its table")? {
                true => {
                    self.ok("namespace", format!("{namespace} is there"));
                    Ok(namespace)
                }
                false => Err(self.fail("namespace", format!("{namespace} is not there; make it, or name another one"))),
            };
        }
        let name = format!("tidewater_check_{}", self.names.suffix());
        let namespace = NamespaceIdent::new(name);
        let created = self.api.create_namespace(&namespace).await;
        self.need(
            "namespace",
            created,
            "A sink makes the namespace of its table unless it is there; make it yourself, and give it here with \
             --namespace",
        )?;
        self.namespace = Some(namespace.clone());
        let exists = self.api.namespace_exists(&namespace).await;
        match self.need("namespace", exists, "It was just made")? {
            true => self.ok("namespace", format!("{namespace} was made")),
            false => return Err(self.fail("namespace", format!("{namespace} was made and is not there"))),
        }
        Ok(namespace)
    }

    /// A table as a sink makes it.
    fn scratch(&self, name: &str) -> Result<NewTable, CatalogError> {
        let owner = TableOwner { cluster: self.names.uuid(), topic: TopicId(self.names.uuid()), epoch: 1 };
        let mut properties = owner.properties();
        let more = [
            (identity::TOPIC_NAME, "tidewater-check"),
            (identity::DELETE, "false"),
            ("write.parquet.compression-codec", "zstd"),
        ];
        properties.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
        let location = self.probe.location.as_ref().map(|base| format!("{}/{name}", base.trim_end_matches('/')));
        let (schema, spec) = (schema::table_schema()?, Some(schema::hour_spec()?));
        Ok(NewTable { schema, spec, order: None, location, properties, format: FormatVersion::V2 })
    }

    async fn create(&mut self, namespace: &NamespaceIdent) -> Result<(String, Loaded), Ended> {
        const STEP: &str = "create";
        let name = format!("scratch_{}", self.names.suffix());
        let table = TableIdent::new(namespace.clone(), name.clone());
        let new = self.scratch(&name);
        let new = self.need(STEP, new, "")?;
        self.tables.push(table.clone());
        let made = self.api.create(&table, &new).await;
        let made = self.need(
            STEP,
            made,
            "A sink makes its table with properties and with a location in its bucket; some catalogs police locations \
             (give --location a place that it allows), some forbid properties, without which Tidewater cannot work",
        )?;
        let asked = [TableUpdate::SetProperties { updates: new.properties }];
        if let Some(what) = lacks(&made.metadata, &asked) {
            let detail = format!("the catalog did not keep its {what}: owner and offsets of a table are properties");
            return Err(self.fail(STEP, detail));
        }
        if made.metadata.current_schema().as_struct() != new.schema.as_struct() {
            let detail = "the catalog gave the columns other ids than they were made with: data files carry those ids";
            return Err(self.fail(STEP, detail));
        }
        let location = made.metadata.location().trim_end_matches('/').to_owned();
        match &new.location {
            Some(asked) if crate::location::normalise(asked).ok() != crate::location::normalise(&location).ok() => {
                let detail = format!(
                    "the catalog put the table at {location}, not at {asked}: Tidewater writes into its own bucket, so \
                     it cannot use tables elsewhere"
                );
                return Err(self.fail(STEP, detail));
            }
            Some(_) => self.ok(STEP, format!("with all properties, at {location} as asked")),
            None => self.ok(STEP, format!("with all properties, at {location}, which the catalog chose")),
        }
        Ok((name, made))
    }

    async fn load(&mut self, table: &TableIdent, made: &Loaded) -> Result<Loaded, Ended> {
        const STEP: &str = "load";
        let found = self.api.load(table, None).await;
        let Some(found) = self.need(STEP, found, "A sink loads its table before each commit")? else {
            return Err(self.fail(STEP, "the catalog says that the table is unchanged, without being asked"));
        };
        if found.loaded.metadata.uuid() != made.metadata.uuid() {
            return Err(self.fail(STEP, "the table has another uuid than it was made with"));
        }
        match &found.etag {
            Some(_) => self.ok(STEP, "the catalog gives versions: an unchanged table is not sent again"),
            None => self.ok(STEP, "the catalog gives no versions (ETag): each look at a table sends all its metadata"),
        }
        Ok(found.loaded)
    }

    async fn commit(&mut self, table: &TableIdent, base: &Loaded) -> Result<(), Ended> {
        const STEP: &str = "commit";
        let commit = change(table, base, None, "2");
        let done = self.api.commit(&commit).await;
        let done = self.need(STEP, done, "A sink adds rows by commits")?;
        if let Some(what) = lacks(&done.metadata, &commit.updates) {
            return Err(self.fail(STEP, format!("the answer lacks the {what} that was set")));
        }
        if self.value(STEP, table).await?.as_deref() != Some("2") {
            let detail = "a load right after the commit does not show it: a sink could not tell a lost answer from a \
                          refusal";
            return Err(self.fail(STEP, detail));
        }
        self.ok(STEP, "it is there at once");
        Ok(())
    }

    /// What the probed property is now.
    async fn value(&mut self, step: &'static str, table: &TableIdent) -> Result<Option<String>, Ended> {
        let found = self.api.load(table, None).await;
        let found = self.need(step, found, "The table was there before")?;
        Ok(found.and_then(|found| found.loaded.metadata.properties().get(PROBED).cloned()))
    }

    async fn conflict(&mut self, table: &TableIdent, base: &Loaded) -> Result<(), Ended> {
        const STEP: &str = "conflict";
        let stale = change(table, base, Some(NO_SNAPSHOT), "3");
        let mut another = change(table, base, None, "3");
        another.requirements = vec![TableRequirement::UuidMatch { uuid: self.names.uuid() }];
        for (commit, what) in [(stale, "main has another snapshot"), (another, "the table has another uuid")] {
            match self.api.commit(&commit).await {
                Err(CatalogError::Conflict { .. }) => {}
                Ok(_) => {
                    let detail = format!(
                        "a commit was taken although {what}: two brokers could add the same rows; Tidewater must not be \
                         used with this catalog"
                    );
                    return Err(self.fail(STEP, detail));
                }
                Err(error) => {
                    let detail = format!("a commit that must be refused with 409 because {what} failed so: {error}");
                    return Err(self.fail(STEP, detail));
                }
            }
        }
        if self.value(STEP, table).await?.as_deref() != Some("2") {
            return Err(self.fail(STEP, "a commit that was refused changed the table all the same"));
        }
        self.ok(STEP, "commits whose requirements fail are refused and change nothing");
        Ok(())
    }

    async fn several(&mut self, namespace: &NamespaceIdent, table: &TableIdent, base: &Loaded) -> Result<(), Ended> {
        const STEP: &str = "several tables";
        let session = self.api.session().await.cloned();
        if self.need(STEP, session, "")?.offers(COMMIT_SEVERAL) != Some(true) {
            self.not_offered(
                STEP,
                "the catalog announces no commit to several tables; Tidewater commits to one at a time",
            );
            return Ok(());
        }
        let second = TableIdent::new(namespace.clone(), format!("{}_2", table.name));
        let new = self.scratch(&second.name);
        let new = self.need(STEP, new, "")?;
        self.tables.push(second.clone());
        let made = self.api.create(&second, &new).await;
        let made = self.need(STEP, made, "A second table could not be made")?;
        let good = [change(table, base, None, "4"), change(&second, &made, None, "4")];
        let bad = [change(table, base, None, "5"), change(&second, &made, Some(NO_SNAPSHOT), "5")];
        match self.api.commit_several(&bad).await {
            Err(CatalogError::Conflict { .. }) => {}
            other => {
                let found = other.map_or_else(|error| error.to_string(), |()| "it was taken".to_owned());
                let detail = format!("a commit of which one part must be refused: {found}; Tidewater does without");
                self.not_offered(STEP, detail);
                return Ok(());
            }
        }
        let before = self.value(STEP, table).await?;
        let done = self.api.commit_several(&good).await;
        let after = (self.value(STEP, table).await?, self.value(STEP, &second).await?);
        match done {
            Ok(()) if before.as_deref() == Some("2") && after == (Some("4".to_owned()), Some("4".to_owned())) => {
                self.ok(STEP, "all or none; Tidewater does not need it: it commits to one table at a time");
            }
            Ok(()) => self.not_offered(STEP, "announced, but not all or none; Tidewater does without"),
            Err(error) => self.not_offered(STEP, format!("announced, but {error}; Tidewater does without")),
        }
        Ok(())
    }

    async fn views(&mut self, namespace: &NamespaceIdent) {
        const STEP: &str = "views";
        let offered = match self.api.session().await {
            Ok(session) => session.offers(LIST_VIEWS) == Some(true),
            Err(_) => false,
        };
        if !offered {
            self.not_offered(STEP, "the catalog announces no views; Tidewater makes none");
            return;
        }
        match self.api.list_views(namespace).await {
            Ok(()) => self.ok(STEP, "they can be listed; Tidewater makes none"),
            Err(error) => self.not_offered(STEP, format!("announced, but {error}; Tidewater makes none")),
        }
    }

    async fn drop_table(&mut self, table: &TableIdent) -> Result<(), Ended> {
        const STEP: &str = "drop";
        let with_files = match self.api.drop_table(table, true).await {
            Ok(()) => None,
            Err(error) => {
                let dropped = self.api.drop_table(table, false).await;
                self.need(STEP, dropped, "iceberg.delete=true could not drop the table of a deleted topic")?;
                Some(error.to_string())
            }
        };
        match self.api.load(table, None).await {
            Err(CatalogError::NoSuchTable(_)) => {}
            Ok(_) => return Err(self.fail(STEP, "the table was dropped and is still there")),
            Err(error) => {
                let detail = format!(
                    "the load of a table that was dropped must answer 404 with Iceberg's error body: {error}. A sink \
                     could not tell that its table is gone"
                );
                return Err(self.fail(STEP, detail));
            }
        }
        self.tables.retain(|held| held != table);
        match with_files {
            None => self.ok(STEP, "with its files"),
            Some(why) => self.not_offered(
                STEP,
                format!(
                    "without its files alone ({why}): iceberg.delete=true cannot drop the table of a deleted topic"
                ),
            ),
        }
        Ok(())
    }

    /// Drops what is left.
    async fn clean_up(&mut self) {
        let mut left = Vec::new();
        for table in std::mem::take(&mut self.tables) {
            let mut dropped = self.api.drop_table(&table, true).await;
            if !is_gone(&dropped) {
                dropped = self.api.drop_table(&table, false).await;
            }
            if !is_gone(&dropped) {
                left.push(format!("table {table}"));
            }
        }
        if let Some(namespace) = self.namespace.take()
            && !matches!(self.api.drop_namespace(&namespace).await, Ok(()) | Err(CatalogError::NoSuchNamespace(_)))
        {
            left.push(format!("namespace {namespace}"));
        }
        match left.is_empty() {
            true => self.ok("clean up", "nothing is left"),
            // Nothing that a sink needs.
            false => self.not_offered("clean up", format!("drop by hand: {}", left.join(", "))),
        }
    }
}

fn is_gone(dropped: &Result<(), CatalogError>) -> bool {
    matches!(dropped, Ok(()) | Err(CatalogError::NoSuchTable(_) | CatalogError::NoSuchNamespace(_)))
}

/// A commit as a sink makes it, but for the snapshot.
fn change(table: &TableIdent, base: &Loaded, main: Option<i64>, value: &str) -> TableCommit {
    let requirements = vec![
        TableRequirement::UuidMatch { uuid: base.metadata.uuid() },
        TableRequirement::RefSnapshotIdMatch { r#ref: "main".to_owned(), snapshot_id: main },
    ];
    let updates = HashMap::from([(PROBED.to_owned(), value.to_owned())]);
    TableCommit { table: table.clone(), requirements, updates: vec![TableUpdate::SetProperties { updates }] }
}

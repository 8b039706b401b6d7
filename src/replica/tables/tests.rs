//! Tables of two sources over buckets in directories.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use tidewater_iceberg::catalog::{Catalog as _, NewTable, ObjectStoreCatalog};
use tidewater_iceberg::names::Names;
use tidewater_iceberg::schema;
use tidewater_storage::model::{Incarnation, LaneId, TopicId};
use tidewater_tiering::keys::{ClusterId, ClusterName, Home, LineageEpoch};
use tidewater_tiering::store::{DirectoryStore, ObjectStore};
use tokio::runtime::{Handle, Runtime};
use uuid::Uuid;

use super::*;
use crate::controller::followed::Followed;
use crate::controller::sources::{SourceId, SourceRecord, SourceSpec};
use crate::kafka::handlers::fixture;
use crate::replica::published::{OpenSource, SourceNow, SourceState};

/// Sources `east` and `west`, in this order, of a cluster whose own topic is `own`; each in the directory of its name.
pub(crate) struct Bench {
    pub(crate) runtime: Runtime,
    dir: tempfile::TempDir,
    pub(crate) images: watch::Sender<Arc<ClusterImage>>,
    pub(crate) published: watch::Sender<Arc<Published>>,
}

const SOURCES: [&str; 2] = ["east", "west"];

fn id(source: &str) -> SourceId {
    SourceId(Uuid::from_u128(source.bytes().map(u128::from).sum()))
}

pub(crate) fn table(name: &str) -> TableIdent {
    TableIdent::from_strs([NAMESPACE, name]).expect("legal")
}

fn cluster() -> ClusterName {
    ClusterName::new("tidewater").expect("legal")
}

fn topic(source: &str, n: u128, name: &str, mode: &str) -> FollowedTopic {
    topic_with(source, n, name, &[("iceberg.mode", mode)])
}

fn topic_with(source: &str, n: u128, name: &str, settings: &[(&str, &str)]) -> FollowedTopic {
    let overrides = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let name = TopicName::new(name).expect("legal");
    let id_of_topic = TopicId(Uuid::from_u128(100 + n));
    FollowedTopic::new(id(source), (id_of_topic, name), overrides, &[(Incarnation(0), LaneId(1))], 1)
}

fn made() -> NewTable {
    let (schema, format) = (schema::table_schema().expect("legal"), iceberg::spec::FormatVersion::V2);
    NewTable { schema, spec: None, order: None, location: None, properties: HashMap::new(), format }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let (runtime, dir) = (runtime.expect("runtime"), tempfile::tempdir().expect("a directory"));
        let record = |n: usize, topics: &str| {
            let name = SOURCES[n];
            let url = format!("file://{}", dir.path().join(name).display());
            let spec = SourceSpec {
                name: ClusterName::new(name).expect("legal"),
                url,
                cluster_name: cluster(),
                cluster: Uuid::from_u128(n as u128),
                topics: topics.to_owned(),
            };
            (id(name), SourceRecord { spec, since: n as u64 })
        };
        let sources = Arc::new(BTreeMap::from([record(0, "*"), record(1, "w*,both")]));
        let image = ClusterImage { sources, ..fixture::image(&[("own", 1)]) };
        let open = |name: &str| {
            let path = dir.path().join(name);
            let store = DirectoryStore::open(path, runtime.handle().clone()).expect("opens");
            let open = OpenSource {
                store: Arc::new(store),
                name: cluster(),
                home: Home { cluster: ClusterId(Uuid::nil()), epoch: LineageEpoch(1) },
                look_soon: Arc::default(),
                dropped: flume::unbounded().0,
            };
            let (state, open) = (SourceState::Following, Some(Arc::new(open)));
            (id(name), SourceNow { state, reason: None, open, requests_per_hour: Arc::default() })
        };
        let topics = [
            topic("east", 1, "orders", "key_value"),
            topic("east", 2, "soon", "key_value"),
            topic("east", 3, "plain", "disabled"),
            topic("east", 4, "own", "key_value"),
            topic("east", 5, "both", "key_value"),
            topic("west", 6, "both", "key_value"),
            topic("west", 7, "wind", "value_schema_id_prefix"),
        ];
        let followed = Followed::new(topics, SOURCES.map(id).into(), BTreeSet::new());
        let published = Published { followed: Arc::new(followed), sources: SOURCES.map(open).into() };
        let (images, published) = (watch::channel(Arc::new(image)).0, watch::channel(Arc::new(published)).0);
        let bench = Self { runtime, dir, images, published };
        for (source, tables) in [("east", &["orders", "own", "both", "plain"][..]), ("west", &["both", "wind"])] {
            for name in tables {
                bench.make(source, name);
            }
        }
        bench
    }

    pub(crate) fn tables(&self) -> FollowedTables {
        FollowedTables::new(self.images.subscribe(), self.published.subscribe())
    }

    pub(crate) fn path(&self, source: &str) -> std::path::PathBuf {
        self.dir.path().join(source)
    }

    /// The catalog of the cluster whose bucket is the directory `name`.
    pub(crate) fn catalog(&self, name: &str) -> ObjectStoreCatalog {
        catalog(&self.path(name), self.runtime.handle())
    }

    pub(crate) fn make(&self, source: &str, name: &str) {
        let catalog = self.catalog(source);
        self.runtime.block_on(async {
            catalog.ensure_namespace(&NamespaceIdent::new(NAMESPACE.to_owned())).await.expect("made");
            catalog.create(&table(name), made()).await.expect("made");
        });
    }

    /// The source was not read since the start, for this reason.
    pub(crate) fn unread(&self, source: &str, reason: Option<&str>) {
        self.published.send_modify(|held| {
            let kept: Vec<_> = held.followed.all().filter(|topic| topic.source != id(source)).cloned().collect();
            let mut sources = held.sources.clone();
            let now = sources.get_mut(&id(source)).expect("is there");
            (now.open, now.reason) = (None, reason.map(str::to_owned));
            let followed = Arc::new(Followed::new(kept, BTreeSet::new(), BTreeSet::new()));
            *held = Arc::new(Published { followed, sources });
        });
    }

    fn uuid(&self, name: &str) -> Result<Uuid, SourceError> {
        match self.tables().owner(&table(name)) {
            Owner::Source(found) => Ok(self.runtime.block_on(found.load())?.metadata.uuid()),
            Owner::Own => panic!("{name} is no source's"),
            Owner::Unknown(error) => Err(error),
        }
    }

    fn list(&self) -> Vec<String> {
        self.runtime.block_on(self.tables().list(&NamespaceIdent::new(NAMESPACE.to_owned()))).into_iter().collect()
    }
}

fn catalog(path: &Path, handle: &Handle) -> ObjectStoreCatalog {
    let store: Arc<dyn ObjectStore> = Arc::new(DirectoryStore::open(path.to_owned(), handle.clone()).expect("opens"));
    let warehouse = Warehouse::new(&format!("file://{}", path.display()), &cluster().warehouse_prefix());
    ObjectStoreCatalog::new(TableFiles::new(store, warehouse.expect("legal")), Names::random(), HashMap::new())
}

#[test]
fn tables_of_followed_topics_are_those_of_their_sources() {
    let bench = Bench::new();
    let there = |source: &str, name: &str| {
        let loaded = bench.runtime.block_on(bench.catalog(source).load(&table(name))).expect("loads");
        loaded.metadata.uuid()
    };
    assert_eq!(bench.list(), ["both", "orders", "wind"], "soon has none yet, own is hidden, plain is not kept");
    assert_eq!(bench.uuid("orders").expect("loads"), there("east", "orders"));
    assert_eq!(bench.uuid("wind").expect("loads"), there("west", "wind"));
    assert_eq!(bench.uuid("both").expect("loads"), there("east", "both"), "the source that was added first");
    assert_eq!(bench.uuid("plain").expect("loads"), there("east", "plain"), "it is there as long as the source has it");
    let error = bench.uuid("soon").expect_err("there is none yet");
    assert!(matches!(error, SourceError::Failed { error: CatalogError::NoSuchTable(_), .. }), "{error}");
    for name in ["own", "other", "not a topic", "__consumer_offsets"] {
        assert!(matches!(bench.tables().owner(&table(name)), Owner::Own), "{name}");
    }
    let elsewhere = TableIdent::from_strs(["other", "orders"]).expect("legal");
    assert!(matches!(bench.tables().owner(&elsewhere), Owner::Own));
}

#[test]
fn a_table_of_dead_letters_is_its_topics_sources() {
    let bench = Bench::new();
    bench.make("east", "orders~dlq");
    bench.make("east", "own~dlq");
    assert_eq!(bench.list(), ["both", "orders", "wind"], "wind has had none, the others have no typed columns");
    let error = bench.uuid("wind~dlq").expect_err("there is none yet");
    assert!(matches!(error, SourceError::Failed { error: CatalogError::NoSuchTable(_), .. }), "{error}");
    bench.make("west", "wind~dlq");
    assert_eq!(bench.list(), ["both", "orders", "wind", "wind~dlq"]);
    let there = bench.runtime.block_on(bench.catalog("west").load(&table("wind~dlq"))).expect("loads");
    assert_eq!(bench.uuid("wind~dlq").expect("loads"), there.metadata.uuid());
    bench.uuid("orders~dlq").expect("from when its columns were typed");
    for name in ["own~dlq", "other~dlq", "~dlq"] {
        assert!(matches!(bench.tables().owner(&table(name)), Owner::Own), "{name}");
    }
    let Owner::Source(found) = bench.tables().owner(&table("wind~dlq")) else { panic!("is a source's") };
    assert!(matches!(found.read_only(), SourceError::ReadOnly { .. }));
    bench.unread("west", None);
    let text = bench.uuid("wind~dlq").expect_err("is not known").to_string();
    assert!(text.contains("source west"), "{text}");
}

#[test]
fn a_followed_table_lies_where_its_topic_says() {
    let bench = Bench::new();
    let named = [("iceberg.mode", "value_schema_id_prefix"), ("iceberg.table", "lake.wind")];
    bench.published.send_modify(|held| {
        let others = held.followed.all().filter(|topic| topic.image.name.as_str() != "wind").cloned();
        let topics = others.chain([topic_with("west", 7, "wind", &named)]);
        let followed = Followed::new(topics, SOURCES.map(id).into(), BTreeSet::new());
        *held = Arc::new(Published { followed: Arc::new(followed), sources: held.sources.clone() });
    });
    let lake = NamespaceIdent::new("lake".to_owned());
    let ident = |name: &str| TableIdent::new(lake.clone(), name.to_owned());
    let catalog = bench.catalog("west");
    bench.runtime.block_on(async {
        catalog.ensure_namespace(&lake).await.expect("made");
        catalog.create(&ident("wind"), made()).await.expect("made");
    });
    assert_eq!(bench.list(), ["both", "orders"], "topics.wind is no table of a followed topic");
    assert!(matches!(bench.tables().owner(&table("wind")), Owner::Own));
    assert_eq!(bench.runtime.block_on(bench.tables().list(&lake)), ["wind".to_owned()].into());
    assert!(bench.tables().has_namespace(&lake));
    assert_eq!(bench.tables().namespaces(), [lake.clone(), NamespaceIdent::new(NAMESPACE.to_owned())].into());
    for name in ["wind", "wind~dlq"] {
        assert!(matches!(bench.tables().owner(&ident(name)), Owner::Source(_)), "{name}");
    }
    assert!(matches!(bench.tables().owner(&ident("orders")), Owner::Own));
}

#[test]
fn what_is_made_and_dropped_at_the_source_is_so_here() {
    let bench = Bench::new();
    bench.make("east", "soon");
    bench.runtime.block_on(bench.catalog("east").drop_table(&table("orders"), true)).expect("dropped");
    assert_eq!(bench.list(), ["both", "soon", "wind"]);
    let error = bench.uuid("orders").expect_err("was dropped");
    assert!(matches!(error, SourceError::Failed { error: CatalogError::NoSuchTable(_), .. }), "{error}");
    bench.uuid("soon").expect("loads");
    // A source that is followed no longer.
    bench.images.send_modify(|image| *image = Arc::new(fixture::image(&[("own", 1)])));
    assert!(matches!(bench.tables().owner(&table("soon")), Owner::Own));
    assert_eq!(bench.list(), Vec::<String>::new());
    assert!(!bench.tables().has_namespace(&NamespaceIdent::new(NAMESPACE.to_owned())));
}

#[test]
fn a_bucket_that_is_away_hides_no_table_and_fails_loads() {
    let bench = Bench::new();
    std::fs::rename(bench.path("east"), bench.path("gone")).expect("renamed");
    assert_eq!(bench.list(), ["both", "orders", "soon", "wind"]);
    bench.uuid("wind").expect("the other source answers");
    let error = bench.uuid("orders").expect_err("the bucket is away");
    assert!(matches!(&error, SourceError::Failed { error, .. } if error.disposition().passes()), "{error}");
    assert!(error.to_string().contains("source east") && error.to_string().contains("mounted"), "{error}");
}

#[test]
fn a_name_that_an_unread_source_may_have_is_no_ones() {
    let bench = Bench::new();
    bench.unread("west", Some("its bucket is away"));
    assert_eq!(bench.list(), ["both", "orders"]);
    bench.uuid("orders").expect("the other source is read");
    let text = bench.uuid("wind").expect_err("is not known").to_string();
    assert!(text.contains("source west") && text.contains("its bucket is away"), "{text}");
    assert!(matches!(bench.tables().owner(&table("xylophone")), Owner::Own), "west follows w* only");
    bench.unread("east", None);
    let text = bench.uuid("xylophone").expect_err("is not known").to_string();
    assert!(text.contains("source east") && text.contains("not read yet"), "{text}");
    assert!(matches!(bench.tables().owner(&table("own")), Owner::Own), "an own topic's");
    bench.images.send_modify(|image| *image = Arc::new(ClusterImage { revision: 0, ..(**image).clone() }));
    let error = bench.uuid("own").expect_err("nothing is known");
    assert!(matches!(error, SourceError::Starting { .. }), "{error}");
}

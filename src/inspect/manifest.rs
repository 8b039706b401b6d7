//! Metadata of the bucket: lane manifests, pages of partition manifests, spill pages, cuts, root, catalogue and index
//! of cuts.

use serde::Serialize;
use tidewater_storage::codec::{CodecError, Sections};
use tidewater_storage::model::TimestampMs;
use tidewater_tiering::cuts::{Cut, CutIndex};
use tidewater_tiering::format::{Body, DecodeNames, FormatError, INDEX_BYTES_MAX, ProducerState, read_whole};
use tidewater_tiering::keys::ObjectKind;
use tidewater_tiering::manifest::{
    Catalogue, LaneObject, LaneObjectState, ObjectPageRef, PageRef, PublishedLane, PublishedPartition, Root, Row,
    Source as RowSource, SpillPage, SpillRow, decode_spill, take_objects,
};

use super::error::InspectError;
use super::source::Source;
use super::{View, object, print_damage};
use crate::console::{CliError, output};

#[derive(Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum ManifestView {
    Root(Root),
    Catalogue(Catalogue),
    Lane(LaneView),
    Page(PageView),
    Spill(SpillView),
    Cut(CutView),
    Cuts(CutIndex),
}

#[derive(Debug, Serialize)]
pub(super) struct LaneView {
    cluster: String,
    epoch: u32,
    lane: u32,
    term: u64,
    as_of: u64,
    follow_from: u64,
    written: i64,
    pages: Vec<PageRefView>,
    /// Pages of live and pending objects; `None` if a version wrote the manifest that did not publish them.
    objects: Option<Vec<ObjectPageRefView>>,
    pins: Vec<(String, u32)>,
    closed_for: Option<u32>,
}

#[derive(Debug, Serialize)]
struct PageRefView {
    page: String,
    first: String,
    last: String,
    partitions: u32,
    size: u32,
}

#[derive(Debug, Serialize)]
struct ObjectPageRefView {
    page: String,
    first: String,
    last: String,
    objects: u32,
    size: u32,
}

/// A page of partition manifests or of objects.
#[derive(Debug, Serialize)]
pub(super) struct PageView {
    cluster: String,
    epoch: u32,
    lane: u32,
    partitions: Vec<PartitionView>,
    objects: Vec<ObjectView>,
}

#[derive(Debug, Serialize)]
struct ObjectView {
    object: String,
    /// Bytes; `None` of one that is to be deleted.
    size: Option<u64>,
    parts: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PartitionView {
    partition: String,
    log_start: u64,
    archived_end: u64,
    bytes: u64,
    dropped: bool,
    spilled: Vec<RowView>,
    rows: Vec<RowView>,
    quarantined: Vec<String>,
    pending: Vec<String>,
    /// First offsets by leader epoch.
    leader_epochs: Vec<(i32, u64)>,
    producers: Vec<ProducerView>,
}

#[derive(Debug, Serialize)]
struct ProducerView {
    id: i64,
    epoch: i16,
    /// Sequence of its last record below the archived end.
    last_sequence: Option<i32>,
}

#[derive(Debug, Serialize)]
pub(super) struct SpillView {
    partition: String,
    rows: Vec<RowView>,
}

#[derive(Debug, Serialize)]
pub(super) struct CutView {
    cluster: String,
    epoch: u32,
    number: u64,
    at: i64,
    /// Revision of the catalogue in it, and its topics.
    catalogue: u64,
    topics: usize,
    lanes: Vec<CutLaneView>,
}

#[derive(Debug, Serialize)]
struct CutLaneView {
    lane: u32,
    /// Of the lane manifest in it; `None`: there was none.
    as_of: Option<u64>,
    follow_from: Option<u64>,
    last_bundle: u64,
    written: i64,
}

#[derive(Debug, Serialize)]
struct RowView {
    start: u64,
    end: u64,
    bytes: u64,
    max_timestamp: i64,
    object: String,
    position: Option<u64>,
}

pub(super) fn called(body: Body) -> &'static str {
    match body {
        Body::Index => "a data object",
        Body::LaneManifest => "a lane manifest",
        Body::Page => "a page of a lane manifest",
        Body::Spill => "a spill page",
        Body::Cut => "a cut",
    }
}

/// Reads the whole object: JSON by its first byte, else by its trailer.
pub(super) async fn view(source: &Source) -> Result<ManifestView, InspectError> {
    if source.read(0, 1).await?.first() == Some(&b'{') && object::trailer(source).await.is_err() {
        return pointer(source).await;
    }
    let trailer = object::trailer(source).await?;
    if trailer.body == Body::Index {
        return Err(InspectError::Other { what: source.name.clone(), found: called(Body::Index), instead: "object" });
    }
    let bytes = whole(source).await?;
    let decoded = match trailer.body {
        Body::LaneManifest => PublishedLane::decode(&bytes).map(|lane| ManifestView::Lane(LaneView::of(&lane))),
        Body::Page => page(&bytes).map(ManifestView::Page),
        Body::Cut => return cut(source, &bytes),
        Body::Spill | Body::Index => return spill(source, &bytes),
    };
    decoded.map_err(|error| InspectError::Format { what: source.name.clone(), source: error })
}

/// All bytes, unless there are more than in any manifest.
async fn whole(source: &Source) -> Result<bytes::Bytes, InspectError> {
    if source.size > u64::from(INDEX_BYTES_MAX) * 2 {
        return Err(InspectError::TooLarge { what: source.name.clone(), size: source.size });
    }
    source.read(0, source.size).await
}

async fn pointer(source: &Source) -> Result<ManifestView, InspectError> {
    let bytes = whole(source).await?;
    let wrong = |error| InspectError::Pointer { what: source.name.clone(), source: error };
    if source.name.ends_with("catalogue") {
        return Catalogue::decode(&bytes).map(ManifestView::Catalogue).map_err(wrong);
    }
    if source.name.ends_with("cuts/index") {
        return CutIndex::decode(&bytes).map(ManifestView::Cuts).map_err(wrong);
    }
    match Root::decode(&bytes) {
        Ok(root) => Ok(ManifestView::Root(root)),
        Err(error) => Catalogue::decode(&bytes).map(ManifestView::Catalogue).map_err(|_| wrong(error)),
    }
}

/// A page by itself, without the lane manifest that names it (`FORMAT.md` §4: header 1, partitions 2 or objects 3).
fn page(object: &bytes::Bytes) -> Result<PageView, FormatError> {
    const WHAT: &str = "manifest page";
    let (body, _) = read_whole(object, Body::Page)?;
    let mut sections = Sections::new(WHAT, &body);
    let (mut header, mut partitions, mut objects) = (None, Vec::new(), Vec::new());
    while let Some((tag, mut body)) = sections.next(&[1, 2, 3])? {
        match tag {
            1 => header = Some((body.home()?, body.lane()?)),
            2 => partitions = body.list(32, |body| PublishedPartition::decode(body.bytes()?))?,
            _ => objects = take_objects(&mut body)?,
        }
        body.end()?;
    }
    let (home, lane) = header.ok_or(CodecError::Missing { what: WHAT, tag: 1 })?;
    Ok(PageView {
        cluster: home.cluster.to_string(),
        epoch: home.epoch.0,
        lane: lane.0,
        partitions: partitions.iter().map(PartitionView::of).collect(),
        objects: objects.iter().map(ObjectView::of).collect(),
    })
}

fn cut(source: &Source, bytes: &bytes::Bytes) -> Result<ManifestView, InspectError> {
    let wrong = |error| InspectError::Format { what: source.name.clone(), source: error };
    let cut = Cut::decode(bytes).map_err(wrong)?;
    let catalogue = Catalogue::decode(&cut.catalogue)
        .map_err(|error| InspectError::Pointer { what: source.name.clone(), source: error })?;
    let mut lanes = Vec::with_capacity(cut.lanes.len());
    for lane in &cut.lanes {
        let manifest = lane.manifest.as_ref().map(PublishedLane::decode).transpose().map_err(wrong)?;
        lanes.push(CutLaneView {
            lane: lane.lane.0,
            as_of: manifest.as_ref().map(|found| found.as_of.0),
            follow_from: manifest.as_ref().map(|found| found.follow_from.0),
            last_bundle: lane.last.0,
            written: lane.written.0,
        });
    }
    Ok(ManifestView::Cut(CutView {
        cluster: cut.home.cluster.to_string(),
        epoch: cut.home.epoch.0,
        number: cut.number,
        at: cut.at.0,
        catalogue: catalogue.revision,
        topics: catalogue.topics.len(),
        lanes,
    }))
}

/// Decodes a spill page; the partition is in its key.
fn spill(source: &Source, bytes: &bytes::Bytes) -> Result<ManifestView, InspectError> {
    let wrong = |error| InspectError::Format { what: source.name.clone(), source: error };
    let (_, index) = read_whole(bytes, Body::Spill).map_err(wrong)?;
    let Some(ObjectKind::Spill { partition, .. }) = source.object_name().map(|name| name.kind) else {
        return Err(wrong(
            CodecError::Field { what: "spill page", field: "key, which says whose it is", at: 0 }.into(),
        ));
    };
    let rows = match decode_spill(partition, index.crc, bytes).map_err(wrong)? {
        SpillPage::Rows(rows) => rows.iter().map(RowView::of).collect(),
        SpillPage::Pages(pages) => pages.iter().map(RowView::of_page).collect(),
    };
    Ok(ManifestView::Spill(SpillView { partition: partition.to_string(), rows }))
}

impl LaneView {
    fn of(lane: &PublishedLane) -> Self {
        let page = |page: &PageRef| PageRefView {
            page: page.page.to_string(),
            first: page.first.to_string(),
            last: page.last.to_string(),
            partitions: page.count,
            size: page.size,
        };
        Self {
            cluster: lane.home.cluster.to_string(),
            epoch: lane.home.epoch.0,
            lane: lane.lane.0,
            term: lane.term.0,
            as_of: lane.as_of.0,
            follow_from: lane.follow_from.0,
            written: lane.written.0,
            pages: lane.pages.iter().map(page).collect(),
            objects: lane.objects.as_ref().map(|pages| pages.iter().map(ObjectPageRefView::of).collect()),
            pins: lane.pins.iter().map(|(object, holds)| (object.to_string(), *holds)).collect(),
            closed_for: lane.closed_for.map(|epoch| epoch.0),
        }
    }
}

impl ObjectPageRefView {
    fn of(page: &ObjectPageRef) -> Self {
        Self {
            page: page.page.to_string(),
            first: page.first.to_string(),
            last: page.last.to_string(),
            objects: page.count,
            size: page.size,
        }
    }
}

impl ObjectView {
    fn of(found: &LaneObject) -> Self {
        let size = match found.state {
            LaneObjectState::Live { size, .. } => Some(size),
            LaneObjectState::Pending => None,
        };
        Self { object: found.object.to_string(), size, parts: found.parts.iter().map(ToString::to_string).collect() }
    }
}

impl PartitionView {
    fn of(PublishedPartition { manifest, facts }: &PublishedPartition) -> Self {
        let producer = |producer: &ProducerState| ProducerView {
            id: producer.id.0,
            epoch: producer.epoch.0,
            last_sequence: producer.batches.last().map(|batch| batch.last),
        };
        let rows: Vec<_> = manifest.rows.iter().map(RowView::of).collect();
        let spilled: Vec<_> = manifest.spilled.iter().map(RowView::of_page).collect();
        let quarantined = manifest.quarantined.iter().map(|range| format!("{}: {}", range.offsets, range.reason));
        Self {
            partition: manifest.id.to_string(),
            log_start: manifest.log_start.get(),
            archived_end: manifest.archived_end.get(),
            bytes: rows.iter().chain(&spilled).fold(0, |sum: u64, row| sum.saturating_add(row.bytes)),
            dropped: manifest.dropped,
            spilled,
            rows,
            quarantined: quarantined.collect(),
            pending: manifest.pending.iter().map(|(object, _)| object.to_string()).collect(),
            leader_epochs: facts.epochs.iter().map(|epoch| (epoch.epoch.0, epoch.start.get())).collect(),
            producers: facts.producers.iter().map(producer).collect(),
        }
    }
}

impl RowView {
    fn of(row: &Row) -> Self {
        Self {
            start: row.offsets.start.get(),
            end: row.offsets.end.get(),
            bytes: row.bytes,
            max_timestamp: row.max_timestamp.0,
            object: row.object().to_string(),
            position: match row.source {
                RowSource::Bundle(_) => None,
                RowSource::Object { start, .. } => Some(start),
            },
        }
    }

    fn of_page(row: &SpillRow) -> Self {
        Self {
            start: row.offsets.start.get(),
            end: row.offsets.end.get(),
            bytes: row.bytes,
            max_timestamp: row.max_timestamp.0,
            object: row.page.to_string(),
            position: None,
        }
    }
}

fn print_rows(rows: &[&RowView]) -> Result<(), CliError> {
    let mut table = output::table(&["OFFSETS", "SIZE", "MAX TIMESTAMP", "OBJECT"]);
    for row in rows {
        table.add_row([
            format!("[{}, {})", row.start, row.end),
            output::bytes(row.bytes),
            output::when(TimestampMs(row.max_timestamp)),
            row.object.clone(),
        ]);
    }
    output::print(&table)
}

fn print_lane(lane: &LaneView) -> Result<(), CliError> {
    output::line(&format!(
        "manifest of lane {}, cluster {}, epoch {}: as of log index {} in term {}, written {}; bundles to follow from {}",
        lane.lane,
        lane.cluster,
        lane.epoch,
        lane.as_of,
        lane.term,
        output::when(TimestampMs(lane.written)),
        lane.follow_from
    ))?;
    if let Some(epoch) = lane.closed_for {
        output::line(&format!("closed: epoch {epoch} took over"))?;
    }
    output::line("")?;
    let mut table = output::table(&["FIRST PARTITION", "LAST PARTITION", "PARTITIONS", "SIZE", "PAGE"]);
    for page in &lane.pages {
        let (count, size) = (page.partitions.to_string(), output::bytes(page.size.into()));
        table.add_row([page.first.clone(), page.last.clone(), count, size, page.page.clone()]);
    }
    output::print(&table)?;
    match &lane.objects {
        None => output::line("objects of the lane: not published by the version that wrote this")?,
        Some(pages) => {
            for page in pages {
                let ObjectPageRefView { objects, first, last, page, size } = page;
                let size = output::bytes((*size).into());
                output::line(&format!("{objects} objects from {first} to {last}: {size} in {page}"))?;
            }
        }
    }
    for (object, holds) in &lane.pins {
        output::line(&format!("held {holds} times: {object}"))?;
    }
    Ok(())
}

fn print_page(page: &PageView) -> Result<(), CliError> {
    output::line(&format!("page of lane {}, cluster {}, epoch {}", page.lane, page.cluster, page.epoch))?;
    for partition in &page.partitions {
        output::line("")?;
        let PartitionView { partition: id, log_start, archived_end, bytes, .. } = partition;
        let dropped = if partition.dropped { ", dropped" } else { "" };
        let size = output::bytes(*bytes);
        output::line(&format!("partition {id}: log start {log_start}, archived to {archived_end}, {size}{dropped}"))?;
        print_rows(&partition.spilled.iter().chain(&partition.rows).collect::<Vec<_>>())?;
        for range in &partition.quarantined {
            output::line(&format!("quarantined {range}"))?;
        }
        for object in &partition.pending {
            output::line(&format!("to be deleted: {object}"))?;
        }
        for (epoch, start) in &partition.leader_epochs {
            output::line(&format!("leader epoch {epoch} from offset {start}"))?;
        }
        if !partition.producers.is_empty() {
            output::line(&format!("idempotent producers: {}", partition.producers.len()))?;
        }
    }
    for object in &page.objects {
        let ObjectView { object, size, parts } = object;
        let state = size.map_or_else(|| "to be deleted".to_owned(), output::bytes);
        output::line(&format!("{object}: {state}, with {} parts", parts.len()))?;
    }
    Ok(())
}

impl View for ManifestView {
    fn print(&self) -> Result<(), CliError> {
        match self {
            // The first three are JSON in the bucket, too.
            Self::Root(root) => output::json(root)?,
            Self::Catalogue(catalogue) => output::json(catalogue)?,
            Self::Cuts(index) => output::json(index)?,
            Self::Cut(cut) => output::json(cut)?,
            Self::Lane(lane) => print_lane(lane)?,
            Self::Page(page) => print_page(page)?,
            Self::Spill(spill) => {
                output::line(&format!("spill page of partition {}", spill.partition))?;
                output::line("")?;
                print_rows(&spill.rows.iter().collect::<Vec<_>>())?;
            }
        }
        print_damage(self.damage())
    }

    /// A manifest with any damage does not decode.
    fn damage(&self) -> &[String] {
        &[]
    }
}

//! What a kept cut reaches is in the bucket, for as long as the index of cuts names the cut.
//!
//! Reach is computed from the bucket alone, once for each cut when the index first names it: its pages, all rows of
//! them, spill pages, the bundles up to the cut's end and their parts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tidewater_storage::model::PartitionId;
use tidewater_tiering::cuts::{Cut, CutIndex};
use tidewater_tiering::format::{Body, ExtentObject, decode_index, read_whole};
use tidewater_tiering::keys::{Home, ObjectName, Sequence};
use tidewater_tiering::manifest::{PublishedLane, SpillPage, SpillRow, decode_page, decode_spill};

use super::epochs::Epochs;
use crate::node::cadence;

/// Between two looks of a run, at most.
const LOOK_MS: u64 = 350;

type Objects = BTreeMap<String, Bytes>;

#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// When each cut's object was first seen.
    put: RefCell<BTreeMap<String, u64>>,
    cuts: RefCell<BTreeMap<(Home, u64), Known>>,
}

#[derive(Debug)]
struct Known {
    cut: Cut,
    /// Keys; empty for a cut that was noted too late.
    reach: BTreeSet<String>,
    in_time: bool,
}

impl Kept {
    /// Looks at the cuts of the cluster that clients ask.
    pub(crate) fn look(&self, epochs: &Epochs, objects: &Objects) {
        let (home, now) = (epochs.now().home(), epochs.now_ms());
        let of_home = objects.keys().filter(|key| key.starts_with(&format!("{}cuts/", home.prefix())));
        for key in of_home.filter(|key| !key.ends_with("/index")) {
            self.put.borrow_mut().entry(key.clone()).or_insert(now);
        }
        let Some(index) = objects.get(home.cuts_key().as_str()) else { return };
        let index = CutIndex::decode(index).expect("the index of cuts decodes");
        let is_named = |number: u64| index.cuts.iter().any(|cut| cut.number == number);
        self.cuts.borrow_mut().retain(|(of, number), _| *of == home && is_named(*number));
        for entry in &index.cuts {
            let (number, key) = (entry.number, entry.key(home));
            let object = objects.get(key.as_str());
            let object = object.unwrap_or_else(|| panic!("{key} is named by the index of cuts and is not there"));
            let mut cuts = self.cuts.borrow_mut();
            let known = cuts.entry((home, number)).or_insert_with(|| {
                let cut = Cut::decode(object).expect("a cut decodes");
                let put = self.put.borrow().get(key.as_str()).copied().unwrap_or(now);
                let in_time = !is_too_late(epochs, now.saturating_sub(put));
                let reach = if in_time { reach(&cut, objects) } else { BTreeSet::new() };
                Known { cut, reach, in_time }
            });
            for key in &known.reach {
                assert!(objects.contains_key(key), "{key} is reached by cut {number} and is not there");
            }
        }
    }

    /// Cuts that the index named at the last look and that were noted in time.
    pub(crate) fn in_time(&self, epochs: &Epochs) -> Vec<Cut> {
        let home = epochs.now().home();
        let cuts = self.cuts.borrow();
        let of_home = cuts.iter().filter(|((of, _), known)| *of == home && known.in_time);
        of_home.map(|(_, known)| known.cut.clone()).collect()
    }
}

/// May the put of the index have arrived later than any put is taken to? Its maker takes such a cut out again, if it
/// lives.
fn is_too_late(epochs: &Epochs, ms: u64) -> bool {
    let grace = u64::try_from(cadence().archive.delete_grace.as_millis()).expect("short");
    epochs.puts_may_be_late.get() && ms + LOOK_MS > grace / 2
}

/// The keys of all that a restore to the cut may read.
fn reach(cut: &Cut, objects: &Objects) -> BTreeSet<String> {
    let mut reach = BTreeSet::new();
    for state in &cut.lanes {
        let published = state.manifest.as_ref().map(|manifest| PublishedLane::decode(manifest).expect("decodes"));
        for page in published.iter().flat_map(|published| &published.pages) {
            let object = add(cut, objects, &mut reach, page.page);
            for found in decode_page(page, &object).expect("a page of a cut decodes") {
                let manifest = found.manifest;
                manifest.rows.iter().for_each(|row| drop(add(cut, objects, &mut reach, row.object())));
                for spilled in &manifest.spilled {
                    add_spilled(cut, objects, &mut reach, manifest.id, spilled);
                }
            }
        }
        for page in published.iter().flat_map(|published| published.objects.iter().flatten()) {
            add(cut, objects, &mut reach, page.page);
        }
        let from = published.map_or(Sequence::NONE.next(), |published| published.follow_from);
        for sequence in (from.0..=state.last.0).map(Sequence) {
            let object = add(cut, objects, &mut reach, cut.home.bundle(state.lane, sequence));
            let (index, _) = read_whole(&object, Body::Index).expect("a bundle is whole");
            let index = decode_index(&index).expect("decodes");
            for extent in index.partitions.iter().flat_map(|entry| &entry.extents) {
                if let ExtentObject::Part(part) = extent.object {
                    add(cut, objects, &mut reach, part);
                }
            }
        }
    }
    reach
}

fn add_spilled(cut: &Cut, objects: &Objects, reach: &mut BTreeSet<String>, partition: PartitionId, spilled: &SpillRow) {
    let object = add(cut, objects, reach, spilled.page);
    match decode_spill(partition, spilled.crc, &object).expect("a spill page decodes") {
        SpillPage::Rows(rows) => rows.iter().for_each(|row| drop(add(cut, objects, reach, row.object()))),
        SpillPage::Pages(pages) => pages.iter().for_each(|page| add_spilled(cut, objects, reach, partition, page)),
    }
}

fn add(cut: &Cut, objects: &Objects, reach: &mut BTreeSet<String>, object: ObjectName) -> Bytes {
    let key = object.key();
    let found = objects.get(key.as_str());
    let found = found.unwrap_or_else(|| panic!("{key} is reached by cut {} and is not there", cut.number));
    reach.insert(key.as_str().to_owned());
    found.clone()
}

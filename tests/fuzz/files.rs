//! The local formats piece by piece: journal commits and layout, segment indexes, checkpoint slots, pages and records.

use bytes::Bytes;
use tidewater_storage::checkpoint::{Root, page};
use tidewater_storage::journal::format::{CommitHeader, decode_commit, decode_record};
use tidewater_storage::journal::layout::{Layout, LayoutFile};
use tidewater_storage::outside;
use tidewater_storage::segment::IndexFile;

use super::corpus::golden;
use super::target::Target;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target::new("journal_commit", commit, || vec![golden("storage/journal-v1.bin")]).mended(mend_commit),
        Target::new("journal_layout", |input| drop(Layout::decode(input)), layouts).mended(mend_last),
        Target::new("segment_index", index, || vec![golden("storage/segment_index_v1.idx")]).mended(mend_last),
        Target::new("checkpoint_root", root, || vec![golden("storage/checkpoint_root_v1.bin")]).mended(mend_root),
        Target::new("checkpoint_page", pages, || vec![golden("storage/checkpoint_page_v1.bin")]),
        Target::new("checkpoint_record", outside::checkpoint_records, records),
        Target::new("checkpoint_log", outside::checkpoint_log, || vec![golden("storage/log_record_v1.bin")]),
    ]
}

fn commit(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    let mut at = 0;
    while let Ok(header) = CommitHeader::decode(bytes.get(at..).unwrap_or_default()) {
        let _ = decode_commit(&header, &bytes.slice(at..));
        at = at.saturating_add(header.total_len().next_multiple_of(4096));
    }
    for at in [0, 64, input.len() / 2, input.len()] {
        let _ = decode_record(&bytes, at);
    }
}

/// Bodies, record headers, commit header, from the inside out.
fn mend_commit(input: &mut Vec<u8>) {
    if input.len() < 64 {
        return;
    }
    let Some(length) = input.get(48..52).map(|field| u32::from_be_bytes(field.try_into().expect("four"))) else {
        return;
    };
    let end = (64 + length as usize).min(input.len());
    let (mut at, mut sum) = (64, 0);
    while at + 16 <= end {
        let len = u32::from_be_bytes(input[at + 8..at + 12].try_into().expect("four")) as usize;
        let Some(body) = input.get(at + 16..(at + 16).saturating_add(len)) else { break };
        let crc = crc32c::crc32c(body);
        input[at + 12..at + 16].copy_from_slice(&crc.to_be_bytes());
        sum = crc32c::crc32c_append(sum, &input[at..at + 16]);
        at += 16 + len;
    }
    input[56..60].copy_from_slice(&sum.to_be_bytes());
    let crc = crc32c::crc32c(&input[..60]);
    if let Some(field) = input.get_mut(60..64) {
        field.copy_from_slice(&crc.to_be_bytes());
    }
}

/// The last four bytes cover all before.
fn mend_last(input: &mut Vec<u8>) {
    if let Some(at) = input.len().checked_sub(4) {
        let crc = crc32c::crc32c(&input[..at]);
        input[at..].copy_from_slice(&crc.to_be_bytes());
    }
}

fn layouts() -> Vec<Vec<u8>> {
    let row = |number| LayoutFile { number, bytes: 65_536, generation: number, first_sequence: 10 * number };
    vec![Layout { journal: 77, durable: 30, next_generation: 4, files: (1..4).map(row).collect() }.encode()]
}

fn index(input: &[u8]) {
    if let Ok(file) = IndexFile::decode(&Bytes::copy_from_slice(input)) {
        let _ = file.index.find(file.offsets.start);
        let again = IndexFile::decode(&file.encode().into());
        assert_eq!(again.as_ref(), Ok(&file), "what was read can be written and read again");
    }
}

fn root(input: &[u8]) {
    if let Ok(root) = Root::decode(&Bytes::copy_from_slice(input)) {
        let _ = (root.encoded_len(), root.pages.iter().map(|page| page.blocks()).fold(0, u64::wrapping_add));
    }
}

fn mend_root(input: &mut Vec<u8>) {
    let Some(count) = input.get(24..28).map(|field| u32::from_be_bytes(field.try_into().expect("four"))) else {
        return;
    };
    let end = (count as usize).saturating_mul(16).saturating_add(28);
    let Some(covered) = input.get(..end) else { return };
    let crc = crc32c::crc32c(covered);
    if let Some(field) = input.get_mut(end..end + 4) {
        field.copy_from_slice(&crc.to_be_bytes());
    }
}

fn pages(input: &[u8]) {
    let bucket = input.get(4..8).map_or(0, |field| u32::from_be_bytes(field.try_into().expect("four")));
    let _ = page::decode(bucket, crc32c::crc32c(input), Bytes::copy_from_slice(input));
}

/// The blobs of the golden page.
fn records() -> Vec<Vec<u8>> {
    let bytes = Bytes::from(golden("storage/checkpoint_page_v1.bin"));
    let page = page::decode(0, crc32c::crc32c(&bytes), bytes).expect("the golden page");
    page.into_values().map(|blob| blob.to_vec()).collect()
}

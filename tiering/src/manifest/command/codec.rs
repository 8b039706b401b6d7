//! Commands ↔ bytes: the payload of a lane's entry. One kind byte with a version nibble, then the fields.

use bytes::Bytes;
use tidewater_storage::codec::{CodecError, Decoder, Encoder};
use tidewater_storage::model::{OffsetRange, PartitionId};

use super::{
    Bundled, BundledEnd, Command, Deleted, NewObject, NewRow, Published, Quarantine, Replaced, Spilled, Trimmed,
    Unfolded,
};
use crate::format::{DecodeNames, EncodeNames};
use crate::manifest::codec::{
    put_index_ref, put_names, put_page_refs, put_rows, put_spill_row, put_spill_rows, take_index_ref, take_names,
    take_page_refs, take_rows, take_spill_row, take_spill_rows,
};
use crate::manifest::objects::{put_object_page_refs, take_object_page_refs};
use crate::manifest::spill::SpillPage;

const WHAT: &str = "manifest command";

impl Command {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = Encoder::new();
        match self {
            Self::Bundled(bundled) => {
                out.u8(if bundled.events.is_some() { 13 } else { 1 });
                put_bundled(&mut out, bundled);
                bundled.events.into_iter().for_each(|upto| out.index(upto));
            }
            Self::Replaced(replaced) => {
                out.u8(2);
                put_replaced(&mut out, replaced);
            }
            Self::Trimmed(trimmed) => {
                out.u8(3);
                out.partition(trimmed.partition);
                out.offset(trimmed.log_start);
                out.count(trimmed.pages.len());
                for (page, named) in &trimmed.pages {
                    out.name(*page);
                    put_names(&mut out, named);
                }
            }
            Self::Spilled(spilled) => {
                out.u8(4);
                out.partition(spilled.partition);
                put_spill_row(&mut out, &spilled.page);
                put_names(&mut out, &spilled.shared);
            }
            Self::Unfolded(unfolded) => {
                out.u8(5);
                put_unfolded(&mut out, unfolded);
            }
            Self::Quarantined(range) => {
                out.u8(6);
                put_quarantine(&mut out, range);
            }
            Self::Repaired(range) => {
                out.u8(7);
                put_quarantine(&mut out, range);
            }
            Self::Forgotten { objects } => {
                out.u8(8);
                put_names(&mut out, objects);
            }
            Self::Published(published) => {
                out.u8(if published.objects.is_some() { 14 } else { 9 });
                put_published(&mut out, published);
                if let Some(objects) = &published.objects {
                    put_object_page_refs(&mut out, objects);
                }
            }
            Self::Deleted(deleted) => {
                out.u8(10);
                put_names(&mut out, &deleted.lane);
                out.count(deleted.partitions.len());
                for (partition, objects) in &deleted.partitions {
                    out.partition(*partition);
                    put_names(&mut out, objects);
                }
            }
            Self::Dropped { partition } => {
                out.u8(11);
                out.partition(*partition);
            }
            Self::Stopped { reason } => {
                out.u8(12);
                out.option(reason.as_deref(), Encoder::text);
            }
        }
        out.finish()
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut body = Decoder::new(WHAT, bytes);
        let command = match body.u8()? {
            1 => Self::Bundled(take_bundled(&mut body)?),
            13 => {
                let bundled = take_bundled(&mut body)?;
                Self::Bundled(Bundled { events: Some(body.index()?), ..bundled })
            }
            2 => Self::Replaced(take_replaced(&mut body)?),
            3 => Self::Trimmed(Trimmed {
                partition: body.partition()?,
                log_start: body.offset()?,
                pages: body.list(22, |body| Ok((body.name()?, take_names(body)?)))?,
            }),
            4 => Self::Spilled(Spilled {
                partition: body.partition()?,
                page: take_spill_row(&mut body)?,
                shared: take_names(&mut body)?,
            }),
            5 => Self::Unfolded(take_unfolded(&mut body)?),
            6 => Self::Quarantined(take_quarantine(&mut body)?),
            7 => Self::Repaired(take_quarantine(&mut body)?),
            8 => Self::Forgotten { objects: take_names(&mut body)? },
            9 => Self::Published(take_published(&mut body)?),
            14 => {
                let published = take_published(&mut body)?;
                Self::Published(Published { objects: Some(take_object_page_refs(&mut body)?), ..published })
            }
            10 => Self::Deleted(Deleted {
                lane: take_names(&mut body)?,
                partitions: body.list(25, |body| Ok((body.partition()?, take_names(body)?)))?,
            }),
            11 => Self::Dropped { partition: body.partition()? },
            12 => Self::Stopped { reason: body.option(Decoder::text)? },
            _ => return Err(body.bad("kind of command")),
        };
        body.end()?;
        Ok(command)
    }
}

fn put_bundled(out: &mut Encoder, bundled: &Bundled) {
    out.var(bundled.sequence.0);
    out.var(bundled.size);
    put_index_ref(out, bundled.index);
    out.count(bundled.ends.len());
    for end in &bundled.ends {
        out.partition(end.partition);
        out.offsets(end.offsets);
        out.var(end.bytes);
        out.time(end.max_timestamp);
    }
    put_names(out, &bundled.parts);
}

fn take_bundled(body: &mut Decoder<'_>) -> Result<Bundled, CodecError> {
    Ok(Bundled {
        sequence: body.sequence()?,
        size: body.var()?,
        index: take_index_ref(body)?,
        ends: body.list(PartitionId::ENCODED_LEN + 4, |body| {
            let (partition, offsets, bytes) = (body.partition()?, body.offsets()?, body.var()?);
            Ok(BundledEnd { partition, offsets, bytes, max_timestamp: body.time()? })
        })?,
        parts: take_names(body)?,
        events: None,
    })
}

fn put_replaced(out: &mut Encoder, replaced: &Replaced) {
    out.count(replaced.objects.len());
    for new in &replaced.objects {
        out.name(new.object);
        out.var(new.size);
        put_index_ref(out, new.index);
    }
    out.count(replaced.rows.len());
    for row in &replaced.rows {
        out.partition(row.partition);
        out.offsets(row.offsets);
        out.var(row.object.into());
        out.var(row.start);
        out.var(row.len);
        out.time(row.max_timestamp);
    }
}

fn take_replaced(body: &mut Decoder<'_>) -> Result<Replaced, CodecError> {
    let objects =
        body.list(28, |body| Ok(NewObject { object: body.name()?, size: body.var()?, index: take_index_ref(body)? }))?;
    let rows = body.list(PartitionId::ENCODED_LEN + 6, |body| {
        let (partition, offsets): (PartitionId, OffsetRange) = (body.partition()?, body.offsets()?);
        let (object, start, len) = (body.var32()?, body.var()?, body.var()?);
        Ok(NewRow { partition, offsets, object, start, len, max_timestamp: body.time()? })
    })?;
    Ok(Replaced { objects, rows })
}

fn put_unfolded(out: &mut Encoder, unfolded: &Unfolded) {
    out.partition(unfolded.partition);
    out.name(unfolded.page);
    match &unfolded.content {
        SpillPage::Rows(rows) => {
            out.u8(0);
            put_rows(out, rows);
        }
        SpillPage::Pages(pages) => {
            out.u8(1);
            put_spill_rows(out, pages);
        }
    }
}

fn take_unfolded(body: &mut Decoder<'_>) -> Result<Unfolded, CodecError> {
    let (partition, page) = (body.partition()?, body.name()?);
    let content = match body.flag()? {
        false => SpillPage::Rows(take_rows(body)?),
        true => SpillPage::Pages(take_spill_rows(body)?),
    };
    Ok(Unfolded { partition, page, content })
}

fn put_quarantine(out: &mut Encoder, range: &Quarantine) {
    out.partition(range.partition);
    out.offsets(range.offsets);
    out.text(&range.reason);
}

fn take_quarantine(body: &mut Decoder<'_>) -> Result<Quarantine, CodecError> {
    Ok(Quarantine { partition: body.partition()?, offsets: body.offsets()?, reason: body.text()? })
}

fn put_published(out: &mut Encoder, published: &Published) {
    out.var(published.as_of.0);
    out.var(published.sequence.0);
    out.text(&published.etag);
    put_page_refs(out, &published.pages);
    out.time(published.at);
}

fn take_published(body: &mut Decoder<'_>) -> Result<Published, CodecError> {
    Ok(Published {
        as_of: body.index()?,
        sequence: body.sequence()?,
        etag: body.text()?,
        pages: take_page_refs(body)?,
        objects: None,
        at: body.time()?,
    })
}

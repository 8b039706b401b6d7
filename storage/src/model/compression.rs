//! Kafka's five codecs behind one enum. Decompression is bounded: a few bytes cannot become gigabytes.

use std::io::{self, Read, Write};

use bytes::Bytes;

/// How the records of a batch are compressed (attributes bits 0–2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are.
    None,
    /// gzip.
    Gzip,
    /// Snappy, in the framing of snappy-java ("xerial") or raw.
    Snappy,
    /// LZ4 frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// First bytes of snappy-java's framing: magic, then version and compatible version (two i32, 1).
const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_HEADER_LEN: usize = 16;
/// zlib's default and greatest levels.
const GZIP_DEFAULT: u32 = 6;
const GZIP_MAX: u32 = 9;

/// What snappy-java puts into one block.
const XERIAL_BLOCK: usize = 32 * 1024;

impl Compression {
    /// All, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec of a batch's attributes; `None` for a code Kafka does not define.
    #[must_use]
    pub fn from_attributes(attributes: i16) -> Option<Self> {
        Self::ALL.get(usize::from((attributes & 0x07) as u16)).copied()
    }

    #[must_use]
    pub fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// Kafka's name of it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Compresses `data` whole, at the codec's default level.
    ///
    /// # Errors
    /// What the codec says.
    pub fn compress(self, data: &[u8]) -> io::Result<Vec<u8>> {
        self.compress_at(data, None)
    }

    /// Compresses `data` whole. `level` is in Kafka's range for the codec: 1 to 9 for gzip, 1 to 17 for LZ4, -131072 to
    /// 22 for zstd; `None` is the default. None and Snappy have no levels.
    ///
    /// # Errors
    /// What the codec says.
    pub fn compress_at(self, data: &[u8], level: Option<i32>) -> io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(data.to_vec()),
            Self::Gzip => {
                let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(GZIP_DEFAULT).min(GZIP_MAX);
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
                out.write_all(data)?;
                out.finish()
            }
            Self::Snappy => {
                let mut out = XERIAL_MAGIC.to_vec();
                out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
                for block in data.chunks(XERIAL_BLOCK) {
                    let packed = snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other)?;
                    out.extend_from_slice(&(packed.len() as u32).to_be_bytes());
                    out.extend_from_slice(&packed);
                }
                Ok(out)
            }
            Self::Lz4 => {
                // Kafka's reader takes independent blocks only. Its default is the fast compressor, like level 0 here.
                let level = level.and_then(|level| u32::try_from(level).ok()).unwrap_or(0);
                let mut options = lz4::EncoderBuilder::new();
                options.level(level).block_size(lz4::BlockSize::Max64KB).block_mode(lz4::BlockMode::Independent);
                let mut out = options
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                    .build(Vec::new())?;
                out.write_all(data)?;
                let (out, result) = out.finish();
                result.map(|()| out)
            }
            Self::Zstd => zstd::bulk::compress(data, level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL)),
        }
    }

    /// Unpacks `data`, refusing more than `limit` bytes.
    ///
    /// # Errors
    /// `InvalidData` when the bytes are not of this codec or unpack to more than `limit`.
    pub fn decompress(self, data: &Bytes, limit: usize) -> io::Result<Bytes> {
        match self {
            Self::None if data.len() > limit => Err(too_large(limit)),
            Self::None => Ok(data.clone()),
            Self::Gzip => read_bounded(flate2::read::MultiGzDecoder::new(&data[..]), limit),
            Self::Snappy => snappy(data, limit),
            Self::Lz4 => read_bounded(lz4::Decoder::new(&data[..])?, limit),
            Self::Zstd => read_bounded(zstd::stream::read::Decoder::with_buffer(&data[..])?, limit),
        }
    }
}

fn too_large(limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unpacks to more than {limit} bytes"))
}

fn read_bounded(from: impl Read, limit: usize) -> io::Result<Bytes> {
    let mut out = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut out)?;
    if out.len() > limit { Err(too_large(limit)) } else { Ok(out.into()) }
}

fn snappy(data: &[u8], limit: usize) -> io::Result<Bytes> {
    let mut out = Vec::new();
    if !data.starts_with(&XERIAL_MAGIC) {
        snappy_block(data, limit, &mut out)?;
        return Ok(out.into());
    }
    let mut rest = data.get(XERIAL_HEADER_LEN..).ok_or(io::ErrorKind::UnexpectedEof)?;
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (block, after) = after
            .split_at_checked(u32::from_be_bytes(*len) as usize)
            .ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        snappy_block(block, limit, &mut out)?;
        rest = after;
    }
    if rest.is_empty() { Ok(out.into()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn snappy_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let invalid = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    let len = snap::raw::decompress_len(block).map_err(invalid)?;
    // Snappy cannot shrink below 1/64: a larger claim is a lie, refused before it is allocated.
    if out.len().saturating_add(len) > limit || len / 64 > block.len() {
        return Err(too_large(limit));
    }
    let start = out.len();
    out.resize(start + len, 0);
    let written = snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(invalid)?;
    out.truncate(start + written);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bombs_are_refused() {
        let zeros = vec![0; 1 << 20];
        for codec in Compression::ALL {
            let packed = Bytes::from(codec.compress(&zeros).expect("packs"));
            assert!(codec.decompress(&packed, 1 << 16).is_err(), "{codec:?}");
            assert_eq!(codec.decompress(&packed, 1 << 20).expect("fits").len(), 1 << 20, "{codec:?}");
        }
    }

    #[test]
    fn every_level_of_kafka_is_taken() {
        let data: Vec<u8> = (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for (codec, levels) in
            [(Compression::Gzip, [1, 9]), (Compression::Lz4, [1, 17]), (Compression::Zstd, [-131_072, 22])]
        {
            let sizes = levels.map(|level| {
                let packed = Bytes::from(codec.compress_at(&data, Some(level)).expect("packs"));
                assert_eq!(codec.decompress(&packed, data.len()).expect("unpacks"), data, "{codec:?} at {level}");
                packed.len()
            });
            assert!(sizes[1] < sizes[0], "{codec:?}: {sizes:?}");
        }
    }

    #[test]
    fn lz4_blocks_are_independent() {
        let packed = Compression::Lz4.compress(&[7; 200_000]).expect("packs");
        // FLG: version 01, block independence, no checksums (LZ4 frame format, 3.1.1).
        assert_eq!(packed[4] & 0b1111_1100 & !0b0000_1000, 0b0110_0000, "{:#010b}", packed[4]);
    }

    proptest! {
        #[test]
        fn round_trips(data in proptest::collection::vec(any::<u8>(), 0..100_000)) {
            for codec in Compression::ALL {
                let packed = Bytes::from(codec.compress(&data).expect("packs"));
                prop_assert_eq!(&codec.decompress(&packed, data.len()).expect("unpacks")[..], &data[..]);
            }
        }

        #[test]
        fn hostile_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for codec in Compression::ALL {
                let _ = codec.decompress(&Bytes::from(data.clone()), 1 << 16);
            }
        }
    }
}

//! What a target is, and all there are.

/// Bytes that any input may cost beyond [`FACTOR`] times its own.
pub(crate) const SLACK: usize = 1 << 20;
/// Bytes that each byte of input may cost.
pub(crate) const FACTOR: usize = 64;

/// A decoder, or several of one format.
pub(crate) struct Target {
    /// Also its file in `corpus/`.
    pub(crate) name: &'static str,
    /// Decodes; every result is right, as long as it returns one.
    pub(crate) run: fn(&[u8]),
    /// Sound inputs.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// Makes checksums right again, so that what lies behind them is reached.
    pub(crate) mend: fn(&mut Vec<u8>),
    /// Bytes beyond [`SLACK`] that it may allocate, and why is said where it is set.
    pub(crate) extra: usize,
}

impl Target {
    /// A format without checksums.
    pub(crate) const fn new(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Self {
        Self { name, run, seeds, mend: |_| (), extra: 0 }
    }

    /// With checksums.
    pub(crate) const fn mended(self, mend: fn(&mut Vec<u8>)) -> Self {
        Self { mend, ..self }
    }

    /// With more memory.
    pub(crate) const fn extra(self, extra: usize) -> Self {
        Self { extra, ..self }
    }

    /// What an input of `len` bytes may allocate.
    pub(crate) fn allowed(&self, len: usize) -> usize {
        len * FACTOR + SLACK + self.extra
    }
}

/// Every target.
pub(crate) fn all() -> Vec<Target> {
    let lists = [
        super::batches::targets(),
        super::requests::targets(),
        super::answers::targets(),
        super::files::targets(),
        super::shard_dir::targets(),
        super::bucket::targets(),
        super::broker::targets(),
        super::peers::targets(),
        super::table::targets(),
        super::settings::targets(),
        super::values::targets(),
        super::schemas::targets(),
    ];
    lists.into_iter().flatten().collect()
}

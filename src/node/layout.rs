//! Which shard directories are in use, and whether all of them are present.
//!
//! Owns: their names, making the first ones, refusing a `node.json` that does not match the directories, removing those
//! that are no longer in use. Does not own: the node's identity (`identity`), moving lanes to other shards (`reshard`).
//!
//! **Crash behaviour.** A first start makes empty shard directories, then `node.json`, then their content; after a
//! crash before `node.json` the next start is a first start again. The shards of a new layout are complete before
//! `node.json` names the layout. The shards of an old layout are renamed, durably, before anything in them is removed.
//! So after any crash the shards in use are present and complete. If one is not, something else removed it: the start
//! is refused, and nothing is created in its place.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::error::StartError;
use super::identity::{DataDir, FILE, Identity};

/// Prefix of a shard's directory that is being removed.
const REMOVED: &str = "removed-";
/// The directory of segment files, of all shards.
const SEGMENTS: &str = "p";

fn shard_name(layout: u32, shard: u16) -> String {
    if layout == 0 { format!("shard-{shard}") } else { format!("shard-{shard}.{layout}") }
}

/// The layout of a shard's directory; `None` for any other name.
fn layout_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("shard-")?;
    let (shard, layout) = rest.split_once('.').unwrap_or((rest, "0"));
    let (shard, layout) = (shard.parse::<u16>().ok()?, layout.parse::<u32>().ok()?);
    (shard_name(layout, shard) == name).then_some(layout)
}

/// Whether a shard's directory has a checkpoint and a journal.
fn parts(dir: &Path) -> (bool, bool) {
    let there = |name: &str| dir.join(name).exists();
    (there("checkpoint.0") || there("checkpoint.1"), there("journal"))
}

impl DataDir {
    /// The directory of one shard in a layout: `shard-0` in the first, `shard-0.1` in the next.
    #[must_use]
    pub fn shard(&self, layout: u32, shard: u16) -> PathBuf {
        self.path.join(shard_name(layout, shard))
    }

    /// Makes the empty shard directories of a first start, before `node.json`.
    ///
    /// # Errors
    /// The disk refuses, or there is data here already: without `node.json` it is not known which shards are in use.
    pub fn make_first(&self, shards: u16) -> Result<(), StartError> {
        let mut held: Vec<String> = self.entries()?.into_iter().filter(|name| self.is_held(name)).collect();
        if !held.is_empty() {
            held.sort();
            return Err(self.bad(format!(
                "{FILE} is missing, and there is data here ({}); nothing was changed. Put back its {FILE} as it was after \
                 the last change of --shards, or choose another directory with --data-dir",
                held.join(", ")
            )));
        }
        for n in 0..shards {
            match fs::create_dir(self.shard(0, n)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(self.bad(error.to_string())),
                _ => {}
            }
        }
        self.sync()
    }

    /// Checks that all shards in use are present; to be called before anything is made or removed.
    ///
    /// # Errors
    /// One is missing or, once all have been opened, empty.
    pub fn check_shards(&self, identity: &Identity) -> Result<(), StartError> {
        let dirs = (0..identity.shards).map(|n| self.shard(identity.layout, n));
        let name = |dir: PathBuf| dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let (there, missing): (Vec<_>, Vec<_>) = dirs.partition(|dir| dir.is_dir());
        if !missing.is_empty() {
            let missing: Vec<String> = missing.into_iter().map(name).collect();
            let mut others = self.entries()?;
            others.retain(|entry| layout_of(entry).is_some());
            others.sort();
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            return Err(self.bad(format!(
                "{FILE} counts {} shards, and of their directories {} is missing (there: {others}); nothing was changed. Put \
                 back the directory, or, if {FILE} is an old copy, the one written at the last change of --shards",
                identity.shards,
                missing.join(", ")
            )));
        }
        let begun = identity.begun || identity.layout > 0;
        let hollow = there.into_iter().filter(|dir| begun && parts(dir) != (true, true));
        let hollow: Vec<String> = hollow.map(name).collect();
        if hollow.is_empty() {
            return Ok(());
        }
        Err(self.bad(format!(
            "{} has lost its checkpoint or its journal; nothing was changed. Put the directory's files back (is its file \
             system mounted?), or start with a fresh data directory",
            hollow.join(", ")
        )))
    }

    /// Removes the shards of other layouts: drained ones, and ones that a crash left incomplete.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn remove_other_layouts(&self, layout: u32) -> Result<(), StartError> {
        let bad = |e: io::Error| self.bad(e.to_string());
        for name in self.entries()? {
            if layout_of(&name).is_some_and(|of| of != layout) {
                let to = self.path.join(format!("{REMOVED}{name}"));
                if to.exists() {
                    fs::remove_dir_all(&to).map_err(bad)?;
                }
                fs::rename(self.path.join(&name), to).map_err(bad)?;
                tracing::info!(dir = name, "removing the directory of a layout that is no longer in use");
            }
        }
        let mut gone = self.entries()?;
        gone.retain(|name| name.strip_prefix(REMOVED).and_then(layout_of).is_some());
        if !gone.is_empty() {
            self.sync()?;
        }
        gone.iter().try_for_each(|name| fs::remove_dir_all(self.path.join(name))).map_err(bad)
    }

    /// Whether this entry has data of shards or segments.
    fn is_held(&self, name: &str) -> bool {
        name == SEGMENTS || layout_of(name).is_some() && parts(&self.path.join(name)) != (false, false)
    }

    fn entries(&self) -> Result<Vec<String>, StartError> {
        let list = || -> io::Result<Vec<String>> {
            let names = fs::read_dir(&self.path)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
            Ok(names.collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
        };
        list().map_err(|e| self.bad(e.to_string()))
    }

    fn sync(&self) -> Result<(), StartError> {
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(|e| self.bad(e.to_string()))
    }

    fn bad(&self, why: String) -> StartError {
        StartError::DataDir { path: self.path.clone(), why }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn locked() -> (tempfile::TempDir, DataDir) {
        let dir = tempfile::tempdir().expect("tempdir");
        let data = DataDir::lock(dir.path()).expect("locks");
        (dir, data)
    }

    /// Gives `dir` the content of an opened shard.
    fn fill(dir: &Path) {
        fs::create_dir_all(dir.join("journal")).expect("made");
        fs::write(dir.join("checkpoint.0"), b"x").expect("writes");
    }

    fn node(shards: u16, layout: u32, begun: bool) -> Identity {
        Identity { layout, begun, ..Identity::newborn(Uuid::from_u128(7), "tidewater", shards) }
    }

    fn refused(done: Result<(), StartError>) -> String {
        done.expect_err("is refused").to_string()
    }

    #[test]
    fn only_shards_of_other_layouts_are_removed() {
        let (dir, data) = locked();
        let others =
            ["shard-0", "shard-11", "shard-1.2", "shard-01", "shard-0.0", "shard-x", "p", "cache", "shard-0.3"];
        for name in others.into_iter().chain(["removed-shard-0", "removed-shard-9.1", "removed-x"]) {
            fs::create_dir(dir.path().join(name)).expect("made");
        }
        fill(&dir.path().join("removed-shard-0"));
        assert_eq!(data.shard(3, 0), dir.path().join("shard-0.3"));
        data.remove_other_layouts(3).expect("removes");
        let mut left = data.entries().expect("lists");
        left.sort();
        assert_eq!(left, ["cache", "lock", "p", "removed-x", "shard-0.0", "shard-0.3", "shard-01", "shard-x"]);
    }

    #[test]
    fn a_first_start_does_not_overwrite_data() {
        for held in ["shard-0.1", "shard-3"] {
            let (dir, data) = locked();
            fill(&dir.path().join(held));
            let why = refused(data.make_first(2));
            assert!(why.contains(held) && why.contains("node.json is missing"), "{why}");
            assert!(!dir.path().join("shard-1").exists());
        }
        let (dir, data) = locked();
        fs::create_dir(dir.path().join("p")).expect("made");
        assert!(refused(data.make_first(2)).contains("(p)"));
    }

    #[test]
    fn a_first_start_may_be_cut_short_anywhere() {
        let (_dir, data) = locked();
        data.make_first(3).expect("makes");
        // Before node.json: a first start again, also with another number.
        data.make_first(2).expect("makes again");
        data.check_shards(&node(2, 0, false)).expect("all there");
        // One shard was opened, the other not.
        fill(&data.shard(0, 1));
        data.check_shards(&node(2, 0, false)).expect("goes on");
        fill(&data.shard(0, 0));
        data.check_shards(&node(2, 0, true)).expect("all whole");
    }

    #[test]
    fn shards_in_use_must_all_be_there() {
        let (dir, data) = locked();
        (0..2).for_each(|n| fill(&data.shard(1, n)));
        data.check_shards(&node(2, 1, true)).expect("all whole");
        // A node.json from before the change: its shards are removed.
        let why = refused(data.check_shards(&node(1, 0, true)));
        assert!(why.contains("shard-0 is missing (there: shard-0.1, shard-1.1)"), "{why}");
        // One of several.
        fs::rename(data.shard(1, 1), dir.path().join("elsewhere")).expect("moves");
        let why = refused(data.check_shards(&node(2, 1, true)));
        assert!(why.contains("shard-1.1 is missing (there: shard-0.1)"), "{why}");
        // Or only its contents.
        fs::create_dir(data.shard(1, 1)).expect("made");
        assert!(refused(data.check_shards(&node(2, 1, false))).contains("shard-1.1 has lost"));
    }

    #[test]
    fn an_opened_shard_of_the_first_layout_may_not_be_empty() {
        let (_dir, data) = locked();
        data.make_first(2).expect("makes");
        fill(&data.shard(0, 0));
        assert!(refused(data.check_shards(&node(2, 0, true))).contains("shard-1 has lost"));
    }
}

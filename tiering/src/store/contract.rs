//! The suite that every store must pass: what the trait's contract says, one check each.
//!
//! Driven by any executor; keys lie under a prefix of the caller's choice, which must be empty.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;

use super::{ETag, ObjectKey, ObjectStore, PutMode, StoreError};

/// A rule that a store broke.
#[derive(Debug, thiserror::Error)]
#[error("store contract: {0}")]
pub struct Broken(String);

type Check = Result<(), Broken>;

fn broken<T>(what: impl Into<String>) -> Result<T, Broken> {
    Err(Broken(what.into()))
}

fn broken_by(error: impl std::fmt::Display) -> Broken {
    Broken(error.to_string())
}

/// Runs every check below `prefix` (no slash at its end).
///
/// # Errors
/// The first rule that is broken.
pub async fn check(store: &Arc<dyn ObjectStore>, prefix: &str) -> Check {
    conditions(&**store, prefix).await?;
    ranges(&**store, prefix).await?;
    changes(&**store, prefix).await?;
    listing(&**store, prefix).await?;
    deleting(&**store, prefix).await?;
    large(&**store, prefix).await?;
    racing_creates(store, prefix).await?;
    racing_increments(store, prefix).await
}

fn key(prefix: &str, name: &str) -> Result<ObjectKey, Broken> {
    ObjectKey::new(&format!("{prefix}/{name}")).map_err(broken_by)
}

async fn conditions(store: &dyn ObjectStore, prefix: &str) -> Check {
    let at = key(prefix, "conditions")?;
    let put = |body: &'static str, mode| store.put(&at, Bytes::from_static(body.as_bytes()), mode);
    if !matches!(put("x", PutMode::IfMatch(ETag("none".into()))).await, Err(StoreError::Taken { .. })) {
        return broken("put-if-match on an absent key must answer Taken");
    }
    let first = put("one", PutMode::IfAbsent).await.map_err(broken_by)?.etag;
    if !matches!(put("two", PutMode::IfAbsent).await, Err(StoreError::Taken { .. })) {
        return broken("a second put-if-absent must answer Taken");
    }
    let second = put("two", PutMode::IfMatch(first.clone())).await.map_err(broken_by)?.etag;
    if first == second {
        return broken("a write must change the version");
    }
    if !matches!(put("three", PutMode::IfMatch(first)).await, Err(StoreError::Taken { .. })) {
        return broken("a stale put-if-match must answer Taken");
    }
    let got = store.get(&at, None).await.map_err(broken_by)?;
    if got.body.as_ref() != b"two" || got.etag != second || got.size != 3 {
        return broken("get must bring what was put last, and its version");
    }
    let third = put("four", PutMode::Overwrite).await.map_err(broken_by)?.etag;
    let head = store.head(&at).await.map_err(broken_by)?;
    if head.etag != third || head.size != 4 || third == second {
        return broken("head must give size and version of what was put last");
    }
    Ok(())
}

async fn ranges(store: &dyn ObjectStore, prefix: &str) -> Check {
    let at = key(prefix, "ranges")?;
    store.put(&at, Bytes::from_static(b"0123456789"), PutMode::Overwrite).await.map_err(broken_by)?;
    for (range, expected) in [(0..10, "0123456789"), (3..4, "3"), (4..7, "456"), (8..100, "89")] {
        let got = store.get(&at, Some(range.clone())).await.map_err(broken_by)?;
        if got.body.as_ref() != expected.as_bytes() || got.size != 10 {
            return broken(format!("range {range:?} brought {:?} of {}", got.body, got.size));
        }
    }
    for range in [10..11, 50..60, 5..5] {
        if !matches!(store.get(&at, Some(range.clone())).await, Err(StoreError::Range { .. })) {
            return broken(format!("range {range:?} of 10 bytes must answer Range"));
        }
    }
    let absent = key(prefix, "absent")?;
    let nothing = [
        store.get(&absent, None).await.err(),
        store.get(&absent, Some(0..1)).await.err(),
        store.head(&absent).await.err(),
    ];
    if !nothing.iter().all(|error| matches!(error, Some(StoreError::NotFound { .. }))) {
        return broken(format!("get and head of an absent key must answer NotFound, not {nothing:?}"));
    }
    let empty = key(prefix, "empty")?;
    store.put(&empty, Bytes::new(), PutMode::Overwrite).await.map_err(broken_by)?;
    let got = store.get(&empty, None).await.map_err(broken_by)?;
    if got.body.is_empty() { Ok(()) } else { broken("an empty object must come back empty") }
}

async fn changes(store: &dyn ObjectStore, prefix: &str) -> Check {
    let at = key(prefix, "changes")?;
    let first = store.put(&at, Bytes::from_static(b"a"), PutMode::Overwrite).await.map_err(broken_by)?.etag;
    if store.get_if_changed(&at, &first).await.map_err(broken_by)?.is_some() {
        return broken("get_if_changed must answer nothing while nothing changed");
    }
    let second =
        store.put(&at, Bytes::from_static(b"b"), PutMode::IfMatch(first.clone())).await.map_err(broken_by)?.etag;
    match store.get_if_changed(&at, &first).await.map_err(broken_by)? {
        Some(got) if got.body.as_ref() == b"b" && got.etag == second => Ok(()),
        _ => broken("get_if_changed must bring what changed"),
    }
}

async fn listing(store: &dyn ObjectStore, prefix: &str) -> Check {
    let names = ["list/a/a", "list/a/b", "list/b/1", "list/b/2", "list/b/3", "listing"];
    for name in &names {
        store.put(&key(prefix, name)?, Bytes::from_static(b"12"), PutMode::Overwrite).await.map_err(broken_by)?;
    }
    let list = async |under: &str, after: Option<String>, max| {
        let found = store.list(&format!("{prefix}/{under}"), after.as_deref(), max).await.map_err(broken_by)?;
        let short =
            found.into_iter().map(|one| one.key.as_str().strip_prefix(prefix).unwrap_or_default()[1..].to_owned());
        Ok::<Vec<String>, Broken>(short.collect())
    };
    if list("list/", None, 100).await? != names.iter().filter(|n| n.starts_with("list/")).copied().collect::<Vec<_>>() {
        return broken(format!("list must bring keys of a prefix in order: {:?}", list("list/", None, 100).await?));
    }
    if list("list", None, 100).await?.len() != 6 || list("list/b/", None, 2).await? != ["list/b/1", "list/b/2"] {
        return broken("list must honour any prefix, and its maximum");
    }
    let (mut seen, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let page = list("list/", after.clone(), 2).await?;
        after = page.last().map(|last| format!("{prefix}/{last}"));
        let full = page.len() == 2;
        seen.extend(page);
        if !full {
            break;
        }
    }
    if seen.len() != 5 {
        return broken(format!("pages must bring every key once, not {seen:?}"));
    }
    if list("nothing/", None, 10).await?.is_empty() { Ok(()) } else { broken("an unused prefix lists nothing") }
}

/// Keys of which one's segment continues the other's with a character below `/` sort by bytes, not by folder. Apart
/// from [`check`], because SeaweedFS 4.48 sorts (and pages) these by folder; the layout of `keys.rs` has none.
///
/// # Errors
/// That the order is another.
pub async fn check_order(store: &dyn ObjectStore, prefix: &str) -> Check {
    for name in ["order/a-b/c", "order/a/b"] {
        store.put(&key(prefix, name)?, Bytes::from_static(b"12"), PutMode::Overwrite).await.map_err(broken_by)?;
    }
    let first = store.list(&format!("{prefix}/order/"), None, 1).await.map_err(broken_by)?;
    let after = first.first().map(|one| one.key.to_string());
    let second = store.list(&format!("{prefix}/order/"), after.as_deref(), 1).await.map_err(broken_by)?;
    let ends = |page: &[super::Listed], name: &str| page.first().is_some_and(|one| one.key.as_str().ends_with(name));
    if ends(&first, "a-b/c") && ends(&second, "a/b") { Ok(()) } else { broken("keys must sort by their bytes") }
}

async fn deleting(store: &dyn ObjectStore, prefix: &str) -> Check {
    let (one, two) = (key(prefix, "delete/one")?, key(prefix, "delete/two")?);
    store.put(&one, Bytes::from_static(b"1"), PutMode::Overwrite).await.map_err(broken_by)?;
    store.delete(vec![one.clone(), two]).await.map_err(broken_by)?;
    if !matches!(store.head(&one).await, Err(StoreError::NotFound { .. })) {
        return broken("a deleted object must be gone");
    }
    store.delete(vec![one.clone()]).await.map_err(broken_by)?;
    store.delete(Vec::new()).await.map_err(broken_by)?;
    let old = store.put(&one, Bytes::from_static(b"1"), PutMode::Overwrite).await.map_err(broken_by)?.etag;
    let new = store.put(&one, Bytes::from_static(b"22"), PutMode::Overwrite).await.map_err(broken_by)?.etag;
    if !matches!(store.delete_if(&one, &old).await, Err(StoreError::Taken { .. })) {
        return broken("delete-if of an older version must answer Taken");
    }
    for _ in 0..2 {
        store.delete_if(&one, &new).await.map_err(broken_by)?;
    }
    store.put(&one, Bytes::from_static(b"2"), PutMode::IfAbsent).await.map_err(broken_by)?;
    Ok(())
}

async fn large(store: &dyn ObjectStore, prefix: &str) -> Check {
    const PIECE: usize = 3 << 20;
    const PIECES: usize = 7;
    let at = key(prefix, "large")?;
    let pieces =
        || futures::stream::iter((0..PIECES).map(|n| Ok(Bytes::from(vec![u8::try_from(n).unwrap_or(0); PIECE]))));
    store.put_large(&at, (PIECE * PIECES) as u64, pieces().boxed()).await.map_err(broken_by)?;
    let middle = (PIECE * 3) as u64 - 1..(PIECE * 3) as u64 + 1;
    let got = store.get(&at, Some(middle)).await.map_err(broken_by)?;
    if got.body.as_ref() != [2, 3] || got.size != (PIECE * PIECES) as u64 {
        return broken("a large put must bring its pieces in order");
    }
    let short = key(prefix, "short")?;
    if store.put_large(&short, 1, pieces().boxed()).await.is_ok() || store.head(&short).await.is_ok() {
        return broken("a large put of another size than announced must fail and leave nothing");
    }
    Ok(())
}

async fn racing_creates(store: &Arc<dyn ObjectStore>, prefix: &str) -> Check {
    for round in 0..4 {
        let at = key(prefix, &format!("race/{round}"))?;
        let racers = (0..16u8).map(|n| {
            let (store, at) = (Arc::clone(store), at.clone());
            async move { store.put(&at, Bytes::from(vec![n; 100]), PutMode::IfAbsent).await.is_ok().then_some(n) }
        });
        let winners: Vec<u8> = join_all(racers).await.into_iter().flatten().collect();
        let got = store.get(&at, None).await.map_err(broken_by)?;
        if winners.len() != 1 || got.body.first() != winners.first() {
            return broken(format!("16 racing creates must have one winner, whose bytes stay; won: {winners:?}"));
        }
    }
    Ok(())
}

async fn racing_increments(store: &Arc<dyn ObjectStore>, prefix: &str) -> Check {
    let at = key(prefix, "counter")?;
    store.put(&at, Bytes::from_static(b"0"), PutMode::Overwrite).await.map_err(broken_by)?;
    let count = |body: &[u8]| std::str::from_utf8(body).ok().and_then(|text| text.parse::<u64>().ok());
    let racers = (0..8).map(|_| {
        let (store, at) = (Arc::clone(store), at.clone());
        async move {
            let mut done = 0;
            while done < 10 {
                let got = store.get(&at, None).await.map_err(broken_by)?;
                let next = count(&got.body).ok_or_else(|| broken_by("counter is damaged"))? + 1;
                match store.put(&at, Bytes::from(next.to_string()), PutMode::IfMatch(got.etag)).await {
                    Ok(_) => done += 1,
                    Err(StoreError::Taken { .. }) => {}
                    Err(error) => return Err(broken_by(error)),
                }
            }
            Ok(())
        }
    });
    join_all(racers).await.into_iter().collect::<Check>()?;
    let got = store.get(&at, None).await.map_err(broken_by)?;
    if count(&got.body) == Some(80) { Ok(()) } else { broken(format!("80 increments gave {:?}", got.body)) }
}

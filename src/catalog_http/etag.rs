//! ETags of tables: a metadata file is written once, so its URI is the version.

use axum::http::HeaderMap;
use axum::http::header::IF_NONE_MATCH;

/// The tag of the table whose metadata is at `location`; an answer without some snapshots is another.
pub(super) fn of(location: &str, refs_alone: bool) -> String {
    let mut tag = String::with_capacity(location.len() + 8);
    tag.push('"');
    for byte in location.bytes() {
        match byte {
            b'%' | b'"' | b',' | b'\\' => tag.push_str(&format!("%{byte:02X}")),
            byte if byte.is_ascii_graphic() => tag.push(char::from(byte)),
            byte => tag.push_str(&format!("%{byte:02X}")),
        }
    }
    tag.push_str(if refs_alone { ",refs\"" } else { "\"" });
    tag
}

/// Does the client say that it has this version?
pub(super) fn is_known(headers: &HeaderMap, location: &str, refs_alone: bool) -> bool {
    let tag = of(location, refs_alone);
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        // Ours have one comma at most, before `refs`, and no quote inside.
        value.match_indices(&tag).next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_known_by_its_own_tag_alone() {
        let (one, other) = ("s3://b/t/metadata/00001-\u{e4},\"x\".json", "s3://b/t/metadata/00002.json");
        assert_eq!(of(other, false), format!("\"{other}\""));
        assert!(of(one, true).is_ascii());
        let headers = |value: String| HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().expect("legal"))]);
        for refs in [false, true] {
            for sent in [of(one, refs), format!("W/{}", of(one, refs)), format!("\"a\", {}", of(one, refs))] {
                let headers = headers(sent);
                assert!(is_known(&headers, one, refs));
                assert!(!is_known(&headers, one, !refs) && !is_known(&headers, other, refs));
            }
        }
        assert!(!is_known(&HeaderMap::new(), one, false));
    }
}

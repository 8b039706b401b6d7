//! ETags of tables: a metadata file is written once, so its URI is the version.

use axum::http::HeaderMap;
use axum::http::header::IF_NONE_MATCH;

/// Which answer to a load it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Form {
    /// Without the snapshots that no branch or tag points to.
    pub(super) refs_alone: bool,
    /// With the configuration that turns a client to signatures.
    pub(super) signing: bool,
}

/// The tag of the table whose metadata is at `location`, in this form.
pub(super) fn of(location: &str, form: Form) -> String {
    let mut tag = String::with_capacity(location.len() + 8);
    tag.push('"');
    for byte in location.bytes() {
        match byte {
            b'%' | b'"' | b',' | b'\\' => tag.push_str(&format!("%{byte:02X}")),
            byte if byte.is_ascii_graphic() => tag.push(char::from(byte)),
            byte => tag.push_str(&format!("%{byte:02X}")),
        }
    }
    tag.push_str(match (form.refs_alone, form.signing) {
        (false, false) => "\"",
        (true, false) => ",refs\"",
        (false, true) => ",sign\"",
        (true, true) => ",refs-sign\"",
    });
    tag
}

/// Does the client say that it has this version?
pub(super) fn is_known(headers: &HeaderMap, location: &str, form: Form) -> bool {
    let tag = of(location, form);
    headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        // Ours have one comma at most, before the form, and no quote inside.
        value.match_indices(&tag).next().is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_known_by_its_own_tag_alone() {
        let (one, other) = ("s3://b/t/metadata/00001-\u{e4},\"x\".json", "s3://b/t/metadata/00002.json");
        assert_eq!(of(other, Form::default()), format!("\"{other}\""));
        let forms = [(false, false), (true, false), (false, true), (true, true)]
            .map(|(refs_alone, signing)| Form { refs_alone, signing });
        assert!(forms.iter().all(|form| of(one, *form).is_ascii()));
        let headers = |value: String| HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().expect("legal"))]);
        for form in forms {
            for sent in [of(one, form), format!("W/{}", of(one, form)), format!("\"a\", {}", of(one, form))] {
                let headers = headers(sent);
                assert_eq!(forms.map(|asked| is_known(&headers, one, asked)), forms.map(|asked| asked == form));
                assert!(!is_known(&headers, other, form));
            }
            assert!(!is_known(&HeaderMap::new(), one, form));
        }
    }
}

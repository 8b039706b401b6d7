//! Members of metadata that would be lost: what another writer's file has and this version's types do not keep.
//!
//! A commit reads a metadata file into types and writes it again. A member that the types do not know (of a newer
//! format, of another catalog) would be gone, so a commit on such a file is refused. A load hands the file out as it
//! is.

use std::collections::BTreeSet;

use serde_json::Value;

/// Members named in an error at most.
const NAMED_MAX: usize = 10;

/// Paths of members of `file` that `kept` lacks, at most [`NAMED_MAX`]; `[]` stands for any item of a list. What is
/// null or empty is no loss.
pub(super) fn lost(file: &Value, kept: &Value) -> Vec<String> {
    let (mut all, mut known) = (BTreeSet::new(), BTreeSet::new());
    paths(file, &mut String::new(), &mut all);
    paths(kept, &mut String::new(), &mut known);
    // A member that is lost with all that is in it is named once.
    let mut named: Vec<String> = Vec::new();
    for path in all.difference(&known) {
        let inside =
            |outer: &String| path.strip_prefix(outer.as_str()).is_some_and(|rest| rest.starts_with(['.', '[']));
        if named.len() < NAMED_MAX && !named.last().is_some_and(inside) {
            named.push(path.clone());
        }
    }
    named
}

fn paths(value: &Value, at: &mut String, out: &mut BTreeSet<String>) {
    let length = at.len();
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                if !is_empty(member) {
                    if length > 0 {
                        at.push('.');
                    }
                    at.push_str(name);
                    if !out.contains(at.as_str()) {
                        out.insert(at.clone());
                    }
                    paths(member, at, out);
                    at.truncate(length);
                }
            }
        }
        Value::Array(items) => {
            at.push_str("[]");
            for item in items {
                paths(item, at, out);
            }
            at.truncate(length);
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_lost_is_named_by_its_path_once() {
        let kept = json!({"a": 1, "list": [{"x": 1}, {"x": 2, "y": {"z": 1}}]});
        assert_eq!(lost(&kept, &kept), Vec::<String>::new());
        let mut file = kept.clone();
        file["new"] = json!({"b": 1, "c": [1]});
        file["list"][0]["w"] = json!(1);
        file["list"][1]["y"]["v"] = json!("v");
        file["nothing"] = json!(null);
        file["none"] = json!([]);
        assert_eq!(lost(&file, &kept), ["list[].w", "list[].y.v", "new"]);
        let many: Value = (0..100).map(|n| (format!("m{n}"), json!(1))).collect::<serde_json::Map<_, _>>().into();
        assert_eq!(lost(&many, &json!({})).len(), NAMED_MAX);
    }
}

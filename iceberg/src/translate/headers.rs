//! Headers as text, for tables whose system columns are no struct and no list (`iceberg.layout=flat`). Frozen:
//! FORMAT.md. Pure.
//!
//! JSON, one object a header, in their order: `[{"key":"trace","value":"abc"},{"key":"empty","value":null}]`. A value
//! that is not UTF-8, or has control characters, which JSON would write as six bytes each, is
//! `{"key":"id","base64":"AAEC"}`. A record without headers has `[]`.

use arrow::array::{Array, AsArray, ListArray, StringArray, StringBuilder};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

/// One header.
#[derive(Serialize)]
#[serde(untagged)]
enum Header<'a> {
    Text { key: &'a str, value: Option<&'a str> },
    Bytes { key: &'a str, base64: String },
}

impl<'a> Header<'a> {
    fn of(key: &'a str, value: Option<&'a [u8]>) -> Self {
        match value.map(std::str::from_utf8).transpose() {
            Ok(value) if !value.is_some_and(|text| text.contains(|c: char| c.is_ascii_control())) => {
                Self::Text { key, value }
            }
            _ => Self::Bytes { key, base64: STANDARD.encode(value.unwrap_or_default()) },
        }
    }
}

/// The text of each row's headers.
pub(super) fn as_text(headers: &ListArray) -> StringArray {
    let inside = headers.values().as_struct();
    let (keys, values) = (inside.column(0).as_string::<i32>(), inside.column(1).as_binary::<i64>());
    let mut text = StringBuilder::with_capacity(headers.len(), 2 * headers.len());
    for row in headers.value_offsets().windows(2) {
        let [from, to] = [row[0], row[1]].map(|at| at.unsigned_abs() as usize);
        let of_row = (from..to).map(|at| Header::of(keys.value(at), values.is_valid(at).then(|| values.value(at))));
        let of_row: Vec<Header<'_>> = of_row.collect();
        text.append_value(serde_json::to_string(&of_row).expect("texts are JSON"));
    }
    text.finish()
}

#[cfg(test)]
mod tests {
    use arrow::array::{LargeBinaryBuilder, ListBuilder, StructBuilder};

    use super::*;
    use crate::schema;

    #[test]
    fn each_header_is_an_object_and_bytes_that_are_no_text_are_base64() {
        let fields: [Box<dyn arrow::array::ArrayBuilder>; 2] =
            [Box::new(StringBuilder::new()), Box::new(LargeBinaryBuilder::new())];
        let header = StructBuilder::new(schema::header_fields(), fields.into());
        let mut list = ListBuilder::new(header).with_field(schema::header_element());
        list.append(true);
        let rows: [&[(&str, Option<&[u8]>)]; 2] = [
            &[("a", Some(b"x\"y")), ("a", None)],
            &[("raw", Some(&[0, 0xff])), ("control", Some(b"\x01")), ("empty", Some(b""))],
        ];
        for row in rows {
            for (key, value) in row {
                let header = list.values();
                header.field_builder::<StringBuilder>(0).expect("keys").append_value(key);
                header.field_builder::<LargeBinaryBuilder>(1).expect("values").append_option(*value);
                header.append(true);
            }
            list.append(true);
        }
        let text = as_text(&list.finish());
        let wanted = [
            "[]",
            r#"[{"key":"a","value":"x\"y"},{"key":"a","value":null}]"#,
            r#"[{"key":"raw","base64":"AP8="},{"key":"control","base64":"AQ=="},{"key":"empty","value":""}]"#,
        ];
        assert_eq!(text.iter().flatten().collect::<Vec<_>>(), wanted);
    }
}

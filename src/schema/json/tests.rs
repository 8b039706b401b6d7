//! Reading and printing JSON.

use proptest::prelude::*;

use super::*;

fn printed(text: &str) -> String {
    Json::parse(text).expect(text).to_string()
}

#[test]
fn order_and_digits_survive() {
    let text = r#"{"z":1,"a":[true,null,"x"],"big":123456789012345678901234567890}"#;
    assert_eq!(printed(text), text);
    assert_eq!(printed("{ \"a\" : 1 , \"b\":2, \"a\":3 }"), r#"{"a":3,"b":2}"#);
}

#[test]
fn numbers_print_as_java_prints_doubles() {
    for (read, wanted) in [
        ("1.0", "1.0"),
        ("1e3", "1000.0"),
        ("0.10", "0.1"),
        ("1e7", "1.0E7"),
        ("9999999.5", "9999999.5"),
        ("12345678.9", "1.23456789E7"),
        ("0.001", "0.001"),
        ("0.00012", "1.2E-4"),
        ("-2.5e-10", "-2.5E-10"),
        ("-0.0", "-0.0"),
        ("1.7976931348623157e308", "1.7976931348623157E308"),
        ("-0", "0"),
    ] {
        assert_eq!(printed(read), wanted, "{read}");
    }
}

#[test]
fn escapes_are_read_and_printed_as_jackson_prints_them() {
    let read = Json::parse(r#""\u00e9\ud83d\ude00\/\u001f\b\"""#).expect("reads");
    assert_eq!(read.as_str(), Some("é😀/\u{1f}\u{8}\""));
    assert_eq!(read.to_string(), "\"é😀/\\u001F\\b\\\"\"");
}

#[test]
fn bad_text_is_refused_with_its_place() {
    for bad in [
        "",
        "{",
        "[1,]",
        "{\"a\"}",
        "{\"a\":1,}",
        "01",
        "1.",
        "1e",
        "+1",
        "nul",
        "\"\\x\"",
        "\"\n\"",
        "\"\\ud800\"",
        "1 2",
        "{'a':1}",
        "1e999",
        "[",
        "\"",
        "-",
        "\u{feff}1",
    ] {
        assert!(Json::parse(bad).is_err(), "{bad:?}");
    }
    let deep = "[".repeat(JSON_DEPTH_MAX + 2);
    assert_eq!(Json::parse(&deep).map_err(|e| e.what), Err("values nest too deeply"));
}

proptest! {
    #[test]
    fn hostile_text_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = Json::parse_bytes(&bytes);
    }

    #[test]
    fn what_was_printed_reads_as_the_same(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
        let printed = Json::Float(value).to_string();
        prop_assert_eq!(Json::parse(&printed), Ok(Json::Float(value)), "{}", printed);
    }
}

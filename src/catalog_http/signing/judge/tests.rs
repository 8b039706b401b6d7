//! Requests that engines make, and those of an attacker who may use one table.

use std::collections::BTreeMap;

use super::*;

/// A bucket of a server that is not AWS.
fn own() -> BucketAddress {
    BucketAddress {
        bucket: "b".to_owned(),
        prefix: "lake/".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: "http://s3.test:8333".parse().expect("a URL"),
        by_path: true,
        by_host: false,
        aws: false,
    }
}

fn aws(region: &str) -> BucketAddress {
    let endpoint = format!("https://s3.{region}.amazonaws.com").parse().expect("a URL");
    BucketAddress { region: region.to_owned(), endpoint, by_host: true, aws: true, ..own() }
}

fn warehouse() -> Warehouse {
    Warehouse::new("s3://b/lake", "wh").expect("a warehouse")
}

/// One table that the caller may write, and one that it may read.
fn grants() -> Vec<Grant> {
    let grant = |folder: &str, writes| Grant { folder: folder.to_owned(), writes };
    vec![grant("wh/ns/t-1/", true), grant("wh/ns/read-1/", false)]
}

fn request(method: &str, uri: &str) -> SignRequest {
    let (method, uri) = (method.to_owned(), uri.to_owned());
    SignRequest { method, uri, headers: BTreeMap::new(), body: None, provider: None }
}

fn judged(asked: &SignRequest) -> Result<Permit, String> {
    may_sign(asked, &own(), &warehouse(), &grants()).map_err(|Refusal(why)| why)
}

/// A path of the bucket at the server's address.
fn at(rest: &str) -> String {
    format!("http://s3.test:8333/b{rest}")
}

const T: &str = "/lake/wh/ns/t-1";

#[test]
fn what_engines_ask_for_is_signed() {
    for (method, rest) in [
        ("GET", format!("{T}/metadata/1.metadata.json")),
        ("HEAD", format!("{T}/data/x.parquet")),
        ("GET", format!("{T}/data/x.parquet?x-id=GetObject")),
        ("GET", format!("{T}/data/x.parquet?versionId=abc%2F1&partNumber=2")),
        // A value of a partition that was encoded, and is encoded again as a part of a key.
        ("GET", format!("{T}/data/name=a%252Fb%20c/x.parquet")),
        ("GET", format!("{T}/data/ts=2025-01-01T00%3A00/x.parquet")),
        ("GET", format!("{T}/data/%C3%A4.parquet")),
        ("PUT", format!("{T}/data/x.parquet")),
        ("PUT", format!("{T}/data/x.parquet?partNumber=1&uploadId=a")),
        ("PUT", format!("{T}/data/x.parquet?x-id=UploadPart&uploadId=a&partNumber=1")),
        ("POST", format!("{T}/data/x.parquet?uploads")),
        ("POST", format!("{T}/data/x.parquet?uploads=")),
        ("POST", format!("{T}/data/x.parquet?uploadId=a")),
        ("DELETE", format!("{T}/data/x.parquet?uploadId=a")),
        ("DELETE", format!("{T}/data/x.parquet")),
        ("GET", "/lake/wh/ns/read-1/data/x".to_owned()),
        ("GET", "?list-type=2&prefix=lake%2Fwh%2Fns%2Ft-1%2F".to_owned()),
        ("GET", "/?list-type=2&prefix=lake/wh/ns/t-1/data/&delimiter=%2F&encoding-type=url&max-keys=10".to_owned()),
        ("GET", "?list-type=2&continuation-token=a%2B%2F%3D&prefix=lake%2Fwh%2Fns%2Fread-1%2Fda".to_owned()),
    ] {
        let permit = judged(&request(method, &at(&rest))).unwrap_or_else(|why| panic!("{method} {rest}: {why}"));
        assert_eq!((permit.request.method().as_str(), permit.request.uri().to_string()), (method, at(&rest)));
        assert_eq!(permit.sum, None);
        assert_eq!(
            permit.cacheable,
            matches!(method, "GET" | "HEAD") && !rest.contains("list-type"),
            "{method} {rest}"
        );
    }
}

#[test]
fn what_an_attacker_asks_for_is_refused() {
    for (method, rest, wanted) in [
        // Beside the table.
        ("GET", "/lake/wh/ns/t-2/data/x".to_owned(), "does not lie within"),
        ("GET", "/lake/wh/ns/t-10/data/x".to_owned(), "does not lie within"),
        ("GET", "/lake/wh/ns/t-1".to_owned(), "does not lie within"),
        ("GET", "/lake/wh/catalog/tables/ns/t.json".to_owned(), "does not lie within"),
        ("GET", "/lake/tidewater/root".to_owned(), "does not lie within"),
        ("GET", "/other/wh/ns/t-1/x".to_owned(), "does not lie within"),
        ("GET", "/wh/ns/t-1/x".to_owned(), "does not lie within"),
        ("GET", "/LAKE/wh/ns/t-1/x".to_owned(), "does not lie within"),
        // The folder itself, and what looks like it.
        ("GET", format!("{T}/"), "empty part"),
        ("GET", format!("{T}//x"), "empty part"),
        ("GET", format!("/{T}/x"), "empty part"),
        ("GET", format!("{T}/x/"), "empty part"),
        // Up and out.
        ("GET", format!("{T}/../t-2/x"), "normal form"),
        ("GET", format!("{T}/%2e%2e/t-2/x"), "normal form"),
        ("GET", format!("{T}/.%2E/t-2/x"), "normal form"),
        ("GET", format!("{T}/./x"), "normal form"),
        ("GET", format!("{T}/..%2ft-2/x"), "encoded slash"),
        ("GET", format!("{T}/..%2Ft-2/x"), "encoded slash"),
        ("GET", format!("{T}/..%5ct-2/x"), "encoded slash"),
        ("GET", format!("{T}/..\\t-2/x"), "normal form"),
        ("GET", format!("{T}%2Fx"), "encoded slash"),
        ("GET", format!("{T}/%252e%252e/t-2/x"), "one of dots"),
        ("GET", format!("{T}/..%252ft-2/x"), "one of dots"),
        ("GET", format!("{T}/a%252F..%252F..%252Ft-2/x"), "one of dots"),
        ("GET", format!("{T}/..%255ct-2/x"), "one of dots"),
        ("GET", format!("{T}/\t../x"), "normal form"),
        // Characters.
        ("GET", format!("{T}/a%00b"), "UTF-8"),
        ("GET", format!("{T}/a%0d%0ab"), "control character"),
        ("GET", format!("{T}/a%ffb"), "UTF-8"),
        ("GET", format!("{T}/a%zzb"), "UTF-8"),
        ("GET", format!("{T}/a%2"), "UTF-8"),
        ("GET", format!("{T}/\u{e4}"), "normal form"),
        ("GET", format!("{T}/a b"), "normal form"),
        ("GET", format!("{T}/x#y"), "normal form"),
        // Other buckets.
        ("GET", "2/lake/wh/ns/t-1/x".to_owned(), "not an address"),
        ("GET", "%2flake/wh/ns/t-1/x".to_owned(), "not an address"),
        // Parameters that make it another operation.
        ("GET", format!("{T}/x?acl"), "not a request"),
        ("GET", format!("{T}/x?tagging"), "not a request"),
        ("GET", format!("{T}/x?uploadId=a"), "not a request"),
        ("GET", format!("{T}/x?torrent"), "not a request"),
        ("GET", format!("{T}/x?list-type=2"), "not a request"),
        ("GET", format!("{T}/x?response-content-type=text%2Fhtml"), "not a request"),
        ("GET", format!("{T}/x?X-Amz-Expires=604800"), "not a request"),
        ("GET", format!("{T}/x?AWSAccessKeyId=key"), "not a request"),
        ("HEAD", format!("{T}/x?delete"), "not a request"),
        ("PUT", format!("{T}/x?acl"), "not a request"),
        ("PUT", format!("{T}/x?tagging"), "not a request"),
        ("PUT", format!("{T}/x?retention"), "not a request"),
        ("PUT", format!("{T}/x?uploadId=a"), "not a request"),
        ("POST", format!("{T}/x"), "not a request"),
        ("POST", format!("{T}/x?delete"), "not a request"),
        ("POST", format!("{T}/x?restore"), "not a request"),
        ("POST", format!("{T}/x?select&select-type=2"), "not a request"),
        ("POST", format!("{T}/x?uploads&uploadId=a"), "not a request"),
        ("DELETE", format!("{T}/x?versionId=a"), "not a request"),
        ("DELETE", format!("{T}/x?tagging"), "not a request"),
        ("PATCH", format!("{T}/x"), "not a request"),
        ("OPTIONS", format!("{T}/x"), "not a request"),
        ("get", format!("{T}/x"), "not a request"),
        ("GET /", format!("{T}/x"), "no method"),
        ("", format!("{T}/x"), "no method"),
        ("GET", format!("{T}/x?%61cl"), "encoded name"),
        ("GET", format!("{T}/x?versionId=a&versionId=b"), "one twice"),
        ("GET", format!("{T}/x?&acl"), "empty"),
        ("GET", format!("{T}/x?versionId=a;acl"), "two ways"),
        ("GET", format!("{T}/x?versionId=a+b"), "two ways"),
        // The bucket.
        ("GET", String::new(), "not a request"),
        ("GET", "/".to_owned(), "not a request"),
        ("HEAD", "/".to_owned(), "not a request"),
        ("PUT", "/".to_owned(), "not a request"),
        ("DELETE", "/".to_owned(), "not a request"),
        ("GET", "?policy".to_owned(), "not a request"),
        ("GET", "?versions&prefix=lake%2Fwh%2Fns%2Ft-1%2F".to_owned(), "not a request"),
        ("GET", "?uploads&prefix=lake%2Fwh%2Fns%2Ft-1%2F".to_owned(), "not a request"),
        ("GET", "?prefix=lake%2Fwh%2Fns%2Ft-1%2F".to_owned(), "not a request"),
        ("GET", "?list-type=1&prefix=lake%2Fwh%2Fns%2Ft-1%2F".to_owned(), "not a request"),
        ("GET", "?list-type=2".to_owned(), "empty part"),
        ("GET", "?list-type=2&prefix=".to_owned(), "empty part"),
        ("GET", "?list-type=2&prefix=lake%2F".to_owned(), "does not lie within"),
        ("GET", "?list-type=2&prefix=lake%2Fwh%2Fns%2Ft-1".to_owned(), "does not lie within"),
        ("GET", "?list-type=2&prefix=lake%2Fwh%2Fns%2Ft-2%2F".to_owned(), "does not lie within"),
        ("GET", "?list-type=2&prefix=wh%2Fns%2Ft-1%2F".to_owned(), "does not lie within"),
        ("GET", "?list-type=2&prefix=lake%2Fwh%2Fns%2Ft-1%2F..%2Ft-2%2F".to_owned(), "one of dots"),
        ("GET", "?list-type=2&prefix=lake%2Fwh%2Fns%2Ft-1%2F%2F".to_owned(), "empty part"),
        ("GET", "?list-type=2&prefix=lake%2Fwh%2Fns%2Ft-1%2F&prefix=lake%2F".to_owned(), "one twice"),
        ("GET", "?list-type=2&Prefix=lake%2Fwh%2Fns%2Ft-1%2F".to_owned(), "not a request"),
        ("GET", "?list-type=2&prefix=lake%2Fwh%2Fns%2Ft-1%2F&start-after=lake%2Fx".to_owned(), "not a request"),
        ("POST", "?delete".to_owned(), "only if it is sent here"),
        ("POST", "?delete&versionId=a".to_owned(), "not a request"),
        // A table that may be read.
        ("PUT", "/lake/wh/ns/read-1/data/x".to_owned(), "may not write"),
        ("DELETE", "/lake/wh/ns/read-1/data/x".to_owned(), "may not write"),
        ("POST", "/lake/wh/ns/read-1/data/x?uploads".to_owned(), "may not write"),
    ] {
        let why = judged(&request(method, &at(&rest))).err().unwrap_or_else(|| panic!("{method} {rest} is signed"));
        assert!(why.contains(wanted), "{method} {rest}: {why}");
    }
    let long = judged(&request("GET", &at(&format!("{T}/{}", "x".repeat(9000))))).expect_err("is refused");
    assert!(long.contains("characters"), "{long}");
}

#[test]
fn only_the_buckets_own_addresses_are_signed() {
    let rest = "lake/wh/ns/t-1/x";
    let (own, west, east) = (own(), aws("us-west-2"), aws("us-east-1"));
    let hosted = BucketAddress { by_path: false, by_host: true, ..own.clone() };
    let folded = BucketAddress { endpoint: "http://s3.test:8333/store/".parse().expect("a URL"), ..own.clone() };
    for (bucket, uri, signed) in [
        (&own, format!("http://s3.test:8333/b/{rest}"), true),
        // Such a server takes `lake` for the bucket.
        (&own, format!("http://b.s3.test:8333/{rest}"), false),
        (&own, format!("https://s3.test:8333/b/{rest}"), false),
        (&own, format!("http://s3.test/b/{rest}"), false),
        (&own, format!("http://s3.test:8334/b/{rest}"), false),
        (&own, format!("http://s3.test.evil:8333/b/{rest}"), false),
        (&own, format!("http://evils3.test:8333/b/{rest}"), false),
        (&own, format!("http://S3.test:8333/b/{rest}"), false),
        (&own, format!("http://s3.test.:8333/b/{rest}"), false),
        (&own, format!("http://key:secret@s3.test:8333/b/{rest}"), false),
        (&own, format!("http://s3.test:8333@evil/b/{rest}"), false),
        (&own, format!("http://evil/?http://s3.test:8333/b/{rest}"), false),
        (&own, format!("s3://b/{rest}"), false),
        (&own, format!("//s3.test:8333/b/{rest}"), false),
        (&own, format!("/b/{rest}"), false),
        (&own, String::new(), false),
        (&hosted, format!("http://b.s3.test:8333/{rest}"), true),
        (&hosted, format!("http://s3.test:8333/b/{rest}"), false),
        (&hosted, format!("http://c.s3.test:8333/{rest}"), false),
        (&folded, format!("http://s3.test:8333/store/b/{rest}"), true),
        (&folded, format!("http://s3.test:8333/b/{rest}"), false),
        (&folded, format!("http://s3.test:8333/stores/b/{rest}"), false),
        (&west, format!("https://s3.us-west-2.amazonaws.com/b/{rest}"), true),
        (&west, format!("https://b.s3.us-west-2.amazonaws.com/{rest}"), true),
        (&west, format!("https://b.s3.amazonaws.com/{rest}"), false),
        (&west, format!("https://c.s3.us-west-2.amazonaws.com/{rest}"), false),
        (&west, format!("https://a.b.s3.us-west-2.amazonaws.com/{rest}"), false),
        (&west, format!("https://b.s3.us-west-2.amazonaws.com:443/{rest}"), false),
        (&west, format!("http://b.s3.us-west-2.amazonaws.com/{rest}"), false),
        (&east, format!("https://b.s3.amazonaws.com/{rest}"), true),
        (&east, format!("https://s3.amazonaws.com/b/{rest}"), true),
    ] {
        let found = may_sign(&request("GET", &uri), bucket, &warehouse(), &grants());
        assert_eq!(found.is_ok(), signed, "{uri}: {found:?}");
    }
}

fn with_headers(method: &str, headers: &[(&str, &[&str])]) -> SignRequest {
    let owned = |(name, values): &(&str, &[&str])| {
        ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
    };
    SignRequest { headers: headers.iter().map(owned).collect(), ..request(method, &at(&format!("{T}/x"))) }
}

#[test]
fn headers_that_make_another_request_of_it_are_refused() {
    let sum = "07".repeat(32);
    let asked = with_headers(
        "PUT",
        &[
            ("Host", &["s3.test:8333"]),
            ("Content-Type", &["a/b"]),
            ("Range", &["bytes=0-1"]),
            ("User-Agent", &["x\r\ny"]),
            ("Authorization", &["AWS4-HMAC-SHA256 forged"]),
            ("X-Amz-Date", &["19700101T000000Z"]),
            ("X-Amz-Security-Token", &["forged"]),
            ("x-amz-meta-a", &["1"]),
            ("x-amz-checksum-crc32", &["AAAAAA=="]),
            ("x-amz-server-side-encryption", &["aws:kms"]),
            ("X-Amz-Content-Sha256", &[&sum]),
        ],
    );
    let permit = judged(&asked).expect("is signed");
    let mut names: Vec<&str> = permit.request.headers().keys().map(axum::http::HeaderName::as_str).collect();
    names.sort_unstable();
    let wanted = ["content-type", "x-amz-checksum-crc32", "x-amz-content-sha256", "x-amz-meta-a"];
    assert_eq!(names, [&wanted[..], &["x-amz-server-side-encryption"]].concat());
    assert_eq!(permit.sum, Some([7; 32]));
    let unsigned = judged(&with_headers("PUT", &[("x-amz-content-sha256", &["UNSIGNED-PAYLOAD"])])).expect("is signed");
    assert_eq!(unsigned.sum, None);
    for (name, values, wanted) in [
        ("host", &["evil"][..], "the header Host"),
        ("Host", &["s3.test:8333", "evil"], "twice"),
        ("x-amz-copy-source", &["/b/lake/tidewater/root"], "x-amz-copy-source"),
        ("X-Amz-Copy-Source-Range", &["bytes=0-1"], "copy-source"),
        ("x-amz-acl", &["public-read"], "x-amz-acl"),
        ("x-amz-grant-read", &["uri=all"], "x-amz-grant-read"),
        ("x-amz-object-lock-mode", &["COMPLIANCE"], "lock"),
        ("x-amz-bypass-governance-retention", &["true"], "bypass"),
        ("x-amz-website-redirect-location", &["http://evil"], "redirect"),
        ("x-amz-request-payer", &["requester"], "payer"),
        ("x-amz-rename-source", &["/b/x"], "rename"),
        ("x-amz-new-one", &["1"], "x-amz-new-one"),
        ("x-amz-meta-a", &["1", "2"], "twice"),
        ("x-amz-meta-a", &[], "twice"),
        ("x-amz-meta-a", &["1\r\nx-amz-acl: public-read"], "not one of HTTP"),
        ("x-amz-meta-a: 1\r\nx-amz-acl", &["public-read"], "not one of HTTP"),
        ("x-amz-acl ", &["public-read"], "not one of HTTP"),
        ("", &["x"], "not one of HTTP"),
        ("x-amz-content-sha256", &["STREAMING-AWS4-HMAC-SHA256-PAYLOAD"], "chunked"),
        ("x-amz-content-sha256", &["STREAMING-UNSIGNED-PAYLOAD-TRAILER"], "chunked"),
        ("x-amz-content-sha256", &["0"], "may be"),
        ("x-amz-content-sha256", &["+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0+0"], "may be"),
        ("content-type", &["a", "b"], "twice"),
    ] {
        let why = judged(&with_headers("PUT", &[(name, values)])).expect_err(name);
        assert!(why.contains(wanted), "{name:?}: {why}");
    }
    let why = judged(&with_headers("PUT", &[("x-amz-meta-a", &["1"]), ("X-Amz-Meta-A", &["2"])])).expect_err("twice");
    assert!(why.contains("twice"), "{why}");
    let long = "x".repeat(17 << 10);
    assert!(judged(&with_headers("PUT", &[("x", &[&long])])).expect_err("is refused").contains("bytes"));
}

fn deletion(body: &str) -> SignRequest {
    SignRequest { body: Some(body.to_owned()), ..request("POST", &at("?delete")) }
}

#[test]
fn a_list_of_objects_to_delete_is_signed_for_its_keys_and_bytes() {
    let keys =
        |keys: &[&str]| -> String { keys.iter().map(|key| format!("<Object><Key>{key}</Key></Object>")).collect() };
    let (one, two) = ("lake/wh/ns/t-1/data/x", "lake/wh/ns/t-1/data/a&amp;b&#x21;");
    for body in [
        format!("<Delete>{}</Delete>", keys(&[one])),
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             {}<Quiet>true</Quiet></Delete>",
            keys(&[one, two])
        ),
    ] {
        let permit = judged(&deletion(&body)).unwrap_or_else(|why| panic!("{body}: {why}"));
        let sum: [u8; 32] = digest(&SHA256, body.as_bytes()).as_ref().try_into().expect("32 bytes");
        assert_eq!((permit.sum, permit.several, permit.cacheable), (Some(sum), true, false));
    }
    for (body, wanted) in [
        (String::new(), "no list"),
        ("{}".to_owned(), "no list"),
        ("<Delete></Delete>".to_owned(), "cannot be read"),
        (format!("<Delete>{}</Delete>", keys(&[one, "lake/wh/ns/t-2/x"])), "does not lie within"),
        (format!("<Delete>{}</Delete>", keys(&["lake/wh/ns/t-1/../t-2/x"])), "one of dots"),
        (format!("<Delete>{}</Delete>", keys(&["lake/wh/ns/t-1/&#46;&#46;/t-2/x"])), "one of dots"),
        (format!("<Delete>{}</Delete>", keys(&["lake/wh/ns/read-1/x"])), "may not write"),
        (format!("<Delete>{}</Delete>", keys(&["lake/wh/ns/t-1/"])), "empty part"),
        (format!("<Delete>{}</Delete>", keys(&[""])), "empty part"),
        (format!("<Delete><Object><Key>{one}</Key><VersionId>1</VersionId></Object></Delete>"), "cannot be read"),
        (format!("<Delete><Object><Key>{one}</Key><Key>lake/x</Key></Object></Delete>"), "cannot be read"),
        (format!("<Delete><Object><Key>{one}<b>x</b></Key></Object></Delete>"), "cannot be read"),
        (format!("<Delete>{}<Object/></Delete>", keys(&[one])), "cannot be read"),
        (format!("<Delete>{}<Other/></Delete>", keys(&[one])), "cannot be read"),
        (format!("<Delete><!-- x -->{}</Delete>", keys(&[one])), "more than elements"),
        (format!("<Delete><Object><Key>{one}<![CDATA[/../../x]]></Key></Object></Delete>"), "more than elements"),
        ("<!DOCTYPE d [<!ENTITY e \"lake/x\">]><Delete><Object><Key>&e;</Key></Object></Delete>".into(), "more than"),
        ("<Delete><Object><Key>&e;</Key></Object></Delete>".to_owned(), "cannot be read"),
        (format!("<Delete>{}</Delete><Delete>{}</Delete>", keys(&[one]), keys(&["lake/x"])), "no list"),
        (format!("<Delete>{}</Delete>x", keys(&[one])), "no list"),
    ] {
        let why = judged(&deletion(&body)).err().unwrap_or_else(|| panic!("{body} is signed"));
        assert!(why.contains(wanted), "{body}: {why}");
    }
    let many: Vec<&str> = vec![one; 1001];
    assert!(judged(&deletion(&format!("<Delete>{}</Delete>", keys(&many)))).is_err());
    let mut unbound = deletion(&format!("<Delete>{}</Delete>", keys(&[one])));
    unbound.headers.insert("x-amz-content-sha256".to_owned(), vec!["UNSIGNED-PAYLOAD".to_owned()]);
    assert!(judged(&unbound).expect_err("is refused").contains("for that list alone"));
}

#[test]
fn a_table_in_the_catalogs_folder_gives_nothing_of_the_catalog() {
    let grants = [Grant { folder: "wh/catalog/".to_owned(), writes: true }];
    let ask = |rest: &str| may_sign(&request("GET", &at(rest)), &own(), &warehouse(), &grants).is_ok();
    assert!(ask("/lake/wh/catalog/t-1/x") && !ask("/lake/wh/catalog/tables/ns/t.json"));
    assert!(!ask("/lake/wh/Catalog/tables/ns/t.json") && !ask("/lake/wh/catalog/Views/x"));
    let none: &[Grant] = &[];
    assert!(may_sign(&request("GET", &at(&format!("{T}/x"))), &own(), &warehouse(), none).is_err());
}

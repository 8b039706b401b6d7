//! What is accepted, what is refused, and which source of a setting wins.

use super::*;

#[test]
fn sizes_with_units() {
    for (text, bytes) in [
        ("0", 0),
        ("1GiB", 1 << 30),
        ("10 MiB", 10 << 20),
        ("5kb", 5000),
        ("1_000", 1000),
        ("2g", 2 << 30),
        ("1.5KiB", 1536),
    ] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
    for bad in ["many", "99999999TiB", "", "-1", "1 parsec"] {
        assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
    }
}

#[test]
fn flags_lie_over_the_file() {
    let file: RawConfig =
        toml::from_str("kafka-addr = \"127.0.0.1:1\"\nshards = 3\ncache-bytes = \"1GiB\"").expect("parses");
    let flags = RawConfig { kafka_addr: Some("127.0.0.1:2".into()), ..RawConfig::default() };
    let config = flags.over(file).resolve().expect("holds");
    assert_eq!((config.kafka_addr.port(), config.shards, config.cache_bytes), (2, Some(3), Some(1 << 30)));
}

#[test]
fn the_error_for_a_mistyped_key_names_the_right_one() {
    let error = |text| RawConfig::parse(text).expect_err("refused");
    assert_eq!(error("kafka_addr = 'h:1'"), "there is no setting \"kafka_addr\"; did you mean kafka-addr?");
    assert!(error("replicas = 3").ends_with("`tidewater serve --help` lists them"));
    assert!(error("shards = 'x'").contains("expected u16"));
}

#[test]
fn seeds_are_addresses_and_the_port_may_be_left_out() {
    let seeds = |list: &[&str]| {
        let raw = RawConfig { seed: Some(list.iter().map(ToString::to_string).collect()), ..RawConfig::default() };
        raw.resolve().map(|config| config.seeds)
    };
    assert_eq!(seeds(&["A:1", " b ", "[::1]:7"]), Ok(vec!["a:1".into(), "b:33145".into(), "[::1]:7".into()]));
    for bad in ["", ":", "a:x", "a:0"] {
        assert!(matches!(seeds(&[bad]), Err(ConfigError::Address { setting: "--seed", .. })), "{bad:?}");
    }
}

#[test]
fn http_names_are_those_of_the_addresses_and_of_the_setting() {
    let raw = RawConfig {
        admin_addr: Some("LocalHost:9644".into()),
        advertised_kafka_addr: Some("Broker.example:9092".into()),
        http_allowed_hosts: Some(vec!["A.example".into(), " .b.example".into(), "*".into(), "::1".into()]),
        ..RawConfig::default()
    };
    let names = raw.resolve().expect("holds").http_names;
    assert_eq!(names.own, ["broker.example", "localhost"]);
    assert_eq!(names.allowed, ["a.example", ".b.example", "*", "::1"]);
    for bad in ["http://a.example", "a.example:80", "", ".", "*.example"] {
        let raw = RawConfig { http_allowed_hosts: Some(vec![bad.into()]), ..RawConfig::default() };
        assert_eq!(raw.resolve().expect_err("refused"), ConfigError::AllowedHost(bad.into()), "{bad}");
    }
}

#[test]
fn a_limit_of_no_connections_is_refused() {
    for raw in [
        RawConfig { max_connections: Some(0), ..RawConfig::default() },
        RawConfig { max_connections_per_ip: Some(0), ..RawConfig::default() },
    ] {
        assert!(matches!(raw.resolve(), Err(ConfigError::Range { value: 0, .. })));
    }
}

#[test]
fn what_other_brokers_need_is_checked() {
    let resolve = |change: fn(&mut RawConfig)| {
        let mut raw = RawConfig::default();
        change(&mut raw);
        raw.resolve()
    };
    let alone = resolve(|_| ()).expect("holds");
    assert_eq!((alone.rpc_addr.to_string(), alone.seeds.len()), ("127.0.0.1:33145".into(), 0));
    assert!(resolve(|raw| raw.rpc_addr = Some("127.0.0.1:0".into())).is_ok());
    let refused: [(fn(&mut RawConfig), &str); 7] = [
        (
            |raw| (raw.rpc_addr, raw.seed) = (Some("0.0.0.0:1".into()), Some(vec!["a:1".into()])),
            "--advertised-rpc-addr",
        ),
        (|raw| raw.seed = Some(vec!["a:1".into(), "A:1".into()]), "twice"),
        (|raw| raw.rack = Some("a\nb".into()), "--rack"),
        (|raw| raw.replace = Some(2), "--seed"),
        (|raw| (raw.replace, raw.seed) = (Some(0), Some(vec!["a:1".into()])), "node ids"),
        (|raw| raw.rpc_tls_key = Some("key.pem".into()), "--rpc-tls-cert"),
        (|raw| raw.default_replication_factor = Some(0), "1 to 15"),
    ];
    for (change, words) in refused {
        let error = resolve(change).expect_err("refused").to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn an_rpc_port_that_others_reach_needs_tls_or_a_secret() {
    let raw = RawConfig {
        rpc_addr: Some("0.0.0.0:1".into()),
        advertised_rpc_addr: Some("broker.example:1".into()),
        ..RawConfig::default()
    };
    let open = raw.clone().resolve().expect("holds").exposure_warnings();
    assert!(matches!(&open[..], [one] if one.contains("--cluster-secret-file")), "{open:?}");
    let secret = RawConfig { cluster_secret_file: Some("secret".into()), ..raw };
    assert_eq!(secret.resolve().expect("holds").exposure_warnings(), Vec::<String>::new());
}

#[test]
fn a_catalog_port_that_others_reach_needs_tokens() {
    let raw = RawConfig { catalog_addr: Some("0.0.0.0:1".into()), ..RawConfig::default() };
    let open = raw.clone().resolve().expect("holds").exposure_warnings();
    assert!(matches!(&open[..], [one] if one.contains("--catalog-addr")), "{open:?}");
    let guarded = RawConfig { catalog_tokens_file: Some("tokens".into()), ..raw };
    assert_eq!(guarded.resolve().expect("holds").exposure_warnings(), Vec::<String>::new());
}

#[test]
fn a_wildcard_needs_an_advertised_address() {
    let raw = RawConfig { kafka_addr: Some("0.0.0.0:9092".into()), ..RawConfig::default() };
    assert!(matches!(raw.clone().resolve(), Err(ConfigError::WildcardAdvertised(_))));
    let advertised = RawConfig { advertised_kafka_addr: Some("broker.example:9092".into()), ..raw };
    let config = advertised.resolve().expect("holds");
    assert_eq!(config.advertised, Some(("broker.example".into(), 9092)));
    assert_eq!(config.exposure_warnings().len(), 1);
}

#[test]
fn entries_are_kept_for_a_file_of_the_journal_at_least() {
    let resolve = |bytes| RawConfig { catch_up_bytes: Some(ByteSize(bytes)), ..RawConfig::default() }.resolve();
    assert_eq!(RawConfig::default().resolve().expect("holds").catch_up_bytes, 256 << 20);
    assert_eq!(resolve(1 << 30).expect("holds").catch_up_bytes, 1 << 30);
    assert!(matches!(resolve(1 << 20), Err(ConfigError::Range { setting: "--catch-up-bytes", .. })));
}

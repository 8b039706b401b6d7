//! Values of settings: which are taken, and with what words others are refused.

use super::*;

#[test]
fn every_default_passes_its_own_check() {
    for row in SETTINGS {
        row.check(row.default).expect(row.name);
    }
}

#[test]
fn refused_values_say_why() {
    let refused = check("cleanup.policy", "compact").expect_err("refused");
    assert_eq!(refused.to_string(), "cleanup.policy=compact is refused: compaction is not supported");
    assert!(matches!(check("segment.bytes", "12"), Err(SettingError::Value { .. })));
    assert!(matches!(check("nonsense", "1"), Err(SettingError::Unknown(_))));
}

#[test]
fn no_shape_takes_a_value_without_end() {
    let long = SETTING_BYTES_MAX + 1;
    let values = [
        ("leader.replication.throttled.replicas", "x".repeat(long)),
        ("cleanup.policy", format!("delete{}", ",delete".repeat(long / 7))),
        ("retention.ms", format!("{}1", "0".repeat(long - 1))),
        ("min.cleanable.dirty.ratio", format!("0.{}", "5".repeat(long))),
    ];
    for (name, value) in values {
        let refused = check(name, &value).expect_err(name);
        assert!(matches!(refused, SettingError::TooLong { .. }), "{name}");
        assert!(refused.to_string().len() < 200, "the value is not told again");
    }
    check("leader.replication.throttled.replicas", &"x".repeat(SETTING_BYTES_MAX)).expect("fits");
}

#[test]
fn refusals_are_kafkas_words() {
    let words = |name, value| check(name, value).expect_err("refused").to_string();
    assert_eq!(
        words("retention.ms", "-5"),
        "Invalid value -5 for configuration retention.ms: Value must be at least -1"
    );
    assert_eq!(
        words("retention.ms", "week"),
        "Invalid value week for configuration retention.ms: Not a number of type LONG"
    );
    assert_eq!(
        words("message.timestamp.type", "Now"),
        "Invalid value Now for configuration message.timestamp.type: String must be one of: CreateTime, LogAppendTime"
    );
    assert_eq!(words("nonsense", "1"), "Unknown topic config name: nonsense");
}

#[test]
fn compression_is_resolved_with_the_level_of_its_codec() {
    let of = |pairs: &[(&str, &str)]| {
        pairs.iter().for_each(|(name, value)| check(name, value).expect("taken"));
        TopicConfig::resolve(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()).compression
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[("compression.type", "producer"), ("compression.zstd.level", "9")]), None);
    let codecs = ["uncompressed", "gzip", "snappy", "lz4", "zstd"].map(|name| of(&[("compression.type", name)]));
    assert_eq!(codecs, Compression::ALL.map(|codec| Some(TopicCompression { codec, level: None })));
    let level = |codec: &str, level: &str| {
        of(&[("compression.type", codec), (&format!("compression.{codec}.level"), level)]).and_then(|to| to.level)
    };
    assert_eq!((level("gzip", "-1"), level("gzip", "9")), (None, Some(9)));
    assert_eq!((level("lz4", "9"), level("lz4", "1"), level("zstd", "-7")), (None, Some(1), Some(-7)));
    for (name, value) in [
        ("compression.type", "none"),
        ("compression.type", "LZ4"),
        ("compression.gzip.level", "0"),
        ("compression.gzip.level", "10"),
        ("compression.lz4.level", "0"),
        ("compression.zstd.level", "23"),
    ] {
        assert!(matches!(check(name, value), Err(SettingError::Value { .. })), "{name}={value}");
    }
}

#[test]
fn a_mode_that_was_taken_is_the_mode_that_the_topic_has() {
    let resolve =
        |mode: &str| TopicConfig::resolve(&BTreeMap::from([("iceberg.mode".to_owned(), mode.to_owned())])).iceberg_mode;
    for form in IcebergMode::forms() {
        check("iceberg.mode", &form).expect("taken");
        assert_eq!(Ok(resolve(&form)), IcebergMode::parse(&form));
    }
    assert!(matches!(check("iceberg.mode", "tables"), Err(SettingError::Value { .. })));
    assert_eq!(resolve("tables"), IcebergMode::Disabled, "what is refused now gives the default");
}

#[test]
fn keys_are_bytes_text_or_of_a_schema_and_then_there_are_dead_letters() {
    let resolve = |mode: &str, key: &str| {
        let overrides = [("iceberg.mode", mode), ("iceberg.key.mode", key)];
        TopicConfig::resolve(&overrides.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
    };
    for (word, mode) in
        [("binary", KeyMode::Binary), ("string", KeyMode::Text), ("schema_id_prefix", KeyMode::SchemaIdPrefix)]
    {
        check("iceberg.key.mode", word).expect("taken");
        let config = resolve("key_value", word);
        assert_eq!((config.iceberg_key_mode, config.has_dead_letters()), (mode, mode != KeyMode::Binary));
        assert!(!resolve("disabled", word).has_dead_letters() && resolve("json", word).has_dead_letters());
    }
    assert!(matches!(check("iceberg.key.mode", "json"), Err(SettingError::Value { .. })));
}

#[test]
fn a_conflict_of_schemas_has_one_of_three_policies() {
    let name = "iceberg.evolution.conflict";
    let resolve =
        |word: &str| TopicConfig::resolve(&BTreeMap::from([(name.to_owned(), word.to_owned())])).iceberg_conflict;
    let policies =
        [("dlq", ConflictPolicy::DeadLetters), ("column", ConflictPolicy::Column), ("pause", ConflictPolicy::Pause)];
    for (word, policy) in policies {
        check(name, word).expect("taken");
        assert_eq!(resolve(word), policy);
    }
    assert!(matches!(check(name, "Column"), Err(SettingError::Value { .. })));
    assert_eq!(TopicConfig::default().iceberg_conflict, ConflictPolicy::DeadLetters);
}

#[test]
fn minus_two_is_as_the_total() {
    let set = |pairs: &[(&str, &str)]| {
        TopicConfig::resolve(&pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    };
    assert_eq!(set(&[]).local_retention_ms, Some(86_400_000));
    assert_eq!(set(&[("retention.ms", "5"), ("local.retention.ms", "-2")]).local_retention_ms, Some(5));
    assert_eq!(set(&[("retention.ms", "-1")]).retention_ms, None);
}

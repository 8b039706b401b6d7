"""The rows that typed_produce.py wrote, and their comparison with what an engine answers."""
import json
from datetime import datetime, timezone
from decimal import Decimal

COLUMNS = {
    "orders": ["id", "buyer", "amount", "tags", "at", "note"],
    "people": ["key", "id", "name", "height", "email"],
    "readings": ["id", "site", "level", "tags", "at", "unit", "ticks"],
    "trips": ["id", "stops", "key"],
    "fares": ["id", "city", "fare", "paid"],
    "visits": ["page", "ms", "score", "tags", "by", "referrer"],
}
# The members of columns that are structs.
STRUCTS = {("readings", "unit"): ["name"], ("trips", "key"): ["customer_id", "region"], ("visits", "by"): ["id", "name", "rest"]}


def as_text(row):
    """What rows are sorted by: with nulls, they have no order."""
    return json.dumps(row, sort_keys=True)


def produced(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def expected(topic, rows):
    wanted = []
    for row in rows:
        row = dict(row)
        if topic == "orders":
            row["buyer"] = row.pop("customer")
        wanted.append(tuple(row[column] for column in COLUMNS[topic]))
    return sorted(wanted, key=as_text)


def plain(value, members):
    """As JSON has it. A schema's timestamps are in UTC; Spark's have no zone and are in that of the process."""
    if isinstance(value, Decimal):
        return int(value)
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat()
    # The rows of Trino and Spark.
    if isinstance(value, tuple):
        return dict(zip(members, value, strict=True))
    return value


def check(engine, topic, of, rows, letters):
    """`rows` have the columns of COLUMNS, `letters` value and reason of each dead letter."""
    members = [STRUCTS.get((topic, column)) for column in COLUMNS[topic]]
    rows = sorted((tuple(map(plain, row, members)) for row in rows), key=as_text)
    wanted = expected(topic, of["rows"])
    assert len(rows) == len(wanted), f"{engine}: {topic} has {len(rows)} rows, not {len(wanted)}"
    for n, column in enumerate(COLUMNS[topic]):
        differ = [(found[n], want[n]) for found, want in zip(rows, wanted) if found[n] != want[n]]
        assert not differ, f"{engine}: {topic}.{column}: {len(differ)} values differ, the first is {differ[0]}"
    assert sorted(bytes(value).hex() for value, _ in letters) == sorted(of["garbage"]), f"{engine}: {topic}~dlq"
    assert all(reason for _, reason in letters), f"{engine}: dead letters without a reason"
    print(f"{engine}: {topic}: {len(rows)} rows, {len(COLUMNS[topic])} columns, {len(letters)} dead letters as produced")


def check_history(engine, topic, counts):
    """`counts` are the rows of each snapshot, oldest first: commits add rows, compaction none."""
    assert len(counts) > 1 and counts == sorted(counts), f"{engine}: {topic}: snapshots with {counts} rows"
    print(f"{engine}: {topic}: {len(counts)} snapshots, from {counts[0]} to {counts[-1]} rows")

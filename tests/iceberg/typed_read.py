"""Reads the tables of typed_produce.py's topics with PyIceberg and DuckDB and compares every value of every column with
what was produced. Usage: typed_read.py CATALOG OUT"""
import json
import sys
import tempfile
from datetime import timezone
from decimal import Decimal

COLUMNS = {
    "orders": ["id", "buyer", "amount", "tags", "at", "note"],
    "people": ["id", "name", "height", "email"],
    "readings": ["id", "site", "level", "tags", "at", "unit", "ticks"],
}


def expected(topic, produced):
    rows = []
    for row in produced["rows"]:
        row = dict(row)
        if topic == "orders":
            row["buyer"] = row.pop("customer")
        rows.append(tuple(row[column] for column in COLUMNS[topic]))
    return sorted(rows)


def plain(value):
    """As JSON has it. A schema's timestamps are in UTC."""
    if isinstance(value, Decimal):
        return int(value)
    if hasattr(value, "astimezone"):
        return value.astimezone(timezone.utc).isoformat()
    return value


def check(engine, topic, produced, rows, letters):
    rows = sorted(tuple(plain(value) for value in row) for row in rows)
    wanted = expected(topic, produced)
    assert len(rows) == len(wanted), f"{engine}: {topic} has {len(rows)} rows, not {len(wanted)}"
    for n, column in enumerate(COLUMNS[topic]):
        differ = [(found[n], want[n]) for found, want in zip(rows, wanted) if found[n] != want[n]]
        assert not differ, f"{engine}: {topic}.{column}: {len(differ)} values differ, the first is {differ[0]}"
    assert sorted(bytes(value).hex() for value, _ in letters) == sorted(produced["garbage"]), f"{engine}: {topic}~dlq"
    assert all(reason for _, reason in letters), f"{engine}: dead letters without a reason"
    print(f"{engine}: {topic}: {len(rows)} rows, {len(COLUMNS[topic])} columns, {len(letters)} dead letters as produced")


def pyiceberg(uri, produced):
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("lake", type="rest", uri=uri, warehouse="any name")
    for topic, of in produced.items():
        read = catalog.load_table(f"topics.{topic}").scan(selected_fields=tuple(COLUMNS[topic])).to_arrow().to_pylist()
        letters = catalog.load_table(f"topics.{topic}~dlq").scan().to_arrow().to_pylist()
        rows = [tuple(row[column] for column in COLUMNS[topic]) for row in read]
        check("pyiceberg", topic, of, rows, [(row["value"], row["reason"]) for row in letters])


def duckdb(uri, produced):
    import duckdb

    config = {"extension_directory": tempfile.mkdtemp(), "autoinstall_known_extensions": "false"}
    db = duckdb.connect(config=config)
    for name in ("avro", "httpfs", "iceberg"):
        home = __import__("duckdb_extension_" + name).__path__[0]
        db.execute(f"INSTALL '{home}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
        db.execute(f"LOAD {name}")
    db.execute("SET TimeZone='UTC'")
    db.execute(f"ATTACH 'wh' AS lake (TYPE iceberg, ENDPOINT '{uri}', AUTHORIZATION_TYPE 'none')")
    for topic, of in produced.items():
        columns = ", ".join(f'"{column}"' for column in COLUMNS[topic])
        rows = db.execute(f"SELECT {columns} FROM lake.topics.{topic}").fetchall()
        letters = db.execute(f'SELECT value, reason FROM lake.topics."{topic}~dlq"').fetchall()
        check("duckdb", topic, of, rows, letters)
    reasons = db.execute('SELECT reason, count(*) FROM lake.topics."orders~dlq" GROUP BY 1 ORDER BY 2 DESC').fetchall()
    print("\n".join(f"duckdb: {count} × {reason}" for reason, count in reasons))


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as file:
        topics = json.load(file)
    pyiceberg(sys.argv[1], topics)
    duckdb(sys.argv[1], topics)

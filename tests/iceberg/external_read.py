"""Reads topics.orders and its dead letters through a catalog with PyIceberg and DuckDB: each record is in one of the two,
once. Usage: external_read.py http://HOST:PORT RECORDS [pyiceberg]"""
import json
import sys
import time

import duck


def settled(read, records):
    """What `read` gives once dead letters have followed their rows."""
    for _ in range(100):
        rows, dead = read()
        if len(rows) + len(dead) >= records:
            break
        time.sleep(0.2)
    return rows, dead


def places(rows):
    return [(row["tidewater"]["partition"], row["tidewater"]["offset"]) for row in rows]


def check(engine, rows, dead, records):
    held = sorted(rows + dead)
    ends = {}
    for partition, offset in held:
        assert offset == ends.get(partition, 0), f"{engine}: partition {partition} has {offset} after {ends.get(partition, 0)}"
        ends[partition] = offset + 1
    assert len(held) == records == sum(ends.values()), f"{engine}: {len(rows)} rows and {len(dead)} dead letters"
    assert len(dead) == records // 10, f"{engine}: {len(dead)} dead letters"
    print(f"{engine}: {len(rows)} rows and {len(dead)} dead letters, each record once")


def pyiceberg(uri, records):
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("lake", type="rest", uri=uri)
    names = ("orders", "orders~dlq")
    read = lambda: [catalog.load_table(("topics", name)).scan().to_arrow().to_pylist() for name in names]
    rows, dead = settled(read, records)
    values = sorted(row["n"] for row in rows)
    assert values == [n for n in range(records) if n % 10 != 0], "pyiceberg: values differ"
    check("pyiceberg", places(rows), places(dead), records)
    offsets = json.loads(catalog.load_table(("topics", "orders")).properties["tidewater.offsets"])
    assert sum(offsets.values()) == records, offsets


def duckdb(uri, records):
    db = duck.connect(uri)
    select = 'SELECT tidewater."partition", tidewater."offset" FROM lake.topics."{}"'
    rows, dead = (db.execute(select.format(name)).fetchall() for name in ("orders", "orders~dlq"))
    check("duckdb", rows, dead, records)


if __name__ == "__main__":
    pyiceberg(sys.argv[1], int(sys.argv[2]))
    if sys.argv[3:] != ["pyiceberg"]:
        duckdb(sys.argv[1], int(sys.argv[2]))

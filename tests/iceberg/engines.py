"""Reads the known table with PyIceberg and DuckDB and compares every value. Usage: engines.py http://HOST:PORT"""
import json
import sys

import duck

ROWS, PARTITIONS, NOW = 1000, 3, 1_760_000_000_000


def expected():
    rows = []
    for p in range(PARTITIONS):
        for n in range(ROWS):
            key = None if n % 10 == 0 else f"k{n}".encode()
            value = None if n % 100 == 0 else json.dumps({"p": p, "n": n}, separators=(",", ":")).encode()
            headers = [("trace", str(n).encode()), ("empty", None)]
            rows.append((p, n, NOW + n * 60_000, 0, headers, key, value))
    return rows


def flat(system, value):
    headers = [(h["key"], None if h["value"] is None else bytes(h["value"])) for h in system["headers"]]
    millis = round(system["timestamp"].timestamp() * 1000)
    key = None if system["key"] is None else bytes(system["key"])
    value = None if value is None else bytes(value)
    return system["partition"], system["offset"], millis, system["timestamp_type"], headers, key, value


def check(engine, rows):
    order = lambda row: row[:2]
    assert sorted(rows, key=order) == expected(), f"{engine}: rows differ"
    print(f"{engine}: {len(rows)} rows, every value as produced")


def pyiceberg(uri):
    from pyiceberg.catalog import load_catalog
    from pyiceberg.expressions import GreaterThanOrEqual

    catalog = load_catalog("lake", type="rest", uri=uri, warehouse="any name")
    assert catalog.list_namespaces() == [("topics",)]
    table = catalog.load_table("topics.orders")
    read = table.scan().to_arrow().to_pylist()
    check("pyiceberg", [flat(row["tidewater"], row["value"]) for row in read])
    late = table.scan(row_filter=GreaterThanOrEqual("tidewater.timestamp", "2025-10-09T09:00:00+00:00"))
    files, all_files = len(list(late.plan_files())), len(list(table.scan().plan_files()))
    assert 0 < files < all_files, f"hour partitions prune: {files} of {all_files} files"
    offsets = json.loads(table.current_snapshot().summary["tidewater.offsets"])
    assert offsets == {str(p): ROWS for p in range(PARTITIONS)}, offsets
    print(f"pyiceberg: a filter by time reads {files} of {all_files} files")


def duckdb(uri):
    db = duck.connect(uri)
    read = db.execute("SELECT tidewater, value FROM lake.topics.orders").fetchall()
    check("duckdb", [flat(system, value) for system, value in read])
    # Others may write beside: a table of an engine's own, through the same catalog.
    db.execute("CREATE SCHEMA lake.other")
    db.execute("CREATE TABLE lake.other.t (a INTEGER, b VARCHAR)")
    db.execute("INSERT INTO lake.other.t VALUES (1, 'x'), (2, 'y')")
    assert db.execute("SELECT sum(a) FROM lake.other.t").fetchone() == (3,)
    print("duckdb: created, wrote and read a table of its own")


if __name__ == "__main__":
    pyiceberg(sys.argv[1])
    duckdb(sys.argv[1])

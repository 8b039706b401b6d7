"""Reads the tables of typed_produce.py's topics with PyIceberg, polars and DuckDB and compares every value of every column with
what was produced; and which files PyIceberg reads for a value of a column by which a table is partitioned. Usage: typed_read.py CATALOG OUT"""
import sys

import duck
from typed_rows import COLUMNS, check, check_history, produced


def pyiceberg(uri, topics):
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("lake", type="rest", uri=uri, warehouse="any name")
    for topic, of in topics.items():
        table = catalog.load_table(f"topics.{topic}")
        read = table.scan(selected_fields=tuple(COLUMNS[topic])).to_arrow().to_pylist()
        letters = catalog.load_table(f"topics.{topic}~dlq").scan().to_arrow().to_pylist()
        rows = [tuple(row[column] for column in COLUMNS[topic]) for row in read]
        check("pyiceberg", topic, of, rows, [(row["value"], row["reason"]) for row in letters])
        snapshots = sorted(table.snapshots(), key=lambda snapshot: snapshot.sequence_number)
        check_history("pyiceberg", topic, [table.scan(snapshot_id=of.snapshot_id).count() for of in snapshots])


def polars(uri, topics):
    import polars as pl
    from pyiceberg.catalog import load_catalog

    catalog = load_catalog("lake", type="rest", uri=uri, warehouse="any name")

    def rows(name, columns):
        # Its own reader of Parquet; PyIceberg finds the files.
        table = pl.scan_iceberg(catalog.load_table(name), reader_override="native")
        return table.select(columns).collect().rows()

    for topic, of in topics.items():
        letters = rows(f"topics.{topic}~dlq", ["value", "reason"])
        check("polars", topic, of, rows(f"topics.{topic}", COLUMNS[topic]), letters)


def pruned(uri, topics):
    from pyiceberg.catalog import load_catalog
    from pyiceberg.expressions import EqualTo

    catalog = load_catalog("lake", type="rest", uri=uri, warehouse="any name")
    for topic, column, value, partitions in [
        ("orders", "buyer", "customer 3 é", 1),
        ("readings", "site", "site 4 é", 1),
        ("readings", "site", "", 1),
    ]:
        table = catalog.load_table(f"topics.{topic}")
        every = list(table.scan().plan_files())
        some = list(table.scan(row_filter=EqualTo(column, value)).plan_files())
        found = {repr(task.file.partition) for task in some}
        assert 0 < len(found) <= partitions and len(some) < len(every), f"{topic}: {found} of {len(every)} files"
        print(f"pyiceberg: {topic}: {column} = {value!r} is in {len(some)} of {len(every)} files")


def duckdb(uri, topics):
    db = duck.connect(uri)
    for topic, of in topics.items():
        columns = ", ".join(f'"{column}"' for column in COLUMNS[topic])
        rows = db.execute(f"SELECT {columns} FROM lake.topics.{topic}").fetchall()
        letters = db.execute(f'SELECT value, reason FROM lake.topics."{topic}~dlq"').fetchall()
        check("duckdb", topic, of, rows, letters)
    reasons = db.execute('SELECT reason, count(*) FROM lake.topics."orders~dlq" GROUP BY 1 ORDER BY 2 DESC').fetchall()
    print("\n".join(f"duckdb: {count} × {reason}" for reason, count in reasons))


if __name__ == "__main__":
    pyiceberg(sys.argv[1], produced(sys.argv[2]))
    polars(sys.argv[1], produced(sys.argv[2]))
    pruned(sys.argv[1], produced(sys.argv[2]))
    duckdb(sys.argv[1], produced(sys.argv[2]))

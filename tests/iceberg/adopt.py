"""Makes a table with three rows with PyIceberg, or reads what became of it, and the flat table beside it, with PyIceberg
and DuckDB. Usage: adopt.py make|read CATALOG"""
import sys

import duck

OWN = [(-1, "a", 1), (-2, "b", 2), (-3, "c", 3)]
ADOPTED = sorted(OWN + [(n, f"c{n}", n * 10) for n in range(2, 5)])
FLAT = [(n, n * 10) for n in range(5)]


def lake(uri):
    from pyiceberg.catalog import load_catalog

    return load_catalog("lake", type="rest", uri=uri, warehouse="any name")


def make(uri):
    import pyarrow as pa

    catalog = lake(uri)
    catalog.create_namespace("sales")
    schema = pa.schema([("id", pa.int64()), ("Customer", pa.string()), ("amount", pa.int32())])
    table = catalog.create_table("sales.orders", schema=schema)
    rows = [dict(zip(schema.names, row)) for row in OWN]
    table.append(pa.Table.from_pylist(rows, schema=schema))


def pyiceberg(uri):
    catalog = lake(uri)
    rows = catalog.load_table("sales.orders").scan().to_arrow().to_pylist()
    assert sorted((row["id"], row["Customer"], row["amount"]) for row in rows) == ADOPTED, rows
    offsets = sorted(row["tidewater"]["offset"] for row in rows if row["tidewater"] is not None)
    assert offsets == [2, 3, 4], offsets
    old = catalog.load_table("sales.orders").scan(row_filter="id < 0").to_arrow().to_pylist()
    assert len(old) == 3 and all(row["tidewater"] is None for row in old), old
    rows = catalog.load_table("topics.flat").scan(row_filter="tidewater_offset >= 3").to_arrow().to_pylist()
    assert sorted((row["tidewater_offset"], row["amount"]) for row in rows) == FLAT[3:], rows
    assert all(row["tidewater_headers"] == "[]" for row in rows), rows


def duckdb(uri):
    db = duck.connect(uri)
    rows = db.execute('SELECT id, "Customer", amount FROM lake.sales.orders ORDER BY id').fetchall()
    assert rows == ADOPTED, rows
    rows = db.execute("SELECT tidewater.offset FROM lake.sales.orders WHERE id > 0 ORDER BY 1").fetchall()
    assert rows == [(2,), (3,), (4,)], rows
    rows = db.execute("SELECT tidewater_offset, amount FROM lake.topics.flat ORDER BY 1").fetchall()
    assert rows == FLAT, rows


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(sys.argv[2])
    else:
        pyiceberg(sys.argv[2])
        duckdb(sys.argv[2])
        print(f"pyiceberg, duckdb: {len(ADOPTED)} rows of the adopted table, {len(FLAT)} of the flat one, as written")

"""PyIceberg without keys: reads a topic's table, writes and deletes in one of its own. Usage: signing_pyiceberg.py CATALOG"""
import sys

import pyarrow as pa
from pyiceberg.catalog import load_catalog

catalog = load_catalog(
    "lake",
    type="rest",
    uri=sys.argv[1],
    **{
        "header.X-Iceberg-Access-Delegation": "remote-signing",
        "py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO",
    },
)


def again(work):
    """PyIceberg sends a request without a signature now and then, where several of its threads make requests
    (https://github.com/apache/iceberg-python/issues/3896): the bucket refuses that one."""
    for _ in range(20):
        try:
            return work()
        except PermissionError as error:
            print(f"again: {error}", file=sys.stderr)
    raise SystemExit("the bucket refuses every time")


orders = catalog.load_table("topics.orders")
assert not any("secret" in name or "access-key-id" in name for name in orders.io.properties), orders.io.properties
values = sorted(row["value"] for row in again(lambda: orders.scan().to_arrow()).to_pylist())
assert values == sorted(f"value {n}".encode() for n in range(100)), values[:3]

catalog.create_namespace("own")
rows = pa.table({"n": pa.array(range(10), pa.int64()), "name": [f"ä {n}/%2F" for n in range(10)]})
table = catalog.create_table("own.names", rows.schema)
again(lambda: table.append(rows))
again(lambda: table.append(rows))
assert again(lambda: table.scan().to_arrow()).num_rows == 20
again(lambda: table.delete("n >= 5"))
assert sorted(again(lambda: table.scan().to_arrow())["n"].to_pylist()) == sorted(2 * list(range(5)))


def staged():
    with catalog.create_table_transaction("own.staged", rows.schema) as transaction:
        transaction.append(rows)


# Nothing is in the catalog until the transaction ends, and its files are in the table's location before.
again(staged)
assert again(lambda: catalog.load_table("own.staged").scan().to_arrow()).num_rows == 10
print("pyiceberg: read 100 rows of the topic, wrote, deleted and read 40 of its own, without keys")

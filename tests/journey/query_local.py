"""Asks DuckDB and PyIceberg for the flights by carrier: CATALOG WAREHOUSE-KIND(file|s3) [ENDPOINT KEY SECRET]."""
import collections
import json
import sys

import duck
from pyiceberg.catalog.rest import RestCatalog

import flights

catalog, kind, *s3 = sys.argv[1:]
wanted = flights.by_carrier()


def check(engine, found):
    if found != wanted:
        raise SystemExit(f"{engine} disagrees: {found} instead of {wanted}")
    print(engine, sum(rows for rows, _ in found.values()))


def ask_duckdb():
    session = duck.connect(catalog, s3)
    rows = session.execute(
        "SELECT json_extract_string(decode(value), '$.carrier') AS carrier, count(*), "
        "sum(json_extract(decode(value), '$.distance')::BIGINT) FROM lake.topics.flights GROUP BY 1").fetchall()
    return {carrier: (count, int(total)) for carrier, count, total in rows}


def ask_pyiceberg():
    properties = {"uri": catalog}
    if kind == "s3":
        endpoint, key, secret = s3
        properties |= {"s3.endpoint": endpoint, "s3.access-key-id": key, "s3.secret-access-key": secret,
                       "s3.region": "us-east-1"}
    table = RestCatalog("tidewater", **properties).load_table("topics.flights")
    found = collections.defaultdict(lambda: [0, 0])
    for value in table.scan(selected_fields=("value",)).to_arrow()["value"]:
        row = json.loads(value.as_py())
        found[row["carrier"]][0] += 1
        found[row["carrier"]][1] += row["distance"]
    return {carrier: tuple(pair) for carrier, pair in found.items()}


check("duckdb", ask_duckdb())
check("pyiceberg", ask_pyiceberg())

"""Asks stock Spark for the flights by carrier: CATALOG JARS KIND(file|s3) [ENDPOINT KEY SECRET]."""
import sys

import flights
import spark

catalog, jars, kind, *s3 = sys.argv[1:]
s3_properties = {}
if kind == "s3":
    endpoint, key, secret = s3
    s3_properties = {
        "s3.endpoint": endpoint,
        "s3.path-style-access": "true",
        "s3.access-key-id": key,
        "s3.secret-access-key": secret,
        "client.region": "us-east-1",
    }
session = spark.session(catalog, jars, s3_properties)
rows = session.sql(
    "SELECT get_json_object(CAST(value AS STRING), '$.carrier') c, count(*) n, "
    "sum(CAST(get_json_object(CAST(value AS STRING), '$.distance') AS BIGINT)) d FROM lake.topics.flights GROUP BY 1"
).collect()
found = {row["c"]: (row["n"], row["d"]) for row in rows}
if found != flights.by_carrier():
    raise SystemExit(f"spark disagrees: {found}")
print("spark", sum(rows for rows, _ in found.values()))
session.stop()

"""Asks Trino for the flights by carrier: PORT."""
import sys
import time

import trino

import flights

connection = trino.dbapi.connect(host="127.0.0.1", port=int(sys.argv[1]), user="test", catalog="lake")
QUERY = (
    "SELECT json_extract_scalar(from_utf8(value), '$.carrier'), count(*), "
    "sum(CAST(json_extract_scalar(from_utf8(value), '$.distance') AS BIGINT)) FROM lake.topics.flights GROUP BY 1"
)
deadline = time.monotonic() + 120
while True:
    try:
        cursor = connection.cursor()
        cursor.execute(QUERY)
        found = {carrier: (count, total) for carrier, count, total in cursor.fetchall()}
        break
    except Exception as error:  # Trino answers before its node can run a table query
        if time.monotonic() > deadline:
            raise
        time.sleep(0.5)
if found != flights.by_carrier():
    raise SystemExit(f"trino disagrees: {found}")
print("trino", sum(rows for rows, _ in found.values()))

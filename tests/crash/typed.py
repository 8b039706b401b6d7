"""Compares a typed table and its dead letters with the topic's log, row by row: CATALOG TOPIC LOG.TSV (partition, offset,
key, value). A record is in one of the two, once."""
import json
import sys

from pyiceberg.catalog.rest import RestCatalog

catalog, topic, path = sys.argv[1:]
log = {}
with open(path, encoding="utf-8") as file:
    for line in file:
        partition, offset, key, value = line.rstrip("\n").split("\t")
        log[int(partition), int(offset)] = (key, value)


def parts(value):
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError:
        return None
    return parsed["p"], parsed["n"], parsed["t"]


lake = RestCatalog("tidewater", uri=catalog)
seen = {}
for name in (topic, f"{topic}~dlq"):
    table = lake.load_table(f"topics.{name}")
    for row in table.scan().to_arrow().to_pylist():
        at = (row["tidewater"]["partition"], row["tidewater"]["offset"])
        if at in seen:
            raise SystemExit(f"{at} is in {name} and in {seen[at]}")
        seen[at] = name
        key, value = log[at]
        wanted = parts(value)
        if row["tidewater"]["key"].decode() != key:
            raise SystemExit(f"{at} has the key {row['tidewater']['key']} in {name} and {key} in the log")
        if name == topic and (row["p"], row["n"], row["t"]) != wanted:
            raise SystemExit(f"{at} is {row} in the table and {value} in the log")
        if name != topic and (wanted is not None or row["value"].decode() != value or not row["reason"]):
            raise SystemExit(f"{at} is the dead letter {row}, and {value} in the log")
if missing := sorted(log.keys() - seen.keys()):
    raise SystemExit(f"{len(missing)} records are in neither table, the first is {missing[0]}")
dead = sum(name != topic for name in seen.values())
if not 0 < dead < len(seen) / 10:
    raise SystemExit(f"{dead} of {len(seen)} records are dead letters")
print(f"{len(seen) - dead} rows and {dead} dead letters equal the log")

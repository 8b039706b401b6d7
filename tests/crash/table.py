"""Compares a topic's table with its log, row by row: CATALOG TOPIC LOG.TSV (partition, offset, key, value)."""
import json
import sys

from pyiceberg.catalog.rest import RestCatalog

catalog, topic, path = sys.argv[1:]
log = {}
with open(path, encoding="utf-8") as file:
    for line in file:
        partition, offset, key, value = line.rstrip("\n").split("\t")
        log[int(partition), int(offset)] = (key, value)

table = RestCatalog("tidewater", uri=catalog).load_table(f"topics.{topic}")
seen = set()
for row in table.scan().to_arrow().to_pylist():
    at = (row["tidewater"]["partition"], row["tidewater"]["offset"])
    if at in seen:
        raise SystemExit(f"{at} is in the table twice")
    seen.add(at)
    found = (row["tidewater"]["key"].decode(), row["value"].decode())
    if log.get(at) != found:
        raise SystemExit(f"{at} is {found} in the table and {log.get(at)} in the log")
if missing := sorted(log.keys() - seen):
    raise SystemExit(f"{len(missing)} records are not in the table, the first is {missing[0]}")

ends = {}
for partition, offset in log:
    ends[partition] = max(ends.get(partition, 0), offset + 1)
for where, text in [("table", table.properties["tidewater.offsets"]),
                    ("snapshot", table.current_snapshot().summary["tidewater.offsets"])]:
    told = {int(partition): offset for partition, offset in json.loads(text).items()}
    if told != ends:
        raise SystemExit(f"the {where} says {told}, the log ends at {ends}")
total = int(table.current_snapshot().summary["total-records"])
if total != len(log):
    raise SystemExit(f"total-records is {total}, the log has {len(log)}")
print(f"{total} rows in {len(table.snapshots())} snapshots equal the log")

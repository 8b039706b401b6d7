"""Reads the tables of typed_produce.py's topics with stock Spark and compares every value of every column with what was
produced. Usage: typed_spark.py CATALOG JARS OUT"""
import sys

import spark
from typed_rows import COLUMNS, check, check_history, produced

catalog, jars, out = sys.argv[1:]
session = spark.session(catalog, jars)
for topic, of in produced(out).items():
    columns = ", ".join(f"`{column}`" for column in COLUMNS[topic])
    rows = session.sql(f"SELECT {columns} FROM lake.topics.{topic}").collect()
    letters = session.sql(f"SELECT value, reason FROM lake.topics.`{topic}~dlq`").collect()
    check("spark", topic, of, [tuple(row) for row in rows], [tuple(row) for row in letters])
    snapshots = session.sql(f"SELECT snapshot_id FROM lake.topics.{topic}.snapshots ORDER BY committed_at").collect()
    count = "SELECT count(*) FROM lake.topics.{} VERSION AS OF {}"
    check_history("spark", topic, [session.sql(count.format(topic, of[0])).collect()[0][0] for of in snapshots])
session.stop()

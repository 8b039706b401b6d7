"""Stock Spark without keys: reads a topic's table, writes one of its own. Usage: signing_spark.py CATALOG JARS"""
import sys

import spark

catalog, jars = sys.argv[1:]
session = spark.session(catalog, jars, {"header.X-Iceberg-Access-Delegation": "remote-signing"})
assert session.sql("SELECT count(*), max(tidewater.offset) FROM lake.topics.orders").collect()[0][:] == (100, 99)
session.sql("CREATE NAMESPACE lake.spark")
session.sql("CREATE TABLE lake.spark.t PARTITIONED BY (name) AS SELECT id, concat('a/b ', id % 2) name FROM range(10)")
session.sql("INSERT INTO lake.spark.t SELECT id, 'ä%' FROM range(5)")
session.sql("DELETE FROM lake.spark.t WHERE id = 3")
assert session.sql("SELECT count(*), sum(id) FROM lake.spark.t").collect()[0][:] == (13, 49)
# What this store does not let it delete at once, is left to the sweep of the broker or to the engine's own.
session.sql("CALL lake.system.expire_snapshots(table => 'spark.t', older_than => current_timestamp(), retain_last => 1)")
assert session.sql("SELECT count(*) FROM lake.spark.t").collect()[0][0] == 13
session.sql("DROP TABLE lake.spark.t PURGE")
print("spark: read the topic's table, wrote, changed and dropped one of its own, without keys")
session.stop()

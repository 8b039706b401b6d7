"""Reads the tables of typed_produce.py's topics with stock Spark and compares every value of every column with what was
produced. Usage: typed_spark.py CATALOG JARS OUT"""
import glob
import sys

from pyspark.sql import SparkSession

from typed_rows import COLUMNS, check, check_history, produced

catalog, jars, out = sys.argv[1:]
lake = "spark.sql.catalog.lake"
session = (
    SparkSession.builder.master("local[1]")
    .config("spark.jars", ",".join(sorted(glob.glob(f"{jars}/*.jar"))))
    .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
    .config(lake, "org.apache.iceberg.spark.SparkCatalog")
    .config(f"{lake}.type", "rest")
    .config(f"{lake}.uri", catalog)
    .config("spark.driver.memory", "700m")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .getOrCreate()
)
for topic, of in produced(out).items():
    columns = ", ".join(f"`{column}`" for column in COLUMNS[topic])
    rows = session.sql(f"SELECT {columns} FROM lake.topics.{topic}").collect()
    letters = session.sql(f"SELECT value, reason FROM lake.topics.`{topic}~dlq`").collect()
    check("spark", topic, of, [tuple(row) for row in rows], [tuple(row) for row in letters])
    snapshots = session.sql(f"SELECT snapshot_id FROM lake.topics.{topic}.snapshots ORDER BY committed_at").collect()
    count = "SELECT count(*) FROM lake.topics.{} VERSION AS OF {}"
    check_history("spark", topic, [session.sql(count.format(topic, of[0])).collect()[0][0] for of in snapshots])
session.stop()

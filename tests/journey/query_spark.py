"""Asks stock Spark for the flights by carrier: CATALOG JARS KIND(file|s3) [ENDPOINT KEY SECRET]."""
import glob
import sys

from pyspark.sql import SparkSession

import flights

catalog, jars, kind, *s3 = sys.argv[1:]
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
)
if kind == "s3":
    endpoint, key, secret = s3
    session = (
        session.config(f"{lake}.s3.endpoint", endpoint)
        .config(f"{lake}.s3.path-style-access", "true")
        .config(f"{lake}.s3.access-key-id", key)
        .config(f"{lake}.s3.secret-access-key", secret)
        .config(f"{lake}.client.region", "us-east-1")
    )
session = session.getOrCreate()
rows = session.sql(
    "SELECT get_json_object(CAST(value AS STRING), '$.carrier') c, count(*) n, "
    "sum(CAST(get_json_object(CAST(value AS STRING), '$.distance') AS BIGINT)) d FROM lake.topics.flights GROUP BY 1"
).collect()
found = {row["c"]: (row["n"], row["d"]) for row in rows}
if found != flights.by_carrier():
    raise SystemExit(f"spark disagrees: {found}")
print("spark", sum(rows for rows, _ in found.values()))
session.stop()

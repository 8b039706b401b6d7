"""A session of stock Spark with a REST catalog called `lake`."""
import glob

from pyspark.sql import SparkSession


def session(catalog, jars, of_lake=None):
    """`catalog` is its URL, `jars` the folder with Iceberg's; `of_lake` are more of the catalog's properties."""
    lake = "spark.sql.catalog.lake"
    builder = (
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
    for name, value in (of_lake or {}).items():
        builder = builder.config(f"{lake}.{name}", value)
    return builder.getOrCreate()

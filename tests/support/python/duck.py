"""A connection of DuckDB, with the extensions of the wheels, to a REST catalog called `lake`."""
import tempfile

import duckdb

# Deleted when the script ends.
EXTENSIONS = tempfile.TemporaryDirectory()


def connect(catalog, s3=None):
    """`catalog` is its URL; `s3` are endpoint, key and secret of its bucket, if that is no directory."""
    config = {"extension_directory": EXTENSIONS.name, "autoinstall_known_extensions": "false"}
    session = duckdb.connect(config=config)
    for name in ("avro", "httpfs", "iceberg"):
        package = __import__(f"duckdb_extension_{name}").__path__[0]
        session.execute(f"INSTALL '{package}/extensions/v{duckdb.__version__}/{name}.duckdb_extension'")
        session.execute(f"LOAD {name}")
    session.execute("SET TimeZone='UTC'")
    if s3:
        endpoint, key, secret = s3
        session.execute(
            f"CREATE SECRET s3lake (TYPE s3, PROVIDER config, KEY_ID '{key}', SECRET '{secret}', REGION 'us-east-1', "
            f"ENDPOINT '{endpoint.removeprefix('http://')}', URL_STYLE 'path', USE_SSL false)"
        )
    session.execute(f"ATTACH 'tidewater' AS lake (TYPE iceberg, ENDPOINT '{catalog}', AUTHORIZATION_TYPE 'none')")
    return session

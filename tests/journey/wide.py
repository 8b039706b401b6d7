"""Two consumers, kafka-python and librdkafka, each over all partitions of a wide topic: BOOTSTRAP TOPIC PARTITIONS.

Round after round a few partitions get records; both consumers must get exactly those, in order. Prints count and checksum
of everything written, as ReadGroup.java does.
"""
import random
import sys
import time
import zlib

from confluent_kafka import Consumer, Producer, TopicPartition as Place
from kafka import KafkaConsumer, TopicPartition

bootstrap, topic, partitions = sys.argv[1], sys.argv[2], int(sys.argv[3])
ROUNDS, BUSY, PATIENCE = 12, 25, 60
random.seed(7)

python = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, max_partition_fetch_bytes=1 << 16)
python.assign([TopicPartition(topic, n) for n in range(partitions)])
python.seek_to_beginning()
native = Consumer({"bootstrap.servers": bootstrap, "group.id": "wide-native", "enable.auto.commit": False,
                   "auto.offset.reset": "earliest"})
native.assign([Place(topic, n, 0) for n in range(partitions)])
producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5})


def by_python(wanted):
    for batch in python.poll(timeout_ms=200).values():
        for record in batch:
            take(wanted, record.partition, record.offset, record.key, record.value)


def by_native(wanted):
    for message in native.consume(1000, 0.2):
        if message.error():
            raise SystemExit(message.error())
        take(wanted, message.partition(), message.offset(), message.key(), message.value())


def take(wanted, partition, offset, key, value):
    expected = wanted[partition].pop(0) if wanted.get(partition) else None
    if expected != (offset, key, value):
        raise SystemExit(f"{topic}/{partition} offset {offset} key {key!r}: expected {expected}")
    if not wanted[partition]:
        del wanted[partition]


ends = [0] * partitions
count = total = 0
for number in range(ROUNDS):
    written = {}
    for partition in random.sample(range(partitions), partitions if number == 0 else BUSY):
        for _ in range(random.randint(1, 3)):
            key, value = str(partition).encode(), f"round {number}".encode() * random.randint(1, 50)
            producer.produce(topic, key=key, value=value, partition=partition)
            written.setdefault(partition, []).append((ends[partition], key, value))
            ends[partition] += 1
            count += 1
            total += zlib.crc32(value, zlib.crc32(key))
    if producer.flush(PATIENCE):
        raise SystemExit("not everything was delivered")
    for name, read in (("kafka-python", by_python), ("librdkafka", by_native)):
        wanted = {partition: list(records) for partition, records in written.items()}
        start = time.monotonic()
        while wanted:
            read(wanted)
            if time.monotonic() - start > PATIENCE:
                raise SystemExit(f"{name}, round {number}: nothing comes from {len(wanted)} partitions: {wanted}")
native.close()
python.close()
print(count, total % 2**64)

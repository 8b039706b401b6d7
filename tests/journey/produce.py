"""Writes the flights with librdkafka: BOOTSTRAP TOPIC. Prints count and checksum."""
import sys

from confluent_kafka import Producer

import flights

bootstrap, topic = sys.argv[1:]
failed = []
producer = Producer({
    "bootstrap.servers": bootstrap, "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 5,
    "queue.buffering.max.messages": 500_000,
})


def delivered(error, _message):
    if error is not None:
        failed.append(error)


def sent():
    for key, value in flights.records():
        while True:
            try:
                producer.produce(topic, key=key, value=value, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        yield key, value


count, total = flights.checksum(sent())
left = producer.flush(120)
if failed or left:
    raise SystemExit(f"{len(failed)} failed ({failed[:1]}), {left} not delivered")
print(count, total)

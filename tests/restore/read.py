"""Prints every record of a topic, as confluent-kafka reads it: partition, offset, timestamp, value."""

import sys

from confluent_kafka import Consumer, TopicPartition, OFFSET_BEGINNING

bootstrap, topic = sys.argv[1:]
consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "enable.partition.eof": True})
partitions = list(consumer.list_topics(topic, 20).topics[topic].partitions)
consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in partitions])
ended = set()
while len(ended) < len(partitions):
    message = consumer.poll(20)
    if message is None:
        raise SystemExit("nothing came for 20 seconds")
    if message.error():
        if message.error().name() != "_PARTITION_EOF":
            raise SystemExit(message.error().str())
        ended.add(message.partition())
        continue
    print(message.partition(), message.offset(), message.timestamp()[1], message.value().decode())
consumer.close()

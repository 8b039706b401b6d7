"""Reads a topic from offset 0 with kafka-python, byte for byte against the source: BOOTSTRAP TOPIC."""
import sys

from kafka import KafkaConsumer, TopicPartition

import flights

bootstrap, topic = sys.argv[1:]
consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False,
                         max_partition_fetch_bytes=4 << 20, fetch_max_bytes=32 << 20)
partitions = [TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic))]
consumer.assign(partitions)
consumer.seek_to_beginning(*partitions)
ends = consumer.end_offsets(partitions)
wanted = dict(flights.records())
next_offset = {tp: 0 for tp in partitions}
seen = 0
idle = 0
while any(next_offset[tp] < ends[tp] for tp in partitions):
    polled = consumer.poll(timeout_ms=5000)
    idle = 0 if polled else idle + 1
    if idle == 12:
        raise SystemExit(f"nothing more comes: at {next_offset}, ends {ends}")
    for tp, batch in polled.items():
        for record in batch:
            if record.offset != next_offset[tp]:
                raise SystemExit(f"{tp}: offset {record.offset} after {next_offset[tp]}")
            next_offset[tp] += 1
            if wanted.pop(record.key, None) != record.value:
                raise SystemExit(f"{tp} offset {record.offset}: not the record that was written, or twice")
            seen += 1
if wanted:
    raise SystemExit(f"{len(wanted)} records are missing")
print(seen)

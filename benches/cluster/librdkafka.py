"""Records at a steady rate by confluent-kafka (librdkafka) with its own settings: BOOTSTRAP TOPIC PARTITIONS RATE

Partitions in turn. A line for each acknowledged record, `partition due acknowledged`, times in nanoseconds since 1970; a record that is
given up ends the program with status 1. Runs until it is killed.
"""

import sys
import time

from confluent_kafka import Producer

boot, topic, partitions, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
producer = Producer({"bootstrap.servers": boot})
failed = []


def report(partition, due):
    def done(error, _message):
        if error is not None:
            failed.append(str(error))
            return
        sys.stdout.write(f"{partition} {due} {time.time_ns()}\n")
        sys.stdout.flush()

    return done


due, number = time.time_ns(), 0
while not failed:
    due += 1_000_000_000 // rate
    while (left := due - time.time_ns()) > 0:
        producer.poll(min(left / 1e9, 0.005))
    partition = number % partitions
    number += 1
    try:
        producer.produce(topic, b"x" * 100, partition=partition, on_delivery=report(partition, due))
    except BufferError:
        # The queue of a partition without a leader has filled up: a later record will do.
        producer.poll(0.01)
    producer.poll(0)
sys.exit(f"a record is given up: {failed[0]}")

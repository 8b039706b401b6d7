"""Load by confluent-kafka (librdkafka), with a history: BOOTSTRAP TOPIC PARTITIONS GROUP NAME STOP HISTORY produce|consume

Lines of the history: `A number partition offset` acknowledged (offset -1: stored, where is not known), `O number partition` given up,
`R partition offset value` read, `S time partition offset` started from, `C time partition offset` committed (times: of the start's question, of the
commit's answer). Ends when the file STOP exists; a producer then waits for what is in flight.
"""

import os
import random
import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

boot, topic, partitions, group, name, stop, history, role = sys.argv[1:]
partitions = int(partitions)
out = open(history, "w", buffering=1)


def stopped():
    return os.path.exists(stop)


def produce():
    settings = {
        "bootstrap.servers": boot,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 5,
        "request.timeout.ms": 5000,
        "message.timeout.ms": 300000,
        "retry.backoff.ms": 50,
        "retry.backoff.max.ms": 200,
        "topic.metadata.refresh.interval.ms": 5000,
        "reconnect.backoff.max.ms": 500,
        "socket.connection.setup.timeout.ms": 2000,
    }
    producer = Producer(settings)
    dice = random.Random(name)
    number = 0

    def report(n, p):
        def done(error, message):
            if error is None:
                # librdkafka takes a batch for stored when a later one is, and has no offset of it then.
                offset = message.offset()
                out.write(f"A {n} {p} {-1 if offset is None else offset}\n")
            else:
                print(f"{name} {n}: {error}", flush=True)
                out.write(f"O {n} {p}\n")

        return done

    while not stopped():
        p = dice.randrange(partitions)
        value = f"{name}:{number}:" + "abcdefghij" * (number % 60)
        try:
            producer.produce(topic, value.encode(), name.encode(), p, on_delivery=report(number, p))
            number += 1
        except BufferError:
            producer.poll(0.1)
        producer.poll(0)
        time.sleep(dice.random() * 0.004)
    left = producer.flush(120)
    assert left == 0, f"{left} records are still in flight"


def consume():
    settings = {
        "bootstrap.servers": boot,
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 10000,
        "heartbeat.interval.ms": 1000,
        "fetch.wait.max.ms": 100,
        "reconnect.backoff.max.ms": 500,
        "topic.metadata.refresh.interval.ms": 5000,
        "socket.connection.setup.timeout.ms": 2000,
        "partition.assignment.strategy": "range",
    }
    consumer = Consumer(settings)
    positions = {}

    def assigned(consumer, given):
        asked = time.time()
        while True:
            try:
                held = consumer.committed(given, 5)
                break
            except KafkaException as error:
                print(f"{name}: committed: {error}", flush=True)
                if stopped():
                    return
        start = []
        for part in held:
            at = max(part.offset, 0)
            out.write(f"S {asked} {part.partition} {at}\n")
            positions[part.partition] = at
            start.append(TopicPartition(topic, part.partition, at))
        consumer.assign(start)

    def revoked(consumer, taken):
        positions.clear()
        consumer.unassign()

    consumer.subscribe([topic], on_assign=assigned, on_revoke=revoked, on_lost=revoked)
    last = time.time()
    while not stopped():
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            value = message.value().decode()
            expected = positions.get(message.partition())
            if expected is not None and message.offset() != expected:
                out.write(f"X {message.partition()} expected {expected} got {message.offset()}\n")
            out.write(f"R {message.partition()} {message.offset()} {value}\n")
            positions[message.partition()] = message.offset() + 1
        elif message is not None and message.error().code() != KafkaError._PARTITION_EOF:
            print(f"{name}: {message.error()}", flush=True)
        if time.time() - last > 0.3 and positions:
            last = time.time()
            wanted = [TopicPartition(topic, p, at) for p, at in positions.items()]
            try:
                done = consumer.commit(offsets=wanted, asynchronous=False)
                at = time.time()
                for part in done:
                    if part.error is None:
                        out.write(f"C {at} {part.partition} {part.offset}\n")
            except KafkaException as error:
                print(f"{name}: commit: {error}", flush=True)
    consumer.close()


{"produce": produce, "consume": consume}[role]()
out.close()

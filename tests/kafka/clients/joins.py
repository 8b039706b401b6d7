"""kafka-python: BOOTSTRAP. Ten times two members join a group at once; each must get one of the two partitions."""
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

boot = sys.argv[1]
admin = KafkaAdminClient(bootstrap_servers=boot)
admin.create_topics([NewTopic("joins", 2, 1)])
producer = KafkaProducer(bootstrap_servers=boot)
for partition in (0, 1):
    producer.send("joins", b"wakes a poll that waits long", partition=partition).get(20)
producer.close()


def member(group, assigned, stop):
    consumer = KafkaConsumer("joins", bootstrap_servers=boot, group_id=group, auto_offset_reset="earliest",
                             enable_auto_commit=False, session_timeout_ms=10000, heartbeat_interval_ms=500)
    while not stop.is_set():
        # See kafka_python.py.
        consumer.poll(200 if consumer.assignment() else 10000)
        assigned[threading.current_thread().name] = set(consumer.assignment())
    consumer.close()


for n in range(10):
    assigned, stop, group = {}, threading.Event(), "pair%d" % n
    threads = [threading.Thread(target=member, args=(group, assigned, stop), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 40
    while [len(held) for held in list(assigned.values())] != [1, 1]:
        assert time.monotonic() < deadline, (assigned, admin.describe_groups([group]))
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join(30)
print("ok two members that join at once share the partitions", flush=True)

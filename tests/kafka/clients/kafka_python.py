"""kafka-python: BOOTSTRAP. Prints `ok` and what was checked, one line each; any other end is a failure."""
import sys
import threading
import time

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError
from kafka.structs import OffsetAndMetadata

boot = sys.argv[1]
TOPIC = "kafka-python"


def ok(what):
    print("ok", what, flush=True)


admin = KafkaAdminClient(bootstrap_servers=boot)
admin.create_topics([NewTopic(TOPIC, 2, 1, topic_configs={"retention.ms": "3600000"})])
try:
    admin.create_topics([NewTopic(TOPIC, 2, 1)])
    raise SystemExit("a topic was made twice")
except TopicAlreadyExistsError:
    pass
assert TOPIC in admin.list_topics()
ok("a topic is made once and listed")

for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
    producer = KafkaProducer(bootstrap_servers=boot, compression_type=codec, acks="all", linger_ms=20)
    sent = [producer.send(TOPIC, b"v" * 100, b"k%d" % n, [("codec", str(codec).encode())], partition=0) for n in range(50)]
    offsets = [future.get(20).offset for future in sent]
    assert offsets == list(range(offsets[0], offsets[0] + 50)), offsets
    producer.close()
ok("every codec, idempotent (the default)")
producer = KafkaProducer(bootstrap_servers=boot, enable_idempotence=False, acks=1)
for n in range(100):
    producer.send(TOPIC, str(n).encode(), partition=1, timestamp_ms=1000 + n)
producer.send(TOPIC, None, b"gone", partition=1).get(20)
producer.close()
ok("acks=1, given timestamps, null value")

reader = KafkaConsumer(bootstrap_servers=boot, consumer_timeout_ms=20000)
zero, one = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)
reader.assign([zero])
reader.seek_to_beginning(zero)
got = []
for record in reader:
    got.append(record)
    if len(got) == 250:
        break
assert [r.offset for r in got] == list(range(250)) and got[-1].headers == [("codec", b"zstd")]
assert reader.end_offsets([zero, one]) == {zero: 250, one: 101}
assert reader.beginning_offsets([one]) == {one: 0}
assert reader.offsets_for_times({one: 1050})[one].offset == 50
reader.close()
ok("read back in order; offsets at both ends and for a time")


def member(assigned, stop):
    consumer = KafkaConsumer(TOPIC, bootstrap_servers=boot, group_id="py", auto_offset_reset="earliest",
                             enable_auto_commit=False, session_timeout_ms=10000, heartbeat_interval_ms=500)
    while not stop.is_set():
        # kafka-python 3.0.12 forgets a join: when its metadata changes it joins again, and if the poll's time is up before
        # the leader's SyncGroup is answered, the next poll sees nothing to do (`need_rejoin` compares snapshots that
        # `_perform_assignment` has made equal), takes no assignment and sends no heartbeats; the session expires and the
        # other member gets all. Metadata changes while a member has no partitions: its poll outlasts the join.
        consumer.poll(200 if consumer.assignment() else 10000)
        assigned[threading.current_thread().name] = set(consumer.assignment())
    consumer.commit({tp: OffsetAndMetadata(7, "here", -1) for tp in consumer.assignment()})
    assert all(consumer.committed(tp) == 7 for tp in consumer.assignment())
    assigned[threading.current_thread().name + " committed"] = True
    consumer.close()


assigned, stop = {}, threading.Event()
threads = [threading.Thread(target=member, args=(assigned, stop), daemon=True) for _ in range(2)]
for thread in threads:
    thread.start()
deadline = time.monotonic() + 40
while [len(held) for held in list(assigned.values())] != [1, 1]:
    assert time.monotonic() < deadline, (assigned, admin.describe_groups(["py"]))
    time.sleep(0.1)
described = admin.describe_groups(["py"])
assert "py" in str(described) and "Stable" in str(described), described
stop.set()
for thread in threads:
    thread.join(30)
assert sum(name.endswith("committed") for name in assigned) == 2, assigned
ok("two members share the partitions and commit")
assert "py" in str(admin.list_groups())
offsets = admin.list_group_offsets("py")
assert "7" in str(offsets), offsets
admin.delete_groups(["py"])
assert "py" not in str(admin.list_groups())
ok("groups described, listed, deleted; their offsets")

resource = ConfigResource(ConfigResourceType.TOPIC, TOPIC)
assert "3600000" in str(admin.describe_configs([resource]))
admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, TOPIC, configs={"retention.ms": "7200000"})])
assert "7200000" in str(admin.describe_configs([resource]))
ok("configs described and altered")
admin.create_partitions({TOPIC: NewPartitions(3)})
assert admin.delete_records({zero: 10})[zero]["low_watermark"] == 10
assert len(admin.describe_topics([TOPIC])[0]["partitions"]) == 3
assert TOPIC in str(admin.describe_log_dirs())
producer, begun = KafkaProducer(bootstrap_servers=boot, transactional_id="none"), time.monotonic()
try:
    producer.init_transactions()
    raise SystemExit("transactions were begun")
except KafkaError as error:
    assert time.monotonic() - begun < 10, error
ok("transactions refused at once")
cluster = admin.describe_cluster()
assert cluster["cluster_id"], cluster
ok("partitions added, records deleted, log directories, cluster")
admin.delete_topics([TOPIC])
# A consumer that has just closed may have asked for the topic once more, and a broker that makes topics by itself makes
# it anew, as Kafka does.
deadline = time.monotonic() + 10
while TOPIC in admin.list_topics():
    assert time.monotonic() < deadline
    time.sleep(0.5)
    if TOPIC in admin.list_topics():
        admin.delete_topics([TOPIC])
ok("topic deleted")

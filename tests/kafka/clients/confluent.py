"""confluent-kafka (librdkafka): BOOTSTRAP. Prints `ok` and what was checked, one line each; any other end is a failure."""
import sys
import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, Producer, TopicPartition
from confluent_kafka import ConsumerGroupState, IsolationLevel, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType,
)

boot = sys.argv[1]
TOPIC = "librdkafka"
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def ok(what):
    print("ok", what, flush=True)


def one(futures):
    """The only result of a call of the admin client."""
    return next(iter(futures.values())).result(20)


def deliver(producer, messages):
    """Produces and gives the (partition, offset) of each message in its order."""
    placed = {}

    def done(n):
        def report(error, message):
            assert error is None, error
            placed[n] = (message.partition(), message.offset())
        return report

    for n, message in enumerate(messages):
        producer.produce(TOPIC, on_delivery=done(n), **message)
    assert producer.flush(30) == 0
    return [placed[n] for n in range(len(messages))]


def take(consumer, count, seconds=30):
    got, deadline = [], time.monotonic() + seconds
    while len(got) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None:
            assert message.error() is None, message.error()
            got.append(message)
    assert len(got) == count, f"{len(got)} of {count}"
    return got


admin = AdminClient({"bootstrap.servers": boot})
one(admin.create_topics([NewTopic(TOPIC, 2, 1, config={"retention.ms": "3600000"})]))
topic = one(admin.describe_topics(TopicCollection([TOPIC])))
assert len(topic.partitions) == 2 and str(topic.topic_id) != "AAAAAAAAAAAAAAAAAAAAAA", topic
try:
    one(admin.create_topics([NewTopic(TOPIC, 2, 1)]))
    raise SystemExit("a topic was made twice")
except Exception as error:
    assert error.args[0].name() == "TOPIC_ALREADY_EXISTS", error
ok("a topic is made once, with configs, and described with its id")

for codec in CODECS:
    producer = Producer({"bootstrap.servers": boot, "compression.type": codec, "acks": "all", "linger.ms": 20})
    sent = [{"partition": 0, "key": f"{codec}-{n}", "value": "v" * 100, "headers": {"codec": codec}} for n in range(50)]
    placed = deliver(producer, sent)
    assert placed == [(0, placed[0][1] + n) for n in range(50)], placed
ok("every codec, acks=all")
producer = Producer({"bootstrap.servers": boot, "enable.idempotence": True})
assert [o for _, o in deliver(producer, [{"partition": 1, "value": str(n), "timestamp": 1000 + n} for n in range(100)])] \
    == list(range(100))
ok("idempotent producer, given timestamps")
deliver(Producer({"bootstrap.servers": boot, "acks": 1}), [{"partition": 1, "key": None, "value": None}])
quick = Producer({"bootstrap.servers": boot, "acks": 0})
quick.produce(TOPIC, "no answer", partition=1)
assert quick.flush(10) == 0
ok("acks=1 and acks=0, null key and value")

reader = Consumer({"bootstrap.servers": boot, "group.id": "none", "enable.auto.commit": False, "enable.partition.eof": False})
reader.assign([TopicPartition(TOPIC, 0, 0)])
got = take(reader, 250)
assert [m.offset() for m in got] == list(range(250))
assert [m.key().decode() for m in got[:2]] == ["none-0", "none-1"] and got[-1].headers() == [("codec", b"zstd")]
ok("every codec read back in order, with headers")
deadline = time.monotonic() + 10
while reader.get_watermark_offsets(TopicPartition(TOPIC, 1), timeout=10) != (0, 102):
    assert time.monotonic() < deadline
found = reader.offsets_for_times([TopicPartition(TOPIC, 1, 1050)], timeout=10)[0]
assert found.offset == 50, found
reader.close()
ok("watermarks, offset for a time")

settings = {"bootstrap.servers": boot, "group.id": "rd", "auto.offset.reset": "earliest", "enable.auto.commit": False,
            "session.timeout.ms": 6000, "heartbeat.interval.ms": 500, "partition.assignment.strategy": "range"}
first = Consumer(settings)
first.subscribe([TOPIC])
take(first, 100)
second = Consumer(settings)
second.subscribe([TOPIC])
deadline = time.monotonic() + 30
while not (len(first.assignment()) == len(second.assignment()) == 1):
    first.poll(0.1)
    second.poll(0.1)
    assert time.monotonic() < deadline, "no share of the partitions"
ok("a second member takes its share")
group = one(admin.describe_consumer_groups(["rd"]))
assert group.state == ConsumerGroupState.STABLE and len(group.members) == 2, group
listed = admin.list_consumer_groups(states={ConsumerGroupState.STABLE}).result(10)
assert "rd" in [g.group_id for g in listed.valid], listed.valid
ok("groups described and listed by state")
first.commit(offsets=[TopicPartition(TOPIC, first.assignment()[0].partition, 7, metadata="here")], asynchronous=False)
partition = first.assignment()[0].partition
assert first.committed([TopicPartition(TOPIC, partition)], timeout=10)[0].offset == 7
second.close()
first.close()
ok("offsets committed and read")
for protocol in ["cooperative-sticky"]:
    member = Consumer({**settings, "group.id": "coop", "partition.assignment.strategy": protocol, "group.instance.id": "s"})
    member.subscribe([TOPIC])
    take(member, 10)
    member.commit(asynchronous=False)
    member.close()
ok("cooperative-sticky, static member")

request = [ConsumerGroupTopicPartitions("rd", [TopicPartition(TOPIC, partition)])]
assert one(admin.list_consumer_group_offsets(request)).topic_partitions[0].offset == 7
request = [ConsumerGroupTopicPartitions("rd", [TopicPartition(TOPIC, partition, 3)])]
one(admin.alter_consumer_group_offsets(request))
one(admin.delete_consumer_groups(["rd"]))
try:
    one(admin.delete_consumer_groups(["rd"]))
    raise SystemExit("a group was deleted twice")
except Exception as error:
    assert error.args[0].name() == "GROUP_ID_NOT_FOUND", error
ok("group offsets listed and altered, group deleted once")

resource = ConfigResource(ResourceType.TOPIC, TOPIC)
assert one(admin.describe_configs([resource]))["retention.ms"].value == "3600000"
entry = ConfigEntry("retention.ms", "7200000", incremental_operation=AlterConfigOpType.SET)
one(admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=[entry])]))
assert one(admin.describe_configs([resource]))["retention.ms"].value == "7200000"
one(admin.alter_configs([ConfigResource(ResourceType.TOPIC, TOPIC, set_config={"retention.ms": "1800000"})]))
assert one(admin.describe_configs([resource]))["retention.ms"].value == "1800000"
ok("configs described, altered in part and as a whole")
one(admin.create_partitions([NewPartitions(TOPIC, 3)]))
at = {TopicPartition(TOPIC, 0): OffsetSpec.earliest(), TopicPartition(TOPIC, 1): OffsetSpec.latest()}
offsets = {tp.partition: f.result(10).offset for tp, f in admin.list_offsets(at).items()}
assert offsets == {0: 0, 1: 102}, offsets
assert one(admin.list_offsets({TopicPartition(TOPIC, 0): OffsetSpec.max_timestamp()})).offset >= 0
assert one(admin.delete_records([TopicPartition(TOPIC, 0, 10)])).low_watermark == 10
at = {TopicPartition(TOPIC, 0): OffsetSpec.earliest()}
assert one(admin.list_offsets(at, isolation_level=IsolationLevel.READ_COMMITTED)).offset == 10
ok("partitions added, offsets listed, records deleted")
one(admin.create_topics([NewTopic("stored", 1, 1, config={"compression.type": "lz4"})]))
for codec in CODECS:
    producer = Producer({"bootstrap.servers": boot, "compression.type": codec, "linger.ms": 20})
    for n in range(50):
        producer.produce("stored", f"{codec}-{n}" * 500, partition=0)
    assert producer.flush(30) == 0
reader = Consumer({"bootstrap.servers": boot, "group.id": "stored", "check.crcs": True})
reader.assign([TopicPartition("stored", 0, 0)])
assert [m.value().decode() for m in take(reader, 250)] == [f"{codec}-{n}" * 500 for codec in CODECS for n in range(50)]
reader.close()
ok("every codec produced to a topic with compression.type=lz4 and read back")
producer, begun = Producer({"bootstrap.servers": boot, "transactional.id": "none"}), time.monotonic()
try:
    producer.init_transactions(30)
    raise SystemExit("transactions were begun")
except KafkaException as error:
    assert "transactions are not served" in str(error) and time.monotonic() - begun < 10, error
ok("transactions refused at once, with the reason")
cluster = admin.describe_cluster().result(10)
assert len(cluster.nodes) == 1 and cluster.cluster_id, cluster
assert one(admin.describe_configs([ConfigResource(ResourceType.BROKER, str(cluster.nodes[0].id))]))
one(admin.delete_topics([TOPIC]))
deadline = time.monotonic() + 10
while TOPIC in admin.list_topics(timeout=10).topics:
    assert time.monotonic() < deadline
ok("cluster described, topic deleted")

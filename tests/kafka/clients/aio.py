"""aiokafka: BOOTSTRAP. Prints `ok` and what was checked, one line each; any other end is a failure."""
import asyncio
import sys

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import OffsetAndMetadata

boot = sys.argv[1]
TOPIC = "aiokafka"
ZERO, ONE = TopicPartition(TOPIC, 0), TopicPartition(TOPIC, 1)


def ok(what):
    print("ok", what, flush=True)


async def produce():
    for codec in [None, "gzip", "snappy", "lz4", "zstd"]:
        async with AIOKafkaProducer(bootstrap_servers=boot, compression_type=codec, acks="all", linger_ms=20) as producer:
            sent = [await producer.send(TOPIC, b"v" * 100, b"k", 0, headers=[("c", b"d")]) for _ in range(50)]
            offsets = [(await future).offset for future in sent]
            assert offsets == list(range(offsets[0], offsets[0] + 50)), offsets
    ok("every codec, acks=all")
    async with AIOKafkaProducer(bootstrap_servers=boot, enable_idempotence=True) as producer:
        for n in range(100):
            await producer.send(TOPIC, str(n).encode(), partition=1, timestamp_ms=1000 + n)
        await producer.send_and_wait(TOPIC, None, b"gone", 1)
    ok("idempotent producer, given timestamps, null value")


async def read():
    async with AIOKafkaConsumer(bootstrap_servers=boot, auto_offset_reset="earliest") as reader:
        reader.assign([ZERO])
        got = [await asyncio.wait_for(reader.getone(), 20) for _ in range(250)]
        assert [r.offset for r in got] == list(range(250)) and got[-1].headers == (("c", b"d"),)
        assert await reader.end_offsets([ZERO, ONE]) == {ZERO: 250, ONE: 101}
        assert (await reader.offsets_for_times({ONE: 1050}))[ONE].offset == 50
    ok("read back in order; end offsets, offset for a time")


async def group(admin):
    members = []
    for _ in range(2):
        member = AIOKafkaConsumer(TOPIC, bootstrap_servers=boot, group_id="aio", auto_offset_reset="earliest",
                                  enable_auto_commit=False, session_timeout_ms=10000, heartbeat_interval_ms=500)
        await member.start()
        members.append(member)
    async with asyncio.timeout(40):
        while [len(member.assignment()) for member in members] != [1, 1]:
            await asyncio.gather(*(member.getmany(timeout_ms=100) for member in members))
    described = await admin.describe_consumer_groups(["aio"])
    assert "Stable" in str(described), described
    assert ("aio", "consumer") in await admin.list_consumer_groups()
    for member in members:
        held = next(iter(member.assignment()))
        await member.commit({held: OffsetAndMetadata(7, "here")})
        assert await member.committed(held) == 7
        await member.stop()
    offsets = await admin.list_consumer_group_offsets("aio")
    assert offsets[ZERO].offset == 7, offsets
    ok("two members share the partitions and commit; group described and listed, its offsets read")


async def main():
    admin = AIOKafkaAdminClient(bootstrap_servers=boot)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, 2, 1, topic_configs={"retention.ms": "3600000"})])
    assert TOPIC in await admin.list_topics()
    ok("topic made and listed")
    await produce()
    await read()
    await group(admin)
    resource = ConfigResource(ConfigResourceType.TOPIC, TOPIC)
    assert "3600000" in str(await admin.describe_configs([resource]))
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, TOPIC, configs={"retention.ms": "7200000"})])
    assert "7200000" in str(await admin.describe_configs([resource]))
    ok("configs described and altered")
    await admin.create_partitions({TOPIC: NewPartitions(3)})
    await admin.delete_records({ZERO: RecordsToDelete(10)})
    assert len((await admin.describe_topics([TOPIC]))[0]["partitions"]) == 3
    assert (await admin.describe_cluster())["cluster_id"]
    await admin.delete_topics([TOPIC])
    ok("partitions added, records deleted, cluster described, topic deleted")
    await admin.close()


asyncio.run(main())

// kafkajs: BOOTSTRAP. Prints `ok` and what was checked, one line each; any other end is a failure.
const assert = require("node:assert");
const { Kafka, CompressionTypes, ConfigResourceTypes, logLevel } = require("kafkajs");

const boot = process.argv[2];
const topic = "kafkajs";
const ok = (what) => console.log("ok", what);
const kafka = new Kafka({ clientId: "kafkajs", brokers: [boot], logLevel: logLevel.ERROR });

async function until(what, done) {
  const deadline = Date.now() + 40000;
  while (!(await done())) {
    assert(Date.now() < deadline, what);
    await new Promise((wake) => setTimeout(wake, 100));
  }
}

async function produce() {
  const producer = kafka.producer();
  await producer.connect();
  for (const compression of [CompressionTypes.None, CompressionTypes.GZIP]) {
    const messages = Array.from({ length: 50 }, (_, n) => ({ key: `k${n}`, value: "v".repeat(100), partition: 0, headers: { c: "d" } }));
    await producer.send({ topic, acks: -1, compression, messages });
  }
  await producer.disconnect();
  const idempotent = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await idempotent.connect();
  const messages = Array.from({ length: 100 }, (_, n) => ({ value: `${n}`, partition: 1, timestamp: `${1000 + n}` }));
  const [placed] = await idempotent.send({ topic, messages: [...messages, { key: "gone", value: null, partition: 1 }] });
  assert.equal(placed.baseOffset, "0");
  await idempotent.disconnect();
  ok("plain, gzip and idempotent producers; timestamps, headers, null value");
}

async function group(admin) {
  const seen = [new Set(), new Set()];
  const assigned = [[], []];
  const members = [0, 1].map(() => kafka.consumer({ groupId: "js", sessionTimeout: 10000, heartbeatInterval: 500, rebalanceTimeout: 10000 }));
  for (const [n, member] of members.entries()) {
    member.on(member.events.GROUP_JOIN, ({ payload }) => (assigned[n] = payload.memberAssignment[topic] ?? []));
    await member.connect();
    await member.subscribe({ topic, fromBeginning: true });
    await member.run({ autoCommit: false, eachMessage: async ({ partition, message }) => void seen[n].add(`${partition}-${message.offset}`) });
  }
  await until("each has one partition", () => assigned[0].length === 1 && assigned[1].length === 1);
  await until("all is read", () => new Set([...seen[0], ...seen[1]]).size === 201);
  const described = await admin.describeGroups(["js"]);
  assert.equal(described.groups[0].state, "Stable");
  assert.equal(described.groups[0].members.length, 2);
  assert((await admin.listGroups()).groups.some((g) => g.groupId === "js"));
  await members[0].commitOffsets([{ topic, partition: assigned[0][0], offset: "7" }]);
  for (const member of members) await member.disconnect();
  ok("two members share the partitions and read all; group described and listed");
  const [offsets] = await admin.fetchOffsets({ groupId: "js", topics: [topic] });
  assert(offsets.partitions.some((p) => p.offset === "7"), JSON.stringify(offsets));
  await admin.setOffsets({ groupId: "js", topic, partitions: [{ partition: 0, offset: "3" }] });
  for (const [earliest, stored] of [[true, "-2"], [false, "-1"]]) {
    await admin.resetOffsets({ groupId: "js", topic, earliest });
    const [reset] = await admin.fetchOffsets({ groupId: "js", topics: [topic] });
    assert.deepEqual(reset.partitions.map((p) => p.offset), [stored, stored]);
  }
  await admin.deleteGroups(["js"]);
  ok("offsets committed, read, set, reset; group deleted");
}

async function main() {
  const admin = kafka.admin();
  await admin.connect();
  const made = { topic, numPartitions: 2, configEntries: [{ name: "retention.ms", value: "3600000" }] };
  assert.equal(await admin.createTopics({ topics: [made] }), true);
  assert.equal(await admin.createTopics({ topics: [made] }), false);
  assert((await admin.listTopics()).includes(topic));
  ok("a topic is made once and listed");
  await produce();
  const ends = await admin.fetchTopicOffsets(topic);
  assert.deepEqual(ends.map((p) => [p.partition, p.low, p.high]).sort(), [[0, "0", "100"], [1, "0", "101"]]);
  const at = await admin.fetchTopicOffsetsByTimestamp(topic, 1050);
  assert.equal(at.find((p) => p.partition === 1).offset, "50");
  ok("offsets at both ends and for a time");
  await group(admin);
  const resource = { type: ConfigResourceTypes.TOPIC, name: topic };
  await admin.alterConfigs({ resources: [{ ...resource, configEntries: [{ name: "retention.ms", value: "7200000" }] }] });
  const configs = await admin.describeConfigs({ resources: [resource] });
  assert.equal(configs.resources[0].configEntries.find((c) => c.configName === "retention.ms").configValue, "7200000");
  ok("configs altered and described");
  await admin.createPartitions({ topicPartitions: [{ topic, count: 3 }] });
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: "10" }] });
  const { topics } = await admin.fetchTopicMetadata({ topics: [topic] });
  assert.equal(topics[0].partitions.length, 3);
  assert.equal((await admin.describeCluster()).brokers.length, 1);
  await admin.deleteTopics({ topics: [topic] });
  ok("partitions added, records deleted, cluster described, topic deleted");
  await admin.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

// Load by kafkajs, with a history as load.py describes it: BOOTSTRAP TOPIC PARTITIONS GROUP NAME STOP HISTORY.
const fs = require("node:fs");
const { Kafka, logLevel } = require("kafkajs");

const [boot, topic, partitions, , name, stop, history] = process.argv.slice(2);
const out = fs.openSync(history, "w");
const kafka = new Kafka({
  clientId: name,
  brokers: boot.split(","),
  logLevel: logLevel.ERROR,
  connectionTimeout: 2000,
  requestTimeout: 5000,
  retry: { initialRetryTime: 50, maxRetryTime: 300, retries: 200 },
});

async function main() {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  for (let number = 0; !fs.existsSync(stop); number++) {
    const partition = Math.floor(Math.random() * Number(partitions));
    const value = `${name}:${number}:${"abcdefghij".repeat(number % 60)}`;
    try {
      const [placed] = await producer.send({ topic, acks: -1, messages: [{ key: name, value, partition }] });
      fs.writeSync(out, `A ${number} ${partition} ${placed.baseOffset}\n`);
    } catch (error) {
      console.log(name, number, error.name, error.message);
      fs.writeSync(out, `O ${number} ${partition}\n`);
    }
  }
  await producer.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

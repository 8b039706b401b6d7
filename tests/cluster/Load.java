import java.io.*;
import java.nio.file.*;
import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.serialization.*;

/** Load by the Java clients, with a history as load.py writes it: BOOTSTRAP TOPIC PARTITIONS GROUP NAME STOP HISTORY produce|consume. */
public class Load {
    static String boot, topic, group, name;
    static int partitions;
    static Path stop;
    static PrintStream out;

    static boolean stopped() {
        return Files.exists(stop);
    }

    static double now() {
        return System.currentTimeMillis() / 1000.0;
    }

    static void produce() throws Exception {
        Map<String, Object> settings = new HashMap<>(Map.of("bootstrap.servers", boot, "acks", "all", "linger.ms", 5,
            "request.timeout.ms", 5000, "delivery.timeout.ms", 300000, "max.block.ms", 60000,
            "retry.backoff.ms", 50, "retry.backoff.max.ms", 200, "reconnect.backoff.max.ms", 500));
        settings.put("socket.connection.setup.timeout.ms", 2000);
        var dice = new Random(name.hashCode());
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (int number = 0; !stopped(); number++) {
                int n = number, p = dice.nextInt(partitions);
                String value = name + ":" + n + ":" + "abcdefghij".repeat(n % 60);
                producer.send(new ProducerRecord<>(topic, p, name, value), (done, error) -> {
                    synchronized (out) {
                        if (error == null) out.println("A " + n + " " + p + " " + done.offset());
                        else {
                            System.out.println(name + " " + n + ": " + error);
                            out.println("O " + n + " " + p);
                        }
                    }
                });
                Thread.sleep(dice.nextInt(4));
            }
            producer.flush();
        }
    }

    static void consume() throws Exception {
        Map<String, Object> settings = Map.of("bootstrap.servers", boot, "group.id", group, "enable.auto.commit", false,
            "auto.offset.reset", "earliest", "session.timeout.ms", 10000, "heartbeat.interval.ms", 1000,
            "fetch.max.wait.ms", 100, "reconnect.backoff.max.ms", 500, "default.api.timeout.ms", 20000,
            "partition.assignment.strategy", "org.apache.kafka.clients.consumer.RangeAssignor");
        var positions = new HashMap<Integer, Long>();
        var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(topic), new ConsumerRebalanceListener() {
            public void onPartitionsAssigned(Collection<TopicPartition> given) {
                double asked = now();
                for (var part : given) {
                    try {
                        long at = consumer.position(part);
                        out.println("S " + asked + " " + part.partition() + " " + at);
                        positions.put(part.partition(), at);
                    } catch (RetriableException error) {
                        System.out.println(name + ": position: " + error);
                    }
                }
            }

            public void onPartitionsRevoked(Collection<TopicPartition> taken) {
                positions.clear();
            }
        });
        double last = now();
        while (!stopped()) {
            try {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    Long expected = positions.get(record.partition());
                    if (expected != null && expected != record.offset())
                        out.println("X " + record.partition() + " expected " + expected + " got " + record.offset());
                    out.println("R " + record.partition() + " " + record.offset() + " " + record.value());
                    positions.put(record.partition(), record.offset() + 1);
                }
                if (now() - last > 0.3 && !positions.isEmpty()) {
                    last = now();
                    var wanted = new HashMap<TopicPartition, OffsetAndMetadata>();
                    positions.forEach((p, at) -> wanted.put(new TopicPartition(topic, p), new OffsetAndMetadata(at)));
                    consumer.commitSync(wanted, Duration.ofSeconds(10));
                    double at = now();
                    wanted.forEach((part, held) -> out.println("C " + at + " " + part.partition() + " " + held.offset()));
                }
            } catch (CommitFailedException | RetriableException error) {
                System.out.println(name + ": " + error);
            }
        }
        consumer.close(CloseOptions.timeout(Duration.ofSeconds(10)));
    }

    public static void main(String[] args) throws Exception {
        boot = args[0];
        topic = args[1];
        partitions = Integer.parseInt(args[2]);
        group = args[3];
        name = args[4];
        stop = Path.of(args[5]);
        out = new PrintStream(new FileOutputStream(args[6]), true);
        if (args[7].equals("produce")) produce();
        else consume();
        out.close();
        System.exit(0);
    }
}

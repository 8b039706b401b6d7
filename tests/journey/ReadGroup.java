import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Reads a topic from the beginning in a group of two members: BOOTSTRAP TOPIC GROUP COUNT. Prints count and checksum. */
public class ReadGroup {
    static long count = 0;
    static long sum = 0;

    static synchronized void take(ConsumerRecord<byte[], byte[]> record) {
        CRC32 crc = new CRC32();
        crc.update(record.key());
        crc.update(record.value());
        sum += crc.getValue();
        count++;
    }

    static synchronized long count() {
        return count;
    }

    static void member(String[] args, long wanted) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("group.id", args[2]);
        settings.put("auto.offset.reset", "earliest");
        settings.put("key.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("value.deserializer", ByteArrayDeserializer.class.getName());
        settings.put("enable.auto.commit", "false");
        settings.put("max.poll.records", "20000");
        settings.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
        long deadline = System.currentTimeMillis() + 180_000;
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings)) {
            consumer.subscribe(List.of(args[1]));
            while (count() < wanted && System.currentTimeMillis() < deadline) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    take(record);
                }
                consumer.commitSync();
            }
        }
    }

    public static void main(String[] args) throws InterruptedException {
        long wanted = Long.parseLong(args[3]);
        Thread second = new Thread(() -> member(args, wanted));
        second.start();
        member(args, wanted);
        second.join();
        System.out.println(count + " " + Long.toUnsignedString(sum));
        System.exit(count == wanted ? 0 : 1);
    }
}

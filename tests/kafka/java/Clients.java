import java.time.Duration;
import java.util.*;
import java.util.concurrent.*;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;

import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.resource.*;
import org.apache.kafka.common.serialization.*;

/** The Java clients: BOOTSTRAP. Prints `ok` and what was checked, one line each; any other end is a failure. */
public class Clients {
    static final String TOPIC = "java";
    static final TopicPartition ZERO = new TopicPartition(TOPIC, 0), ONE = new TopicPartition(TOPIC, 1);
    static String boot;

    static void ok(String what) {
        System.out.println("ok " + what);
    }

    static void must(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    static void until(String what, BooleanSupplier done) throws InterruptedException {
        long deadline = System.currentTimeMillis() + 40_000;
        while (!done.getAsBoolean()) {
            must(System.currentTimeMillis() < deadline, what);
            Thread.sleep(50);
        }
    }

    static Map<String, Object> settings(Object... pairs) {
        Map<String, Object> settings = new HashMap<>(Map.of("bootstrap.servers", boot));
        for (int n = 0; n < pairs.length; n += 2) settings.put((String) pairs[n], pairs[n + 1]);
        return settings;
    }

    static KafkaProducer<String, String> producer(Object... pairs) {
        return new KafkaProducer<>(settings(pairs), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(Object... pairs) {
        return new KafkaConsumer<>(settings(pairs), new StringDeserializer(), new StringDeserializer());
    }

    static void produce() throws Exception {
        for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
            try (var producer = producer("compression.type", codec, "linger.ms", 20)) {
                List<Future<RecordMetadata>> sent = new ArrayList<>();
                for (int n = 0; n < 50; n++) {
                    var record = new ProducerRecord<>(TOPIC, 0, null, codec + n, "v".repeat(100),
                        List.of(new RecordHeader("codec", codec.getBytes())));
                    sent.add(producer.send(record));
                }
                long first = sent.get(0).get().offset();
                for (int n = 0; n < 50; n++) must(sent.get(n).get().offset() == first + n, codec);
            }
        }
        ok("every codec, idempotent (the default)");
        try (var producer = producer("enable.idempotence", false, "acks", "1")) {
            for (int n = 0; n < 100; n++) producer.send(new ProducerRecord<>(TOPIC, 1, 1000L + n, null, "" + n)).get();
            producer.send(new ProducerRecord<>(TOPIC, 1, "gone", null)).get();
        }
        try (var producer = producer("enable.idempotence", false, "acks", "0")) {
            must(producer.send(new ProducerRecord<>(TOPIC, 1, "quick", "no answer")).get().offset() == -1, "acks=0");
        }
        ok("acks=1 and acks=0, given timestamps, null key and value");
        try (var producer = producer("max.request.size", 10_000_000)) {
            producer.send(new ProducerRecord<>(TOPIC, 0, null, "v".repeat(3_000_000))).get();
            throw new AssertionError("a record above max.message.bytes was taken");
        } catch (ExecutionException refused) {
            must(refused.getCause() instanceof RecordTooLargeException, refused);
        }
        ok("a record that is too large is refused as such");
    }

    /** Batches that the broker recompresses: each is more than one block of LZ4. */
    static void recompressed(Admin admin) throws Exception {
        List<String> codecs = List.of("uncompressed", "gzip", "snappy", "lz4", "zstd");
        for (String stored : codecs) {
            NewTopic topic = new NewTopic("stored-" + stored, 1, (short) 1).configs(Map.of("compression.type", stored));
            admin.createTopics(List.of(topic)).all().get();
            for (String sent : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                try (var producer = producer("compression.type", sent, "linger.ms", 20, "batch.size", 500_000)) {
                    for (int n = 0; n < 40; n++) producer.send(new ProducerRecord<>(topic.name(), 0, sent, (sent + n).repeat(1500)));
                }
            }
            try (var reader = consumer("check.crcs", true)) {
                reader.assign(List.of(new TopicPartition(topic.name(), 0)));
                reader.seekToBeginning(reader.assignment());
                List<ConsumerRecord<String, String>> got = new ArrayList<>();
                until("200 records", () -> {
                    reader.poll(Duration.ofMillis(100)).forEach(got::add);
                    return got.size() >= 200;
                });
                for (int n = 0; n < 200; n++) {
                    var record = got.get(n);
                    must(record.offset() == n && record.value().equals((record.key() + n % 40).repeat(1500)), record.key());
                }
            }
        }
        ok("every codec produced to topics of every compression.type and read back");
    }

    static void transactions() {
        long begun = System.currentTimeMillis();
        try (var producer = producer("transactional.id", "none")) {
            producer.initTransactions();
            throw new AssertionError("transactions were begun");
        } catch (KafkaException refused) {
            must(refused.getMessage().contains("transactions are not served"), refused);
            must(System.currentTimeMillis() - begun < 10_000, "the refusal took long");
        }
        ok("transactions refused at once, with the reason");
    }

    static void read() throws Exception {
        try (var reader = consumer("auto.offset.reset", "none")) {
            reader.assign(List.of(ZERO, ONE));
            reader.seekToBeginning(List.of(ZERO));
            reader.seekToEnd(List.of(ONE));
            List<ConsumerRecord<String, String>> got = new ArrayList<>();
            until("250 records", () -> {
                reader.poll(Duration.ofMillis(100)).forEach(got::add);
                return got.size() >= 250;
            });
            for (int n = 0; n < 250; n++) must(got.get(n).offset() == n, got.get(n));
            must(new String(got.get(249).headers().lastHeader("codec").value()).equals("zstd"), got.get(249));
            must(reader.endOffsets(List.of(ZERO, ONE)).equals(Map.of(ZERO, 250L, ONE, 102L)), "ends");
            must(reader.beginningOffsets(List.of(ONE)).get(ONE) == 0, "beginning");
            must(reader.offsetsForTimes(Map.of(ONE, 1050L)).get(ONE).offset() == 50, "time");
            must(reader.partitionsFor(TOPIC).size() == 2, "partitions");
            reader.seek(ZERO, 10_000);
            boolean outside = false;
            long deadline = System.currentTimeMillis() + 20_000;
            while (!outside && System.currentTimeMillis() < deadline) {
                try {
                    reader.poll(Duration.ofMillis(100));
                } catch (org.apache.kafka.clients.consumer.OffsetOutOfRangeException expected) {
                    outside = true;
                }
            }
            must(outside, "offset out of range");
        }
        ok("read back in order; offsets at both ends and for a time; an offset out of range is reported");
        try (var reader = consumer("isolation.level", "read_committed", "client.rack", "a")) {
            reader.assign(List.of(ZERO));
            reader.seek(ZERO, new OffsetAndMetadata(100, Optional.of(0), ""));
            until("read committed", () -> !reader.poll(Duration.ofMillis(100)).isEmpty());
        }
        ok("read_committed, with a leader epoch to check");
    }

    static void group(Admin admin, String group, String assignor, boolean isStatic) throws Exception {
        List<KafkaConsumer<String, String>> members = new ArrayList<>();
        for (String name : List.of("one", "two")) {
            Map<String, Object> settings = settings("group.id", group, "auto.offset.reset", "earliest",
                "enable.auto.commit", false, "session.timeout.ms", 10_000, "heartbeat.interval.ms", 500,
                "partition.assignment.strategy", "org.apache.kafka.clients.consumer." + assignor);
            if (isStatic) settings.put("group.instance.id", name);
            var member = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
            member.subscribe(List.of(TOPIC));
            members.add(member);
        }
        until("each has one partition", () -> {
            members.forEach(member -> member.poll(Duration.ofMillis(100)));
            return members.stream().allMatch(member -> member.assignment().size() == 1);
        });
        var described = admin.describeClassicGroups(List.of(group)).all().get().get(group);
        must(described.state() == ClassicGroupState.STABLE && described.members().size() == 2, described);
        for (var member : members) {
            var held = member.assignment().iterator().next();
            // Waits for the client's own question for committed offsets: committed() would take its older answer.
            member.position(held);
            member.commitSync(Map.of(held, new OffsetAndMetadata(7, "here")));
            must(member.committed(Set.of(held)).get(held).offset() == 7, "committed");
        }
        members.forEach(member -> member.close());
        if (isStatic) admin.removeMembersFromConsumerGroup(group, new RemoveMembersFromConsumerGroupOptions()).all().get();
    }

    static void groups(Admin admin) throws Exception {
        group(admin, "eager", "RangeAssignor", false);
        group(admin, "cooperative", "CooperativeStickyAssignor", false);
        group(admin, "static", "StickyAssignor", true);
        ok("two members share the partitions and commit: range, cooperative-sticky, static members; members removed");
        until("no members", () -> {
            try {
                return admin.describeConsumerGroups(List.of("eager")).all().get().get("eager").members().isEmpty();
            } catch (Exception failed) {
                throw new AssertionError(failed);
            }
        });
        var listed = admin.listGroups(ListGroupsOptions.forConsumerGroups().inGroupStates(Set.of(GroupState.EMPTY))).all().get();
        must(listed.stream().anyMatch(group -> group.groupId().equals("eager")), listed);
        var offsets = admin.listConsumerGroupOffsets("eager").partitionsToOffsetAndMetadata().get();
        must(offsets.get(ZERO).offset() == 7 && offsets.get(ZERO).metadata().equals("here"), offsets);
        admin.alterConsumerGroupOffsets("eager", Map.of(ZERO, new OffsetAndMetadata(3))).all().get();
        admin.deleteConsumerGroupOffsets("eager", Set.of(ONE)).all().get();
        must(admin.listConsumerGroupOffsets("eager").partitionsToOffsetAndMetadata().get().size() == 1, "offsets");
        admin.deleteConsumerGroups(List.of("eager")).all().get();
        ok("groups listed by state; their offsets listed, altered, deleted; group deleted");
    }

    static void admin(Admin admin) throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        must(admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms").value().equals("-1"), "configs");
        var change = new AlterConfigOp(new ConfigEntry("retention.ms", "7200000"), AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(change))).all().get();
        must(admin.describeConfigs(List.of(resource)).all().get().get(resource).get("retention.ms").value().equals("7200000"), "altered");
        ok("configs described and altered");
        admin.createPartitions(Map.of(TOPIC, NewPartitions.increaseTo(3))).all().get();
        must(admin.deleteRecords(Map.of(ZERO, RecordsToDelete.beforeOffset(10))).lowWatermarks().get(ZERO).get().lowWatermark() == 10, "trimmed");
        for (OffsetSpec spec : List.of(OffsetSpec.earliest(), OffsetSpec.latest(), OffsetSpec.maxTimestamp(),
            OffsetSpec.earliestLocal(), OffsetSpec.latestTiered(), OffsetSpec.forTimestamp(0))) {
            admin.listOffsets(Map.of(ZERO, spec)).all().get();
        }
        ok("partitions added, records deleted, offsets by every special timestamp");
        console(admin);
        var cluster = admin.describeCluster();
        int node = cluster.nodes().get().iterator().next().id();
        must(cluster.clusterId().get() != null, "cluster");
        must(!admin.describeLogDirs(List.of(node)).allDescriptions().get().get(node).isEmpty(), "log directories");
        must(admin.describeTopics(List.of(TOPIC)).allTopicNames().get().get(TOPIC).partitions().size() == 3, "described");
        must(admin.listTopics().names().get().contains(TOPIC), "listed");
        admin.deleteTopics(List.of(TOPIC)).all().get();
        until("the topic is gone", () -> {
            try {
                return !admin.listTopics().names().get().contains(TOPIC);
            } catch (Exception failed) {
                throw new AssertionError(failed);
            }
        });
        ok("cluster and log directories described, topic deleted");
    }

    static void disabled(KafkaFuture<?> asked) throws Exception {
        try {
            asked.get();
            throw new AssertionError("ACLs without security");
        } catch (ExecutionException refused) {
            must(refused.getCause() instanceof SecurityDisabledException, refused);
        }
    }

    /** What Kafka's consoles ask on top of that. */
    static void console(Admin admin) throws Exception {
        disabled(admin.describeAcls(AclBindingFilter.ANY).values());
        disabled(admin.deleteAcls(List.of(AclBindingFilter.ANY)).all());
        var anyone = new AccessControlEntry("User:*", "*", AclOperation.READ, AclPermissionType.ALLOW);
        disabled(admin.createAcls(List.of(new AclBinding(new ResourcePattern(ResourceType.TOPIC, TOPIC, PatternType.LITERAL), anyone))).all());
        must(admin.describeProducers(List.of(ONE)).all().get().get(ONE).activeProducers().size() <= 1, "producers");
        must(admin.listPartitionReassignments().reassignments().get().isEmpty(), "reassignments");
        admin.electLeaders(ElectionType.PREFERRED, Set.of(ZERO)).partitions().get();
        must(admin.describeClientQuotas(org.apache.kafka.common.quota.ClientQuotaFilter.all()).entities().get().isEmpty(), "quotas");
        admin.describeUserScramCredentials().users().get();
        var resources = admin.listConfigResources(Set.of(ConfigResource.Type.TOPIC), new ListConfigResourcesOptions()).all().get();
        must(resources.stream().anyMatch(resource -> resource.name().equals(TOPIC)), resources);
        int node = admin.describeCluster().nodes().get().iterator().next().id();
        admin.alterPartitionReassignments(Map.of(ZERO, Optional.of(new NewPartitionReassignment(List.of(node))))).all().get();
        var features = admin.describeFeatures().featureMetadata().get();
        must(features != null, "features");
        ok("what consoles ask: ACLs (disabled), producers, reassignments, elections, quotas, SCRAM users, config resources, features");
    }

    public static void main(String[] args) throws Exception {
        boot = args[0];
        try (Admin admin = Admin.create(settings())) {
            NewTopic topic = new NewTopic(TOPIC, 2, (short) 1).configs(Map.of("retention.ms", "-1"));
            admin.createTopics(List.of(topic)).all().get();
            try {
                admin.createTopics(List.of(topic)).all().get();
                throw new AssertionError("a topic was made twice");
            } catch (ExecutionException refused) {
                must(refused.getCause() instanceof TopicExistsException, refused);
            }
            ok("a topic is made once");
            produce();
            read();
            recompressed(admin);
            transactions();
            groups(admin);
            admin(admin);
        }
        System.exit(0);
    }
}

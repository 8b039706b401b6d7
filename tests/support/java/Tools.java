import java.io.*;
import java.nio.file.*;
import java.util.*;
import java.util.regex.Pattern;
import org.apache.kafka.common.utils.Exit;

/**
 * Kafka's own command-line tools, unchanged, one after the other: `broker BOOTSTRAP DIRECTORY` on one broker, or
 * `cluster BOOTSTRAP` on a cluster of three with the topic `orders`. Prints `ok` and what was checked, one line each; any
 * other end is a failure. They run in this one JVM; what they would exit with ends only themselves.
 */
public class Tools {
    static String boot;
    static Path dir;

    /** Stands for the end of the process; a tool may catch it and end again, so the first code counts. */
    static class Ended extends Error {}

    static Integer code;

    static void end(int with) {
        if (code == null) code = with;
        throw new Ended();
    }

    /** Runs a tool and gives what it printed; a code other than 0 is a failure. */
    static String run(String tool, String... args) throws Exception {
        PrintStream out = System.out, err = System.err;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream both = new PrintStream(printed, true);
        code = null;
        System.setOut(both);
        System.setErr(both);
        try {
            scala.Console$.MODULE$.setOutDirect(both);
            Class.forName(tool).getMethod("main", String[].class).invoke(null, (Object) args);
        } catch (java.lang.reflect.InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof Ended)) throw thrown;
        } finally {
            System.setOut(out);
            System.setErr(err);
        }
        if (code != null && code != 0) throw new AssertionError(tool + " " + String.join(" ", args) + " ended with " + code + "\n" + printed);
        return printed.toString();
    }

    static String expect(String tool, String pattern, String... args) throws Exception {
        List<String> all = new ArrayList<>(List.of(args));
        // An option of the subcommand for one tool, of the tool for the others.
        all.addAll(tool.endsWith(".ClusterTool") ? all.size() : 0, List.of("--bootstrap-server", boot));
        String printed = run(tool, all.toArray(String[]::new));
        if (!Pattern.compile(pattern, Pattern.DOTALL).matcher(printed).find())
            throw new AssertionError(tool + " " + String.join(" ", args) + " printed no " + pattern + ":\n" + printed);
        return printed;
    }

    static void ok(String what) {
        System.out.println("ok " + what);
    }

    static final String T = "org.apache.kafka.tools.";

    static void topics() throws Exception {
        String topic = T + "TopicCommand";
        expect(topic, "Created topic tools", "--create", "--topic", "tools", "--partitions", "2", "--config", "retention.ms=3600000");
        expect(topic, "", "--create", "--topic", "tools", "--if-not-exists");
        expect(topic, "(?m)^tools$", "--list");
        expect(topic, "PartitionCount: 2.*ReplicationFactor: 1.*retention.ms=3600000.*Partition: 1\\s+Leader: \\d+", "--describe", "--topic", "tools");
        expect(topic, "", "--alter", "--topic", "tools", "--partitions", "3");
        expect(topic, "PartitionCount: 3", "--describe", "--topic", "tools");
        expect(topic, "", "--describe", "--under-replicated-partitions");
        ok("TopicCommand: create, list, describe, alter");
    }

    static void configs() throws Exception {
        String config = "kafka.admin.ConfigCommand";
        expect(config, "retention.ms=3600000", "--describe", "--entity-type", "topics", "--entity-name", "tools");
        expect(config, "Completed updating", "--alter", "--entity-type", "topics", "--entity-name", "tools", "--add-config", "retention.ms=7200000,segment.bytes=1048576");
        expect(config, "retention.ms=7200000", "--describe", "--entity-type", "topics", "--entity-name", "tools");
        expect(config, "Completed updating", "--alter", "--entity-type", "topics", "--entity-name", "tools", "--delete-config", "retention.ms");
        expect(config, "segment.bytes=1048576", "--describe", "--all", "--entity-type", "topics", "--entity-name", "tools");
        expect(config, "", "--describe", "--all", "--entity-type", "brokers", "--entity-name", node());
        ok("ConfigCommand: describe, alter, delete of topics; brokers described");
    }

    static String node() throws Exception {
        String printed = expect(T + "TopicCommand", "Leader: \\d+", "--describe", "--topic", "tools");
        var found = Pattern.compile("Leader: (\\d+)").matcher(printed);
        found.find();
        return found.group(1);
    }

    static void performance() throws Exception {
        String printed = run(T + "ProducerPerformance", "--topic", "tools", "--num-records", "20000", "--record-size", "100",
            "--throughput", "-1", "--command-property", "bootstrap.servers=" + boot, "acks=all", "linger.ms=5");
        if (!printed.contains("20000 records sent")) throw new AssertionError(printed);
        ok("ProducerPerformance");
        expect(T + "ConsumerPerformance", ", 20000, ", "--topic", "tools", "--num-records", "20000", "--group", "measured", "--timeout", "30000");
        ok("ConsumerPerformance");
        expect(T + "TopicCommand", "Created", "--create", "--topic", "there-and-back");
        printed = run(T + "EndToEndLatency", boot, "there-and-back", "200", "all", "100");
        if (!printed.contains("Percentiles:")) throw new AssertionError(printed);
        ok("EndToEndLatency");
    }

    static void offsets() throws Exception {
        String offsets = expect(T + "GetOffsetShell", "tools:0:\\d+.*tools:2:\\d+", "--topic", "tools");
        long sum = offsets.lines().filter(l -> l.startsWith("tools:")).mapToLong(l -> Long.parseLong(l.split(":")[2])).sum();
        if (sum != 20000) throw new AssertionError(offsets);
        for (String time : List.of("earliest", "max-timestamp", "earliest-local", "latest-tiered"))
            expect(T + "GetOffsetShell", "", "--topic", "tools", "--time", time);
        ok("GetOffsetShell: latest, earliest, max-timestamp, earliest-local, latest-tiered");
        Path file = dir.resolve("records.json");
        Files.writeString(file, "{\"version\":1,\"partitions\":[{\"topic\":\"tools\",\"partition\":0,\"offset\":5}]}");
        expect(T + "DeleteRecordsCommand", "partition: tools-0\\s+low_watermark: 5", "--offset-json-file", file.toString());
        expect(T + "GetOffsetShell", "tools:0:5", "--topic", "tools", "--time", "earliest");
        ok("DeleteRecordsCommand");
        expect(T + "LogDirsCommand", "\"partition\":\"tools-0\"", "--describe", "--topic-list", "tools");
        ok("LogDirsCommand");
        expect(T + "MetadataQuorumCommand", "LeaderId:\\s+\\d+.*HighWatermark:\\s+\\d+", "describe", "--status");
        expect(T + "MetadataQuorumCommand", "Leader", "describe", "--replication");
        ok("MetadataQuorumCommand: describe --status, --replication");
    }

    static void groups() throws Exception {
        String groups = T + "consumer.group.ConsumerGroupCommand";
        expect(groups, "(?m)^measured", "--list");
        expect(groups, "measured\\s+Empty", "--list", "--state");
        expect(groups, "tools\\s+0\\s+\\d+\\s+\\d+\\s+0", "--describe", "--group", "measured");
        expect(groups, "measured", "--describe", "--group", "measured", "--state");
        expect(groups, "", "--describe", "--group", "measured", "--members");
        expect(groups, "measured\\s+tools\\s+0\\s+5", "--reset-offsets", "--group", "measured", "--topic", "tools", "--to-earliest", "--execute");
        expect(groups, "measured\\s+tools\\s+1\\s+2", "--reset-offsets", "--group", "measured", "--topic", "tools:1", "--to-offset", "2", "--execute");
        expect(groups, "", "--delete-offsets", "--group", "measured", "--topic", "tools");
        expect(groups, "successful", "--delete", "--group", "measured");
        expect(T + "TopicCommand", "", "--delete", "--topic", "tools");
        ok("ConsumerGroupCommand: list, describe, reset, delete offsets, delete");
    }

    static void cluster() throws Exception {
        String topic = T + "TopicCommand", quorum = T + "MetadataQuorumCommand";
        expect(topic, "ReplicationFactor: 3.*Partition: 5.*Leader: [123].*Replicas: [123],[123],[123].*Isr: [123],[123],[123]",
            "--describe", "--topic", "orders");
        String under = expect(topic, "", "--describe", "--under-replicated-partitions");
        if (under.contains("Partition:")) throw new AssertionError("under-replicated:\n" + under);
        ok("TopicCommand: describe, with three replicas in sync");
        expect(quorum, "LeaderId:\\s+[123].*LeaderEpoch:.*CurrentVoters:.*\"id\": 1.*\"id\": 2.*\"id\": 3", "describe", "--status");
        expect(quorum, "Leader.*Follower", "describe", "--replication");
        ok("MetadataQuorumCommand: describe --status, --replication");
        expect(T + "ClusterTool", "Cluster ID: ", "cluster-id");
        expect(T + "ClusterTool", "[123]", "list-endpoints");
        ok("ClusterTool: cluster-id, list-endpoints");
        expect(T + "LeaderElectionCommand", "", "--election-type", "preferred", "--all-topic-partitions");
        ok("LeaderElectionCommand: preferred");
        expect(topic, "Created topic", "--create", "--topic", "three", "--partitions", "3", "--replication-factor", "3");
        expect(topic, "ReplicationFactor: 3", "--describe", "--topic", "three");
        ok("TopicCommand: create with three replicas");
    }

    static void broker() throws Exception {
        topics();
        configs();
        performance();
        offsets();
        groups();
    }

    public static void main(String[] args) throws Exception {
        boot = args[1];
        Exit.setExitProcedure((code, message) -> end(code));
        Exit.setHaltProcedure((code, message) -> end(code));
        if (args[0].equals("cluster")) cluster();
        else {
            dir = Path.of(args[2]);
            broker();
        }
        Runtime.getRuntime().halt(0);
    }
}

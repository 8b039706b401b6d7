import java.io.*;
import java.util.*;
import java.util.regex.Pattern;
import org.apache.kafka.common.utils.Exit;

/** Kafka's own tools, unchanged, against a cluster of three: BOOTSTRAP. Prints `ok` and what was checked; any other end is a failure. */
public class Tools {
    static class Ended extends Error {}

    static Integer code;

    static void end(int with) {
        if (code == null) code = with;
        throw new Ended();
    }

    static String run(String boot, String tool, String... args) throws Exception {
        List<String> all = new ArrayList<>(List.of(args));
        // An option of the subcommand for one tool, of the tool for the others.
        all.addAll(tool.equals("ClusterTool") ? all.size() : 0, List.of("--bootstrap-server", boot));
        PrintStream out = System.out, err = System.err;
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream both = new PrintStream(printed, true);
        code = null;
        System.setOut(both);
        System.setErr(both);
        try {
            scala.Console$.MODULE$.setOutDirect(both);
            Class.forName("org.apache.kafka.tools." + tool).getMethod("main", String[].class)
                .invoke(null, (Object) all.toArray(String[]::new));
        } catch (java.lang.reflect.InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof Ended)) throw thrown;
        } finally {
            System.setOut(out);
            System.setErr(err);
        }
        if (code != null && code != 0) throw new AssertionError(tool + " " + all + " ended with " + code + "\n" + printed);
        return printed.toString();
    }

    static String expect(String boot, String pattern, String tool, String... args) throws Exception {
        String printed = run(boot, tool, args);
        if (!Pattern.compile(pattern, Pattern.DOTALL).matcher(printed).find())
            throw new AssertionError(tool + " " + String.join(" ", args) + " printed no " + pattern + ":\n" + printed);
        System.out.println("ok " + tool + " " + String.join(" ", args));
        return printed;
    }

    public static void main(String[] args) throws Exception {
        String boot = args[0];
        Exit.setExitProcedure((with, message) -> end(with));
        Exit.setHaltProcedure((with, message) -> end(with));
        expect(boot, "ReplicationFactor: 3.*Partition: 5.*Leader: [123].*Replicas: [123],[123],[123].*Isr: [123],[123],[123]",
            "TopicCommand", "--describe", "--topic", "orders");
        String under = run(boot, "TopicCommand", "--describe", "--under-replicated-partitions");
        if (under.contains("Partition:")) throw new AssertionError("under-replicated:\n" + under);
        System.out.println("ok TopicCommand --describe --under-replicated-partitions");
        expect(boot, "LeaderId:\\s+[123].*LeaderEpoch:.*CurrentVoters:.*\"id\": 1.*\"id\": 2.*\"id\": 3", "MetadataQuorumCommand", "describe", "--status");
        expect(boot, "Leader.*Follower", "MetadataQuorumCommand", "describe", "--replication");
        expect(boot, "Cluster ID: ", "ClusterTool", "cluster-id");
        expect(boot, "[123]", "ClusterTool", "list-endpoints");
        expect(boot, "", "LeaderElectionCommand", "--election-type", "preferred", "--all-topic-partitions");
        expect(boot, "Created topic", "TopicCommand", "--create", "--topic", "three", "--partitions", "3", "--replication-factor", "3");
        expect(boot, "ReplicationFactor: 3", "TopicCommand", "--describe", "--topic", "three");
    }
}

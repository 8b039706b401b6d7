import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.*;
import java.io.*;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.file.*;
import java.util.*;
import java.util.zip.CRC32C;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.message.*;
import org.apache.kafka.common.protocol.*;
import org.apache.kafka.common.protocol.Readable;
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.utils.Utils;

/**
 * Asks a broker the questions of a file: FILE BOOTSTRAP. Requests and answers are Kafka's own message classes in their
 * JSON form. Prints a JSON object per question, in order: its title and its answer, what differs from run to run left out.
 */
public class Answers {
    static final ObjectMapper JSON = new ObjectMapper();
    static final Map<String, String> SAVED = new HashMap<>();
    static final String MESSAGES = "org.apache.kafka.common.message.";
    static Socket socket;
    static int correlation = 0;

    record Question(String title, ApiKeys api, short version, List<String> saves, String body) {}

    /** Blocks apart by empty lines: `# title`, `Api version [reconnect] [name=/json/pointer]...`, the request. */
    static List<Question> questions(Path file) throws IOException {
        List<Question> questions = new ArrayList<>();
        for (String block : Files.readString(file).split("\n\\s*\n")) {
            List<String> lines = block.strip().lines().toList();
            String[] what = lines.get(1).split(" ");
            ApiKeys api = Arrays.stream(ApiKeys.values()).filter(key -> key.name.equals(what[0])).findFirst().orElseThrow();
            List<String> saves = List.of(what).subList(2, what.length);
            String body = String.join(" ", lines.subList(2, lines.size()));
            questions.add(new Question(lines.get(0).substring(2), api, Short.parseShort(what[1]), saves, body));
        }
        return questions;
    }

    /**
     * `@batch producer epoch sequence count codec [broken | garbled]`: a record batch; producer -1 is none. The last byte
     * of a broken one is wrong, and so is its checksum; that of a garbled one is right.
     */
    static byte[] batch(String spec) {
        String[] of = spec.split(" ");
        Compression codec = Compression.of(CompressionType.forName(of[5]).name).build();
        int count = Integer.parseInt(of[4]);
        SimpleRecord[] records = new SimpleRecord[count];
        for (int n = 0; n < count; n++) records[n] = new SimpleRecord(1000L + n, ("k" + n).getBytes(), ("v" + n).getBytes());
        MemoryRecords batch = Long.parseLong(of[1]) < 0
            ? MemoryRecords.withRecords(RecordBatch.MAGIC_VALUE_V2, 0, codec, TimestampType.CREATE_TIME, records)
            : MemoryRecords.withIdempotentRecords(codec, Long.parseLong(of[1]), Short.parseShort(of[2]), Integer.parseInt(of[3]), records);
        byte[] bytes = new byte[batch.sizeInBytes()];
        batch.buffer().duplicate().get(bytes);
        if (of.length > 6) bytes[bytes.length - 1] ^= 1;
        if (of.length > 6 && of[6].equals("garbled")) {
            CRC32C crc = new CRC32C();
            crc.update(bytes, 21, bytes.length - 21);
            ByteBuffer.wrap(bytes).putInt(17, (int) crc.getValue());
        }
        return bytes;
    }

    static JsonNode prepare(JsonNode node) {
        if (node instanceof ObjectNode object) {
            for (String name : names(object)) object.set(name, prepare(object.get(name)));
        } else if (node instanceof ArrayNode array) {
            for (int n = 0; n < array.size(); n++) array.set(n, prepare(array.get(n)));
        } else if (node.isTextual() && node.textValue().startsWith("@batch ")) {
            return BinaryNode.valueOf(batch(node.textValue()));
        }
        return node;
    }

    static List<String> names(ObjectNode object) {
        List<String> names = new ArrayList<>();
        object.fieldNames().forEachRemaining(names::add);
        return names;
    }

    static JsonNode ask(Question question, String boot) throws Exception {
        if (question.saves.contains("reconnect") && socket != null) {
            socket.close();
            socket = null;
        }
        String body = question.body;
        for (var saved : SAVED.entrySet()) body = body.replace("$" + saved.getKey(), saved.getValue());
        String name = question.api.name;
        ApiMessage request = (ApiMessage) Class.forName(MESSAGES + name + "RequestDataJsonConverter")
            .getMethod("read", JsonNode.class, short.class).invoke(null, prepare(JSON.readTree(body)), question.version);
        RequestHeaderData header = new RequestHeaderData().setRequestApiKey(question.api.id)
            .setRequestApiVersion(question.version).setCorrelationId(++correlation).setClientId("questions");
        ByteBuffer head = MessageUtil.toByteBufferAccessor(header, question.api.requestHeaderVersion(question.version)).buffer();
        ByteBuffer rest = MessageUtil.toByteBufferAccessor(request, question.version).buffer();
        ByteBuffer answer;
        try {
            answer = exchange(boot, head, rest);
        } catch (IOException closed) {
            socket = null;
            return TextNode.valueOf("closed");
        }
        Readable readable = new ByteBufferAccessor(answer);
        new ResponseHeaderData(readable, question.api.responseHeaderVersion(question.version));
        Class<?> type = Class.forName(MESSAGES + name + "ResponseData");
        Object response = type.getConstructor(Readable.class, short.class).newInstance(readable, question.version);
        JsonNode json = (JsonNode) Class.forName(MESSAGES + name + "ResponseDataJsonConverter")
            .getMethod("write", type, short.class).invoke(null, response, question.version);
        if (response instanceof FetchResponseData fetched) showBatches(fetched, json);
        return json;
    }

    /** What the batches of a fetch hold, in place of their bytes, which two brokers compress in their own ways. */
    static void showBatches(FetchResponseData fetched, JsonNode json) {
        for (int t = 0; t < fetched.responses().size(); t++) {
            var partitions = fetched.responses().get(t).partitions();
            for (int p = 0; p < partitions.size(); p++) {
                ArrayNode batches = JSON.createArrayNode();
                if (partitions.get(p).records() instanceof Records records)
                    for (RecordBatch batch : records.batches()) batches.add(shown(batch));
                ((ObjectNode) json.get("responses").get(t).get("partitions").get(p)).set("records", batches);
            }
        }
    }

    static ObjectNode shown(RecordBatch batch) {
        ObjectNode shown = JSON.createObjectNode().put("codec", batch.compressionType().name).put("whole", batch.isValid())
            .put("first", batch.baseOffset()).put("last", batch.lastOffset()).put("greatestTime", batch.maxTimestamp())
            .put("idempotent", batch.hasProducerId()).put("sequence", batch.baseSequence()).put("of", batch.producerEpoch());
        ArrayNode records = shown.putArray("records");
        for (Record record : batch)
            records.add(record.offset() + " " + record.timestamp() + " " + Utils.utf8(record.key()) + "=" + Utils.utf8(record.value()));
        return shown;
    }

    /**
     * COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, NOT_LEADER_OR_FOLLOWER: a fresh broker makes
     * its topics first, and a fresh topic its leaders.
     */
    static boolean starting(JsonNode answer) {
        return answer.findValues("errorCode").stream().anyMatch(code -> code.asInt() >= 14 && code.asInt() <= 16 || code.asInt() == 6);
    }

    static ByteBuffer exchange(String boot, ByteBuffer head, ByteBuffer rest) throws IOException {
        if (socket == null) {
            String[] addr = boot.split(":");
            socket = new Socket(addr[0], Integer.parseInt(addr[1]));
            socket.setSoTimeout(30_000);
        }
        ByteBuffer frame = ByteBuffer.allocate(4 + head.remaining() + rest.remaining());
        frame.putInt(head.remaining() + rest.remaining()).put(head).put(rest);
        socket.getOutputStream().write(frame.array());
        DataInputStream in = new DataInputStream(socket.getInputStream());
        byte[] answer = new byte[in.readInt()];
        in.readFully(answer);
        return ByteBuffer.wrap(answer);
    }

    static final Set<String> DROPPED = Set.of("throttleTimeMs", "topicConfigErrorCode", "usableBytes", "totalBytes", "size",
        "documentation", "finalizedFeaturesEpoch", "partitionSize", "isFutureKey", "sessionId", "logEndOffset");
    static final Set<String> HIDDEN = Set.of("host", "clusterId", "memberId", "producerId", "leader", "topicId", "port", "members.memberId",
        "logDir", "timestamp", "clientHost", "logAppendTimeMs", "controllerId", "errorMessage");

    /** Leaves out what no two brokers share: ids they made up, addresses, times, sizes, wording. */
    static JsonNode plain(JsonNode node) {
        if (node instanceof ObjectNode object) {
            ObjectNode kept = JSON.createObjectNode();
            for (String name : names(object)) {
                JsonNode value = object.get(name);
                if (DROPPED.contains(name)) continue;
                kept.set(name, HIDDEN.contains(name) && value.isValueNode() ? shape(value) : plain(value));
            }
            return kept;
        }
        if (node instanceof ArrayNode array) {
            ArrayNode kept = JSON.createArrayNode();
            array.forEach(element -> kept.add(plain(element)));
            return kept;
        }
        return node.isLong() && node.longValue() > 1_600_000_000_000L ? TextNode.valueOf("a time of now") : node;
    }

    /** Whether there is something, but not what. */
    static JsonNode shape(JsonNode value) {
        boolean none = value.isNull() || value.asText().isEmpty() || value.asText().equals("-1") || value.asText().equals("AAAAAAAAAAAAAAAAAAAAAA");
        return none ? value : TextNode.valueOf("…");
    }

    public static void main(String[] args) throws Exception {
        for (Question question : questions(Path.of(args[0]))) {
            ObjectNode line = JSON.createObjectNode().put("question", question.title);
            try {
                JsonNode answer = ask(question, args[1]);
                for (int tries = 0; tries < 300 && starting(answer); tries++) {
                    Thread.sleep(100);
                    answer = ask(question, args[1]);
                }
                // A broker hears of changed settings from its controller, some time after the answer.
                if (question.api == ApiKeys.INCREMENTAL_ALTER_CONFIGS || question.api == ApiKeys.ALTER_CONFIGS) Thread.sleep(500);
                for (String save : question.saves) {
                    String[] of = save.split("=");
                    if (of.length > 1) SAVED.put(of[0], answer.at(of[1]).asText());
                }
                // How much a controller has written is its own affair.
                if (question.api == ApiKeys.DESCRIBE_QUORUM)
                    for (JsonNode at : answer.findParents("highWatermark")) ((ObjectNode) at).remove("highWatermark");
                line.set("answer", plain(answer));
            } catch (Exception failed) {
                throw new IllegalStateException("question \"" + question.title + "\"", failed);
            }
            System.out.println(JSON.writeValueAsString(line));
        }
    }
}

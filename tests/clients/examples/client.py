"""Encrypts and decrypts over keyringd's socket, with the standard library only."""

import base64
import http.client
import json
import os
import socket


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket. It stays open between requests."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def to_base64(text):
    return base64.b64encode(text.encode()).decode()


def from_base64(text):
    return base64.b64decode(text).decode()


class Keyring:
    def __init__(self, path, name="keyring"):
        self.connection, self.name = Connection(path), name

    def post(self, operation, body):
        self.connection.request("POST", f"/v1/transit/{operation}/{self.name}", json.dumps(body))
        answer = json.load(self.connection.getresponse())
        if "data" not in answer:
            raise RuntimeError("; ".join(answer["errors"]))
        return answer["data"]

    def encrypt(self, plaintext, row):
        """`row` names where the ciphertext is stored. It opens with the same `row` only."""
        body = {"plaintext": to_base64(plaintext), "associated_data": to_base64(row)}
        return self.post("encrypt", body)["ciphertext"]

    def decrypt(self, ciphertext, row):
        body = {"ciphertext": ciphertext, "associated_data": to_base64(row)}
        return from_base64(self.post("decrypt", body)["plaintext"])

    def batch(self, operation, items):
        """One request for many values. Each item has a result of its own, or an error."""
        results = self.post(operation, {"batch_input": items})["batch_results"]
        for item, result in zip(items, results):
            if "error" in result:
                raise RuntimeError(f"{from_base64(item['associated_data'])}: {result['error']}")
        return results


keyring = Keyring(os.environ["SOCKET"])

ciphertext = keyring.encrypt("4111 1111 1111 1111", "orders.card.7")
print(keyring.decrypt(ciphertext, "orders.card.7"))
try:
    keyring.decrypt(ciphertext, "orders.card.8")
except RuntimeError as error:
    print(error)

emails = {"users.email.1": "alice@example.org", "users.email.2": "bob@example.org"}
sealed = keyring.batch("encrypt", [
    {"plaintext": to_base64(email), "associated_data": to_base64(row)} for row, email in emails.items()
])
opened = keyring.batch("decrypt", [
    {"ciphertext": one["ciphertext"], "associated_data": to_base64(row)} for row, one in zip(emails, sealed)
])
print(*(from_base64(one["plaintext"]) for one in opened))

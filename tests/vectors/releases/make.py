"""Writes what a release of keyringd makes, which every later one must open: `python3 make.py KEYRINGD FOLDER`, once per release.

    release.json   the records, and per daemon its settings, and requests with the answers that they must have
    *.stream       a stream, *.copy a sealed copy with the key *.copy-key, dev.key the file of `keyringd dev --persist`

It runs the given program with OpenBao, both on loopback, and needs curl and cc. A copy is of no use after a year, so it is
written by a daemon whose clock is a century ahead. tests/integration/releases.rs reads all this.
"""

import base64
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

# The copy is bound to the address, so it is one that nothing else has.
ADDRESS = "127.91.7.5:8200"
ROOT = pathlib.Path(__file__).resolve().parents[3]
DAEMONS = {
    "native": {"KEYRING_KONG_FIELDS": "on", "KEYRING_INDEX_KEY": "first", "KEYRING_VAULT_PATHS": "map"},
    "transit": {"KEYRING_CIPHERTEXT_FORMAT": "transit"},
    "raw": {"KEYRING_KEY_DERIVATION": "raw", "KEYRING_KONG_FIELDS": "on"},
}
PLAINTEXTS = [b"", b"4111 1111 1111 1111", bytes(range(256)) * 4]
CLOCK = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    long failed = syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += 100L * 365 * 86400;
    return failed;
}
"""


def b64(data):
    return base64.b64encode(data).decode()


def key():
    return b64(os.urandom(32))


def spawn(command, env=None):
    """A program that ends with this one."""
    command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def eventually(probe):
    for _ in range(600):
        try:
            return probe()
        except Exception as error:
            last = error
            time.sleep(0.1)
    raise last


def curl(url, *options, data=None):
    command = ["curl", "--silent", "--show-error", "--fail", *options, url]
    if data is not None:
        command += ["--data-binary", "@-"]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


def vault(path, data):
    curl(f"http://{ADDRESS}/v1/{path}", "-H", "X-Vault-Token: root", data=json.dumps({"data": data}).encode())


class Daemon:
    def __init__(self, program, folder, name, settings):
        self.program, self.folder, self.requests, self.extra = program, folder, [], {}
        self.socket, self.work = str(folder / f"{name}.sock"), folder / name
        credentials = self.work / "credentials"
        credentials.mkdir(parents=True)
        self.cache_key = key()
        (credentials / "keyring_cache_key").write_text(self.cache_key)
        (credentials / "keyring_cache_key").chmod(0o400)
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-o", folder / "clock.so", "-"], input=CLOCK.encode(), check=True)
        own = {
            "KEYRING_ENABLED": "on", "KEYRING_STRATEGY": "vault", "KEYRING_VAULT_HOST": f"http://{ADDRESS}",
            "KEYRING_VAULT_MOUNT": "secret", "KEYRING_VAULT_PATH": "keyring", "KEYRING_VAULT_AUTH_METHOD": "token",
            "KEYRING_VAULT_TOKEN": "root", "KEYRING_SOCKET_PATH": self.socket, "KEYRING_MAX_REQUEST_SIZE": "16k",
            "KEYRING_CACHE_PATH": str(self.work / "state/keyring.copy"),
        }
        variables = {f"KONG_{name}": value for name, value in (own | settings).items()}
        variables |= {"CREDENTIALS_DIRECTORY": str(credentials), "LD_PRELOAD": str(folder / "clock.so")}
        variables["PATH"] = os.environ["PATH"]
        self.child = spawn([program, "run"], env=variables)
        eventually(lambda: self.curl("readyz"))

    def curl(self, path, *options, data=None):
        return curl(f"http://localhost/{path}", "--unix-socket", self.socket, *options, data=data)

    def post(self, path, **body):
        return json.loads(self.curl(f"v1/transit/{path}", data=json.dumps(body).encode()))["data"]

    def expect(self, path, body, **answer):
        self.requests.append({"path": f"/v1/transit/{path}", "body": body, "answer": answer})

    def texts(self, ring, **more):
        for plaintext in PLAINTEXTS:
            for fields in ({}, {"associated_data": b64(b"row 7")}, {"context": b64(b"tenant 3")}):
                fields = fields if more.get("format") != "kong" else {}
                sealed = self.post(f"encrypt/{ring}", plaintext=b64(plaintext), **fields, **more)["ciphertext"]
                self.expect(f"decrypt/{ring}", {"ciphertext": sealed, **fields}, plaintext=b64(plaintext))
        data_key = self.post(f"datakey/plaintext/{ring}")
        self.expect(f"decrypt/{ring}", {"ciphertext": data_key["ciphertext"]}, plaintext=data_key["plaintext"])

    def macs(self, ring, version):
        for path in (f"hmac/{ring}", f"hmac/{ring}/sha2-512"):
            for context in ({}, {"context": b64(b"tenant 3")}):
                body = {"input": b64(b"message"), "key_version": version, **context}
                made = self.post(path, **body)["hmac"]
                self.expect(path, body, hmac=made)
                verify = {"input": b64(b"message"), "hmac": made, **context}
                self.expect(path.replace("hmac", "verify", 1), verify, valid=True)
        body = {"input": b64(b"alice@example.org"), "associated_data": b64(b"users.email"), "bits": 60, "key_version": version}
        self.expect(f"hmac/{ring}", body, index=self.post(f"hmac/{ring}", **body)["index"])

    def octets(self):
        """The binary form, without and with associated data."""
        for aad in (b"", b"row 7"):
            headers = ["-H", "Content-Type: application/octet-stream"]
            headers += ["-H", f"Keyring-Associated-Data: {b64(aad)}"] if aad else []
            for plaintext in PLAINTEXTS:
                sealed = self.curl("v1/transit/encrypt/keyring", *headers, data=plaintext)
                octets = {"sealed": b64(sealed), "associated_data": b64(aad), "plaintext": b64(plaintext)}
                self.extra.setdefault("octets", []).append(octets)

    def kms(self):
        """A call of Kubernetes, in protobuf and gRPC by hand: field 1 of the request is the plaintext, 2 the uid."""
        message = b"\x0a\x10" + bytes(range(16)) + b"\x12\x011"
        answer = self.curl(
            "v2.KeyManagementService/Encrypt", "--http2-prior-knowledge", "-H", "Content-Type: application/grpc",
            "-H", "TE: trailers", data=b"\0" + struct.pack(">I", len(message)) + message,
        )[5:]
        fields = {}
        while answer:
            number, length, answer = answer[0] >> 3, answer[1], answer[2:]
            if length & 0x80:
                length, answer = length & 0x7F | answer[0] << 7, answer[1:]
            fields[number], answer = answer[:length], answer[length:]
        kms = {"ciphertext": b64(fields[1]), "key_id": fields[2].decode(), "plaintext": b64(bytes(range(16)))}
        self.extra.setdefault("kms", []).append(kms)

    def stream(self, out):
        """More than a request takes, twice a segment and a bit."""
        command = [self.program, "encrypt", "--socket", self.socket, "--aad", "host 3", "--force", "-o", out]
        subprocess.run(command, input=bytes(range(251)) * 530, check=True)

    def copy(self, out):
        subprocess.run(["cp", self.work / "state/keyring.copy", out], check=True)
        out.with_suffix(".copy-key").write_text(self.cache_key)

    def stop(self):
        self.child.terminate()
        assert self.child.wait(60) == 0


def ciphertexts(daemons):
    """Under the active record."""
    for name, daemon in daemons.items():
        daemon.texts("keyring")
        if name != "transit":
            daemon.texts("keyring", format="kong")
            daemon.octets()
            daemon.kms()


def make(program, out, folder):
    first, second = ({"id": name, "key": key()} for name in ("first", "second"))
    rings = {"keyring": [first, second], "map": [{"active": "b", "keys": {"a": key(), "b": key()}}]}
    vault("secret/data/keyring", first)
    vault("secret/data/map", rings["map"][0])
    daemons = {name: Daemon(program, folder, name, settings) for name, settings in DAEMONS.items()}
    ciphertexts(daemons)
    vault("secret/data/keyring", second)
    for daemon in daemons.values():
        daemon.curl("keyring/vault/sync", "-X", "POST", data=b"")
    ciphertexts(daemons)
    for daemon in daemons.values():
        daemon.macs("keyring", 1)
        daemon.macs("keyring", 2)
    daemons["native"].texts("map")
    for name in ("native", "raw"):
        daemons[name].stream(out / f"{name}.stream")
    for daemon in daemons.values():
        daemon.stop()
    for name in ("native", "raw"):
        daemons[name].copy(out / f"{name}.copy")
    version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    release = {
        "made_by": version, "host": f"http://{ADDRESS}", "records": rings, "dev": dev(program, out, folder),
        "daemons": {
            name: {"settings": {f"KONG_{setting}": value for setting, value in DAEMONS[name].items()},
                   "requests": daemon.requests, **daemon.extra}
            for name, daemon in daemons.items()
        },
    }
    (out / "release.json").write_text(json.dumps(release, indent=1) + "\n")


def dev(program, out, folder):
    """The key of `keyringd dev --persist`, and a ciphertext."""
    socket = str(folder / "dev.sock")
    child = spawn([program, "dev", "--socket", socket, "--persist", out / "dev.key"])
    ask = ["--unix-socket", socket]
    eventually(lambda: curl("http://localhost/readyz", *ask))
    body = json.dumps({"plaintext": b64(PLAINTEXTS[1])}).encode()
    sealed = json.loads(curl("http://localhost/v1/transit/encrypt/keyring", *ask, data=body))["data"]["ciphertext"]
    child.terminate()
    child.wait()
    path, answer = "/v1/transit/decrypt/keyring", {"plaintext": b64(PLAINTEXTS[1])}
    return {"path": path, "body": {"ciphertext": sealed}, "answer": answer}


def main():
    program, out = os.path.abspath(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    bao = subprocess.run([ROOT / "tests/openbao"], check=True, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        server = spawn(
            [bao, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id=root", f"-dev-listen-address={ADDRESS}"],
            env={"HOME": folder},
        )
        try:
            eventually(lambda: curl(f"http://{ADDRESS}/v1/secret/config", "-H", "X-Vault-Token: root"))
            make(program, out, pathlib.Path(folder))
        finally:
            server.kill()


main()

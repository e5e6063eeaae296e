"""Our ciphertext formats once more, from their descriptions alone: formats.py reads one JSON request per line, and answers each.

    {"do": "seal" | "open", "format": FORMAT, "key": base64 of K, "id": ..., "version": ..., "input": base64, "aad": base64}

FORMAT is native, binary, kms, transit, kong, stream, or hmac (which only seals). Answers: {"output": base64}, or
{"refused": true}. AES, GCM and HKDF are those of pyca/cryptography; everything above them is written here."""

import base64
import hmac
import json
import os
import struct
import sys

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SEGMENT = 64 << 10
TAG = 16


class Refused(Exception):
    pass


def derive(key, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(key)


def xaes(key, nonce):
    """XAES-256-GCM of c2sp.org: the AES-GCM of this nonce, and its own 12 bytes of nonce."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    subkey = int.from_bytes(encryptor.update(bytes(16)), "big") << 1
    if subkey >> 128:
        subkey ^= (1 << 128) | 0x87
    derived = b""
    for counter in (1, 2):
        block = bytes([0, counter, ord("X"), 0]) + nonce[:12]
        derived += encryptor.update((subkey ^ int.from_bytes(block, "big")).to_bytes(16, "big"))
    return AESGCM(derived), nonce[12:]


def open_gcm(gcm, nonce, sealed, aad):
    try:
        return gcm.decrypt(nonce, sealed, aad)
    except (InvalidTag, ValueError) as error:
        raise Refused from error


def head(key_id):
    return b"KR1" + bytes([len(key_id)]) + key_id.encode()


def seal_xaes(key, key_id, plaintext, aad):
    nonce = os.urandom(24)
    gcm, short = xaes(key, nonce)
    return nonce + gcm.encrypt(short, plaintext, head(key_id) + aad)


def open_xaes(key, key_id, sealed, aad):
    gcm, short = xaes(key, sealed[:24])
    return open_gcm(gcm, short, sealed[24:], head(key_id) + aad)


class Native:
    info = b"keyringd kr1 xaes-256-gcm"

    def seal(self, request, plaintext, aad):
        sealed = seal_xaes(derive(request["key"], self.info), request["id"], plaintext, aad)
        return f"kr1:{request['id']}:{base64.b64encode(sealed).decode()}".encode()

    def open(self, request, text, aad):
        name, key_id, sealed = text.decode().split(":")
        if name != "kr1" or key_id != request["id"]:
            raise Refused
        return open_xaes(derive(request["key"], self.info), key_id, base64.b64decode(sealed, validate=True), aad)


class Binary:
    info = Native.info

    def seal(self, request, plaintext, aad):
        sealed = seal_xaes(derive(request["key"], self.info), request["id"], plaintext, aad)
        return head(request["id"]) + sealed

    def open(self, request, sealed, aad):
        start = head(request["id"])
        if not sealed.startswith(start):
            raise Refused
        return open_xaes(derive(request["key"], self.info), request["id"], sealed[len(start) :], aad)


class Kms(Binary):
    """Ciphertexts for Kubernetes: the binary form under a key of its own, with the key_id as associated data."""

    info = b"keyringd kr1 kms"


class Transit:
    def seal(self, request, plaintext, aad):
        nonce = os.urandom(12)
        sealed = nonce + AESGCM(request["key"]).encrypt(nonce, plaintext, aad)
        return f"vault:v{request['version']}:{base64.b64encode(sealed).decode()}".encode()

    def open(self, request, text, aad):
        name, version, sealed = text.decode().split(":")
        if (name, version) != ("vault", f"v{request['version']}"):
            raise Refused
        sealed = base64.b64decode(sealed, validate=True)
        return open_gcm(AESGCM(request["key"]), sealed[:12], sealed[12:], aad)


class Kong:
    """Kong's fields: GCM without its tag, so that opening is sealing with the same nonce."""

    def seal(self, request, plaintext, aad):
        nonce = os.urandom(12)
        return self.text(request, nonce, plaintext).encode()

    def text(self, request, nonce, plaintext):
        sealed = AESGCM(request["key"]).encrypt(nonce, plaintext, None)[:-TAG]
        return f"$ke$1$-{request['id']}-{nonce.hex()}-{sealed.hex()}"

    def open(self, request, text, aad):
        start, nonce, sealed = text.decode().rsplit("-", 2)
        if start != f"$ke$1$-{request['id']}":
            raise Refused
        opened = AESGCM(request["key"]).encrypt(bytes.fromhex(nonce), bytes.fromhex(sealed), None)
        return opened[:-TAG]


class Hmac:
    def seal(self, request, message, aad):
        key = derive(request["key"], b"keyringd krm1 hmac")
        mac = base64.b64encode(hmac.digest(key, message, "sha256")).decode()
        return f"krm1:{request['id']}:{mac}".encode()


class Stream:
    """Streams: "key" is the data key, and "id" the wrapped one in the header."""

    def seal(self, request, plaintext, aad):
        wrapped, prefix = request["id"].encode(), os.urandom(7)
        out = b"KRS1" + struct.pack(">H", len(wrapped)) + wrapped + prefix
        count = max(1, -(-len(plaintext) // SEGMENT))
        for at in range(count):
            nonce = prefix + struct.pack(">IB", at, at == count - 1)
            segment = plaintext[at * SEGMENT :][:SEGMENT]
            out += AESGCM(request["key"]).encrypt(nonce, segment, b"KRS1")
        return out

    def open(self, request, sealed, aad):
        length = struct.unpack(">H", sealed[4:6])[0]
        wrapped, prefix, body = sealed[6:][:length], sealed[6 + length :][:7], sealed[13 + length :]
        if sealed[:4] != b"KRS1" or wrapped.decode() != request["id"]:
            raise Refused
        count = max(1, -(-len(body) // (SEGMENT + TAG)))
        opened = b""
        for at in range(count):
            nonce = prefix + struct.pack(">IB", at, at == count - 1)
            segment = body[at * (SEGMENT + TAG) :][: SEGMENT + TAG]
            opened += open_gcm(AESGCM(request["key"]), nonce, segment, b"KRS1")
        return opened


FORMATS = {
    "native": Native(),
    "binary": Binary(),
    "kms": Kms(),
    "transit": Transit(),
    "kong": Kong(),
    "hmac": Hmac(),
    "stream": Stream(),
}


def answer(request):
    request["key"] = base64.b64decode(request["key"])
    given = [base64.b64decode(request.get(field, "")) for field in ("input", "aad")]
    do = getattr(FORMATS[request["format"]], request["do"])
    try:
        return {"output": base64.b64encode(do(request, *given)).decode()}
    except Refused:
        return {"refused": True}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)

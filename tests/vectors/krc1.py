"""Makes krc1.json: known answers for the sealed copy, independent of keyringd's code.

XAES-256-GCM follows c2sp.org/XAES-256-GCM: CMAC (NIST SP 800-38B) as the key derivation of NIST SP 800-108r1 in counter
mode, then AES-256-GCM. Only primitives of the package `cryptography` are used. Run: python3 krc1.py > krc1.json
"""

import base64
import hashlib
import json
import struct

from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def xaes_256_gcm(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    assert len(key) == 32 and len(nonce) == 24
    derived = b""
    for counter in (1, 2):
        cmac = CMAC(algorithms.AES(key))
        cmac.update(struct.pack(">H", counter) + b"X\x00" + nonce[:12])
        derived += cmac.finalize()
    return AESGCM(derived).encrypt(nonce[12:], plaintext, associated_data)


def hkdf(key: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, None, info).derive(key)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def associated_data(place: dict) -> bytes:
    parts = [place[part].encode() for part in ("host", "namespace", "mount", "path", "kv")]
    return b"KRC1" + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def key(id: str, k: bytes, versions: list, hmac_key: bytes | None = None, form="single", state="live") -> dict:
    return {
        "id": id,
        "key": text(k),
        "hmac_key": text(hmac_key or hkdf(k, b"keyringd krm1 hmac")),
        "form": form,
        "state": state,
        "versions": [{"number": number, "created": created} for number, created in versions],
    }


def vector(about: str, cache_key: bytes, nonce: bytes, place: dict, payload: dict) -> dict:
    plaintext = json.dumps(payload, separators=(",", ":")).encode()
    plaintext += b" " * (-len(plaintext) % 4096)
    sealed = xaes_256_gcm(hkdf(cache_key, b"keyringd krc1 cache"), nonce, plaintext, associated_data(place))
    return {
        "about": about,
        "cache_key": text(cache_key),
        "nonce": nonce.hex(),
        "place": place,
        "payload": payload,
        "file": text(b"KRC1" + nonce + sealed),
    }


# c2sp.org/XAES-256-GCM, both test vectors.
for byte, associated, expected in [
    (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
    (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
]:
    sealed = xaes_256_gcm(bytes([byte]) * 32, b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM", associated)
    assert sealed.hex() == expected, sealed.hex()

first = hashlib.sha256(b"t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=").digest()
second = bytes(range(32))
orders = "2026-11-01T08:00:00.123456789Z"
place = {
    "host": "https://vault.example.com:8200",
    "namespace": "",
    "mount": "secret",
    "path": "keyring",
    "kv": "v2",
}
one = vector(
    "one keyring: two records, one in two versions and one that Vault pruned",
    bytes(range(100, 132)),
    bytes(range(24)),
    place,
    {
        "written": "2026-11-28T19:43:03.500000000Z",
        "keyrings": [
            {
                "name": "keyring",
                "synced": "2026-11-28T19:43:02.000000001Z",
                "path": "keyring",
                "derivation": "sha256",
                "options": {"format": "transit", "index_key": "old"},
                "active": "8zgITLQh",
                "keys": [
                    key("8zgITLQh", first, [(2, orders), (4, "2026-11-20T08:00:00.987654321Z")]),
                    key("old", second, [(1, "2026-10-01T08:00:00.000000000Z")], bytes(range(64)), state="retired"),
                ],
            }
        ],
    },
)
two = vector(
    "two keyrings in a namespace on KV version 1, in the map form",
    bytes(32),
    bytes(range(24, 48)),
    place | {"namespace": "team/a", "mount": "kv", "path": "rings/default", "kv": "v1"},
    {
        "written": "2026-11-28T19:43:02.000000000Z",
        "keyrings": [
            {
                "name": name,
                "synced": synced,
                "path": path,
                "derivation": "raw",
                "options": {},
                "active": "b",
                "keys": [
                    key("a", second, [(1, orders)], form="map"),
                    key("b", first, [(1, orders)], form="map"),
                ],
            }
            for name, path, synced in [
                ("default", "rings/default", "2026-11-28T19:43:02.000000000Z"),
                ("cards", "rings/cards", "2026-11-27T00:00:00.000000000Z"),
            ]
        ],
    },
)
about = "Known answers for the sealed copy (KRC1), from krc1.py. Byte strings are base64 but for the nonce."
print(json.dumps({"about": about, "vectors": [one, two]}, indent=2))

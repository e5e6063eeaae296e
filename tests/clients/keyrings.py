"""hvac or Tink under a user of its own, which may use one keyring and no other.

Arguments: hvac or tink, the socket, the uid, the name of the keyring, the name of another one.
"""

import base64
import os
import sys
import urllib.parse

import hvac
import requests_unixsocket
import tink
from tink import aead
from tink.integration import hcvault

client, socket, uid, own, other = sys.argv[1:]
aead.register()
# Only now: the user need not be able to read the packages.
os.setgroups([])
os.setresgid(int(uid), int(uid), int(uid))
os.setresuid(int(uid), int(uid), int(uid))

url = "http+unix://" + urllib.parse.quote(socket, safe="")
vault = hvac.Client(url=url, token="ignored", session=requests_unixsocket.Session())
text = base64.b64encode(b"hello").decode()
if client == "hvac":
    transit = vault.secrets.transit
    sealed = transit.encrypt_data(name=own, plaintext=text)["data"]["ciphertext"]
    assert transit.decrypt_data(name=own, ciphertext=sealed)["data"]["plaintext"] == text
    assert transit.list_keys()["data"]["keys"] == [own]
    for name in (other, "no-such-keyring"):
        try:
            transit.encrypt_data(name=name, plaintext=text)
            raise SystemExit(f"{name} was used")
        except hvac.exceptions.Forbidden as refused:
            assert f"@{name}" in str(refused), refused
else:
    envelope = aead.KmsEnvelopeAead(
        aead.aead_key_templates.AES256_GCM, hcvault.new_aead(f"transit/keys/{own}", vault)
    )
    assert envelope.decrypt(envelope.encrypt(b"hello", b"row 7"), b"row 7") == b"hello"
    try:
        hcvault.new_aead(f"transit/keys/{other}", vault).encrypt(b"hello", b"")
        raise SystemExit(f"{other} was used")
    except tink.TinkError:
        pass
print("all of it")

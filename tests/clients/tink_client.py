"""Tink's hcvault over the daemon's socket: data keys of envelopes are sealed by Transit. Argument: the socket."""

import sys
import urllib.parse

import hvac
import requests_unixsocket
import tink
from tink import aead
from tink.integration import hcvault

url = "http+unix://" + urllib.parse.quote(sys.argv[1], safe="")
client = hvac.Client(url=url, session=requests_unixsocket.Session())
aead.register()
remote = hcvault.new_aead("transit/keys/keyring", client)
assert remote.decrypt(remote.encrypt(b"hello", b""), b"") == b"hello"

envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, remote)
sealed = envelope.encrypt(b"a long text " * 1000, b"row 7")
assert envelope.decrypt(sealed, b"row 7") == b"a long text " * 1000
try:
    envelope.decrypt(sealed, b"row 8")
    raise SystemExit("opened with other associated data")
except tink.TinkError:
    pass
print("all of it")

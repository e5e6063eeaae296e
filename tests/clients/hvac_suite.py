"""Runs hvac's own tests of Transit against the daemon's socket.

Arguments: the socket, Vault's address, a token, and the folder of hvac's source package. The tests create and rotate keys in
their set-up: here that writes a record to Vault and syncs. SERVED are the tests that run; LEFT_OUT are the others and why.
Together they are all of the suite.
"""

import base64
import os
import sys
import types
import unittest
import urllib.parse

import hvac
import requests
import requests_unixsocket

SOCKET, ADDRESS, TOKEN, SOURCE = sys.argv[1:]
sys.path.insert(0, SOURCE)

SERVED = [
    "test_read_key",
    "test_list_keys",
    "test_encrypt_data",
    "test_decrypt_data",
    "test_rewrap_data",
    "test_generate_data_key",
    "test_generate_random_bytes",
    "test_hash_data",
    "test_generate_hmac",
    "test_encrypt_data_requires_plaintext_arg_if_not_in_batch_mode",
    "test_decrypt_data_requires_cipher_arg_if_not_in_batch_mode",
]
LEFT_OUT = {
    "test_create_key": "a key is a record in Vault, which the set-up of every other test writes",
    "test_rotate_key": "as test_create_key",
    "test_delete_key": "a key is deleted in Vault, by destroying its record",
    "test_export_key": "no key leaves the daemon",
    "test_sign_data": "signs with an ed25519 key, and the daemon holds symmetric keys",
    "test_verify_signed_data": "verifies a signature of an ed25519 key",
    "test_backup_key": "no key leaves the daemon",
    "test_restore_key": "a key is written to Vault, as a record",
    "test_trim_key": "versions are destroyed in Vault",
}

from tests import utils  # noqa: E402

# The suite's own way to start a server, which is replaced below, imports it.
sys.modules["hcl"] = types.ModuleType("hcl")
# The suite asks a vault program on PATH for its version when it is loaded.
utils.get_vault_version_string.cache = "1.15.0"

from tests.integration_tests.api.secrets_engines.test_transit import TestTransit  # noqa: E402
from tests.utils.hvac_integration_test_case import HvacIntegrationTestCase  # noqa: E402

URL = "http+unix://" + urllib.parse.quote(SOCKET, safe="")
SESSION = requests_unixsocket.Session()


def write_record(**_):
    """Where Transit would create or rotate a key: a new record in Vault, and a sync."""
    record = {"id": os.urandom(8).hex(), "key": base64.b64encode(os.urandom(32)).decode()}
    headers = {"X-Vault-Token": TOKEN}
    url = ADDRESS + "/v1/secret/data/keyring"
    written = requests.post(url, json={"data": record}, headers=headers, timeout=30)
    written.raise_for_status()
    SESSION.post(URL + "/keyring/vault/sync", timeout=30).raise_for_status()
    return written


class Manager:
    root_token = "ignored-on-the-socket"

    def __init__(self):
        self.client = hvac.Client(url=URL, token=self.root_token, session=SESSION)
        self.client.secrets.transit.create_key = write_record
        self.client.secrets.transit.rotate_key = write_record
        self.client.sys.enable_secrets_engine = lambda **_: None
        self.client.sys.disable_secrets_engine = lambda **_: None


HvacIntegrationTestCase.manager = Manager()
HvacIntegrationTestCase.setUpClass = classmethod(lambda cls: None)
HvacIntegrationTestCase.tearDownClass = classmethod(lambda cls: None)


def base_of(name):
    """The name of the method that a parameterized test was made of."""
    bases = [base for base in [*SERVED, *LEFT_OUT] if name == base or name.startswith(base + "_")]
    return max(bases, key=len, default=None)


names = unittest.TestLoader().getTestCaseNames(TestTransit)
unknown = [name for name in names if base_of(name) is None]
assert not unknown, f"neither served nor left out: {unknown}"
served = [name for name in names if base_of(name) in SERVED]
outcome = unittest.TextTestRunner(verbosity=2).run(unittest.TestSuite(map(TestTransit, served)))
assert outcome.testsRun == len(served) and not outcome.skipped, outcome
if not outcome.wasSuccessful():
    sys.exit(1)
print(f"{len(served)} of {len(names)} tests passed, {len(names) - len(served)} left out")

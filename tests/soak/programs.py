"""The two programs of the soak: OpenBao in memory over TLS, and keyringd, which logs in to it by AppRole."""

import base64
import http.client
import json
import os
import pathlib
import socket
import ssl
import subprocess
import tempfile
import time

TOKEN = "root-of-the-soak"


def spawn(arguments, log, **variables):
    """A program that ends with this one."""
    with open(log, "w") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=out,
            stderr=out, env={"PATH": os.environ["PATH"], **variables},
        )


def eventually(what, probe):
    deadline = time.monotonic() + 60
    while not (result := probe()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within a minute")
        time.sleep(0.05)
    return result


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class OpenBao:
    def __init__(self, folder, ttl):
        self.folder, self.port, self.records = folder, free_port(), {}
        program = subprocess.run(["tests/openbao"], check=True, capture_output=True, text=True).stdout.strip()
        self.child = spawn(
            [program, "server", "-dev", "-dev-no-store-token", "-dev-tls", f"-dev-tls-cert-dir={folder}",
             f"-dev-root-token-id={TOKEN}", f"-dev-listen-address=127.0.0.1:{self.port}"],
            folder / "openbao.log", HOME=str(folder),
        )
        self.authority = next(iter(eventually("certificates", lambda: list(folder.glob("*-ca.pem")))))
        eventually("OpenBao", self.ready)
        self.put("keyring", "first")
        self.put("rings/orders", "of-orders")
        self.api("POST", "secret/data/app", {"data": {"password": "of-the-app"}})
        self.api("POST", "sys/auth/approle", {"type": "approle"})
        role = {"token_policies": "keyringd", "token_ttl": ttl, "token_max_ttl": 3 * ttl}
        self.api("POST", "auth/approle/role/keyringd", role)
        self.role = self.api("GET", "auth/approle/role/keyringd/role-id")["role_id"]
        secret = self.api("POST", "auth/approle/role/keyringd/secret-id", {})["secret_id"]
        (folder / "secret-id").touch(mode=0o600)
        (folder / "secret-id").write_text(secret)

    def ready(self):
        try:
            return self.api("GET", "secret/config")
        except (OSError, RuntimeError, http.client.HTTPException):
            return None

    def api(self, method, path, body=None):
        context = ssl.create_default_context(cafile=self.authority)
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=context, timeout=30)
        connection.request(method, f"/v1/{path}", json.dumps(body) if body else None, {"X-Vault-Token": TOKEN})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {text}")
        return json.loads(text)["data"] if text else {}

    def put(self, path, key_id):
        key = base64.b64encode(os.urandom(32)).decode()
        self.api("POST", f"secret/data/{path}", {"data": {"id": key_id, "key": key}})

    def tokens_left(self):
        """After keyringd's end only the root token is valid."""
        def alone():
            return len(self.api("LIST", "auth/token/accessors")["keys"]) == 1
        try:
            eventually("end of all tokens", alone)
        except TimeoutError:
            return ["tokens of keyringd are left in OpenBao"]
        return []


class Daemon:
    def __init__(self, folder, vault, interval):
        self.folder, self.vault, self.interval = folder, vault, interval
        self.program = os.environ["KEYRINGD"]
        self.socket, self.conf = str(folder / "keyringd.sock"), folder / "kong.conf"
        # The key of the copy must be on another file system than the copy.
        self.cache_key = tempfile.NamedTemporaryFile(dir="/dev/shm")
        self.cache_key.write(base64.b64encode(os.urandom(32)))
        self.cache_key.flush()
        self.variables = {"KONG_KEYRING_CACHE_KEY_FILE": self.cache_key.name}
        self.write_conf("")
        (folder / "root-token").write_text(TOKEN)
        policy = self.command("policy") + 'path "secret/data/app" { capabilities = ["read"] }\n'
        vault.api("PUT", "sys/policies/acl/keyringd", {"policy": policy})
        self.child = spawn([self.program, "run", "-c", self.conf], folder / "log", **self.variables)
        eventually("keyringd", lambda: "ready" in self.command("status", check=False))

    def write_conf(self, line):
        settings = {
            "keyring_enabled": "on",
            "keyring_strategy": "vault",
            "keyring_vault_host": f"https://127.0.0.1:{self.vault.port}",
            "keyring_vault_mount": "secret",
            "keyring_vault_path": "keyring",
            "keyring_vault_paths": "rings/",
            "keyring_vault_auth_method": "approle",
            "keyring_vault_approle_role_id": self.vault.role,
            "keyring_vault_approle_secret_id_file": self.folder / "secret-id",
            "lua_ssl_trusted_certificate": self.vault.authority,
            "keyring_sync_interval": self.interval,
            "keyring_socket_path": self.socket,
            "keyring_access": f"uid:{os.getuid()}=all+secrets",
            "keyring_cache_path": self.folder / "state/keyring.copy",
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        self.conf.write_text(f"{lines}{line}\n")

    def command(self, *arguments, check=True):
        result = subprocess.run(
            [self.program, *arguments, "-c", self.conf], capture_output=True, text=True, timeout=120,
            env=self.variables,
        )
        if check and result.returncode:
            raise RuntimeError(f"keyringd {arguments[0]}: {result.stderr}")
        return result.stdout

    def rotate(self, key_id):
        """The number of the new version."""
        self.command("rotate", "--id", key_id, "--token-file", str(self.folder / "root-token"))
        return self.vault.api("GET", "secret/metadata/keyring")["current_version"]

    def figures(self):
        """Resident and anonymous memory in KiB, descriptors, threads, log lines. What comes and goes is not counted."""
        status = dict(line.split(":", 1) for line in self.proc("status").read_text().splitlines())
        descriptors, threads = [], []
        for _ in range(20):
            descriptors.append(len(list(self.proc("fd").iterdir())))
            threads.append(len(list(self.proc("task").iterdir())))
            time.sleep(0.02)
        memory = [int(status[field].split()[0]) for field in ("VmRSS", "RssAnon")]
        return [*memory, min(descriptors), min(threads), self.log_lines()]

    def proc(self, name):
        return pathlib.Path(f"/proc/{self.child.pid}/{name}")

    def log(self):
        return (self.folder / "log").read_text()

    def log_lines(self):
        with open(self.folder / "log", "rb") as log:
            return sum(1 for _ in log)

    def stop(self):
        self.child.terminate()
        status = self.child.wait(60)
        return [f"keyringd ended with {status}"] if status else []

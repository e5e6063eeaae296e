"""What the examples for Kubernetes need around them: the Vault that they name, with TLS, and the API that reviews tokens."""

import base64
import http.server
import json
import os
import subprocess
import threading
import time

from containers import eventually, run

HOST = "vault.example.com"


def authority(folder):
    """An authority, and a certificate of it for the Vault."""
    files = ["-keyout", folder / "ca.key", "-out", folder / "ca.pem"]
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"]
    run("openssl", "req", "-x509", *elliptic, *files, "-subj", "/CN=An authority")
    files = ["-keyout", folder / "vault.key", "-out", folder / "vault.pem"]
    signed = ["-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-addext", f"subjectAltName=DNS:{HOST}"]
    signed += ["-addext", "basicConstraints=critical,CA:FALSE"]
    run("openssl", "req", "-x509", *elliptic, *files, *signed, "-subj", f"/CN={HOST}")
    return folder / "ca.pem"


def token(namespace, account):
    """Gives a function from the audience to a service account's token."""

    def sign(audience):
        now = int(time.time())
        claims = {
            "iss": "https://kubernetes.default.svc",
            "sub": f"system:serviceaccount:{namespace}:{account}",
            "aud": [audience],
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": "1"}},
        }
        parts = [json.dumps({"alg": "RS256"}), json.dumps(claims), "signature"]
        return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)

    return sign


class Reviews(http.server.BaseHTTPRequestHandler):
    """The API server's part: a token is good if it is what the pod got, and for the audience that is asked."""

    def do_POST(self):
        spec = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["spec"]
        claims = json.loads(base64.urlsafe_b64decode(spec["token"].split(".")[1] + "=="))
        is_good = not spec.get("audiences") or set(spec["audiences"]) & set(claims["aud"])
        user = {"username": claims["sub"], "uid": "1", "groups": ["system:serviceaccounts"]}
        status = {"authenticated": bool(is_good), "user": user, "audiences": claims["aud"]}
        answer = json.dumps({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status}).encode()
        self.send_response(201)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Vault:
    def __init__(self, folder, program):
        self.program = program
        self.environment = os.environ | {"BAO_ADDR": "http://127.0.0.1:8210", "BAO_TOKEN": "root"}
        listener = f'address = "127.0.0.1:8200"\ntls_cert_file = "{folder}/vault.pem"\ntls_key_file = "{folder}/vault.key"'
        (folder / "vault.hcl").write_text(f'listener "tcp" {{\n{listener}\n}}\n')
        options = ["-dev", "-dev-no-store-token", "-dev-root-token-id=root", "-dev-listen-address=127.0.0.1:8210"]
        with open(folder / "vault.log", "w") as log:
            command = [program, "server", *options, f"-config={folder}/vault.hcl"]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually("OpenBao responds", self.responds)
        self.reviews = http.server.ThreadingHTTPServer(("127.0.0.1", 6443), Reviews)
        threading.Thread(target=self.reviews.serve_forever, daemon=True).start()
        for method in ("kubernetes", "approle"):
            self.bao("auth", "enable", method)
        reviewer = token("kube-system", "reviewer")("vault")
        settings = {"kubernetes_host": "http://127.0.0.1:6443", "token_reviewer_jwt": reviewer, "disable_local_ca_jwt": True}
        self.write("auth/kubernetes/config", settings | {"kubernetes_ca_cert": (folder / "ca.pem").read_text()})

    def responds(self):
        return subprocess.run([self.program, "status"], env=self.environment, capture_output=True).returncode == 0

    def bao(self, *arguments, text=None):
        return run(self.program, *arguments, input=text, env=self.environment)

    def write(self, path, fields):
        return self.bao("write", "-format=json", path, "-", text=json.dumps(fields))

    def put_key(self, path):
        key = base64.b64encode(os.urandom(32)).decode()
        self.bao("kv", "put", "-mount=secret", path, "-", text=json.dumps({"id": "first", "key": key}))
        rules = [f'path "secret/{kind}/{path}" {{ capabilities = ["read"] }}' for kind in ("data", "metadata")]
        self.bao("policy", "write", path, "-", text="\n".join(rules))

    def add_role(self, name, namespace, account, path):
        bound = {"bound_service_account_names": [account], "bound_service_account_namespaces": [namespace]}
        grants = {"token_policies": [path], "token_period": "1h"}
        self.write(f"auth/kubernetes/role/{name}", bound | grants | {"audience": "vault"})

    def add_approle(self, name, path):
        """Gives the secret ID."""
        self.write(f"auth/approle/role/{name}", {"token_policies": [path], "token_period": "1h"})
        self.write(f"auth/approle/role/{name}/role-id", {"role_id": name})
        return json.loads(self.write(f"auth/approle/role/{name}/secret-id", {}))["data"]["secret_id"]

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.reviews.shutdown()
        self.reviews.server_close()

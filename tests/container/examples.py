"""Runs the examples for containers and for Kubernetes as they are, and goes through what they promise: the containers start, an
application reaches the socket and has the permissions of its user, keyringd's user may ask for the status, a restart goes on.
Arguments: the image's root filesystem, what image.py printed of it, and OpenBao's program. Needs a network of its own."""

import base64
import json
import os
import pathlib
import re
import sys

import cluster
from compose import Project, docker_runs
from containers import Container, Engine, Image, eventually, run
from pods import Node, mounts_of_the_application

PASSED = []


def check(what, condition):
    if not condition:
        raise AssertionError(what)
    PASSED.append(what)
    print(f"ok: {what}", flush=True)


def images(folder, root, stage, bao, authority):
    user, group, _, command, health = pathlib.Path(stage).read_text().splitlines()
    keyringd = Image(root, f"{user}:{group}", tuple(command.split()[:1]), tuple(command.split()[1:]))
    keyringd.health = health.split()
    keyringd.binds = {"/etc/ssl/certs/ca-certificates.crt": authority}
    application = Image(folder / "application", binds={"/usr": pathlib.Path("/usr")})
    application.root.mkdir()
    for name in ("bin", "lib", "lib64"):
        (application.root / name).symlink_to(f"usr/{name}")
    openbao = Image(folder / "openbao", entrypoint=("/bin/bao",), binds={"/bin/bao": bao})
    openbao.root.mkdir()
    return keyringd, application, openbao


class Client:
    """An application in its container."""

    def __init__(self, engine, container, keyring, socket="/run/keyringd/keyringd.sock"):
        self.engine, self.container, self.keyring, self.socket = engine, container, keyring, socket

    def ask(self, path, *options):
        """The status and the body."""
        command = ["curl", "--silent", "--max-time", "30", "--write-out", "\n%{http_code}", "--unix-socket", self.socket]
        output = self.engine.execute(self.container, [*command, *options, f"http://localhost{path}"]).stdout
        body, status = output.rsplit("\n", 1)
        return int(status), body

    def encrypt(self):
        return self.ask(f"/v1/transit/encrypt/{self.keyring}", "--data", '{"plaintext": "aGVsbG8="}')

    def decrypt(self, ciphertext):
        return self.ask(f"/v1/transit/decrypt/{self.keyring}", "--data", json.dumps({"ciphertext": ciphertext}))

    def check_round_trip(self, what):
        status, body = self.encrypt()
        check(f"{what} encrypts", status == 200)
        status, body = self.decrypt(json.loads(body)["data"]["ciphertext"])
        check(f"{what} decrypts", status == 200 and "aGVsbG8=" in body)


def start(engine, container, probe, what):
    engine.start(container)
    eventually(f"{what} becomes healthy", lambda: succeeds(engine, container, probe))
    check(f"{what} becomes healthy", True)


def succeeds(engine, container, probe):
    """Whether a probe succeeds. A container that ended is an error."""
    if container.process.poll() is not None:
        raise AssertionError(f"{container.name} ended: {container.log.read_text()[-2000:]}")
    container.probed = engine.execute(container, probe)
    return container.probed.returncode == 0


def check_daemon(engine, container, what):
    """What holds for keyringd in each example."""
    status = pathlib.Path(f"/proc/{engine.pid(container)}/status").read_text()
    users = set(map(int, re.search(r"^Uid:\t(.*)$", status, re.M)[1].split()))
    check(f"{what} runs as the user of the example, not root", users == {container.user} and 0 not in users)
    check(f"{what} has no capability", re.search(r"^Cap(Eff|Prm):\t0+$", status, re.M) is not None)
    check(f"{what} cannot gain privileges", "NoNewPrivs:\t1\n" in status)
    asked = engine.execute(container, ["/keyringd", "status"])
    check(f"{what}: its user may ask for the status", asked.returncode == 0 and "first" in asked.stdout)
    written = engine.execute(container, ["/keyringd", "encrypt", "--input", "/keyringd", "--output", "/sealed"])
    check(f"{what}: its root is read-only", "Read-only file system" in written.stderr or "(os error 30)" in written.stderr)


def check_restart(engine, container, probe, client, what):
    engine.stop(container, 9)
    check(f"{what}: without the daemon a request fails", client.encrypt()[0] == 0)
    start(engine, container, probe, f"{what}: a killed daemon, started again,")
    client.check_round_trip(f"{what}: an application that was there before")


def metrics():
    return run("curl", "--silent", "--fail", "http://127.0.0.1:9187/metrics")


def sidecar(engine, folder, images, vault):
    node = Node(folder / "sidecar", ["kubernetes/sidecar.yaml"], {"token": cluster.token("default", "orders")})
    vault.put_key("orders")
    vault.add_role("orders", "default", "orders", "orders")
    (keyringd, orders), (spec, _) = node.containers(node.find("Deployment", "orders"), images)
    probe = spec["startupProbe"]["exec"]["command"]
    start(engine, keyringd, probe, "the sidecar")
    check_daemon(engine, keyringd, "the sidecar")
    client = Client(engine, orders, "orders", "/run/keyringd/socket/keyringd.sock")
    client.check_round_trip("the application beside the sidecar")
    check("and has no other permission", client.ask("/status")[0] == 403)
    moved = engine.execute(orders, ["mv", "/run/keyringd/socket/keyringd.sock", "/run/keyringd/socket/other"])
    check("and cannot replace the socket", moved.returncode != 0)
    check("the sidecar's port has metrics", "keyringd_build_info" in metrics())
    check_restart(engine, keyringd, probe, client, "the sidecar")
    check("SIGTERM stops the sidecar with exit code 0", engine.stop(keyringd) == 0)


def application_of_node(node, path, name, image, user):
    """An application's pod on the node, with the mounts that the comments show."""
    shown = mounts_of_the_application(path)
    folders = {volume["name"]: node.volume(volume, {}) for volume in shown["volumes"]}
    mounts = [(folders[one["name"]], one["mountPath"], one["readOnly"]) for one in shown["volumeMounts"]]
    return Container(name, image, [], user, user, env={"PATH": "/usr/bin"}, mounts=mounts, has_new_privileges=False)


def daemonset(engine, folder, images, vault):
    path = "kubernetes/daemonset.yaml"
    secrets = {"token": cluster.token("keyringd", "keyringd")}
    secrets["keyring-cache-key"] = {"keyring_cache_key": base64.b64encode(os.urandom(32)).decode()}
    node = Node(folder / "daemonset", [path], secrets)
    vault.put_key("keyring")
    vault.add_role("keyringd", "keyringd", "keyringd", "keyring")
    (keyringd,), (spec,) = node.containers(node.find("DaemonSet", "keyringd"), images)
    probe = spec["startupProbe"]["exec"]["command"]
    start(engine, keyringd, probe, "the daemon of the node")
    check_daemon(engine, keyringd, "the daemon of the node")
    image = images["registry.example/orders:1"]
    users = (10001, 10002, 10003)
    applications = [application_of_node(node, path, f"application-{user}", image, user) for user in users]
    clients = {one.user: Client(engine, one, "keyring") for one in applications}
    clients[10001].check_round_trip("user 10001 on the node")
    status, body = clients[10002].encrypt()
    check("user 10002 encrypts", status == 200)
    check("and may not decrypt", clients[10002].decrypt(json.loads(body)["data"]["ciphertext"])[0] == 403)
    check("another user may do nothing", clients[10003].encrypt()[0] == 403)
    check("the node's port has metrics", "keyringd_build_info" in metrics())
    check_restart(engine, keyringd, probe, clients[10001], "the daemon of the node")
    engine.stop(keyringd)
    # The same with the patch, whose folder the administrator makes too.
    patch = Node(folder / "daemonset", [path, "kubernetes/sealed-copy.yaml"], secrets)
    (keyringd,), _ = patch.containers(patch.find("DaemonSet", "keyringd"), images)
    start(engine, keyringd, probe, "the daemon with a sealed copy")
    copy = patch.path("/var/lib/keyringd/copy/keyring.copy")
    eventually("the copy is written", lambda: copy.exists())
    engine.stop(keyringd, 9)
    vault.stop()
    start(engine, keyringd, probe, "the daemon with a sealed copy, started again without Vault,")
    clients[10001].check_round_trip("without Vault user 10001")
    engine.stop(keyringd)


def static_pod(engine, folder, images, vault):
    path = "kubernetes/static-pod.yaml"
    vault.put_key("kubernetes")
    node = Node(folder / "static", [path], {})
    secret = node.path("/etc/keyringd/secret-id")
    secret.write_text(vault.add_approle("kube-apiserver", "kubernetes"))
    node.create(path)
    (keyringd,), (spec,) = node.containers(node.find("Pod", "keyringd"), images)
    probe = spec["startupProbe"]["exec"]["command"]
    start(engine, keyringd, probe, "the static pod")
    check_daemon(engine, keyringd, "the static pod")
    api_server = application_of_node(node, path, "kube-apiserver", images["registry.example/orders:1"], 0)
    client = Client(engine, api_server, "kubernetes")
    call = ["--http2-prior-knowledge", "--header", "content-type: application/grpc", "--header", "te: trailers"]
    empty = folder / "empty-message"
    empty.write_bytes(bytes(5))
    api_server.mounts.append((empty, "/empty-message", True))

    def answers():
        status, body = client.ask("/v2.KeyManagementService/Status", *call, "--data-binary", "@/empty-message")
        return status == 200 and "v2" in body and "ok" in body

    check("the API server gets the status of its KMS", answers())
    check("root may ask for keyringd's status", client.ask("/status")[0] == 200)
    check("and not encrypt as an application", client.encrypt()[0] == 403)
    engine.stop(keyringd, 9)
    start(engine, keyringd, probe, "the static pod, started again,")
    check("and the API server that was there before finds it", answers())
    engine.stop(keyringd)


def compose(engine, folder, images):
    project = Project(folder / "compose")
    names = ("openbao", "first-key", "keyringd", "application")
    openbao, first_key, keyringd, application = (project.container(name, images) for name in names)
    probes = {name: project.services[name]["healthcheck"]["test"][1:] for name in ("openbao", "keyringd")}
    probes["openbao"][0] = "/bin/bao"
    start(engine, openbao, probes["openbao"], "Compose: OpenBao")
    engine.start(first_key)
    check("Compose: the first key is written", first_key.process.wait(timeout=60) == 0)
    start(engine, keyringd, probes["keyringd"], "Compose: keyringd")
    engine.start(application)
    check("Compose: the application ends well", application.process.wait(timeout=60) == 0)
    check("Compose: it has printed a ciphertext", "kr1:" in application.log.read_text())
    client = Client(engine, application, "keyring")
    client.check_round_trip("Compose: the application")
    check_restart(engine, keyringd, probes["keyringd"], client, "Compose")
    engine.stop(keyringd)


def docker(engine, folder, keyringd_image, application_image, settings):
    """The lines in the Dockerfile, with the OpenBao of Compose."""
    keyringd, application = docker_runs(folder / "docker", keyringd_image, application_image)
    keyringd.env |= {key: value for key, value in settings.items() if key not in keyringd.env}
    start(engine, keyringd, keyringd_image.health, "docker run")
    Client(engine, application, "keyring").check_round_trip("docker run: the application")
    engine.stop(keyringd)


def main(root, stage, bao):
    folder = pathlib.Path(root).parent / "examples"
    folder.mkdir()
    authority = cluster.authority(folder)
    keyringd, application, openbao = images(folder, pathlib.Path(root), stage, bao, authority)
    named = {"registry.example/keyringd:0.2.0": keyringd, "registry.example/orders:1": application}
    run("ip", "link", "set", "lo", "up")
    engine = Engine(folder, [cluster.HOST, "openbao"])
    vault = None
    try:
        services = Project(folder).services
        more = {services["openbao"]["image"]: openbao, services["application"]["image"]: application}
        compose(engine, folder, named | more)
        settings = services["keyringd"]["environment"]
        docker(engine, folder, keyringd, application, settings)
        engine.close()
        vault = cluster.Vault(folder, bao)
        sidecar(engine, folder, named, vault)
        static_pod(engine, folder, named, vault)
        daemonset(engine, folder, named, vault)
    except AssertionError as fault:
        print(f"failed: {fault}", file=sys.stderr)
        for container in engine.started:
            print(f"--- {container.name}\n{container.log.read_text()[-2000:]}\n{container.probed}", file=sys.stderr)
        return 1
    finally:
        engine.close()
        if vault:
            vault.process.kill()
    print(f"{len(PASSED)} passed, 0 failed")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Runs containers without a container engine: a root filesystem of mounts, namespaces, a user, a control group with a memory
limit. All mounts are below one folder, in the mount namespace of the test. The test's network is that of all containers."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import time


@dataclasses.dataclass
class Image:
    """A root filesystem, and what the image says of its process. `binds` are files and folders of this machine in it."""

    root: pathlib.Path
    user: str = "0:0"
    entrypoint: tuple = ()
    command: tuple = ()
    binds: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Container:
    name: str
    image: Image
    argv: list
    user: int
    group: int
    groups: list = dataclasses.field(default_factory=list)
    env: dict = dataclasses.field(default_factory=dict)
    mounts: list = dataclasses.field(default_factory=list)  # (folder, where, is read-only)
    is_read_only: bool = False
    has_new_privileges: bool = True
    memory: int | None = None
    memlock: int | None = 64 << 10  # Linux's old default; None is this machine's
    process: subprocess.Popen | None = None
    log: pathlib.Path | None = None
    control_group: pathlib.Path | None = None
    probed: subprocess.CompletedProcess | None = None  # its last probe


def run(*argv, **options):
    return subprocess.run(list(map(str, argv)), check=True, capture_output=True, text=True, **options).stdout


def mount(source, target, *options):
    run("mount", *options, source, target)


def eventually(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


class Engine:
    def __init__(self, folder, hosts):
        """`hosts` are the names that each container resolves to this machine."""
        self.folder = folder
        self.hosts = hosts
        self.started = []
        self.groups = []

    def mount_root(self, container):
        """The root filesystem of a container: a layer above the image, with its mounts."""
        place = self.folder / "containers" / container.name
        if (place / "root").exists():
            return place / "root"
        for name in ("root", "changes", "work"):
            (place / name).mkdir(parents=True)
        layers = f"lowerdir={container.image.root},upperdir={place}/changes,workdir={place}/work"
        mount("container", place / "root", "-t", "overlay", "-o", layers)
        (place / "root/etc").mkdir(exist_ok=True)
        (place / "root/etc/hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ["localhost", *self.hosts]))
        mounts = [(source, target, True) for target, source in container.image.binds.items()] + container.mounts
        mounts += [(f"/dev/{name}", f"/dev/{name}", False) for name in ("null", "urandom")]
        mounts += [(source, target, True) for source, target in self.control_group(container)]
        (place / "root/proc").mkdir(exist_ok=True)
        for source, target, _ in mounts:
            target = place / f"root{target}"
            if pathlib.Path(source).is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
        if container.is_read_only:
            mount("container", place / "root", "-o", "remount,ro")
        for source, target, is_read_only in mounts:
            mount(source, place / f"root{target}", "--bind")
            if is_read_only:
                mount(source, place / f"root{target}", "-o", "remount,bind,ro")
        return place / "root"

    def control_group(self, container):
        """Makes the control group, and gives the folders of it that the container sees; in version 2 or 1."""
        top = pathlib.Path("/sys/fs/cgroup")
        is_v2 = (top / "cgroup.controllers").exists()
        group = (top if is_v2 else top / "memory") / f"keyringd-example-{os.getpid()}-{container.name}"
        if is_v2 and "memory" not in (top / "cgroup.subtree_control").read_text().split():
            (top / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        self.groups.append(group)
        if container.memory:
            (group / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(container.memory))
        container.control_group = group
        return [(group, "/sys/fs/cgroup" if is_v2 else "/sys/fs/cgroup/memory")]

    def command(self, container, argv):
        """The command that executes `argv` in the container, as its user."""
        root = self.mount_root(container)
        groups = ",".join(map(str, container.groups))
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', container.control_group / "cgroup.procs"]
        limits = ["prlimit", "--core=0"] + ([f"--memlock={container.memlock}"] if container.memlock else [])
        privileges = [] if container.has_new_privileges else ["setpriv", "--no-new-privs"]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--cgroup"]
        namespaces += [f"--mount-proc={root}/proc"]
        # env comes last, so that it does not change what these tools are found by. An image from scratch has no env.
        change = ["chroot", f"--userspec={container.user}:{container.group}", f"--groups={groups}", root, *argv]
        tools = [shutil.which(change[0]), *change[1:]]
        variables = [f"{key}={value}" for key, value in container.env.items()]
        return list(map(str, [*enter, *limits, *privileges, *namespaces, shutil.which("env"), "-i", *variables, *tools]))

    def start(self, container):
        container.log = self.folder / f"{container.name}.log"
        with open(container.log, "a") as log:
            container.process = subprocess.Popen(
                self.command(container, container.argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.started.append(container)

    def execute(self, container, argv, **options):
        """As `kubectl exec` and an exec probe do."""
        command = self.command(container, argv)
        return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)

    def pid(self, container):
        """The container's first process, outside of its namespace."""
        return int(run("pgrep", "--parent", container.process.pid).split()[0])

    def stop(self, container, signal=15):
        os.kill(self.pid(container), signal)
        return container.process.wait(timeout=60)

    def close(self):
        for container in self.started:
            if container.process.poll() is None:
                try:
                    self.stop(container, 9)
                except (subprocess.CalledProcessError, ProcessLookupError):
                    container.process.kill()
                    container.process.wait()
        for group in self.groups:
            eventually(f"{group} is empty", lambda group=group: not (group / "cgroup.procs").read_text())
            group.rmdir()
        self.groups.clear()

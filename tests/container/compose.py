"""Makes containers of compose.yaml and of the command lines in the Dockerfile, as a container engine does."""

import os
import pathlib
import shlex

import yaml
from containers import Container

KNOWN = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "mem_limit",
    "network_mode", "read_only", "restart", "security_opt", "ulimits", "user", "volumes",
}  # fmt: skip
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Project:
    def __init__(self, folder, path="compose.yaml"):
        self.folder = folder
        with open(path) as file:
            self.services = yaml.safe_load(file)["services"]

    def container(self, name, images):
        service = self.services[name]
        assert not service.keys() - KNOWN, f"{name}: unsupported: {service.keys() - KNOWN}"
        image = images[service["image"]]
        user, group = map(int, service.get("user", image.user).split(":"))
        memory = service.get("mem_limit")
        return Container(
            name=name,
            image=image,
            argv=[*service.get("entrypoint", image.entrypoint), *service.get("command", image.command)],
            user=user,
            group=group,
            env={"PATH": PATH, "HOME": "/", "HOSTNAME": name, **service.get("environment", {})},
            mounts=[mounted(self.folder, text, images.values()) for text in service.get("volumes", [])],
            is_read_only=service.get("read_only", False),
            has_new_privileges="no-new-privileges:true" not in service.get("security_opt", []),
            memory=int(memory.removesuffix("m")) << 20 if memory else None,
            memlock=None if service.get("ulimits", {}).get("memlock") == -1 else 64 << 10,
        )


def mounted(folder, text, images):
    """A named volume. A new one gets the owner and the mode of the folder in the image that it hides."""
    name, where, *options = text.split(":")
    volume = folder / f"volume-{name}"
    if not volume.exists():
        volume.mkdir(parents=True)
        for hidden in (image.root / where.lstrip("/") for image in images):
            if hidden.exists():
                os.chown(volume, hidden.stat().st_uid, hidden.stat().st_gid)
                volume.chmod(hidden.stat().st_mode)
    return volume, where, options == ["ro"]


def docker_runs(folder, image, application):
    """The two `docker run` of the Dockerfile's head: keyringd, whose settings are those of the line, and an application."""
    text = pathlib.Path("Dockerfile").read_text().split("FROM ")[0].replace("\n#", "\n").replace("\\\n", " ")
    lines = [shlex.split(line) for line in text.splitlines() if line.strip().startswith("docker run ")]
    return [
        docker_run(f"docker-{number}", folder, words[2:], image if number == 0 else application)
        for number, words in enumerate(lines)
    ]


def docker_run(name, folder, words, image):
    container = Container(name, image, [], *map(int, image.user.split(":")), env={"PATH": PATH})
    words = iter([word for word in words if word != "…"])
    for word in words:
        if word in ("--detach", "registry.example/keyringd:0.2.0", "application"):
            continue
        if word == "--read-only":
            container.is_read_only = True
            continue
        value = next(words)
        if word == "--volume":
            container.mounts.append(mounted(folder, value, [image]))
        elif word == "-e":
            container.env |= [value.split("=", 1)]
        elif word == "--user":
            container.user, container.group = map(int, value.split(":"))
        elif (word, value) == ("--ulimit", "memlock=-1"):
            container.memlock = None
        elif (word, value) == ("--security-opt", "no-new-privileges"):
            container.has_new_privileges = False
        else:
            assert (word, value) == ("--cap-drop", "ALL"), f"unsupported: {word} {value}"
    container.argv = [*image.entrypoint, *image.command]
    return container

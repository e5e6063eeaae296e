"""Makes containers of Kubernetes manifests, as the kubelet does: users, groups, environment, limits, volumes."""

import itertools
import os
import pathlib
import re

import yaml
from containers import Container, mount
from manifests import load, patched

NUMBERS = itertools.count()


def comments(path):
    """What the comments at any depth show below a line of text, without their marks."""
    return [line.strip()[4:] for line in pathlib.Path(path).read_text().splitlines() if line.strip().startswith("#   ")]


def mounts_of_the_application(path):
    """The two lines of the comments that an application's pod needs."""
    lines = [line for line in comments(path) if re.match("volume(Mount)?s: ", line)]
    return yaml.safe_load("\n".join(lines))


def argv_of(spec, image):
    """A command of the manifest replaces the image's entrypoint and its command, arguments only the latter."""
    arguments = [] if "command" in spec else image.command
    return [*spec.get("command", image.entrypoint), *spec.get("args", arguments)]


class Node:
    """A machine with its folders, and the objects of the cluster."""

    def __init__(self, folder, paths, secrets):
        self.folder = folder
        self.secrets = secrets
        self.documents = [document for path in paths for document in load(path)]
        for path in paths:
            self.create(path)

    def create(self, path):
        """Does what the administrator does by tmpfiles.d."""
        for line in comments(path):
            if match := re.fullmatch(r"([dz]) (/\S+) (0\d{3}) (\S+) (\S+)", line):
                kind, target, mode, *owner = match.groups()
                target = self.path(target)
                if kind == "d":
                    target.mkdir(parents=True, exist_ok=True)
                elif not target.exists():
                    continue
                target.chmod(int(mode, 8))
                os.chown(target, *(0 if one == "root" else int(one) for one in owner))

    def path(self, target):
        return self.folder / target.lstrip("/")

    def find(self, kind, name):
        """An object with the patches that follow it."""
        found = [one for one in self.documents if (one["kind"], one["metadata"]["name"]) == (kind, name)]
        document = found[0]
        for patch in found[1:]:
            document = patched(document, patch)
        return document

    def containers(self, document, images):
        """The containers of a pod or a workload, those that start first first."""
        pod = document["spec"]
        if "template" in pod:
            pod = pod["template"]["spec"]
        volumes = {volume["name"]: self.volume(volume, pod) for volume in pod["volumes"]}
        specs = pod.get("initContainers", []) + pod["containers"]
        return [self.container(spec, pod, volumes, images[spec["image"]]) for spec in specs], specs

    def container(self, spec, pod, volumes, image):
        context = {**pod["securityContext"], **spec["securityContext"]}
        user = context["runAsUser"]
        assert user != 0 or not context.get("runAsNonRoot"), "the kubelet refuses root"
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME": "pod", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
        env |= {one["name"]: one["value"] for one in spec.get("env", [])}
        memory = spec.get("resources", {}).get("limits", {}).get("memory")
        return Container(
            name=f"{spec['name']}-{next(NUMBERS)}",
            image=image,
            argv=argv_of(spec, image),
            user=user,
            group=context["runAsGroup"],
            groups=[context["fsGroup"]] if "fsGroup" in context else [],
            env=env,
            mounts=[(volumes[one["name"]], one["mountPath"], one.get("readOnly", False)) for one in spec["volumeMounts"]],
            is_read_only=context["readOnlyRootFilesystem"],
            has_new_privileges=context["allowPrivilegeEscalation"],
            memory=int(memory.removesuffix("Mi")) << 20 if memory else None,
        )

    def volume(self, volume, pod):
        """The folder of a volume. The kubelet gives all but those of the host to the group `fsGroup`."""
        if host := volume.get("hostPath"):
            path = self.path(host["path"])
            if host["type"] == "DirectoryOrCreate":
                path.mkdir(parents=True, exist_ok=True)
            assert path.is_dir(), f"the kubelet finds no folder {host['path']}"
            return path
        folder = self.folder / f"volumes/{next(NUMBERS)}-{volume['name']}"
        folder.mkdir(parents=True)
        group = pod["securityContext"].get("fsGroup")
        size = volume.get("emptyDir", {}).get("sizeLimit", "1Mi").removesuffix("i")
        mount("volume", folder, "-t", "tmpfs", "-o", f"mode=0777,size={size}")
        for name, (text, mode) in self.files(volume, group).items():
            # An update of the volume replaces the link ..data.
            (folder / "..1").mkdir(exist_ok=True)
            (folder / f"..1/{name}").write_text(text)
            (folder / f"..1/{name}").chmod(mode)
            (folder / name).symlink_to(f"..data/{name}")
        if (folder / "..1").exists():
            (folder / "..data").symlink_to("..1")
        if group is not None:
            for path in [folder, *folder.glob("..1"), *folder.glob("..1/*")]:
                os.chown(path, 0, group)
                path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o440))
        return folder

    def files(self, volume, group):
        """The content and the mode of each file."""
        if "emptyDir" in volume:
            return {}
        if named := volume.get("configMap"):
            mode = named.get("defaultMode", 0o644)
            return {name: (text, mode) for name, text in self.find("ConfigMap", named["name"])["data"].items()}
        if named := volume.get("secret"):
            mode = named.get("defaultMode", 0o644)
            return {name: (text, mode) for name, text in self.secrets[named["secretName"]].items()}
        [source] = volume["projected"]["sources"]
        token = source["serviceAccountToken"]
        # With fsGroup, the kubelet makes a token's file private before it gives it to the group.
        mode = volume["projected"].get("defaultMode", 0o644) if group is None else 0o600
        return {token["path"]: (self.secrets["token"](token["audience"]), mode)}

"""Checks the least privilege of the Kubernetes examples. A patch is checked as what it makes of its workload."""

import sys

import yaml

# The folders of the host that a pod may have, by the names of their volumes.
HOST_FOLDERS = {"socket": "/run/keyringd", "copy": "/var/lib/keyringd", "credentials": "/etc/keyringd"}


def load(path):
    with open(path) as file:
        return [document for document in yaml.safe_load_all(file) if document]


def patched(base, patch):
    """What kubectl's strategic merge makes of both: lists of named objects are merged by name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: patched(base[key], value) if key in base else value for key, value in patch.items()}
    if isinstance(base, list) and isinstance(patch, list):
        merged = {item["name"]: item for item in base}
        for item in patch:
            merged[item["name"]] = patched(merged.get(item["name"], {}), item)
        return list(merged.values())
    return patch


def of(document):
    return document["kind"], document["metadata"]["name"]


def load_all(paths):
    """The documents of each file, where a patch is what it makes of its workload."""
    files = {path: load(path) for path in paths}
    workloads = {of(one): one for documents in files.values() for one in documents if "selector" in one.get("spec", {})}
    return {
        path: [patched(workloads[of(one)], one) if is_patch(one) else one for one in documents]
        for path, documents in files.items()
    }


def is_patch(document):
    return "template" in document.get("spec", {}) and "selector" not in document["spec"]


def pods(documents):
    """The specs of the pods, each with whether it is a static pod."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["spec"], True
        elif "template" in document.get("spec", {}):
            yield document["spec"]["template"]["spec"], False


def requirements_of(pod, is_static):
    containers = pod.get("initContainers", []) + pod["containers"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    requirements = {
        "no token is mounted by itself": pod["automountServiceAccountToken"] is False,
        "runs as non-root": pod["securityContext"]["runAsNonRoot"] is True,
        "the default seccomp profile": pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
        "no host namespaces, but the network of a static pod": not any(pod.get(key) for key in ("hostPID", "hostIPC"))
        and pod.get("hostNetwork", False) == is_static,
        "hostPaths are folders that the administrator made": all(
            volume["hostPath"] == {"path": HOST_FOLDERS[name], "type": "Directory"}
            for name, volume in volumes.items()
            if "hostPath" in volume
        ),
        "the key of the copy is a Secret": ("copy" in volumes) == ("secret" in volumes.get("cache-key", {})),
        "a container keyringd exists": any(container["name"] == "keyringd" for container in containers),
    }
    for container in containers:
        context, name = container["securityContext"], container["name"]
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        requirements |= {
            f"{name}: the image is one of a registry": container["image"].startswith("registry.example/"),
            f"{name}: no escalation": context["allowPrivilegeEscalation"] is False,
            f"{name}: no capabilities": context["capabilities"] == {"drop": ["ALL"]},
            f"{name}: read-only root": context["readOnlyRootFilesystem"] is True,
            f"{name}: not root": context["runAsUser"] > 0 and context["runAsGroup"] > 0,
            f"{name}: not privileged": not context.get("privileged"),
            f"{name}: all mounts have a volume": mounts.keys() <= volumes.keys(),
            f"{name}: only keyringd mounts the token": ("token" in mounts) == (name == "keyringd" and not is_static),
            f"{name}: only the folders of the socket and of the copy are writable": all(
                mount.get("readOnly") or (mount["name"] in ("socket", "copy") and name == "keyringd")
                for mount in container["volumeMounts"]
            ),
        }
    return requirements


def main(paths):
    faults = []
    for path, documents in load_all(paths).items():
        found = list(pods(documents))
        if len(found) != 1:
            faults.append(f"{path}: {len(found)} pods")
        for pod, is_static in found:
            faults += [f"{path}: not met: {what}" for what, met in requirements_of(pod, is_static).items() if not met]
    return "\n".join(faults) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Checks the least privilege of the Kubernetes examples. A patch is checked as what it makes of its workload."""

import sys

import yaml


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


all_documents = {path: load(path) for path in sys.argv[1:]}
workloads = {
    of(document): document
    for documents in all_documents.values()
    for document in documents
    if "selector" in document.get("spec", {})
}
faults = []
for path, documents in all_documents.items():
    documents = [
        patched(workloads[of(document)], document)
        if "template" in document.get("spec", {}) and "selector" not in document["spec"]
        else document
        for document in documents
    ]
    pods = [document["spec"]["template"]["spec"] for document in documents if "template" in document.get("spec", {})]
    if len(pods) != 1:
        faults.append(f"{path}: {len(pods)} workloads")
    for pod in pods:
        containers = pod.get("initContainers", []) + pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        requirements = {
            "no token is mounted by itself": pod["automountServiceAccountToken"] is False,
            "runs as non-root": pod["securityContext"]["runAsNonRoot"] is True,
            "the default seccomp profile": pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
            "no host namespaces": not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "the hostPaths are the folders of the socket and of the copy": all(
                volume["hostPath"]["path"] == {"socket": "/run/keyringd", "copy": "/var/lib/keyringd"}[name]
                for name, volume in volumes.items()
                if "hostPath" in volume
            ),
            "the key of the copy is a Secret": ("copy" in volumes) == ("secret" in volumes.get("cache-key", {})),
            "a container keyringd exists": any(container["name"] == "keyringd" for container in containers),
        }
        for container in containers:
            context, name = container["securityContext"], container["name"]
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            requirements[f"{name}: no escalation"] = context["allowPrivilegeEscalation"] is False
            requirements[f"{name}: no capabilities"] = context["capabilities"] == {"drop": ["ALL"]}
            requirements[f"{name}: read-only root"] = context["readOnlyRootFilesystem"] is True
            requirements[f"{name}: not root"] = context["runAsUser"] > 0 and context["runAsGroup"] > 0
            requirements[f"{name}: not privileged"] = not context.get("privileged")
            requirements[f"{name}: all mounts have a volume"] = mounts.keys() <= volumes.keys()
            requirements[f"{name}: only keyringd mounts the token"] = ("token" in mounts) == (name == "keyringd")
            requirements[f"{name}: only the folders of the socket and of the copy are writable"] = all(
                mount.get("readOnly") or (mount["name"] in ("socket", "copy") and name == "keyringd")
                for mount in container["volumeMounts"]
            )
        faults += [f"{path}: not met: {requirement}" for requirement, met in requirements.items() if not met]
for document in sys.argv[1:] if not faults else []:
    print(f"{document}: ok")
sys.exit("\n".join(faults) or 0)

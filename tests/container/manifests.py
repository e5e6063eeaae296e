"""Holds the Kubernetes examples to the least privilege that they promise."""

import sys

import yaml

faults = []
for path in sys.argv[1:]:
    with open(path) as file:
        documents = [document for document in yaml.safe_load_all(file) if document]
    pods = [document["spec"]["template"]["spec"] for document in documents if "template" in document.get("spec", {})]
    if len(pods) != 1:
        faults.append(f"{path}: {len(pods)} workloads")
    for pod in pods:
        containers = pod.get("initContainers", []) + pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        promises = {
            "no token is mounted by itself": pod["automountServiceAccountToken"] is False,
            "nothing runs as root": pod["securityContext"]["runAsNonRoot"] is True,
            "the default seccomp profile": pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
            "no namespace of the host": not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "the host's folder is the socket's": all(
                volume["hostPath"]["path"] == "/run/keyringd" for volume in volumes.values() if "hostPath" in volume
            ),
            "keyringd is there": any(container["name"] == "keyringd" for container in containers),
        }
        for container in containers:
            context, name = container["securityContext"], container["name"]
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            promises[f"{name}: no escalation"] = context["allowPrivilegeEscalation"] is False
            promises[f"{name}: no capabilities"] = context["capabilities"] == {"drop": ["ALL"]}
            promises[f"{name}: a read-only root"] = context["readOnlyRootFilesystem"] is True
            promises[f"{name}: not root"] = context["runAsUser"] > 0 and context["runAsGroup"] > 0
            promises[f"{name}: not privileged"] = not context.get("privileged")
            promises[f"{name}: mounts what there is"] = mounts.keys() <= volumes.keys()
            promises[f"{name}: the token is keyringd's"] = ("token" in mounts) == (name == "keyringd")
            promises[f"{name}: writes to the socket's folder at most"] = all(
                mount.get("readOnly") or (mount["name"] == "socket" and name == "keyringd")
                for mount in container["volumeMounts"]
            )
        faults += [f"{path}: not so: {promise}" for promise, kept in promises.items() if not kept]
for document in sys.argv[1:] if not faults else []:
    print(f"{document}: as promised")
sys.exit("\n".join(faults) or 0)

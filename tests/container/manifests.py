"""Checks the least privilege of the Kubernetes examples."""

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
        requirements = {
            "no token is mounted by itself": pod["automountServiceAccountToken"] is False,
            "runs as non-root": pod["securityContext"]["runAsNonRoot"] is True,
            "the default seccomp profile": pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"},
            "no host namespaces": not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "the hostPath is the socket's folder": all(
                volume["hostPath"]["path"] == "/run/keyringd" for volume in volumes.values() if "hostPath" in volume
            ),
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
            requirements[f"{name}: only the socket's folder is writable"] = all(
                mount.get("readOnly") or (mount["name"] == "socket" and name == "keyringd")
                for mount in container["volumeMounts"]
            )
        faults += [f"{path}: not met: {requirement}" for requirement, met in requirements.items() if not met]
for document in sys.argv[1:] if not faults else []:
    print(f"{document}: ok")
sys.exit("\n".join(faults) or 0)

#!/usr/bin/env python3
"""Makes the archive of the image (OCI image layout) without a container engine: oci.py PROGRAM ARCHIVE. The last stage of the
Dockerfile says what is in it; any instruction that is not known here is an error. Equal inputs give equal bytes."""

import datetime
import gzip
import hashlib
import io
import json
import os
import platform
import re
import sys
import tarfile

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
UNITS = {"s": 10**9, "m": 60 * 10**9}
EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])


def last_stage(dockerfile):
    """The instructions, without the first, each as its word and the rest."""
    with open(dockerfile) as file:
        lines = [line for line in re.sub(r"\\\n", " ", file.read()).splitlines() if line and not line.startswith("#")]
    last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
    if lines[last] != "FROM scratch":
        sys.exit(f"{dockerfile}: the last stage is not from scratch: {lines[last]}")
    return [line.split(" ", 1) for line in lines[last + 1 :]]


def duration(text):
    return int(text[:-1]) * UNITS[text[-1]]


def read(instructions, program):
    """The files, as a map from the path to the file's source and owner, and the configuration. A folder has no source."""
    built = {"/build/target/release/keyringd": program, "/empty": None}
    files, config = {}, {}
    for word, rest in instructions:
        if word == "COPY":
            *flags, source, target = rest.split()
            options = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
            owner = tuple(map(int, options.get("chown", "0:0").split(":")))
            files[target.lstrip("/")] = (built.get(source, source), owner)
        elif word == "USER":
            config["User"] = rest
        elif word == "VOLUME":
            config["Volumes"] = {rest: {}}
        elif word in ("ENTRYPOINT", "CMD"):
            config[word.capitalize()] = json.loads(rest)
        elif word == "HEALTHCHECK":
            flags, command = rest.split(" CMD ", 1)
            options = dict(flag.removeprefix("--").split("=", 1) for flag in flags.split())
            times = {key.title().replace("-", ""): duration(value) for key, value in options.items()}
            config["Healthcheck"] = {"Test": ["CMD", *json.loads(command)], **times}
        else:
            sys.exit(f"unsupported instruction: {word} {rest}")
    return files, config


def tar(entries):
    """A tar archive of (path, bytes or None for a folder, mode, owner), in this order."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content, mode, owner in entries:
            info = tarfile.TarInfo(path)
            info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            info.mode, info.mtime, (info.uid, info.gid) = mode, EPOCH, owner
            info.size = len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return output.getvalue()


def layer(files):
    folders = {os.path.dirname(path) for path in files}
    folders |= {"/".join(folder.split("/")[:depth]) for folder in folders for depth in range(1, folder.count("/") + 1)}
    entries = {folder: (folder, None, 0o755, (0, 0)) for folder in folders if folder}
    for path, (source, owner) in files.items():
        if source is None:
            entries[path] = (path, None, 0o755, owner)
            continue
        with open(source, "rb") as file:
            entries[path] = (path, file.read(), 0o755 if path == "keyringd" else 0o644, owner)
    return tar(entry for _, entry in sorted(entries.items()))


class Layout:
    """The blobs of an image layout."""

    def __init__(self):
        self.blobs = {}

    def add(self, kind, content):
        """A descriptor of the blob."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}


def to_json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def main(program, output):
    version = os.environ["KEYRINGD_VERSION"]
    files, config = read(last_stage("Dockerfile"), program)
    names = {"title": "keyringd", "version": version, "licenses": "Apache-2.0"}
    config["Labels"] = {f"org.opencontainers.image.{key}": value for key, value in names.items()}
    created = datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    content = layer(files)
    layout = Layout()
    described = {
        "created": created,
        "architecture": MACHINES[platform.machine()],
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
        "history": [{"created": created, "created_by": "release/oci.py"}],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": layout.add("config.v1+json", to_json(described)),
        "layers": [layout.add("layer.v1.tar+gzip", gzip.compress(content, 9, mtime=0))],
    }
    named = layout.add("manifest.v1+json", to_json(manifest))
    named["annotations"] = {"org.opencontainers.image.ref.name": version}
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [named]}
    blobs = {**layout.blobs, "index.json": to_json(index), "oci-layout": to_json({"imageLayoutVersion": "1.0.0"})}
    with open(output, "wb") as file:
        file.write(tar((path, blob, 0o644, (0, 0)) for path, blob in sorted(blobs.items())))


if __name__ == "__main__":
    main(*sys.argv[1:])

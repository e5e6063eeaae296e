"""Unpacks the archive of an image into a root filesystem, and prints its user, group, volume, command and health check, one per
line. Each blob must be what its digest says."""

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile

archive, image = sys.argv[1:]
with tarfile.open(archive) as file:
    blobs = {member.name: file.extractfile(member).read() for member in file.getmembers()}


def blob(descriptor):
    content = blobs[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert descriptor == descriptor | {"digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
    return content


[manifest] = json.loads(blobs["index.json"])["manifests"]
manifest = json.loads(blob(manifest))
config = json.loads(blob(manifest["config"]))
[layer] = map(blob, manifest["layers"])
layer = gzip.decompress(layer)
assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
with tarfile.open(fileobj=io.BytesIO(layer)) as file:
    file.extraction_filter = lambda member, _: member  # owners are kept
    file.extractall(image)
config = config["config"]
[volume] = config["Volumes"]
# A container engine creates these.
for path in (volume, "/proc", "/dev"):
    os.makedirs(image + path, exist_ok=True)
print(*config["User"].split(":"), sep="\n")
print(volume)
print(*config["Entrypoint"], *config["Cmd"])
print(*config["Healthcheck"]["Test"][1:])

"""Puts the root filesystem of the Dockerfile's last stage together, and prints its user, group, volume, command and
health check, each on a line. What the stage says beyond that is not known here, and a fault."""

import json
import os
import re
import shutil
import sys

image, program = sys.argv[1:]
built = {"/build/target/release/keyringd": program}
with open("Dockerfile") as file:
    lines = [line for line in re.sub(r"\\\n", " ", file.read()).splitlines() if line and not line.startswith("#")]
last = max(number for number, line in enumerate(lines) if line.startswith("FROM "))
if lines[last] != "FROM scratch":
    sys.exit(f"the image is not from scratch: {lines[last]}")
said = {}
for line in lines[last + 1 :]:
    word, rest = line.split(" ", 1)
    if word == "COPY":
        *flags, source, target = rest.split()
        os.makedirs(os.path.dirname(image + target), exist_ok=True)
        if source == "/empty":
            os.mkdir(image + target)
        else:
            shutil.copy(built.get(source, source), image + target)
        for flag in flags:
            if flag.startswith("--chown="):
                os.chown(image + target, *map(int, flag.removeprefix("--chown=").split(":")))
    elif word in ("USER", "VOLUME"):
        said[word] = rest
    elif word in ("ENTRYPOINT", "CMD"):
        said[word] = json.loads(rest)
    elif word == "HEALTHCHECK":
        said[word] = json.loads(rest.split("CMD ", 1)[1])
    else:
        sys.exit(f"what is this: {line}")
# An engine makes these itself.
for path in (said["VOLUME"], "/proc", "/dev"):
    os.makedirs(image + path, exist_ok=True)
print(*said["USER"].split(":"), sep="\n")
print(said["VOLUME"])
print(*said["ENTRYPOINT"], *said["CMD"])
print(*said["HEALTHCHECK"])

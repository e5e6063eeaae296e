"""Creates the root filesystem of the Dockerfile's last stage, and prints its user, group, volume, command and health check,
one per line. Any other instruction in that stage is an error."""

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
stage = {}
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
        stage[word] = rest
    elif word in ("ENTRYPOINT", "CMD"):
        stage[word] = json.loads(rest)
    elif word == "HEALTHCHECK":
        stage[word] = json.loads(rest.split("CMD ", 1)[1])
    else:
        sys.exit(f"unsupported instruction: {line}")
# A container engine creates these.
for path in (stage["VOLUME"], "/proc", "/dev"):
    os.makedirs(image + path, exist_ok=True)
print(*stage["USER"].split(":"), sep="\n")
print(stage["VOLUME"])
print(*stage["ENTRYPOINT"], *stage["CMD"])
print(*stage["HEALTHCHECK"])

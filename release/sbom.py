#!/usr/bin/env python3
"""Prints the bill of materials of the program (CycloneDX 1.6, JSON): every crate that is linked or that builds it, with its
licence, its checksum in Cargo.lock and what it depends on. sbom.py TARGET"""

import datetime
import json
import os
import pathlib
import subprocess
import sys
import tomllib
import uuid

EPOCH = int(os.environ["SOURCE_DATE_EPOCH"])


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def component(package, checksums):
    named = {"type": "library", "bom-ref": purl(package), "purl": purl(package)}
    named |= {"name": package["name"], "version": package["version"]}
    if package["license"]:
        # Cargo's former way to write OR.
        named["licenses"] = [{"expression": " OR ".join(map(str.strip, package["license"].split("/")))}]
    if checksum := checksums.get((package["name"], package["version"])):
        named["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if package["repository"]:
        named["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return named


def edges(node):
    """The dependencies of a package that are not only those of its tests."""
    return sorted(one["pkg"] for one in node["deps"] if any(kind["kind"] != "dev" for kind in one["dep_kinds"]))


def main(target):
    command = ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"]
    metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: edges(node) for node in metadata["resolve"]["nodes"]}
    lock = tomllib.loads(pathlib.Path("Cargo.lock").read_text())
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in lock["package"]}
    root = metadata["resolve"]["root"]
    found, waiting = set(), [root]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += nodes[one]
    found = sorted(found, key=lambda one: purl(packages[one]))
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(EPOCH, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(packages[root], checksums) | {"type": "application"},
        },
        "components": [component(packages[one], checksums) for one in found if one != root],
        "dependencies": [
            {"ref": purl(packages[one]), "dependsOn": sorted(purl(packages[other]) for other in nodes[one])}
            for one in found
        ],
    }
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))}"
    print(json.dumps(bom, indent=2, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Checks that no crate of the program or of its tests needs a newer Rust than this crate says."""

import json
import subprocess
import sys


def version(text):
    return tuple(map(int, text.split(".")))


command = ["cargo", "metadata", "--locked", "--offline", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"]
metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
packages = {package["id"]: package for package in metadata["packages"]}
own = packages[metadata["resolve"]["root"]]["rust_version"]
newer = [
    f"{one['name']} {one['version']} needs Rust {one['rust_version']}, and rust-version is {own}"
    for one in packages.values()
    if one["rust_version"] and version(one["rust_version"]) > version(own)
]
if not newer:
    print(f"{len(packages)} crates need Rust {own} at most")
sys.exit("\n".join(newer) or 0)

"""Checks the bill of materials: it follows the schema of CycloneDX, its references are complete, and each component is a package
of Cargo.lock with the checksum there."""

import json
import pathlib
import sys
import tomllib

import fastjsonschema

packages = next(pathlib.Path(path) for path in sys.path if (pathlib.Path(path) / "cyclonedx").is_dir())
schemas = packages / "cyclonedx/schema/_res"
bom = json.loads(pathlib.Path(sys.argv[1]).read_text())


def schema(uri):
    """The schemas refer to each other by the names that they have on the web."""
    return json.loads((schemas / uri.rsplit("/", 1)[-1]).read_text())


follows = fastjsonschema.compile(
    schema("bom-1.6.SNAPSHOT.schema.json"), {"http": schema}, use_formats=False
)
follows(bom)
try:
    follows(bom | {"components": [{"name": "without a type"}]})
    sys.exit("the schema accepts anything")
except fastjsonschema.JsonSchemaException:
    pass
lock = tomllib.loads(pathlib.Path("Cargo.lock").read_text())["package"]
locked = {f"pkg:cargo/{one['name']}@{one['version']}": one.get("checksum") for one in lock}
components = {one["bom-ref"]: one for one in bom["components"]}
assert len(components) > 100
for reference, component in components.items():
    assert component["hashes"] == [{"alg": "SHA-256", "content": locked[reference]}], reference
    assert component["licenses"][0]["expression"], reference
root = bom["metadata"]["component"]["bom-ref"]
assert {one["ref"] for one in bom["dependencies"]} == {root, *components}
assert all(other in components for one in bom["dependencies"] for other in one["dependsOn"])

"""Validates the manifests against the schemas of Kubernetes' API, in the first version with sidecar containers and in the
newest, and compose.yaml against the schema of Compose. Fields that a schema does not know are errors."""

import json
import pathlib
import sys

import fastjsonschema
import yaml
from manifests import load_all

VERSIONS = ("1.29.0", "1.37.0")
# Kinds of the Prometheus Operator have no schema here.
WITHOUT_SCHEMA = {"monitoring.coreos.com/v1"}
packages = next(pathlib.Path(path) for path in sys.path if (pathlib.Path(path) / "kubernetes_validate").is_dir())


def kubernetes(folder, document):
    api = document["apiVersion"].split("/")
    name = "-".join([document["kind"].lower(), *(part.split(".")[0] for part in api)])
    schema = json.loads((folder / f"{name}.json").read_text())
    # Every reference is to this one file.
    definitions = json.loads((folder / "_definitions.json").read_text())
    handlers = {"https": lambda _: definitions, "": lambda _: definitions}
    return fastjsonschema.compile(schema, handlers, use_formats=False, detailed_exceptions=False)


faults, checked = [], 0
for path, documents in load_all(sys.argv[1:]).items():
    for document in documents:
        if document["apiVersion"] in WITHOUT_SCHEMA:
            continue
        for version in VERSIONS:
            follows = kubernetes(packages / f"kubernetes_validate/kubernetes-json-schema/v{version}-local-strict", document)
            try:
                follows(document)
            except fastjsonschema.JsonSchemaException as fault:
                faults.append(f"{path}: {document['kind']}: Kubernetes {version}: {fault.message}")
            try:
                follows(document | {"unknown": 1})
                faults.append(f"{path}: {document['kind']}: an unknown field is accepted")
            except fastjsonschema.JsonSchemaException:
                checked += 1
with open("compose.yaml") as file:
    compose = yaml.safe_load(file)
schema = json.loads((packages / "compose/config/compose_spec.json").read_text())
try:
    fastjsonschema.compile(schema, use_formats=False, detailed_exceptions=False)(compose)
except fastjsonschema.JsonSchemaException as fault:
    faults.append(f"compose.yaml: {fault.message}")
if not faults:
    print(f"{checked} objects and compose.yaml follow their schemas")
sys.exit("\n".join(faults) or 0)

"""Checks an OpenAPI 3.1 file, and recorded requests and answers against it.

Arguments: the file as JSON, and the exchanges, a line of JSON each: method, path (of the file), query, request_type, request,
status, type, answer. A body is null, text, or JSON. Every operation but those of the tag kms needs an exchange that succeeded.
"""

import json
import pathlib
import sys
import urllib.parse

import jsonschema_rs

# A status that takes 30 s to see. tests/integration/limits.rs sees it with a shorter time.
UNSEEN = "408"
URI = "file:///openapi.json"
# Beside the validator. Only this file of the package is used.
SCHEMA = pathlib.Path(jsonschema_rs.__file__).parents[1] / "openapi_spec_validator/resources/schemas/v3.1/schema.json"


class Checker:
    def __init__(self, document):
        self.document = document
        self.registry = jsonschema_rs.Registry([(URI, {"$schema": "https://json-schema.org/draft/2020-12/schema", **document})])
        self.validators = {}

    def resolved(self, value):
        """What a $ref of a response, body or parameter means."""
        while isinstance(value, dict) and "$ref" in value:
            at = self.document
            for part in value["$ref"].removeprefix("#/").split("/"):
                at = at[part]
            value = at
        return value

    def errors(self, pointer, body):
        """Why a body is not what the schema at a pointer says."""
        if pointer not in self.validators:
            self.validators[pointer] = jsonschema_rs.Draft202012Validator(
                {"$ref": f"{URI}#{urllib.parse.quote(pointer)}"}, registry=self.registry
            )
        return [error.message for error in self.validators[pointer].iter_errors(body)]

    def body_errors(self, holder, kind, body):
        """The same for a request or response, whose content holds a schema by the media type."""
        pointer, value = self.located(holder)
        content = value.get("content", {})
        kind = (kind or "").split(";")[0]
        if not kind and body in (None, ""):
            return []
        if kind not in content:
            return [f"the media type {kind!r} is none of {list(content)}"]
        if "schema" not in content[kind]:
            return []
        return self.errors(f"{pointer}/content/{kind.replace('/', '~1')}/schema", body)

    def located(self, pointer):
        """The pointer of a component, behind its $ref, and the component."""
        at = self.document
        for part in pointer.strip("/").split("/"):
            at = at[part.replace("~1", "/")]
        if "$ref" in at:
            return self.located(at["$ref"].removeprefix("#"))
        return pointer, at

    def exchange(self, one):
        """What is wrong with one exchange."""
        item = self.document["paths"][one["path"]]
        method = one["method"].lower()
        wrong = []
        if method not in item:
            wrong = ["the method is not described"] if one["status"] != 405 else []
            method = "post"
        operation = item[method]
        base = f"/paths/{one['path'].replace('/', '~1')}/{method}"
        known = [self.resolved(each) for each in item.get("parameters", []) + operation.get("parameters", [])]
        for name in urllib.parse.parse_qs(one["query"]):
            if not any(each["in"] == "query" and each["name"] == name for each in known):
                wrong.append(f"the query {name} is not described")
        succeeded = 200 <= one["status"] < 300
        if succeeded and one["request"] is not None:
            if "requestBody" not in operation:
                wrong.append("a request body is not described")
            else:
                wrong += self.body_errors(f"{base}/requestBody", one["request_type"], one["request"])
        status = str(one["status"])
        if status not in operation["responses"]:
            status = "default"
        if status not in operation["responses"]:
            return wrong + [f"the status {one['status']} is not described"]
        return wrong + self.body_errors(f"{base}/responses/{status}", one["type"], one["answer"])


def operations(document):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "kms" not in operation["tags"]:
                yield path, method.upper(), operation


def main():
    document = json.loads(pathlib.Path(sys.argv[1]).read_text())
    exchanges = [json.loads(line) for line in pathlib.Path(sys.argv[2]).read_text().splitlines()]
    meta = json.loads(SCHEMA.read_text())
    wrong = [f"the file: {error.message}" for error in jsonschema_rs.validator_for(meta).iter_errors(document)]
    checker = Checker(document)
    for one in exchanges:
        wrong += [f"{json.dumps(one)}: {reason}" for reason in checker.exchange(one)]
    seen = {(one["path"], one["method"], one["status"]) for one in exchanges}
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    wrong += [f"{each} is the id of two operations" for each in {each for each in ids if ids.count(each) > 1}]
    for path, method, operation in operations(document):
        for status in operation["responses"]:
            if status.startswith("2") and (path, method, int(status)) not in seen:
                wrong.append(f"no exchange shows {method} {path} with {status}")
    statuses = {status for _, _, operation in operations(document) for status in operation["responses"]} - {"default", UNSEEN}
    wrong += [f"no exchange has the status {each}" for each in sorted(statuses - {str(status) for _, _, status in seen})]
    print("\n".join(wrong) or f"{len(exchanges)} exchanges are as described")
    sys.exit(bool(wrong))


main()

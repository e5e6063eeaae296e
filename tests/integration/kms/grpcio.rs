//! An independent client: Google's gRPC for Python, on messages that it builds itself from the table of fields.

use crate::support::{Daemon, OpenBao, python, success, tool};

const SCRIPT: &str = r#"
import sys
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

STRING, BYTES, MESSAGE = 9, 12, 11
TABLE = {
    "StatusRequest": [],
    "StatusResponse": [("version", 1, STRING), ("healthz", 2, STRING), ("key_id", 3, STRING)],
    "DecryptRequest": [("ciphertext", 1, BYTES), ("uid", 2, STRING), ("key_id", 3, STRING), ("annotations", 4, MESSAGE)],
    "DecryptResponse": [("plaintext", 1, BYTES)],
    "EncryptRequest": [("plaintext", 1, BYTES), ("uid", 2, STRING)],
    "EncryptResponse": [("ciphertext", 1, BYTES), ("key_id", 2, STRING), ("annotations", 3, MESSAGE)],
}
file = descriptor_pb2.FileDescriptorProto(name="kms.proto", package="v2", syntax="proto3")
for name, fields in TABLE.items():
    message = file.message_type.add(name=name)
    for field, number, kind in fields:
        added = message.field.add(name=field, number=number, type=kind, label=3 if kind == MESSAGE else 1)
        if kind == MESSAGE:
            added.type_name = f".v2.{name}.AnnotationsEntry"
            entry = message.nested_type.add(name="AnnotationsEntry", options={"map_entry": True})
            entry.field.add(name="key", number=1, type=STRING, label=1)
            entry.field.add(name="value", number=2, type=BYTES, label=1)
pool = descriptor_pool.DescriptorPool()
pool.Add(file)
Message = {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v2.{name}")) for name in TABLE}

def service(authority):
    options = [("grpc.default_authority", authority)] if authority else None
    channel = grpc.insecure_channel("unix://" + sys.argv[1], options=options)
    def call(name, **fields):
        stub = channel.unary_unary(
            f"/v2.KeyManagementService/{name}",
            request_serializer=Message[f"{name}Request"].SerializeToString,
            response_deserializer=Message[f"{name}Response"].FromString,
        )
        return stub(Message[f"{name}Request"](**fields), timeout=20)
    return call

def refused(call, *arguments, **fields):
    try:
        return f"answered: {call(*arguments, **fields)}"
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"

call = service("localhost")
status = call("Status")
assert (status.version, status.healthz) == ("v2", "ok"), status
sealed = call("Encrypt", plaintext=b"hello", uid="1")
assert sealed.key_id == status.key_id and len(sealed.ciphertext) < 1024, sealed
opened = call("Decrypt", ciphertext=sealed.ciphertext, uid="2", key_id=sealed.key_id, annotations={"a.example": b"x"})
assert opened.plaintext == b"hello", opened
unknown = refused(call, "Decrypt", ciphertext=sealed.ciphertext, uid="3", key_id="kr1.unknown")
assert unknown.startswith("NOT_FOUND: key_id: no key of this name"), unknown
no_uid = refused(call, "Encrypt", plaintext=b"x")
assert no_uid.startswith("INVALID_ARGUMENT: uid: must not be empty"), no_uid
large = refused(call, "Encrypt", plaintext=b"x" * 2000, uid="4")
assert large.startswith("INVALID_ARGUMENT: plaintext: 2000 bytes, and at most 975"), large
huge = refused(call, "Encrypt", plaintext=b"x" * 1000000, uid="5")
assert huge.startswith("RESOURCE_EXHAUSTED: the body is larger than 65536 bytes"), huge
for _ in range(200):
    assert call("Status").key_id == status.key_id

# Left alone, it sends the socket's path as the authority, which is none by HTTP/2's rules.
print(refused(service(None), "Status"))
"#;

#[test]
fn googles_grpc_for_python_speaks_kms_once_its_authority_is_no_path() {
    let server = OpenBao::shared();
    server.put_record("first", "t6NWgbj3g9cbNVC3/D6oZ2Md1Br5gWtRrqb1T2FZy44=");
    let daemon = Daemon::start(&server, &[]);
    let output = tool("python3")
        .args(["-c", SCRIPT])
        .arg(daemon.socket())
        .env("PYTHONPATH", python::packages("grpcio-requirements.txt"))
        .output();
    let message = success(&output.unwrap());
    assert!(message.starts_with("INTERNAL: ") && message.contains("RST_STREAM"), "{message}");
}

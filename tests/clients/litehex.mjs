// @litehex/node-vault over the daemon's socket. Its schemas refuse an answer that lacks a field. Argument: the socket.

import assert from "node:assert/strict";
import { Client } from "@litehex/node-vault";
import { Agent, fetch } from "undici";

const dispatcher = new Agent({ connect: { socketPath: process.argv[2] } });
const vault = new Client({
  endpoint: "http://localhost",
  token: "ignored",
  fetcher: (url, init) => fetch(url, { ...init, dispatcher }),
});
const at = { mountPath: "transit", name: "keyring" };
const plaintext = Buffer.from("hello").toString("base64");

const asked = async (promise) => {
  const { data, error } = await promise;
  assert.equal(error, undefined, String(error));
  return data.data;
};
const { transit } = vault;
const sealed = await asked(transit.encrypt({ ...at, plaintext }));
const opened = await asked(transit.decrypt({ ...at, ciphertext: sealed.ciphertext }));
assert.equal(opened.plaintext, plaintext);
const rewrapped = await asked(transit.rewrap({ ...at, ciphertext: sealed.ciphertext, key_version: 0 }));
assert.match(rewrapped.ciphertext, /^kr1:/);
const batch = await asked(transit.encrypt({ ...at, plaintext: "", batch_input: [{ plaintext }, { plaintext }] }));
assert.equal(batch.batch_results.length, 2);
const key = await asked(transit.readKey(at));
assert.equal(key.type, "aes256-gcm96");
assert.deepEqual((await asked(transit.listKeys(at))).keys, ["keyring"]);
const made = await asked(transit.generateDataKey({ ...at, type: "plaintext", bits: 256 }));
assert.equal(Buffer.from(made.plaintext, "base64").length, 32);
const drawn = await asked(transit.generateRandom({ ...at, source: "platform", bytes: 16, format: "hex" }));
assert.equal(drawn.random_bytes.length, 32);
const summed = await asked(transit.hash({ ...at, algorithm: "sha2-256", input: plaintext, format: "hex" }));
assert.match(summed.sum, /^2cf24dba/);
const { hmac } = await asked(transit.hmac({ ...at, algorithm: "sha2-256", input: plaintext }));
const verified = await asked(transit.verifyHmac({ ...at, algorithm: "sha2-256", input: plaintext, hmac }));
assert.equal(verified.valid, true);
console.log("all of it");

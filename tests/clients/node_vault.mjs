// node-vault over the daemon's socket, through the agent that its requestOptions take. Argument: the socket.

import assert from "node:assert/strict";
import http from "node:http";
import nodeVault from "node-vault";

const socketPath = process.argv[2];
const vault = nodeVault({
  endpoint: "http://localhost",
  token: "ignored",
  requestOptions: { httpAgent: new http.Agent({ socketPath }) },
});
const plaintext = Buffer.from("hello").toString("base64");

const sealed = await vault.encryptData({ name: "keyring", plaintext });
assert.match(sealed.data.ciphertext, /^kr1:/);
assert.equal(sealed.lease_id, "");
assert.match(sealed.warnings[0], /name/);
const opened = await vault.decryptData({ name: "keyring", ciphertext: sealed.data.ciphertext });
assert.equal(opened.data.plaintext, plaintext);
const batch = await vault.encryptData({ name: "keyring", batch_input: [{ plaintext }, { plaintext }] });
assert.equal(batch.data.batch_results.length, 2);
const rewrapped = await vault.rewrapData({ name: "keyring", ciphertext: sealed.data.ciphertext });
assert.match(rewrapped.data.ciphertext, /^kr1:/);
const key = await vault.transitReadKey({ name: "keyring" });
assert.equal(typeof key.data.keys["1"], "number");
assert.deepEqual((await vault.transitListKeys()).data.keys, ["keyring"]);
assert.equal((await vault.health()).sealed, false);
assert.equal((await vault.status()).initialized, true);
assert.equal((await vault.tokenLookupSelf()).data.num_uses, 0);
await assert.rejects(vault.decryptData({ name: "keyring", ciphertext: "x" }), /not a ciphertext/);
console.log("all of it");

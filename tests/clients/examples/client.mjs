// Encrypts and decrypts over keyringd's socket, with Node's own modules only.

import http from "node:http";

const agent = new http.Agent({ keepAlive: true });

function request(path, body) {
  return new Promise((resolve, reject) => {
    const options = { socketPath: process.env.SOCKET, path, method: "POST", agent, timeout: 10_000 };
    const sent = http.request(options, async (response) => {
      try {
        const chunks = [];
        for await (const chunk of response) chunks.push(chunk);
        resolve(JSON.parse(Buffer.concat(chunks).toString()));
      } catch (error) {
        reject(error);
      }
    });
    sent.on("timeout", () => sent.destroy(new Error("keyringd did not answer within 10 s")));
    sent.on("error", reject);
    sent.end(JSON.stringify(body));
  });
}

async function post(operation, body) {
  const answer = await request(`/v1/transit/${operation}/keyring`, body);
  if (!answer.data) throw new Error(answer.errors.join("; "));
  return answer.data;
}

const toBase64 = (text) => Buffer.from(text).toString("base64");
const fromBase64 = (text) => Buffer.from(text, "base64").toString();

// `row` names where the ciphertext is stored. It opens with the same `row` only.
async function encrypt(plaintext, row) {
  const data = await post("encrypt", { plaintext: toBase64(plaintext), associated_data: toBase64(row) });
  return data.ciphertext;
}

async function decrypt(ciphertext, row) {
  return fromBase64((await post("decrypt", { ciphertext, associated_data: toBase64(row) })).plaintext);
}

// One request for many values. Each item has a result of its own, or an error.
async function batch(operation, items) {
  const { batch_results: results } = await post(operation, { batch_input: items });
  results.forEach(({ error }, at) => {
    if (error) throw new Error(`${fromBase64(items[at].associated_data)}: ${error}`);
  });
  return results;
}

const ciphertext = await encrypt("4111 1111 1111 1111", "orders.card.7");
console.log(await decrypt(ciphertext, "orders.card.7"));
await decrypt(ciphertext, "orders.card.8").catch((error) => console.log(error.message));

const emails = [["users.email.1", "alice@example.org"], ["users.email.2", "bob@example.org"]];
const sealed = await batch("encrypt", emails.map(([row, email]) => (
  { plaintext: toBase64(email), associated_data: toBase64(row) }
)));
const opened = await batch("decrypt", sealed.map(({ ciphertext }, at) => (
  { ciphertext, associated_data: toBase64(emails[at][0]) }
)));
console.log(opened.map(({ plaintext }) => fromBase64(plaintext)).join(" "));
agent.destroy();

//! Encrypts and decrypts over keyringd's socket with reqwest, tokio, serde_json and base64.

use std::{error::Error, path::Path, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Keyring {
    client: reqwest::Client,
    name: String,
}

impl Keyring {
    fn new(socket: &Path, name: &str) -> Result<Self> {
        let client =
            reqwest::Client::builder().unix_socket(socket).timeout(Duration::from_secs(10)).build()?;
        Ok(Self { client, name: name.to_owned() })
    }

    async fn post(&self, operation: &str, body: &Value) -> Result<Value> {
        let url = format!("http://localhost/v1/transit/{operation}/{}", self.name);
        let answer = self.client.post(url).body(body.to_string()).send().await?.bytes().await?;
        let mut answer: Value = serde_json::from_slice(&answer)?;
        match answer["data"].take() {
            Value::Null => Err(text(&answer["errors"][0])?.into()),
            data => Ok(data),
        }
    }

    /// `row` names where the ciphertext is stored. It opens with the same `row` only.
    async fn encrypt(&self, plaintext: &str, row: &str) -> Result<String> {
        let body = json!({ "plaintext": to_base64(plaintext), "associated_data": to_base64(row) });
        text(&self.post("encrypt", &body).await?["ciphertext"])
    }

    async fn decrypt(&self, ciphertext: &str, row: &str) -> Result<String> {
        let body = json!({ "ciphertext": ciphertext, "associated_data": to_base64(row) });
        from_base64(&self.post("decrypt", &body).await?["plaintext"])
    }

    /// One request for many values. Each item has a result of its own, or an error.
    async fn batch(&self, operation: &str, items: Vec<Value>) -> Result<Vec<Value>> {
        let answer = self.post(operation, &json!({ "batch_input": items })).await?;
        let results = answer["batch_results"].as_array().ok_or("no results")?;
        for (item, result) in items.iter().zip(results) {
            if let Some(error) = result["error"].as_str() {
                return Err(format!("{}: {error}", from_base64(&item["associated_data"])?).into());
            }
        }
        Ok(results.clone())
    }
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().ok_or("no text")?.to_owned())
}

fn to_base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn from_base64(value: &Value) -> Result<String> {
    Ok(String::from_utf8(BASE64_STANDARD.decode(text(value)?)?)?)
}

pub async fn run(socket: &Path) -> Result<Vec<String>> {
    let keyring = Keyring::new(socket, "keyring")?;
    let mut lines = Vec::new();

    let ciphertext = keyring.encrypt("4111 1111 1111 1111", "orders.card.7").await?;
    lines.push(keyring.decrypt(&ciphertext, "orders.card.7").await?);
    if let Err(error) = keyring.decrypt(&ciphertext, "orders.card.8").await {
        lines.push(error.to_string());
    }

    let emails = [("users.email.1", "alice@example.org"), ("users.email.2", "bob@example.org")];
    let plain = emails
        .map(|(row, email)| json!({ "plaintext": to_base64(email), "associated_data": to_base64(row) }));
    let sealed = keyring.batch("encrypt", plain.into()).await?;
    let sealed = emails
        .iter()
        .zip(&sealed)
        .map(|((row, _), one)| json!({ "ciphertext": one["ciphertext"], "associated_data": to_base64(row) }));
    let opened = keyring.batch("decrypt", sealed.collect()).await?;
    let opened: Result<Vec<_>> = opened.iter().map(|one| from_base64(&one["plaintext"])).collect();
    lines.push(opened?.join(" "));
    Ok(lines)
}

#[tokio::main]
async fn main() -> Result<()> {
    let socket = std::env::var_os("SOCKET").ok_or("SOCKET is not set")?;
    for line in run(Path::new(&socket)).await? {
        println!("{line}");
    }
    Ok(())
}

//! An issuer of JWTs with a real RSA key, RS256 signatures, and the JWKS to verify them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use rsa::{
    RsaPrivateKey,
    pkcs1v15::SigningKey,
    rand_core::OsRng,
    sha2::Sha256,
    signature::{SignatureEncoding as _, Signer as _},
    traits::PublicKeyParts as _,
};
use serde_json::{Value, json};

pub struct Issuer(RsaPrivateKey);

impl Issuer {
    pub fn new() -> Self {
        Self(RsaPrivateKey::new(&mut OsRng, 2048).unwrap())
    }

    /// RFC 7515 with RS256 (RFC 7518, 3.3).
    pub fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed =
            format!("{}.{}", part(&json!({ "alg": "RS256", "typ": "JWT", "kid": "one" })), part(claims));
        let signature = SigningKey::<Sha256>::new(self.0.clone()).sign(signed.as_bytes());
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    /// Claims for `subject` and `audience`, issued `seconds` from now and valid for an hour.
    pub fn claims(subject: &str, audience: &str, seconds: i64) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let at = i64::try_from(now).unwrap() + seconds;
        json!({ "iss": "the-test", "sub": subject, "aud": audience, "iat": at, "nbf": at, "exp": at + 3600 })
    }

    /// RFC 7517.
    pub fn jwks(&self) -> Value {
        let number = |bytes: Vec<u8>| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let (n, e) = (number(self.0.n().to_bytes_be()), number(self.0.e().to_bytes_be()));
        json!({ "keys": [{ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": n, "e": e }] })
    }
}

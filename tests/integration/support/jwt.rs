//! An issuer of JWTs: a real P-256 key, real ES256 signatures, and the JWKS that lets others verify them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine as _};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

pub struct Issuer(EcdsaKeyPair);

impl Issuer {
    pub fn new() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap())
    }

    /// RFC 7515 with ES256 (RFC 7518, 3.4).
    pub fn sign(&self, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "one" });
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }

    /// Claims for `subject` and `audience` that are valid for an hour, issued `seconds` from now.
    pub fn claims(subject: &str, audience: &str, seconds: i64) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let at = i64::try_from(now).unwrap() + seconds;
        json!({ "iss": "the-test", "sub": subject, "aud": audience, "iat": at, "nbf": at, "exp": at + 3600 })
    }

    /// RFC 7517. The public key is an uncompressed point: `04 ‖ x ‖ y`.
    pub fn jwks(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) =
            (BASE64_URL_SAFE_NO_PAD.encode(&point[1..33]), BASE64_URL_SAFE_NO_PAD.encode(&point[33..]));
        let key = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "one", "x": x, "y": y });
        json!({ "keys": [key] })
    }
}

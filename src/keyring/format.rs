//! The formats of ciphertexts, by name. Their bytes are in `cipher`.

/// The format of a ciphertext. The bytes of each are in `cipher`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `kr1:<id>:…`, or the bytes `KR1…`: XAES-256-GCM with the key ID authenticated.
    Native,
    /// `vault:v<version>:…`: AES-256-GCM, as Vault's Transit writes it.
    Transit,
    /// `$ke$1$-<id>-…`: AES-256-GCM without its tag, as Kong writes fields. It is not authenticated.
    Kong,
}

impl Format {
    /// The name in settings and requests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Transit => "transit",
            Self::Kong => "kong",
        }
    }

    /// Whether messages must be counted per key, because the nonces have 96 bits.
    pub const fn counts_messages(self) -> bool {
        !matches!(self, Self::Native)
    }
}

/// Which ciphertexts are written and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Formats {
    /// What encrypt writes: native or transit.
    pub write: Format,
    pub kong_fields: KongFields,
}

/// Whether Kong's encrypted fields are read, and written on request. They are not authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KongFields {
    Accept,
    Refuse,
}

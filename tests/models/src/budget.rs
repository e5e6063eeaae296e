//! The byte budget against requests of several users.

use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use shuttle::{future, rand::Rng as _, thread};
use tokio_util::sync::CancellationToken;

use super::budget::{ByteBudget, ByteBudgetGuard, SMALL};

const LIMIT: usize = 16 << 20;
const MIB: usize = 1 << 20;

fn check(budget: &ByteBudget) {
    // Small requests are not limited here; there are at most four.
    assert!(budget.used() <= LIMIT + 4 * SMALL, "{} bytes are held", budget.used());
}

/// One request: a body in two parts, what handling it takes, and the response.
async fn request(budget: Arc<ByteBudget>, uid: u32, parts: [usize; 3]) {
    let mut guard: ByteBudgetGuard = budget.guard(uid, LIMIT);
    for bytes in &parts[..2] {
        if guard.reserve(*bytes).await.is_err() {
            return;
        }
        check(&budget);
    }
    if guard.reserve_work(parts[2]).await.is_err() {
        return;
    }
    check(&budget);
    guard.release(parts[0]);
    let response = guard.attach(Bytes::from(vec![0; parts[1]]), &CancellationToken::new());
    check(&budget);
    drop(guard);
    drop(response);
}

/// Time for those that wait: they look every 50 ms, and give up after two seconds and after five.
fn pass_time() {
    let mut seconds = 0;
    while seconds < 6 {
        thread::yield_now();
        let is_long = shuttle::rand::thread_rng().gen_bool(0.3);
        seconds += u32::from(is_long);
        tokio::time::advance(if is_long { Duration::from_secs(1) } else { Duration::from_millis(60) });
    }
}

pub(crate) fn limit() {
    let budget = Arc::new(ByteBudget::default());
    let sizes = [
        [SMALL / 2, SMALL, 5 * MIB],
        [3 * MIB, MIB, 8 * MIB],
        [2 * MIB, 4 * MIB, 2 * MIB],
        [9 * MIB, 4 * MIB, MIB],
    ];
    let requests: Vec<_> = sizes
        .into_iter()
        .zip([1, 1, 2, 3])
        .map(|(parts, uid)| future::spawn(request(Arc::clone(&budget), uid, parts)))
        .collect();
    let time = thread::spawn(pass_time);
    future::block_on(async {
        for request in requests {
            request.await.unwrap();
        }
    });
    time.join().unwrap();
    assert_eq!(budget.used(), 0, "bytes are left");
    // Who waits for bytes of others counts as a user.
    let mut alone = budget.guard(9, LIMIT);
    assert!(alone.has_room_for(LIMIT - LIMIT / 16));
    future::block_on(alone.reserve(LIMIT - LIMIT / 16)).unwrap();
}

/// A user above its share ends its requests when they are revoked, and another gets its bytes meanwhile.
pub(crate) fn share() {
    let budget = Arc::new(ByteBudget::default());
    let mut hostile: Vec<_> = (0..3).map(|_| budget.guard(1, LIMIT)).collect();
    future::block_on(async {
        for guard in &mut hostile {
            guard.reserve(5 * MIB).await.unwrap();
        }
    });
    let hostile: Vec<_> = hostile
        .into_iter()
        .map(|mut guard| {
            future::spawn(async move {
                guard.revoked().cancelled().await;
                drop(guard);
            })
        })
        .collect();
    let honest: Vec<_> = [2, 3]
        .into_iter()
        .map(|uid| {
            let budget = Arc::clone(&budget);
            future::spawn(async move {
                let mut guard = budget.guard(uid, LIMIT);
                guard.reserve(4 * MIB).await.expect("a user below its share gets its bytes");
                check(&budget);
                assert!(!guard.revoked().is_cancelled(), "its own share is not taken away");
                guard
            })
        })
        .collect();
    let time = thread::spawn(|| {
        for _ in 0..10 {
            thread::yield_now();
            tokio::time::advance(Duration::from_millis(60));
        }
    });
    let held = future::block_on(async {
        let mut held = Vec::new();
        for request in honest {
            held.push(request.await.unwrap());
        }
        held
    });
    time.join().unwrap();
    assert!(budget.used() <= LIMIT && budget.used() >= 8 * MIB);
    drop(held);
    for request in hostile {
        request.abort();
    }
}

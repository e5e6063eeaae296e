//! What the fuzz targets call here. Compiled for them and for tests only.

use std::{sync::Arc, time::Duration};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, H2, Limits},
    permits::Permits,
};
use crate::api::{Api, Caller, ListenerKind, Peer};

/// Serves a client that sends these bytes and then no more. Returns all that it is sent.
pub(crate) async fn serve(api: &Arc<Api>, sent: &[u8]) -> Vec<u8> {
    let (client, stream) = tokio::io::duplex(64 << 10);
    let Ok(permit) = Arc::<Permits>::default().enter(0, 1) else { return Vec::new() };
    let peer = Peer { uid: 0, gid: 0, pid: None, groups: vec![0] };
    let closed = CancellationToken::new();
    let caller = Caller { listener: ListenerKind::Unix, peer: Some(peer.into()), closed };
    let limits = Limits { header_time: Duration::from_secs(10), ..Limits::new(1) };
    let (mut answers, mut requests) = tokio::io::split(client);
    let mut received = Vec::new();
    let (h2, stop) = (H2::default(), CancellationToken::new());
    tokio::join!(
        connection::serve(stream, api, caller, permit, &h2, limits, stop),
        async {
            // The server may close first.
            let _ = requests.write_all(sent).await;
            let _ = requests.shutdown().await;
        },
        async {
            let _ = answers.read_to_end(&mut received).await;
        }
    );
    received
}

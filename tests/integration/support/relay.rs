//! A TCP relay in front of a server: passes bytes both ways and records them.
//!
//! Unlike `proxy` it does not read HTTP, so TLS goes through it unchanged.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

pub struct Relay {
    pub port: u16,
    from_client: Arc<Mutex<Vec<u8>>>,
    from_server: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    /// Passes every byte unchanged to the server on this port.
    pub fn to(upstream: u16) -> Self {
        Self::rewriting(upstream, |bytes| Some(bytes.to_vec()))
    }

    /// Changes each chunk from the client; `None` closes the connection.
    pub fn rewriting(
        upstream: u16,
        change: impl Fn(&[u8]) -> Option<Vec<u8>> + Copy + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (from_client, from_server) = <(Arc<Mutex<Vec<u8>>>, Arc<Mutex<Vec<u8>>>)>::default();
        let (requests, responses) = (Arc::clone(&from_client), Arc::clone(&from_server));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
                let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (requests, responses) = (Arc::clone(&requests), Arc::clone(&responses));
                std::thread::spawn(move || {
                    pass(client_too, server_too, |bytes| {
                        requests.lock().unwrap().extend_from_slice(bytes);
                        change(bytes)
                    });
                });
                std::thread::spawn(move || {
                    pass(server, client, |bytes| {
                        responses.lock().unwrap().extend_from_slice(bytes);
                        Some(bytes.to_vec())
                    });
                });
            }
        });
        Self { port, from_client, from_server }
    }

    /// All bytes from the clients so far, of all connections.
    pub fn client_bytes(&self) -> Vec<u8> {
        self.from_client.lock().unwrap().clone()
    }

    /// All bytes from the server so far, of all connections.
    pub fn server_bytes(&self) -> Vec<u8> {
        self.from_server.lock().unwrap().clone()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, change: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let Some(bytes) = change(&buffer[..count]) else { break };
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

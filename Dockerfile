# An image with only the program and the certificate authorities: no shell, no package manager, no root.
# Run it with a read-only root: it writes only to the volume with its socket, which an application of user 1000 mounts too:
#
#   docker build -t registry.example/keyringd:0.2.0 .
#   docker run --detach --read-only --cap-drop ALL --security-opt no-new-privileges --ulimit memlock=-1 \
#     --volume keyringd:/run/keyringd -e KONG_KEYRING_SOCKET_MODE=0666 -e KONG_KEYRING_ACCESS=uid:1000=encrypt+decrypt \
#     -e KONG_KEYRING_ENABLED=on … registry.example/keyringd:0.2.0
#   docker run --user 1000:1000 --volume keyringd:/run/keyringd:ro … application
#
# compose.yaml has all of it with an OpenBao.

FROM docker.io/library/rust:1-alpine AS build
RUN apk add --no-cache ca-certificates make musl-dev
WORKDIR /build
COPY . .
# Alpine's Rust builds static programs by default.
# Messages and panics name no path of the build.
ENV RUSTFLAGS="--remap-path-prefix=/usr/local/cargo/registry/src=/registry --remap-path-prefix=/build=/keyringd"
RUN cargo build --release --locked && mkdir /empty

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/keyringd /keyringd
# The folder of the socket. A new volume mounted on it gets its owner, the program's user.
COPY --from=build --chown=65532:65532 /empty /run/keyringd
# Numeric, so that Kubernetes can verify that it is not root.
USER 65532:65532
# The image has no kong.conf. Set variables KONG_<KEY>, files KONG_<KEY>_FILE, or mount /etc/kong/kong.conf.
VOLUME /run/keyringd
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/keyringd", "health"]
ENTRYPOINT ["/keyringd"]
CMD ["run"]

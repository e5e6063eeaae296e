# An image that holds the program, the certificate authorities and nothing else: no shell, no package manager, no root.
# Run it with a read-only root: it writes nowhere but in its socket's folder.
#
#   docker build -t keyringd .
#   docker run --read-only --cap-drop ALL --security-opt no-new-privileges --tmpfs /run/keyringd:uid=65532,mode=0755 \
#     -e KONG_KEYRING_ENABLED=on … keyringd

FROM docker.io/library/rust:1-alpine AS build
RUN apk add --no-cache ca-certificates musl-dev
WORKDIR /build
COPY . .
# Alpine's Rust builds static programs on its own.
RUN cargo build --release --locked && mkdir /empty

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/release/keyringd /keyringd
# The socket's folder: a volume that is mounted on it anew belongs to the program's user then.
COPY --from=build --chown=65532:65532 /empty /run/keyringd
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
# As the image has no kong.conf, it is set by variables KONG_<KEY> and by files KONG_<KEY>_FILE, or by a mounted
# /etc/kong/kong.conf.
VOLUME /run/keyringd
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["/keyringd", "health"]
ENTRYPOINT ["/keyringd"]
CMD ["run"]

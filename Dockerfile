# lbproxy and nothing else:
#
#     docker build --build-arg VERSION=v0.1.0 --tag lbproxy:0.1.0 .
#
# There is one proxy per host, and it listens on loopback unless configured otherwise, so it needs the host's network:
#
#     docker run --network host lbproxy:0.1.0 serve --etcd 10.0.0.1:2379

# The Go of go.mod. It runs on the building machine's platform, whatever platform the image is for.
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
WORKDIR /src
COPY . .
ARG VERSION=devel
ARG TARGETOS
ARG TARGETARCH
# Static, because the image has no C library; without the debuggers' tables, which neither panics nor profiles need, and
# without grpc-go's tracing, which nothing shows and which pulls in a templating engine: 16 MB instead of 27.
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -tags grpcnotrace -ldflags "-s -w -X main.version=$VERSION" -o /out/lbproxy ./cmd/lbproxy

FROM scratch
# For TLS to an etcd whose certificate is from a public authority.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/lbproxy /lbproxy
# A number: from a name Kubernetes cannot tell that it is not root.
USER 65532:65532
# Calls and the admin API.
EXPOSE 7070 7071
ENTRYPOINT ["/lbproxy"]
CMD ["serve"]

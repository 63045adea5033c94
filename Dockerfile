# The operator's image: one static binary on an empty base. `make image` makes the same without a container engine.
#
#   docker build --build-arg VERSION=0.1.0 -t REGISTRY/dstack-isolation:0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26.8 AS build
ARG TARGETOS TARGETARCH VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
    -ldflags "-s -w -X github.com/dstack-isolation/operator/internal/app.Version=$VERSION" -o /dstack-isolation .

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title=dstack-isolation \
      org.opencontainers.image.description="Makes a dstack server apply the isolation that profiles ask for" \
      org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.source=https://github.com/dstack-isolation/operator \
      org.opencontainers.image.version=$VERSION
COPY --from=build /dstack-isolation /dstack-isolation
USER 65532:65532
ENTRYPOINT ["/dstack-isolation"]

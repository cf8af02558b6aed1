# syntax=docker/dockerfile:1
#
# The gateway on top of llama.cpp's own server image, in two variants:
#
#   docker build -t llama-gateway:cpu .
#   docker build -t llama-gateway:cuda --build-arg VARIANT=cuda .
#
# The engine images are pinned by build number and digest. Both are Ubuntu 24.04, so a virtual
# environment made in one runs in the other. To change the build, change both lines together.
ARG VARIANT=cpu

FROM ghcr.io/ggml-org/llama.cpp:server-b11459@sha256:33868c035b21dc63f7c60b7438774283fd99215bc319114eb03de5df4ce7cd6b AS engine-cpu
FROM ghcr.io/ggml-org/llama.cpp:server-cuda-b11459@sha256:fff6185edd2fbc4093aa5970bf6db53ed11c283e3a1c52a3e244cf27047264f4 AS engine-cuda

# ---- the gateway and its dependencies, in /opt/venv and /srv/llama-gateway
FROM engine-cpu AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/srv/llama-gateway/constraints.txt
WORKDIR /srv/llama-gateway
RUN python3 -m venv /opt/venv
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY gateway gateway
COPY health health
COPY backend backend
COPY keys keys
COPY config config
COPY scripts scripts
# Editable on purpose: the settings files and scripts lie beside the packages, as in a checkout.
RUN /opt/venv/bin/pip install --only-binary=:all: --editable . \
    && /opt/venv/bin/python -m compileall -q gateway health backend keys

# ---- what runs
FROM engine-${VARIANT} AS final
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 gateway \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway -m 0700 /data
COPY --from=build /opt/venv /opt/venv
COPY --from=build /srv/llama-gateway /srv/llama-gateway
# The engine's libraries lie beside it, in /app; builds were published that did not find them there
# by themselves, so LD_LIBRARY_PATH says it. HOME takes the caches of engine and CUDA to the volume.
# DATA_DIR and PORT_HEALTH are left to their rules: /data and 8001 here, elsewhere the platform's.
ENV PATH=/opt/venv/bin:$PATH \
    LD_LIBRARY_PATH=/app${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} \
    LLAMA_SERVER=/app/llama-server \
    CACHE_DIR=/data/cache \
    HOME=/data \
    HOST=0.0.0.0 \
    PORT=8000 \
    GATEWAY_PROFILE=prod \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /srv/llama-gateway
USER 10001:10001
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
# Exec form, for there may be no shell; with another PORT_HEALTH, override it. A model may load for
# as long as LOAD_TIMEOUT, and a container is not unhealthy while it does, nor while the engine sleeps.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m --retries=3 \
    CMD ["/opt/venv/bin/python", "-m", "health.probe", "http://127.0.0.1:8001/health"]
ENTRYPOINT ["/opt/venv/bin/python", "-m", "gateway"]
CMD ["serve"]

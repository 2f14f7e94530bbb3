# The agent's image: `make image`, or `docker build .` where there is a docker.
# Both stages are of one Debian release: libvirt-python is compiled against the libvirt that the image has.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# For a network whose own authority signs what it lets through: files that the builder mounts, see tools/image/build.sh.
# Build arguments are no part of the image.
ARG SSL_CERT_FILE
ARG PIP_CERT
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libvirt-dev pkg-config python3-dev python3-venv \
    && python3 -m venv /uv \
    && /uv/bin/pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
ENV UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/virtsync \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
# The dependencies first: they change less often than the code.
COPY pyproject.toml uv.lock ./
RUN /uv/bin/uv sync --locked --no-dev --no-install-project
COPY LICENSE README.md ./
COPY controller controller
# Bytecode, for the root is read-only where this runs. Two thirds of all that was installed is the Kubernetes client, of
# which the agent needs a small part: not the same client again for asyncio, and of its two thousand types and calls no
# more bytecode than is loaded. Wheels carry symbols for debuggers, which is half of their machine code.
RUN /uv/bin/uv sync --locked --no-dev --no-editable \
    && rm -r /opt/virtsync/.lock /opt/virtsync/lib/python3*/site-packages/kubernetes/aio \
    && find /opt/virtsync -name '*.so' -exec strip --strip-unneeded {} + \
    && /opt/virtsync/bin/python -m compileall -q -x 'kubernetes/client/(api|models)/' /opt/virtsync/lib \
    && /opt/virtsync/bin/python -c 'import controller.agent.app'

FROM ${BASE}
# No setuid program is left: nothing in here needs to become anybody else.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libvirt0 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/virtsync /opt/virtsync
ENV PATH=/opt/virtsync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The manifests run it as uid 0 without any capability, for libvirt's socket lets uid 0 in. By itself it is nobody.
USER 65532:65532
ENTRYPOINT ["virtsync"]
CMD ["--help"]
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="virtsync" \
      org.opencontainers.image.description="Git says which libvirt VMs are on: a Kubernetes reconciliation agent for KVM hosts" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"

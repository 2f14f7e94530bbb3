# The agent's image: `make image`, or `docker build .` if you have docker.
# Both stages use the same Debian release: libvirt-python is compiled against the libvirt that the image has.
ARG BASE=debian:bookworm-slim

FROM ${BASE} AS build
ARG UV_VERSION=0.13.9
# For a network with its own certificate authority: files that the builder mounts, see tools/image/build.sh. Build
# arguments do not become a part of the image.
ARG SSL_CERT_FILE
ARG PIP_CERT
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libvirt-dev pkg-config python3-dev python3-venv \
    && python3 -m venv /uv \
    && /uv/bin/pip install --no-cache-dir --disable-pip-version-check "uv==${UV_VERSION}"
# The folder of a build, whose name is random, would otherwise be in libvirt-python's debug symbols and build ids.
ENV CFLAGS=-g0 \
    LDFLAGS=-Wl,--build-id=none \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1 \
    UV_PROJECT_ENVIRONMENT=/opt/virtsync \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
# Install the dependencies first: they change less often than the code.
COPY pyproject.toml uv.lock ./
RUN /uv/bin/uv sync --locked --no-dev --no-install-project
COPY LICENSE README.md ./
COPY controller controller
# The image contains bytecode, because the root is read-only at run time. Two thirds of the installed files are the
# Kubernetes client, of which the agent needs a small part. So the image omits the asyncio copy of the client, and
# of the client's two thousand types and calls it keeps only the bytecode that the agent loads. Debug symbols are half
# of the machine code in the wheels, so they are stripped. Packages that install their tests do not need them here.
# So that two builds are equal, bytecode has a hash of its source and no time, and uv's notes on the build are left out.
RUN /uv/bin/uv sync --locked --no-dev --no-editable \
    && rm -r /opt/virtsync/.lock /opt/virtsync/lib/python3*/site-packages/kubernetes/aio \
        /opt/virtsync/lib/python3*/site-packages/virtsync-*.dist-info/uv_*.json \
    && sed -i '/uv_.*\.json/d' /opt/virtsync/lib/python3*/site-packages/virtsync-*.dist-info/RECORD \
    && find /opt/virtsync -type d -name tests -prune -exec rm -r {} + \
    && find /opt/virtsync -name '*.so' -exec strip --strip-unneeded {} + \
    && /opt/virtsync/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        -x 'kubernetes/client/(api|models)/' /opt/virtsync/lib \
    && /opt/virtsync/bin/python -B -c 'import controller.agent.app; import py_compile, sys; \
files = [str(getattr(module, "__file__", "")) for module in [*sys.modules.values()]]; \
[py_compile.compile(file, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH) \
for file in files if "/kubernetes/client/" in file]'

FROM ${BASE}
# Remove the setuid bit from all programs: no process in this image needs to become another user. Python's own tests and
# the texts of its help() have no use here. Its bytecode must stay valid when tools/image/canonical.py changes the times of
# files.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libvirt0 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* /usr/share/doc/* /usr/share/man/* /usr/share/locale/* \
        /usr/lib/python3*/test /usr/lib/python3*/pydoc_data \
    && python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3* \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY --from=build /opt/virtsync /opt/virtsync
ENV PATH=/opt/virtsync/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The manifests run the image as uid 0 without any capability, because libvirt's socket accepts uid 0. The default user
# has no privileges.
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

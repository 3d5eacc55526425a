# recount in a container, with exactly the packages of requirements.lock; not built yet where recount is written (no Docker).
#
#   docker build -t recount .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" recount init .
#   docker run --rm -v "$PWD:/work" --user "$(id -u):$(id -g)" --gpus all --shm-size 8g recount run
#
# PyTorch's wheels for Linux bring CUDA's libraries, so the base needs none; the driver is the host's (docs/gpu.md: how new),
# handed in by --gpus. Loader processes hand over pictures in shared memory: --shm-size.

FROM python:3.12-slim AS build
WORKDIR /source
COPY requirements.lock ./
RUN python -m venv /opt/recount && /opt/recount/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE config.yaml benchmarks.yaml official.yaml Snakefile ./
COPY experiments experiments
COPY papers papers
COPY profiles profiles
COPY reference reference
COPY suites suites
COPY workflow workflow
COPY src src
RUN /opt/recount/bin/pip install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.12-slim
COPY --from=build /opt/recount /opt/recount
RUN useradd --uid 1000 --create-home recount && install --directory --owner recount /work
ENV PATH=/opt/recount/bin:/usr/local/bin:/usr/bin:/bin \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER recount
WORKDIR /work
ENTRYPOINT ["recount"]
CMD ["--help"]

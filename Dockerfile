# Two images from one wheel: `api` is small and has no torch, `worker` has it.

FROM python:3.11.13-slim-bookworm AS wheel
RUN pip install --no-cache-dir build==1.2.2.post1
WORKDIR /source
COPY . .
RUN python -m build --wheel --outdir /wheel

FROM python:3.11.13-slim-bookworm AS base
RUN useradd --system --uid 10001 --home-dir /var/lib/rankalloc rankalloc \
    && install --directory --owner=rankalloc --group=rankalloc --mode=700 /var/lib/rankalloc
COPY --from=wheel /wheel /wheel
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 RANKALLOC_HOME=/var/lib/rankalloc
WORKDIR /var/lib/rankalloc

FROM base AS api
RUN pip install --no-cache-dir "$(echo /wheel/*.whl)[postgres]"
USER rankalloc
EXPOSE 8321
CMD ["rankalloc", "serve", "--host", "0.0.0.0", "--port", "8321"]

FROM base AS worker
# The wheels of this index have no CUDA and are small; those of PyPI have it (the service worker-gpu).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt /wheel/
RUN pip install --no-cache-dir --constraint /wheel/constraints.txt \
    --extra-index-url "$TORCH_INDEX" "$(echo /wheel/*.whl)[postgres,text,worker]"
USER rankalloc
CMD ["rankalloc", "worker"]

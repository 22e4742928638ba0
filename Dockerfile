# docker build -t tinyzero .
# mkdir -p runs
# docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD/runs:/tinyzero/runs" tinyzero train
#
# This is a CPU image. For a GPU, build with --build-arg TORCH_BACKEND=cu128 and run with --gpus all.
FROM python:3.11-slim

ARG TORCH_BACKEND=cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend "$TORCH_BACKEND" -c constraints.txt ".[gguf,report]"

# Any user may run it, so that the files in the mounted folder belong to the user outside.
ENV HOME=/tinyzero
RUN mkdir -p /tinyzero/runs && chmod -R a+rwX /tinyzero
USER nobody
WORKDIR /tinyzero
ENTRYPOINT ["tinyzero"]
CMD ["--help"]

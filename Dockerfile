# docker build -t tinyzero . && docker run --rm -it -v "$PWD/runs:/tinyzero/runs" tinyzero train
#
# A CPU image. For a GPU: docker build --build-arg TORCH_BACKEND=cu128 -t tinyzero . and run it with --gpus all.
FROM python:3.11-slim

ARG TORCH_BACKEND=cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src ./src
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend "$TORCH_BACKEND" -c constraints.txt ".[report]"

RUN useradd --create-home learner && mkdir -p /tinyzero/runs && chown -R learner /tinyzero
USER learner
WORKDIR /tinyzero
ENTRYPOINT ["tinyzero"]
CMD ["--help"]

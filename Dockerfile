# vderain on the CPU.
#   docker build -t vderain .
#   docker run --rm -v "$PWD:/videos" vderain process rainy.mp4
FROM python:3.12-slim

WORKDIR /opt/vderain
COPY pyproject.toml README.md LICENSE ./
COPY vderain vderain
# On x86-64 Linux, pip's default build of PyTorch includes CUDA libraries of several GB. To leave them out, pass the index
# of PyTorch's CPU builds: --build-arg PIP_ARGS="--extra-index-url ...".
ARG PIP_ARGS=""
RUN pip install --no-cache-dir $PIP_ARGS .

WORKDIR /videos
ENTRYPOINT ["vderain"]
CMD ["--help"]

# slimsight for the CPU: docker build -t slimsight . && docker run --rm -v "$PWD:/work" slimsight --help
FROM python:3.12-slim

# PyTorch of the CPU: the default one brings several gigabytes of CUDA.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision

COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY slimsight /src/slimsight
COPY compress /src/compress
COPY export /src/export
COPY deploy /src/deploy
RUN pip install --no-cache-dir /src && rm -rf /src

RUN useradd --create-home slimsight
USER slimsight
ENV SLIMSIGHT_CACHE=/home/slimsight/cache
WORKDIR /work
ENTRYPOINT ["slimsight"]
CMD ["--help"]

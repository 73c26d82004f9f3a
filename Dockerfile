# The bot and its synthesis process in one container: CUDA torch from PyPI, FFmpeg from Debian, no root.
#
#   docker build -t bark-for-discord .
#   docker run --rm -v bark-models:/models bark-for-discord python -m synth fetch suno/bark-small
#   docker run -d --gpus all -e DISCORD_TOKEN=... -v bark-data:/data -v bark-models:/models bark-for-discord
#
# Leave out `--gpus all` on a machine without one.
FROM python:3.11-slim-bookworm

# gcc: Triton builds what starts its kernels on the GPU at hand.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg gcc libc6-dev tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 bark \
    && mkdir /data /models \
    && chown bark:bark /data /models

WORKDIR /app
# Dependencies change less often than code: a layer of their own, from the same pins.
COPY pyproject.toml README.md LICENSE ./
COPY synth/data/NOTICE synth/data/NOTICE
RUN mkdir bot && touch bot/__init__.py synth/__init__.py \
    && pip install --no-cache-dir . \
    && pip uninstall --yes bark-for-discord
COPY bot bot
COPY synth synth
RUN pip install --no-cache-dir --no-deps .

USER bark
# /data: the database and clips. /models: downloaded checkpoints and their converted form.
ENV DATA_DIR=/data HF_HOME=/models/huggingface XDG_CACHE_HOME=/models/cache PYTHONUNBUFFERED=1
VOLUME ["/data", "/models"]

HEALTHCHECK --interval=30s --timeout=10s --start-period=5m --retries=3 \
    CMD ["python", "-m", "bot", "doctor", "--alive"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "bot", "run"]

# An image of unclip that serves on CPUs; docs/deploy.md says how it is run, and what was not tried.
#
#   docker build -t unclip .
#
# torch's wheels for Linux hold the libraries of GPUs too, some gigabytes; an index of wheels for
# CPUs alone, such as torch's own, is given by --build-arg TORCH_INDEX=ADDRESS.
FROM python:3.12-slim AS build
ARG TORCH_INDEX=""
WORKDIR /build
RUN python -m venv /opt/unclip
COPY constraints.txt ./
RUN /opt/unclip/bin/pip install --no-cache-dir --disable-pip-version-check \
    -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN /opt/unclip/bin/pip install --no-cache-dir --disable-pip-version-check \
    -c constraints.txt ".[serve,provenance,datasets]"

FROM python:3.12-slim
COPY --from=build /opt/unclip /opt/unclip
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin unclip && \
    mkdir /models /out && chown unclip /out
USER 10001
WORKDIR /out
ENV PATH=/opt/unclip/bin:$PATH PYTHONUNBUFFERED=1
VOLUME ["/models", "/out"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=2m \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["unclip"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--api-key-file", "/run/secrets/keys"]

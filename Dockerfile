# Builds an image of the forwarder:  docker build -t responses-forwarder .
# Settings are environment variables, or a file /data/.env; /data also has the SQLite database.

FROM python:3.13-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/forwarder
WORKDIR /src
COPY requirements.lock ./
RUN /opt/forwarder/bin/pip install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE requirements.txt requirements-otel.txt requirements-dev.txt requirements-docs.txt ./
COPY forwarder ./forwarder
RUN /opt/forwarder/bin/pip install --no-deps .

FROM python:3.13-slim AS docs
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY requirements-docs.txt constraints.txt ./
RUN pip install --only-binary :all: -r requirements-docs.txt -c constraints.txt
COPY mkdocs.yml SECURITY.md CONTRIBUTING.md CHANGELOG.md ./
COPY deploy/nginx.conf ./deploy/
COPY docs ./docs
RUN mkdocs build --strict --site-dir /site

FROM python:3.13-slim
RUN groupadd --gid 10001 forwarder && \
    useradd --uid 10001 --gid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin forwarder
COPY --from=build /opt/forwarder /opt/forwarder
COPY --from=docs /site /opt/forwarder/site
ENV PATH=/opt/forwarder/bin:$PATH PYTHONUNBUFFERED=1 GUNICORN_BIND=0.0.0.0:8000 \
    FORWARDER_DOCS_DIR=/opt/forwarder/site
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["forwarder"]
CMD ["serve"]

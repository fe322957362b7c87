"""What the client of the registry keeps of MLflow's own: passwords, tokens, TLS, other storages."""

import base64
import http.server
import ssl
import subprocess
import threading
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from attack.serving.hostile_registry import HostileRegistry

from devopsgpt_serving.errors import DamagedVersion, RegistryUnavailable
from devopsgpt_serving.settings import Settings
from devopsgpt_serving.versions.cache import VersionCache
from devopsgpt_serving.versions.registry import Registry


@pytest.fixture
def registry(monkeypatch):
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    with closing(HostileRegistry()) as registry:
        yield registry


def resolved(url):
    return Registry(url, "devopsgpt", "champion", 2).resolve().number


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_the_login_is_the_urls_or_the_environments(registry, monkeypatch):
    def sent(url=registry.url):
        assert resolved(url) == "1"
        return registry.headers[-1].get("Authorization")

    assert sent() is None
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")
    assert sent() == "Bearer t0ken"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "pä:ss")
    assert sent() == basic("ann", "pä:ss")
    assert sent(registry.url.replace("//", "//bob:p%40ss@")) == basic("bob", "p@ss")


def test_a_password_in_the_address_is_in_no_error():
    with pytest.raises(RegistryUnavailable) as told:
        resolved("http://bob:secret@127.0.0.1:9")
    assert "secret" not in str(told.value)
    with pytest.raises(ValueError, match="must begin with http") as told:
        resolved("ftp://bob:secret@127.0.0.1:9")
    assert "secret" not in str(told.value)


@pytest.fixture
def encrypted(registry, tmp_path):
    """The registry behind TLS, with a certificate that nobody knows. returns: URL, certificate"""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    registry.server.socket = context.wrap_socket(registry.server.socket, server_side=True)
    return registry.url.replace("http:", "https:"), str(certificate)


def test_an_unknown_certificate_is_refused_unless_it_is_named(encrypted, monkeypatch):
    url, certificate = encrypted
    with pytest.raises(RegistryUnavailable, match="certificate"):
        resolved(url)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert resolved(url) == "1"
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", certificate)
    assert resolved(url) == "1"


@contextmanager
def bucket(folder):
    """A storage that speaks S3's part of what MLflow asks: list objects, get one."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET(head=True)

        def do_GET(self, head=False):
            path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            file = folder / path.lstrip("/")
            if "list-type" in asked:
                content = listing(folder / path.strip("/"), asked["prefix"][0])
            elif file.is_file():
                content = file.read_bytes()
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(b"" if head else content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def listing(root, prefix):
    folder = root / prefix
    objects = [
        f"<Contents><Key>{prefix}{path.name}</Key><Size>{path.stat().st_size}</Size></Contents>"
        for path in (folder.iterdir() if folder.is_dir() else [])
        if path.is_file()
    ]
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>false</IsTruncated>{''.join(objects)}</ListBucketResult>"
    ).encode()


@pytest.fixture
def stored(common_shelf, tmp_path, registry, monkeypatch):
    """A version in a bucket, and a registry that tells so. returns: the version's folder there"""
    pytest.importorskip("boto3")
    cache = VersionCache(tmp_path / "first", 10**9)
    cache.prepare()
    source = Registry(common_shelf.url, common_shelf.name, "champion", 5)
    folder = source.fetch(source.resolve(), cache)
    place = tmp_path / "s3" / "bucket" / "models" / "7"
    place.parent.mkdir(parents=True)
    folder.rename(place)
    registry.artifact_uri = "s3://bucket/models/7"
    with bucket(tmp_path / "s3") as url:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield place


def fetched(registry, tmp_path, *prefixes):
    cache = VersionCache(tmp_path / "cache", 10**9)
    cache.prepare()
    found = Registry(registry.url, "devopsgpt", "champion", 5, artifact_prefixes=prefixes)
    return found.fetch(found.resolve(), cache)


def test_a_bucket_is_read_where_its_prefix_is_set(stored, registry, tmp_path):
    with pytest.raises(ValueError, match="DEVOPSGPT_SERVING_ARTIFACT_PREFIXES"):
        fetched(registry, tmp_path)
    folder = fetched(registry, tmp_path, "s3://bucket/models")
    assert (folder / "model/config.json").read_bytes() == (
        stored / "model/config.json"
    ).read_bytes()


def test_a_file_in_a_bucket_is_no_longer_than_its_manifest_says(stored, registry, tmp_path):
    path: Path = stored / "model/model.safetensors"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DamagedVersion, match="should have at most"):
        fetched(registry, tmp_path, "s3://bucket/models")
    path.unlink()
    with pytest.raises(DamagedVersion, match="and has None"):
        fetched(registry, tmp_path, "s3://bucket/models")


def test_another_mlflow_holds_files_where_it_is_named(common_shelf, registry, tmp_path):
    other = Registry(common_shelf.url, common_shelf.name, "champion", 5)
    address = other._location(other.resolve())
    there = f"mlflow-artifacts://{other.server.host}"
    registry.artifact_uri = address.replace("mlflow-artifacts:", there, 1)
    with pytest.raises(ValueError, match="which is neither"):
        fetched(registry, tmp_path)
    assert (fetched(registry, tmp_path, there) / "model/config.json").is_file()


@pytest.mark.parametrize(
    "prefix", ["file:///data", "/data", "http://x/y", "s3://", "s3:///", "mlflow-artifacts:/", "s3"]
)
def test_a_prefix_that_is_no_storage_is_refused(prefix):
    with pytest.raises(ValueError, match="must name a bucket"):
        Settings(artifact_prefixes=f"s3://bucket, {prefix}")


def test_prefixes_are_separated_by_commas(monkeypatch):
    monkeypatch.setenv("DEVOPSGPT_SERVING_ARTIFACT_PREFIXES", "s3://a/b, gs://c")
    assert Settings().artifact_prefixes == ("s3://a/b", "gs://c")
    assert Settings().fetch_timeout_s == 3600

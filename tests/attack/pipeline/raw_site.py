"""A site that answers in raw bytes, over TCP or TLS, and as slowly as it likes."""

import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROBOTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n"


class RawSite:
    """Answers robots.txt, then each request with `answer`; with `pause_s`, a piece at a time."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.answer = b""
        self.endless = b""
        """Sent again and again after the answer, a piece at a time."""
        self.pause_s = 0.0
        self.silent_handshake = False
        """Drips bytes in the place of TLS's first answer."""
        self.asked = 0
        self.closing = threading.Event()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/page"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection = self.socket.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self.silent_handshake:
                # the header of a TLS record of 16 kB, and then its bytes
                self._drip(connection, b"\x16\x03\x03\x40\x00", b"\x00")
                return
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                while request := connection.recv(65536):
                    if b" /robots.txt " in request:
                        connection.sendall(ROBOTS)
                        continue
                    self.asked += 1
                    self._drip(connection, self.answer, self.endless)
                    return

    def _drip(self, connection: socket.socket, answer: bytes, endless: bytes) -> None:
        connection.sendall(answer)
        while endless and not self.closing.wait(self.pause_s):
            connection.sendall(endless)

    def close(self) -> None:
        self.closing.set()
        self.socket.close()


@contextmanager
def raw_site(tls: ssl.SSLContext | None = None) -> Iterator[RawSite]:
    site = RawSite(tls)
    try:
        yield site
    finally:
        site.close()


def trusted_here(folder) -> tuple[ssl.SSLContext, str]:
    """A server's context with a certificate for 127.0.0.1, and the file that makes it trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "certificate.pem", folder / "key.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, str(public)

"""Where spans are sent and how: an address, and OpenTelemetry's variables, read once and refused before a run starts.

Specification: "OpenTelemetry Protocol Exporter", OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT, _HEADERS, _TIMEOUT (in
milliseconds), _COMPRESSION, _CERTIFICATE; a variable for traces wins over the general one, an empty one is unset. No
message shows the value of a header or the password of an address.
"""

import base64
import os
import re
import ssl
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from andon.text import without_secrets
from andon.tracing.errors import TraceError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PORTS = {"http": 80, "https": 443}
PATH = "/v1/traces"
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a header's name: RFC 9110, section 5.6.2
VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # and its value, section 5.5
HIDDEN = "***"


class Endpoint(NamedTuple):
    """An OTLP/HTTP endpoint. `path` is what is asked for, with its query; `headers` may hold secrets."""

    scheme: str
    host: str
    port: int
    path: str
    headers: dict[str, str]
    timeout: float = 10.0
    compressed: bool = False
    certificate: str = ""

    def __str__(self) -> str:
        """The address as it may be shown: no user, no password, no query."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path.partition('?')[0]}"

    @property
    def key(self) -> str:
        """The address under which it is remembered what was sent: this machine has one name."""
        return str(self._replace(host="localhost") if self.host in LOOPBACK else self)

    def redacted(self, text: str) -> str:
        """`text` on one line, without the values of headers."""
        for value in self.headers.values():
            for secret in {value, value.rpartition(" ")[2]} - {""}:
                text = text.replace(secret, HIDDEN)
        return " ".join("".join(each if each.isprintable() else " " for each in text).split())

    def context(self) -> ssl.SSLContext | None:
        """What checks the certificate of an https endpoint. Raises TraceError where the file named is none."""
        if self.scheme != "https":
            return None
        try:
            return ssl.create_default_context(cafile=self.certificate or None)
        except OSError as error:
            raise TraceError(
                f"OTEL_EXPORTER_OTLP_CERTIFICATE={self.certificate!r} holds no certificate in PEM ({error.strerror}); "
                "name the file of the authority that signed the endpoint's"
            ) from error


def setting(name: str) -> tuple[str, str]:
    """The variable that counts for traces, and its value; "" where neither is set."""
    for variable in (f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"):
        if value := os.environ.get(variable, "").strip():
            return variable, value
    return f"OTEL_EXPORTER_OTLP_{name}", ""


def endpoint(url: str | None = None) -> Endpoint:
    """The endpoint that `url` names, with or without `/v1/traces`, or else the one that the environment does.

    Raises TraceError where there is none, or where a part of it cannot be used.
    """
    if url is not None:
        return _endpoint("otlp", url, signal=False)
    variable, value = setting("ENDPOINT")
    if not value:
        raise TraceError("no endpoint is named: --otlp http://localhost:4318, or OTEL_EXPORTER_OTLP_ENDPOINT")
    return _endpoint(variable, value, signal=variable.endswith("_TRACES_ENDPOINT"))


def named_by_environment() -> bool:
    """Whether OpenTelemetry's variables ask for spans to be sent over HTTP."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    return bool(setting("ENDPOINT")[1]) and not off and setting("PROTOCOL")[1] != "grpc"


def _endpoint(source: str, url: str, *, signal: bool) -> Endpoint:
    parts, port = _split(source, url)
    path = parts.path.rstrip("/")
    path = (parts.path or "/") if signal else path.removesuffix(PATH) + PATH
    query = f"?{parts.query}" if parts.query else ""
    made = Endpoint(
        parts.scheme,
        parts.hostname or "",
        port,
        path + query,
        _authorization(parts) | headers(),
        _timeout(),
        _compressed(),
        setting("CERTIFICATE")[1],
    )
    made.context()
    return made


def _split(source: str, url: str) -> tuple[SplitResult, int]:
    shown = without_secrets(url)
    try:
        parts = urlsplit(url)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError as error:
        raise TraceError(f"{source}={shown!r} is not an http(s) address: its host or port is none") from error
    if parts.scheme not in PORTS or not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
        raise TraceError(
            f"{source}={shown!r} is not an http(s) address; Jaeger on this machine is http://localhost:4318"
        )
    return parts, port


def _authorization(parts: SplitResult) -> dict[str, str]:
    """An address's user and password as the header that stands for them."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def headers() -> dict[str, str]:
    """The headers of OTEL_EXPORTER_OTLP_[TRACES_]HEADERS (`key=value,...`, percent-encoded), names in lower case.

    Raises TraceError, which shows no value, where one cannot be sent.
    """
    variable, value = setting("HEADERS")
    found = {}
    for number, item in enumerate(value.split(","), start=1):
        key, separator, text = (part.strip() for part in item.partition("="))
        key, text = unquote(key), unquote(text)
        if not item.strip():
            continue
        if not separator or not TOKEN.fullmatch(key):
            raise TraceError(f"{variable}: entry {number} is not `name=value` with a header's name; write it so")
        if not VALUE.fullmatch(text):
            raise TraceError(f"{variable}: the value of {key!r} holds a character that no header may; remove it")
        found[key.lower()] = text
    return found


def _timeout() -> float:
    """Seconds for one request."""
    variable, value = setting("TIMEOUT")
    if value and not (value.isdecimal() and int(value)):
        raise TraceError(f"{variable}={value!r} is not a number of milliseconds above 0; 10000 is the default")
    return int(value or 10_000) / 1e3


def _compressed() -> bool:
    variable, value = setting("COMPRESSION")
    if value not in ("", "none", "gzip"):
        raise TraceError(f"{variable}={value!r} is not known; it is gzip or none")
    return value == "gzip"

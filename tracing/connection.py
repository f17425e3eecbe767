"""One HTTP connection, kept open, whose every exchange ends in bounded time and memory."""

import base64
import gzip
import http.client
import socket
import threading
import urllib.request
from email.utils import parsedate_to_datetime
from time import time
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from andon.tracing.endpoint import LOOPBACK, Endpoint
from andon.tracing.errors import BusyError, RefusedError, TraceError

ANSWER_BYTES = 2**20
RETRYABLE = (429, 502, 503, 504)
FAST_GZIP = 1
EARLIER = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)  # how a closed old connection ends


class Answer(NamedTuple):
    """What came back."""

    status: int
    reason: str
    content_type: str
    retry_after: str
    body: bytes


class Connection:
    """Asks one endpoint, over one connection as long as that lasts. Not for several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._http: http.client.HTTPConnection | None = None
        self._target = endpoint.path
        self._proxy_headers: dict[str, str] = {}

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        if self._http:
            self._http.close()
            self._http = None

    def post(self, body: bytes) -> Answer:
        """Post JSON and return an answer of success.

        Raises BusyError where there is none or one that asks to come again, and RefusedError at any other status.
        """
        headers = {"Content-Type": "application/json", **self.endpoint.headers}
        if self.endpoint.compressed:
            body, headers = gzip.compress(body, FAST_GZIP, mtime=0), headers | {"Content-Encoding": "gzip"}
        answer = self.ask("POST", self.endpoint.path, body, headers)
        if answer.status // 100 == 2:
            return answer
        said = answer.body[:300].decode(errors="replace")
        words = self.endpoint.redacted(
            f"answered HTTP {answer.status} {answer.reason}: {said.strip() or 'no more said'}"
        )
        message = f"{self.endpoint} {words}"
        if answer.status in RETRYABLE:
            raise BusyError(message, seconds_to_wait(answer.retry_after), answered=True)
        raise RefusedError(message, answer.status)

    def ask(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], limit: int = ANSWER_BYTES
    ) -> Answer:
        """One exchange within the endpoint's timeout and `limit` bytes. Raises BusyError where no whole answer is."""
        old = self._http is not None
        try:
            try:
                return self._exchange(method, path, body, headers, limit)
            except EARLIER:
                self.close()
                if not old:
                    raise
                return self._exchange(method, path, body, headers, limit)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            why = self.endpoint.redacted(str(error) or type(error).__name__)
            raise BusyError(f"{self.endpoint} cannot be reached ({why}); start it, or name another endpoint") from error
        except BaseException:
            self.close()
            raise

    def _exchange(self, method: str, path: str, body: bytes | None, headers: dict[str, str], limit: int) -> Answer:
        timeout = self.endpoint.timeout
        connection = self._http = self._http or self._opened()
        line = socket_of(connection)
        late = threading.Event()
        timer = threading.Timer(timeout, cut, (line, late))
        timer.daemon = True
        timer.start()
        try:
            prefix = f"{self.endpoint.scheme}://{connection_host(self.endpoint)}" if self._proxy_headers else ""
            connection.request(method, prefix + path, body, headers | self._proxy_headers)
            with connection.getresponse() as response:
                content = response.read(limit + 1)
        except (OSError, http.client.HTTPException, ValueError):
            if late.is_set():
                raise TimeoutError(f"no whole answer in {timeout:g} s") from None
            raise
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError(f"no whole answer in {timeout:g} s")
        if len(content) > limit:
            self.close()
            raise TraceError(f"{self.endpoint} is not an OTLP endpoint: its answer is longer than {limit:,} bytes")
        if response.will_close:
            self.close()
        kind = response.headers.get_content_type()
        return Answer(response.status, response.reason, kind, response.headers.get("Retry-After", ""), content)

    def _opened(self) -> http.client.HTTPConnection:
        """Connect, past the proxy that the user has set for other machines than this one."""
        endpoint = self.endpoint
        host, port, tunnel = endpoint.host, endpoint.port, False
        self._proxy_headers = {}
        proxy = urllib.request.getproxies().get(endpoint.scheme)
        if proxy and host not in LOOPBACK and not urllib.request.proxy_bypass(host):
            parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
            host, port = parts.hostname or host, parts.port or 80
            tunnel = endpoint.scheme == "https"
            pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            known = (
                {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"} if parts.username else {}
            )
            self._proxy_headers = {} if tunnel else {"Host": connection_host(endpoint), **known}
        context = endpoint.context()
        if context:
            opened = http.client.HTTPSConnection(host, port, timeout=endpoint.timeout, context=context)
            if tunnel:
                opened.set_tunnel(endpoint.host, endpoint.port, known)
        else:
            opened = http.client.HTTPConnection(host, port, timeout=endpoint.timeout)
        opened.connect()
        return opened


def connection_host(endpoint: Endpoint) -> str:
    """The part of an address between `//` and the path."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"{host}:{endpoint.port}"


def socket_of(connection: http.client.HTTPConnection) -> socket.socket:
    """The open connection's socket; one that the server has closed is opened again."""
    if connection.sock is None:
        connection.connect()
    return connection.sock


def cut(line: socket.socket, late: threading.Event) -> None:
    """End an exchange from outside: whoever reads gets the end of the stream."""
    late.set()
    try:
        line.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself


def seconds_to_wait(retry_after: str) -> float:
    """What Retry-After asks for, in seconds or as a date; 0 where it says nothing that can be read."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except (ValueError, TypeError, OverflowError):
        return 0.0

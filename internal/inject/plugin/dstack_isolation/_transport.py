"""One POST to the policy server: bounded in time and size, kept alive, never redirected,
never through a proxy."""

from __future__ import annotations

import functools
import http.client
import io
import queue
import selectors
import socket
import threading
import time
from collections import namedtuple
from urllib.parse import urlsplit

try:
    import ssl
except ImportError:  # a Python built without TLS: http:// still works
    ssl = None

# dstack's own REST plugin gives up after 8 seconds, and its clients are built around that.
TOTAL_SECONDS = 7.0
CONNECT_SECONDS = 3.0
# A kept-alive connection may lead to a pod that is gone without a word. A healthy policy
# server answers in milliseconds, so a short wait leaves time for a second, fresh connection.
REUSED_SECONDS = 2.0
# Below the idle timeouts of usual servers and load balancers.
IDLE_SECONDS = 30.0
# The answer repeats the spec; this is what it may be longer than the request.
ANSWER_MARGIN_BYTES = 1 << 20

Target = namedtuple("Target", "tls host port prefix ca_file")


class UnavailableError(Exception):
    """No usable answer of the policy server. Its text is for the administrator: a reason
    without token, spec or address."""


def read_target(environ) -> Target:
    """The policy server that the environment names; UnavailableError if it names none."""
    url = environ.get("DSTACK_ISOLATION_POLICY_URL", "").strip()
    if not url:
        raise UnavailableError(
            "DSTACK_ISOLATION_POLICY_URL is not set in the environment of the dstack server"
        )
    parts = split(url)
    if parts is None:
        raise UnavailableError(
            "DSTACK_ISOLATION_POLICY_URL must be http://HOST:PORT or https://HOST:PORT,"
            " without user, query and fragment"
        )
    tls = parts.scheme == "https"
    if tls and ssl is None:
        raise UnavailableError("DSTACK_ISOLATION_POLICY_URL is https, but this Python has no TLS")
    return Target(
        tls,
        parts.hostname,
        parts.port or (443 if tls else 80),
        parts.path.rstrip("/"),
        environ.get("DSTACK_ISOLATION_CA_FILE", ""),
    )


def split(url: str):
    """The parts of a usable URL, else None."""
    if not (url.isascii() and url.isprintable()) or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    usable = parts.scheme in ("http", "https") and parts.hostname and port != 0
    extra = "@" in parts.netloc or parts.query or parts.fragment
    return parts if usable and not extra else None


def read_headers(environ) -> dict:
    """Headers of a request. A token that no header can carry is caught here, because the
    error of http.client would show it."""
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    token = environ.get("DSTACK_ISOLATION_TOKEN", "").strip()
    if not token:
        return headers
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise UnavailableError("DSTACK_ISOLATION_TOKEN holds characters that no header can carry")
    headers["Authorization"] = "Bearer " + token
    return headers


class DeadlineReader(io.RawIOBase):
    """Reads a socket until a point in time. The socket's own timeout starts anew with each
    byte, so a server that sends one now and then could hold a thread for hours."""

    def __init__(self, raw, sock, deadline: float):
        self._raw = raw
        self._sock = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer):
        self._sock.settimeout(remaining(self._deadline))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    """An HTTP response whose status line, headers and body all come before the deadline."""

    def __init__(self, sock, *args, deadline: float, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(DeadlineReader(self.fp.detach(), sock, deadline))


class Connection(http.client.HTTPConnection):
    """A connection to one target. http.client knows neither proxies nor redirects."""

    def __init__(self, target: Target):
        super().__init__(target.host, target.port)
        self.target = target
        self.deadline = 0.0
        self.idle_since = 0.0
        if target.tls:
            self.default_port = 443

    def connect(self) -> None:
        context = tls_context(self.target) if self.target.tls else None
        self.sock = dial(self.host, self.port, self.deadline)
        # Headers and body are two writes: with Nagle's algorithm the second would wait.
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            self.sock.settimeout(remaining(self.deadline))
            self.sock = context.wrap_socket(self.sock, server_hostname=self.host)

    def send(self, data) -> None:
        if self.sock is None:
            self.connect()
        self.sock.settimeout(remaining(self.deadline))
        super().send(data)

    def reusable(self, target: Target) -> bool:
        """Whether the next request may use it. Bytes that wait to be read, or an end of
        file, belong to no request of ours."""
        if self.sock is None or self.target != target:
            return False
        if time.monotonic() - self.idle_since > IDLE_SECONDS:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(self.sock, selectors.EVENT_READ)
            return not selector.select(0)

    def exchange(self, path: str, body: bytes, headers: dict, deadline: float) -> bytes:
        """The body of a 200 answer. Raises UnavailableError, OSError or HTTPException, and then
        the connection is closed."""
        self.deadline = deadline
        self.response_class = functools.partial(Response, deadline=deadline)
        try:
            self.request("POST", self.target.prefix + path, body=body, headers=headers)
            response = self.getresponse()
            answer = read_answer(response, len(body) + ANSWER_MARGIN_BYTES)
            if not response.isclosed():
                self.close()
        except BaseException:
            self.close()
            raise
        self.idle_since = time.monotonic()
        return answer


class Client(threading.local):
    """Keeps one connection per thread: dstack calls plugins from a pool of threads."""

    connection = None

    def post(self, target: Target, path: str, body: bytes, headers: dict) -> bytes:
        """The body of a 200 answer within TOTAL_SECONDS; UnavailableError for anything else."""
        deadline = time.monotonic() + TOTAL_SECONDS
        try:
            kept, self.connection = self.connection, None
            if kept is not None:
                if kept.reusable(target):
                    try:
                        return self._exchange(
                            kept, path, body, headers, time.monotonic() + REUSED_SECONDS
                        )
                    except (OSError, http.client.HTTPException):
                        pass  # stale: a decision may be asked for twice
                kept.close()
            return self._exchange(Connection(target), path, body, headers, deadline)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError("the policy server cannot be asked: " + why(error)) from None

    def _exchange(self, connection, path, body, headers, deadline) -> bytes:
        answer = connection.exchange(path, body, headers, deadline)
        self.connection = connection
        return answer


def remaining(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def dial(host: str, port: int, deadline: float):
    """A TCP connection to the first address of host that accepts one."""
    failure: OSError = OSError("no address")
    for address in resolve(host, port, deadline):
        try:
            return socket.create_connection(
                address, timeout=min(CONNECT_SECONDS, remaining(deadline))
            )
        except OSError as error:
            failure = error
    raise failure


def resolve(host: str, port: int, deadline: float) -> list:
    """The addresses of host. getaddrinfo knows no timeout, so it gets a thread that can be
    left behind."""
    answers = queue.SimpleQueue()

    def look_up():
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=look_up, daemon=True, name="dstack-isolation-resolve").start()
    try:
        answer = answers.get(timeout=min(CONNECT_SECONDS, remaining(deadline)))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(answer, OSError):
        raise answer
    if isinstance(answer, Exception):  # UnicodeError of a host name that IDNA rejects
        raise socket.gaierror("not a host name")
    return [entry[4][:2] for entry in answer]


def tls_context(target: Target):
    # Made for each connection: connections are few, and a renewed CA file is picked up.
    try:
        return ssl.create_default_context(cafile=target.ca_file or None)
    except (OSError, ValueError):
        raise UnavailableError("DSTACK_ISOLATION_CA_FILE names no file of certificates") from None


def read_answer(response, limit: int) -> bytes:
    if response.status != http.client.OK:
        raise UnavailableError(explain_status(response.status))
    too_large = UnavailableError(f"the policy server's answer is larger than {limit} bytes")
    if response.length is not None and response.length > limit:
        raise too_large
    answer = response.read(limit + 1)
    if len(answer) > limit:
        raise too_large
    return answer


def explain_status(status: int) -> str:
    known = {
        400: "the policy server does not understand this plugin, their versions do not match",
        401: "the policy server does not accept the token in DSTACK_ISOLATION_TOKEN",
        413: "the request is larger than the policy server reads",
        503: "the policy server is not ready",
    }
    return f"{known.get(status, 'the policy server did not decide')} (HTTP {status})"


def why(error: Exception) -> str:
    """What went wrong on the wire, in words that hold nothing of the request: texts of
    exceptions may quote headers."""
    for kind, words in WORDS:
        if isinstance(error, kind):
            return words
    if isinstance(error, OSError):
        return f"no connection to it ({error.strerror or type(error).__name__})"
    return "its answer is not HTTP"


# The first that fits; socket.timeout is a type of its own before Python 3.10.
WORDS = [
    ((TimeoutError, socket.timeout), "it did not answer in time"),
    (socket.gaierror, "its host name cannot be resolved"),
    (ConnectionRefusedError, "it refuses connections"),
    ((ConnectionError, http.client.IncompleteRead), "it closed the connection without an answer"),
]
if ssl is not None:
    WORDS[1:1] = [
        (ssl.SSLCertVerificationError, "its TLS certificate is not trusted"),
        (ssl.SSLError, "TLS with it fails"),
    ]

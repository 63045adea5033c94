"""Everything that keeps the plugin from a decision: refused, on time, in these words."""

import logging
import socket
import time

import pytest
from conftest import SECRET, TOKEN, accept, answer, ask, refusal, send, specs, unavailable

from dstack_isolation import _transport

ASKED = "the policy server cannot be asked: "
BAD_URL = (
    "DSTACK_ISOLATION_POLICY_URL must be http://HOST:PORT or https://HOST:PORT,"
    " without user, query and fragment"
)


@pytest.fixture
def hurry(monkeypatch):
    """The plugin's deadlines, ten times shorter."""
    for name in ("TOTAL_SECONDS", "CONNECT_SECONDS", "REUSED_SECONDS"):
        monkeypatch.setattr(_transport, name, getattr(_transport, name) / 10)


def test_deadline_is_below_dstacks_own():
    assert _transport.CONNECT_SECONDS < _transport.TOTAL_SECONDS < 8


@pytest.mark.parametrize("kind", ["run", "fleet", "volume", "gateway"])
def test_no_url(policy, environment, server, kind):
    environment.delenv("DSTACK_ISOLATION_POLICY_URL")
    assert refusal(policy, kind) == unavailable(
        "DSTACK_ISOLATION_POLICY_URL is not set in the environment of the dstack server", kind
    )
    assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "policy.gpu.svc:8080",
        "ftp://policy.gpu.svc",
        "http://",
        "http://:8080",
        "http://user:password@policy",
        "http://policy:port",
        "http://policy:0",
        "http://policy:65536",
        "http://[::1",
        "http://policy/?a=b",
        "http://policy/#a",
        "http://pol icy",
        "http://pol\ticy",
        "http://políçy",
        "file:///etc/passwd",
    ],
)
def test_bad_url(policy, environment, url):
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", url)
    assert refusal(policy) == unavailable(BAD_URL)


def test_path_of_the_url_is_kept(policy, environment, server):
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", f"http://localhost:{server.port}/a/b/")
    ask(policy)
    assert server.requests[0]["path"] == "/a/b/apply_policies/on_run_apply"


@pytest.mark.parametrize("token", ["a\nb", "a b", "a\tb", "tök"])
def test_token_that_no_header_can_carry(policy, environment, server, token):
    environment.setenv("DSTACK_ISOLATION_TOKEN", token)
    message = refusal(policy)
    assert message == unavailable(
        "DSTACK_ISOLATION_TOKEN holds characters that no header can carry"
    )
    assert server.connections == 0


def test_token_of_a_file_with_a_newline_at_its_end(policy, environment, server):
    environment.setenv("DSTACK_ISOLATION_TOKEN", TOKEN + "\n")
    ask(policy)
    assert server.requests[0]["headers"]["authorization"] == f"Bearer {TOKEN}"


def test_no_token_is_the_policy_servers_business(policy, environment, server):
    environment.delenv("DSTACK_ISOLATION_TOKEN")
    ask(policy)
    assert "authorization" not in server.requests[0]["headers"]


@pytest.mark.parametrize("name", [None, "", "main", "a/b/c", "gpu/main; rm -rf /", "gpu/`id`"])
def test_unnamed_server(policy, environment, name):
    environment.delenv("DSTACK_ISOLATION_POLICY_URL")
    if name is None:
        environment.delenv("DSTACK_ISOLATION_SERVER")
    else:
        environment.setenv("DSTACK_ISOLATION_SERVER", name)
    assert refusal(policy) == unavailable(
        "DSTACK_ISOLATION_POLICY_URL is not set in the environment of the dstack server",
        command="kubectl describe dstackservers --all-namespaces",
    )


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("201 Created", "the policy server did not decide (HTTP 201)"),
        ("204 No Content", "the policy server did not decide (HTTP 204)"),
        (
            "400 Bad Request",
            "the policy server does not understand this plugin, their versions do not match"
            " (HTTP 400)",
        ),
        (
            "401 Unauthorized",
            "the policy server does not accept the token in DSTACK_ISOLATION_TOKEN (HTTP 401)",
        ),
        ("403 Forbidden", "the policy server did not decide (HTTP 403)"),
        ("404 Not Found", "the policy server did not decide (HTTP 404)"),
        (
            "413 Content Too Large",
            "the request is larger than the policy server reads (HTTP 413)",
        ),
        ("500 Internal Server Error", "the policy server did not decide (HTTP 500)"),
        ("503 Service Unavailable", "the policy server is not ready (HTTP 503)"),
    ],
)
def test_status(policy, server, status, reason):
    # The body says yes: only a 200 counts.
    def script(sock, _request):
        send(sock, b'{"spec":' + specs_text() + b',"error":null}', status)

    server.scripts = [script]
    assert refusal(policy) == unavailable(reason)
    ask(policy)  # and the next one is answered again


def specs_text():
    spec = specs()["run"]
    return (spec.model_dump_json() if hasattr(spec, "model_dump_json") else spec.json()).encode()


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_redirect_is_not_followed(policy, server, status):
    location = f"Location: http://127.0.0.1:{server.port}/elsewhere\r\n"
    server.scripts = [answer(b"", status, location)]
    code = status.split()[0]
    assert refusal(policy) == unavailable(f"the policy server did not decide (HTTP {code})")
    assert len(server.requests) == 1


def test_refused_connection(policy, environment):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", f"http://127.0.0.1:{port}")
    assert refusal(policy) == unavailable(ASKED + "it refuses connections")


def test_unknown_host(policy, environment):
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", "http://policy.invalid:8080")

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    environment.setattr(socket, "getaddrinfo", unknown)
    assert refusal(policy) == unavailable(ASKED + "its host name cannot be resolved")


def test_host_name_that_is_none(policy, environment):
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", "http://" + "a" * 64 + ".svc:8080")
    assert refusal(policy) == unavailable(ASKED + "its host name cannot be resolved")


@pytest.mark.usefixtures("hurry")
def test_resolver_that_hangs(policy, environment):
    environment.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    started = time.monotonic()
    assert refusal(policy) == unavailable(ASKED + "it did not answer in time")
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("hurry")
def test_no_answer(policy, server):
    server.scripts = [lambda *_: server.release.wait()]
    started = time.monotonic()
    assert refusal(policy) == unavailable(ASKED + "it did not answer in time")
    assert 0.5 < time.monotonic() - started < 2


def drip(prefix):
    """Sends a byte every 50 ms: each is in time, the whole never is."""

    def script(sock, _request):
        sock.sendall(prefix)
        for _ in range(100):
            time.sleep(0.05)
            sock.sendall(b"x")

    return script


@pytest.mark.parametrize(
    "prefix",
    [
        b"HTTP/1.1 2",
        b"HTTP/1.1 200 OK\r\nX-Drip: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n",
    ],
)
@pytest.mark.usefixtures("hurry")
def test_answer_that_drips(policy, server, prefix):
    server.scripts = [drip(prefix)]
    started = time.monotonic()
    assert refusal(policy) == unavailable(ASKED + "it did not answer in time")
    assert 0.5 < time.monotonic() - started < 2


@pytest.mark.usefixtures("hurry")
def test_endless_informational_answers(policy, server):
    def script(sock, _request):
        while True:
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            time.sleep(0.01)

    server.scripts = [script]
    started = time.monotonic()
    assert refusal(policy) == unavailable(ASKED + "it did not answer in time")
    assert time.monotonic() - started < 2


@pytest.mark.usefixtures("hurry")
def test_server_that_does_not_read(policy, environment):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        environment.setenv(
            "DSTACK_ISOLATION_POLICY_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}"
        )
        spec = specs()["run"]
        spec.configuration.commands = ["x" * (32 << 20)]
        started = time.monotonic()
        assert refusal(policy, spec=spec) == unavailable(ASKED + "it did not answer in time")
        assert time.monotonic() - started < 2  # serialising 32 MiB included


@pytest.mark.parametrize("declared", [True, False])
def test_oversized_answer(policy, server, declared):
    def script(sock, _request):
        size = 1 << 30 if declared else 4 << 20
        length = b"Content-Length: %d\r\n" % size if declared else b""
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        for _ in range(0 if declared else 4):
            sock.sendall(b" " * (1 << 20))
        return "close"

    server.scripts = [script]
    message = refusal(policy)
    limit = len(server.requests[0]["body"]) + (1 << 20)
    assert message == unavailable(f"the policy server's answer is larger than {limit} bytes")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", ASKED + "it closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ASKED + "its answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n", ASKED + "its answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70000, ASKED + "its answer is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            ASKED + "it closed the connection without an answer",
        ),
        (
            b'HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{"spec":',
            "the policy server's answer is malformed: it is not JSON",
        ),
    ],
)
def test_broken_http(policy, server, sent, reason):
    def script(sock, _request):
        sock.sendall(sent)
        return "close"

    server.scripts = [script]
    assert refusal(policy) == unavailable(reason)


def test_nothing_of_it_is_logged(policy, server):
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("dstack.plugins.dstack_isolation")
    logger.addHandler(handler)
    try:
        server.scripts = [answer(b"no"), lambda *_: "close", lambda *_: "close", accept]
        refusal(policy)
        refusal(policy)
        ask(policy)
    finally:
        logger.removeHandler(handler)
    assert records == [
        "Refused a run, policy could not be asked:"
        " the policy server's answer is malformed: it is not JSON",
        "Refused a run, policy could not be asked:"
        " the policy server cannot be asked: it closed the connection without an answer",
    ]
    assert not any(TOKEN in record or SECRET in record for record in records)

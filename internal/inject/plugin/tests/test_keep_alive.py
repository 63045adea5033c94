"""One connection a thread, kept alive, and never one answer for another's request."""

import json
import threading
import time

import pytest
from conftest import accept, answer, ask, refusal, send, specs, unavailable

from dstack_isolation import _transport


def wait_for(condition):
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_connection_is_reused(policy, server):
    for _ in range(5):
        ask(policy)
    assert len(server.requests) == 5
    assert server.connections == 1


def test_each_thread_has_its_own(policy, server):
    barrier = threading.Barrier(4)
    failures = []

    def work():
        try:
            barrier.wait()
            for _ in range(10):
                ask(policy)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(server.requests) == 40
    assert server.connections == 4


def close_after(script):
    def closing(sock, request):
        script(sock, request)
        return "close"

    return closing


def test_connection_that_the_server_closed_while_idle(policy, server):
    server.scripts = [close_after(accept)]
    ask(policy)
    ask(policy)
    assert server.connections == 2


def test_connection_that_the_server_closes_on_the_next_request(policy, server):
    server.scripts = [accept, lambda *_: "close"]
    ask(policy)
    ask(policy)
    assert server.connections == 2
    assert len(server.requests) == 3


def test_only_one_more_attempt(policy, server):
    server.scripts = [accept, lambda *_: "close", lambda *_: "close"]
    ask(policy)
    assert refusal(policy) == unavailable(
        "the policy server cannot be asked: it closed the connection without an answer"
    )
    assert server.connections == 2


def test_no_second_attempt_on_a_new_connection(policy, server):
    server.scripts = [lambda *_: "close"]
    refusal(policy)
    assert server.connections == 1


def test_pod_that_vanished_without_a_word(policy, server, monkeypatch):
    monkeypatch.setattr(_transport, "REUSED_SECONDS", 0.2)
    server.scripts = [accept, lambda *_: server.release.wait()]
    ask(policy)
    started = time.monotonic()
    ask(policy)
    assert 0.15 < time.monotonic() - started < 2
    assert server.connections == 2


def test_idle_connection_is_given_up(policy, server, monkeypatch):
    ask(policy)
    monkeypatch.setattr(_transport, "IDLE_SECONDS", 0)
    time.sleep(0.01)
    ask(policy)
    assert server.connections == 2


def test_connection_close_is_obeyed(policy, server):
    def script(sock, request):
        spec = json.loads(request["body"])["spec"]
        body = json.dumps({"spec": spec, "error": None}).encode()
        send(sock, body, headers="Connection: close\r\n")

    server.scripts = [script, script]
    ask(policy)
    ask(policy)
    assert server.connections == 2


def test_chunked_answer_is_kept_alive(policy, server):
    def script(sock, request):
        spec = json.dumps({"spec": json.loads(request["body"])["spec"], "error": None}).encode()
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (spec[:100], spec[100:]):
            sock.sendall(b"%x\r\n%s\r\n" % (len(part), part))
        sock.sendall(b"0\r\n\r\n")

    server.scripts = [script, script]
    ask(policy)
    ask(policy)
    assert server.connections == 1


def test_answer_that_nobody_asked_for_is_not_the_next_one(policy, server):
    sent = threading.Event()

    def accept_twice(sock, request):
        accept(sock, request)
        time.sleep(0.1)  # so that it is not in the same buffer
        accept(sock, request)
        sent.set()

    server.scripts = [accept_twice, answer(b'{"spec":{},"error":"no"}')]
    ask(policy)
    assert sent.wait(5)
    wait_for(lambda: policy._client.connection.reusable(policy._client.connection.target) is False)
    assert refusal(policy) == "no"


@pytest.mark.parametrize("status", ["401 Unauthorized", "503 Service Unavailable"])
def test_error_answer_ends_the_connection(policy, server, status):
    server.scripts = [answer(b"x" * 100, status)]
    refusal(policy)
    ask(policy)
    assert server.connections == 2


def test_changed_url_gets_a_new_connection(policy, server, environment):
    ask(policy)
    environment.setenv("DSTACK_ISOLATION_POLICY_URL", f"http://localhost:{server.port}")
    ask(policy)
    assert server.connections == 2


def test_kept_connection_that_is_no_longer_read(policy, server, monkeypatch):
    monkeypatch.setattr(_transport, "REUSED_SECONDS", 0.2)

    def accept_and_read_no_more(sock, request):
        accept(sock, request)
        server.release.wait()

    server.scripts = [accept_and_read_no_more]
    ask(policy)
    spec = specs()["run"]
    spec.configuration.commands = ["x" * (16 << 20)]
    started = time.monotonic()
    assert ask(policy, spec=spec) is spec
    assert time.monotonic() - started < 5
    assert server.connections == 2

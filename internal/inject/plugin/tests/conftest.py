"""A scripted policy server, real specs of the installed dstack release, and the plugin."""

import json
import socket
import sys
import threading
from pathlib import Path

import pytest

PLUGIN_DIR = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PLUGIN_DIR))

TOKEN = "tok-3f9c2a10"
SECRET = "hunter2-in-the-spec"


class PolicyServer:
    """Runs one script a request: a function that gets the socket and the request. Without a
    script it accepts everything, as the real policy server does, byte for byte."""

    def __init__(self):
        self.scripts = []
        self.requests = []
        self.connections = 0
        self.release = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.wrap = lambda sock: sock
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        try:
            with self.wrap(sock) as wrapped:
                while request := read_request(wrapped):
                    self.requests.append(request)
                    script = self.scripts.pop(0) if self.scripts else accept
                    if script(wrapped, request) == "close":
                        return
        except OSError:
            pass  # the plugin gave up, which is what many tests want

    def close(self):
        self.release.set()
        self._listener.close()


def read_request(sock):
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = sock.recv(65536)
        if not chunk:
            return None
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    body = bytearray(rest)
    first, *lines = head.decode().split("\r\n")
    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += sock.recv(1 << 20)
    method, path, _ = first.split(" ")
    return {"method": method, "path": path, "headers": headers, "body": bytes(body)}


def send(sock, body, status="200 OK", headers=""):
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body)


def accept(sock, request):
    spec = raw_spec(request["body"])
    send(sock, b'{"spec":' + spec + b',"error":null}')


def raw_spec(body):
    text = body.decode()
    start = text.index('"spec":') + len('"spec":')
    return text[start : text.rindex(',"process":')].encode()


def refuse(message):
    def script(sock, request):
        spec = json.loads(request["body"])["spec"]
        send(sock, json.dumps({"spec": spec, "error": message}).encode())

    return script


def answer(body, status="200 OK", headers=""):
    return lambda sock, _request: send(sock, body, status, headers)


@pytest.fixture
def server():
    policy_server = PolicyServer()
    yield policy_server
    policy_server.close()


@pytest.fixture
def environment(monkeypatch, server):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("DSTACK_ISOLATION_CA_FILE", raising=False)
    monkeypatch.setenv("DSTACK_ISOLATION_POLICY_URL", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("DSTACK_ISOLATION_TOKEN", TOKEN)
    monkeypatch.setenv("DSTACK_ISOLATION_SERVER", "gpu/main")
    return monkeypatch


@pytest.fixture
def policy(environment):  # noqa: ARG001
    from dstack_isolation import IsolationPlugin

    (policy,) = IsolationPlugin().get_apply_policies()
    return policy


def make(model, value):
    if hasattr(model, "model_validate"):
        return model.model_validate(value)
    return model.parse_obj(value)


def specs():
    """kind -> spec, every kind that dstack asks plugins about."""
    from dstack.plugins import FleetSpec, GatewaySpec, RunSpec, VolumeSpec

    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9mM0mO3nq9D1a5T8vI6U6wQ6n3nq9D1a5T8vI6U6wA u@l"
    task = {"type": "task", "commands": ["true"], "env": {"PASSWORD": SECRET}, "files": ["a.txt"]}
    archive = {"id": "5a3b8d5e-3f0c-4c64-9f3c-6a6f0a1d7b11", "path": "/root/a.txt"}
    groups = [
        {"count": 1, "commands": ["true"], "privileged": True},
        {"count": 1, "commands": ["true"], "docker": True},
    ]
    service = {"type": "service", "port": 80, "replicas": groups}
    fleet = {"type": "fleet", "name": "f", "nodes": 1}
    volume = {"type": "volume", "name": "v", "backend": "aws", "region": "us-east-1", "size": "9GB"}
    gateway = {"type": "gateway", "name": "g", "backend": "aws", "region": "us-east-1"}
    return {
        "run": make(
            RunSpec, {"configuration": task, "ssh_key_pub": key, "file_archives": [archive]}
        ),
        "service": make(RunSpec, {"configuration": service, "ssh_key_pub": key}),
        "fleet": make(FleetSpec, {"configuration": fleet, "profile": {"name": "default"}}),
        "volume": make(VolumeSpec, {"configuration": volume}),
        "gateway": make(GatewaySpec, {"configuration": gateway}),
    }


def unavailable(reason, kind="run", command="kubectl -n gpu describe dstackserver main"):
    """The whole message, to the letter."""
    return (
        f"This {kind} is refused because the isolation policy could not be asked."
        " Your configuration is not the reason: try again in a minute, and if this persists,"
        " tell the administrator of this dstack server."
        f" Administrator: {reason}; check `{command}`."
    )


def ask(policy, kind="run", spec=None):
    return policy.on_apply(user="ada", project="nlp", spec=spec or specs()[kind])


def refusal(policy, kind="run", spec=None):
    """The text that dstack would show; the answer must not hold token or spec."""
    with pytest.raises(ValueError, match=r"(?s)^.+$") as caught:
        ask(policy, kind, spec)
    (message,) = caught.value.args
    assert type(caught.value) is ValueError
    assert TOKEN not in message
    assert SECRET not in message
    return message

"""dstack's own loader finds the plugin as a server pod has it: files of a ConfigMap on
PYTHONPATH, read-only, in a process of its own."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import PLUGIN_DIR, TOKEN

LOAD = """
import json, logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
from dstack._internal.server.services import plugins
plugins.load_plugins(sys.argv[1:])
from dstack_isolation import IsolationPlugin
from dstack_isolation._attestation import attest
print(json.dumps(attest(IsolationPlugin)))
"""


@pytest.fixture
def mounted(tmp_path):
    """The folder as the kubelet makes it: the files in ..data, links to them beside it."""
    data = tmp_path / "..2026_11_23"
    data.mkdir()
    names = ["dstack_isolation", *(path.name for path in PLUGIN_DIR.glob("*.dist-info"))]
    for name in names:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PLUGIN_DIR / name, data / name, ignore=ignored)
        (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "..data").symlink_to(data.name)
    for path in [*data.rglob("*"), data]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tmp_path
    for path in [data, *(p for p in data.rglob("*") if p.is_dir())]:
        path.chmod(0o755)


def load(mounted, *plugins, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DSTACK_")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *plugins],
        env={**clean, "PYTHONPATH": str(mounted), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stderr
    return json.loads(done.stdout), done.stderr


def test_loaded_and_attested(mounted):
    process, log = load(
        mounted,
        "dstack_isolation",
        DSTACK_ISOLATION_POLICY_URL="http://policy.gpu.svc:8080",
        DSTACK_ISOLATION_TOKEN=TOKEN,
        DSTACK_SERVER_JOB_NETWORK_MODE="3",
        DSTACK_SERVER_SSHPROXY_ENFORCED="1",
        DSTACK_SSHPROXY_API_TOKEN="x",
        DSTACK_SERVER_SSHPROXY_ADDRESS="ssh.example.com:22",
    )
    from importlib.metadata import version

    assert process == {
        "pluginVersion": "0.1.0",
        "dstackVersion": version("dstack"),
        "jobNetworkMode": 3,
        "sshProxyEnforced": True,
        "plugins": ["dstack_isolation:IsolationPlugin"],
        "last": True,
    }
    assert "Loaded plugin dstack_isolation" in log
    assert "Isolation plugin 0.1.0 asks the policy server at policy.gpu.svc:8080" in log


def test_defaults_of_dstack_are_attested(mounted):
    process, _ = load(mounted, "dstack_isolation")
    assert process["jobNetworkMode"] == 2
    assert process["sshProxyEnforced"] is False


def test_loaded_without_its_settings(mounted):
    process, log = load(mounted, "dstack_isolation")
    assert process["plugins"] == ["dstack_isolation:IsolationPlugin"]
    assert (
        "Isolation plugin 0.1.0 will refuse everything: DSTACK_ISOLATION_POLICY_URL is not set"
        " in the environment of the dstack server"
    ) in log


def test_dstacks_rest_plugin_comes_after_it(mounted):
    process, _ = load(mounted, "rest_plugin", "dstack_isolation")
    assert process["plugins"][0] == "dstack_isolation:IsolationPlugin"
    assert process["plugins"][1].endswith(":CustomApplyPolicy") or process["plugins"][1].endswith(
        ":RESTPlugin"
    )
    assert process["last"] is False


def test_not_enabled(mounted):
    process, _ = load(mounted)
    assert process["plugins"] == []
    assert process["last"] is False


def test_version_is_the_same_everywhere():
    from dstack_isolation import VERSION

    (info,) = PLUGIN_DIR.glob("*.dist-info")
    assert info.name == f"dstack_isolation-{VERSION}.dist-info"
    assert f"\nVersion: {VERSION}\n" in (info / "METADATA").read_text()

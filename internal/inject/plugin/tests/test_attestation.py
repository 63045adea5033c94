"""Private names of dstack: what is missing, or of another type, is unknown, never an error."""

import json

import pytest
from conftest import ask
from dstack._internal.server import settings
from dstack._internal.server.services import plugins

from dstack_isolation import IsolationPlugin, _attestation


@pytest.fixture
def ours(environment, monkeypatch):  # noqa: ARG001
    plugin = IsolationPlugin()
    monkeypatch.setattr(plugins, "_PLUGINS", [plugin])
    return plugin


def attested(server, policy):
    ask(policy)
    return json.loads(server.requests[-1]["body"])["process"]


def test_sent_with_each_request(policy, server, ours, monkeypatch):
    assert attested(server, policy)["jobNetworkMode"] == 2
    monkeypatch.setattr(settings, "JOB_NETWORK_MODE", type(settings.JOB_NETWORK_MODE)(1))
    monkeypatch.setattr(plugins, "_PLUGINS", [ours, object()])
    process = attested(server, policy)
    assert process["jobNetworkMode"] == 1
    assert process["plugins"] == ["dstack_isolation:IsolationPlugin", "builtins:object"]
    assert process["last"] is False


@pytest.mark.parametrize(
    ("value", "want"),
    [(1, 1), (2, 2), (3, 3), (0, None), (4, None), ("3", None), (True, None), (None, None)],
)
@pytest.mark.usefixtures("ours")
def test_network_mode(policy, server, monkeypatch, value, want):
    monkeypatch.setattr(settings, "JOB_NETWORK_MODE", value)
    assert attested(server, policy)["jobNetworkMode"] == want


@pytest.mark.parametrize(
    ("value", "want"), [(True, True), (False, False), (None, None), (1, None), ("", None)]
)
@pytest.mark.usefixtures("ours")
def test_ssh_proxy_enforced(policy, server, monkeypatch, value, want):
    monkeypatch.setattr(settings, "SSHPROXY_ENFORCED", value)
    assert attested(server, policy)["sshProxyEnforced"] is want


@pytest.mark.usefixtures("ours")
def test_missing_names(policy, server, monkeypatch):
    monkeypatch.delattr(settings, "JOB_NETWORK_MODE")
    monkeypatch.delattr(settings, "SSHPROXY_ENFORCED")
    monkeypatch.delattr(plugins, "_PLUGINS")
    process = attested(server, policy)
    assert process["dstackVersion"] is not None
    del process["dstackVersion"]
    assert process == {
        "pluginVersion": "0.1.0",
        "jobNetworkMode": None,
        "sshProxyEnforced": None,
        "plugins": None,
        "last": None,
    }


@pytest.mark.parametrize("value", [None, (), {}, "x"])
@pytest.mark.usefixtures("ours")
def test_list_of_another_type(policy, server, monkeypatch, value):
    monkeypatch.setattr(plugins, "_PLUGINS", value)
    process = attested(server, policy)
    assert process["plugins"] is None
    assert process["last"] is None


def test_plugins_that_a_server_registers_itself_come_first(policy, server, ours, monkeypatch):
    monkeypatch.setattr(plugins, "_REGISTERED_PLUGINS", [object()], raising=False)
    monkeypatch.setattr(plugins, "_PLUGINS", [ours])
    process = attested(server, policy)
    assert process["plugins"] == ["builtins:object", "dstack_isolation:IsolationPlugin"]
    assert process["last"] is True


@pytest.mark.usefixtures("ours")
def test_many_plugins_are_not_all_named(policy, server, monkeypatch):
    monkeypatch.setattr(plugins, "_PLUGINS", [object()] * 100)
    process = attested(server, policy)
    assert len(process["plugins"]) == _attestation.MAX_PLUGINS
    assert process["last"] is False


@pytest.mark.usefixtures("ours")
def test_module_that_cannot_be_imported(policy, server, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "dstack._internal.server.settings", None)
    monkeypatch.delattr("dstack._internal.server.settings")
    process = attested(server, policy)
    assert process["jobNetworkMode"] is None
    assert process["last"] is True

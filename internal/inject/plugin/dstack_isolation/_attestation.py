"""What the dstack server process really runs with."""

from __future__ import annotations

import functools
from importlib import metadata

VERSION = "0.1.0"

# A server with more plugins than this is not described in full.
MAX_PLUGINS = 32


def attest(ours: type) -> dict:
    """What this process really runs with. All but the versions come from private names of
    dstack, which no release promises: what is missing or of another type is None, and the
    policy server takes unknown for the weakest."""
    return {
        "pluginVersion": VERSION,
        "dstackVersion": attempt(dstack_version),
        "jobNetworkMode": attempt(job_network_mode),
        "sshProxyEnforced": attempt(ssh_proxy_enforced),
        "plugins": attempt(plugin_names),
        "last": attempt(lambda: is_last(ours)),
    }


def attempt(read):
    """The result of read, None for whatever it raises."""
    try:
        return read()
    except Exception:
        return None


@functools.cache
def dstack_version():
    return metadata.version("dstack")


def job_network_mode():
    from dstack._internal.server import settings

    mode = getattr(settings.JOB_NETWORK_MODE, "value", settings.JOB_NETWORK_MODE)
    return mode if type(mode) is int and mode in (1, 2, 3) else None


def ssh_proxy_enforced():
    from dstack._internal.server import settings

    enforced = settings.SSHPROXY_ENFORCED
    return enforced if type(enforced) is bool else None


def loaded_plugins():
    """The plugins of this process in the order in which dstack asks them."""
    from dstack._internal.server.services import plugins

    # Plugins that a server registers itself (from 0.22) are asked first.
    registered = getattr(plugins, "_REGISTERED_PLUGINS", [])
    loaded = plugins._PLUGINS
    if not isinstance(registered, list) or not isinstance(loaded, list):
        raise TypeError
    return registered + loaded


def plugin_names():
    kinds = [type(plugin) for plugin in loaded_plugins()[:MAX_PLUGINS]]
    return [f"{kind.__module__}:{kind.__qualname__}" for kind in kinds]


def is_last(ours: type) -> bool:
    """Whether nobody after us can change a spec that we accepted."""
    plugins = loaded_plugins()
    return bool(plugins) and type(plugins[-1]) is ours

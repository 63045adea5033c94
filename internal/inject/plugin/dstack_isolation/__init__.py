"""dstack server plugin that asks an isolation policy server about every spec.

dstack finds it through the entry point ``dstack_isolation`` (group ``dstack.plugins``)
and calls it in a worker thread, once for a plan and once more for an apply. The plugin
decides nothing itself: it sends the spec to the policy server and does what the answer
says. Whatever keeps it from getting a well-formed answer refuses the spec.

It must work in a server that nobody built for it. So it uses the standard library and
``dstack.plugins`` only, supports pydantic v1 (dstack before 0.21) and v2, and neither its
import nor its construction may raise: dstack would log a warning and run without policy.

Environment, read at each decision:

=============================  =====================================================
DSTACK_ISOLATION_POLICY_URL    http:// or https:// URL of the policy server
DSTACK_ISOLATION_TOKEN         bearer token; never logged, never in a message
DSTACK_ISOLATION_SERVER        NAMESPACE/NAME of the DstackServer, for messages
DSTACK_ISOLATION_CA_FILE       PEM file of the authority behind an https:// URL
=============================  =====================================================
"""

from __future__ import annotations

import json
import os
import re

from dstack.plugins import ApplyPolicy, Plugin, get_plugin_logger

from dstack_isolation._attestation import VERSION, attest
from dstack_isolation._protocol import build_body, dump, parse, parse_answer, same
from dstack_isolation._transport import Client, UnavailableError, read_headers, read_target

logger = get_plugin_logger(__name__)


class IsolationPolicy(ApplyPolicy):
    """Returns a spec that the policy server accepts; ValueError, which dstack shows to the
    user, for any other."""

    def __init__(self):
        self._client = Client()

    def on_run_apply(self, user, project, spec):
        return self._decide("run", user, project, spec)

    def on_fleet_apply(self, user, project, spec):
        return self._decide("fleet", user, project, spec)

    def on_volume_apply(self, user, project, spec):
        return self._decide("volume", user, project, spec)

    def on_gateway_apply(self, user, project, spec):
        return self._decide("gateway", user, project, spec)

    def _decide(self, kind, user, project, spec):
        try:
            spec, refusal = self._ask(kind, user, project, spec)
        except Exception as error:
            reason = str(error) if isinstance(error, UnavailableError) else failed(error)
            logger.warning("Refused a %s, policy could not be asked: %s", kind, reason)
            # dstack shows the text of a ValueError and nothing else. The chain ends here,
            # so that no log can print an inner exception that quotes the spec.
            refusal = unavailable_message(kind, reason, os.environ)
        if refusal is not None:
            raise ValueError(refusal)
        return spec

    def _ask(self, kind, user, project, spec):
        target, headers = read_target(os.environ), read_headers(os.environ)
        sent = dump(spec)
        answer = self._client.post(
            target,
            f"/apply_policies/on_{kind}_apply",
            build_body(user, project, sent, attest(IsolationPlugin)),
            headers,
        )
        returned, error = parse_answer(answer)
        if error is not None:
            return None, error
        if same(returned, json.loads(sent)):
            return spec, None
        try:
            return parse(type(spec), returned), None
        except Exception:
            raise UnavailableError(
                "the policy server's answer holds a spec that this dstack does not accept"
            ) from None


class IsolationPlugin(Plugin):
    """What the entry point names."""

    def __init__(self):
        # One policy for the life of the process: dstack asks for policies at each decision.
        self._policies = [IsolationPolicy()]
        try:
            target = read_target(os.environ)
            read_headers(os.environ)
            logger.info(
                "Isolation plugin %s asks the policy server at %s:%d",
                VERSION,
                target.host,
                target.port,
            )
        except UnavailableError as error:
            logger.error("Isolation plugin %s will refuse everything: %s", VERSION, error)

    def get_apply_policies(self):
        return self._policies


def failed(error: Exception) -> str:
    return f"the isolation plugin failed ({type(error).__name__})"


def unavailable_message(kind: str, reason: str, environ) -> str:
    """What a user reads when there was no decision."""
    server = environ.get("DSTACK_ISOLATION_SERVER", "")
    command = "kubectl describe dstackservers --all-namespaces"
    if re.fullmatch(r"[a-z0-9.-]{1,253}/[a-z0-9.-]{1,253}", server):
        namespace, name = server.split("/")
        command = f"kubectl -n {namespace} describe dstackserver {name}"
    return (
        f"This {kind} is refused because the isolation policy could not be asked."
        " Your configuration is not the reason: try again in a minute, and if this persists,"
        " tell the administrator of this dstack server."
        f" Administrator: {reason}; check `{command}`."
    )

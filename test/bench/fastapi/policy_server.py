"""A plugin service for dstack with the checks of the benchmark's profile, written as people
write one: FastAPI, pydantic, one function a check. Started by hack/bench with uvicorn."""

import base64
import binascii
import re
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI(openapi_url=None)


class RunRequest(BaseModel):
    user: str
    project: str
    spec: dict[str, Any]


class RunResponse(BaseModel):
    spec: dict[str, Any]
    error: str | None = None


@app.post("/apply_policies/on_run_apply")
async def on_run_apply(request: RunRequest) -> RunResponse:
    configuration = request.spec.get("configuration") or {}
    groups = groups_of(configuration)
    reasons = [
        *privileged(configuration, groups),
        *instance_volumes(configuration, groups),
        *distributed(configuration, groups),
        *ssh_key(request.spec),
    ]
    if not reasons:
        return RunResponse(spec=request.spec)
    error = ". ".join(f"{reason}, in project {request.project!r}" for reason in reasons)
    return RunResponse(spec=request.spec, error=error)


def groups_of(configuration: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups of a task, and those of a service in the shape of older releases."""
    groups = list(configuration.get("groups") or [])
    replicas = configuration.get("replicas")
    if isinstance(replicas, list):
        groups += replicas
    return groups


def privileged(configuration: dict[str, Any], groups: list[dict[str, Any]]) -> list[str]:
    places = [("configuration", configuration)]
    places += [(f"configuration.groups[{i}]", group) for i, group in enumerate(groups)]
    return [
        f"privileged containers are not allowed: set {place}.{key} to false"
        for place, values in places
        for key in ("privileged", "docker")
        if values.get(key)
    ]


def instance_volumes(configuration: dict[str, Any], groups: list[dict[str, Any]]) -> list[str]:
    volumes = list(configuration.get("volumes") or [])
    for group in groups:
        volumes += group.get("volumes") or []
    return [
        f"instance volume {volume['instance_path']!r} is not allowed: remove it"
        for volume in volumes
        if volume.get("instance_path") is not None
    ]


def distributed(configuration: dict[str, Any], groups: list[dict[str, Any]]) -> list[str]:
    if configuration.get("type") != "task":
        return []
    nodes = max(configuration.get("nodes") or 1, sum(group.get("nodes") or 1 for group in groups))
    if nodes <= 1:
        return []
    return [f"tasks of more than one node are not allowed, and this one has {nodes}"]


KEY_TYPES = frozenset(
    {
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    }
)
COMMENT = re.compile(r"[A-Za-z0-9 @._\-+:=,/]*")


def ssh_key(spec: dict[str, Any]) -> list[str]:
    key = spec.get("ssh_key_pub")
    if key is None or is_one_key(key):
        return []
    return ["the public SSH key is not one plain key on one line"]


def is_one_key(key: str) -> bool:
    key = key.removesuffix("\n")
    kind, _, rest = key.partition(" ")
    encoded, _, comment = rest.partition(" ")
    if "\n" in key or "\r" in key or kind not in KEY_TYPES or not COMMENT.fullmatch(comment):
        return False
    try:
        blob = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return False
    name = kind.encode()
    return blob.startswith(len(name).to_bytes(4, "big") + name)

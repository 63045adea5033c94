"""The plugin service that dstack's own example leads to: requests and answers are dstack's
models, which hold all of a specification. The checks are those of policy_server.py."""

from dstack.plugins.builtin.rest_plugin import RunSpecRequest, RunSpecResponse
from fastapi import FastAPI
from policy_server import is_one_key

app = FastAPI(openapi_url=None)


@app.post("/apply_policies/on_run_apply")
async def on_run_apply(request: RunSpecRequest) -> RunSpecResponse:
    configuration = request.spec.configuration
    groups = groups_of(configuration)
    reasons = [
        *privileged([configuration, *groups]),
        *instance_volumes(configuration),
        *distributed(configuration, groups),
        *ssh_key(request.spec.ssh_key_pub),
    ]
    if not reasons:
        return RunSpecResponse(spec=request.spec, error=None)
    error = ". ".join(f"{reason}, in project {request.project!r}" for reason in reasons)
    return RunSpecResponse(spec=request.spec, error=error)


def groups_of(configuration) -> list:
    replicas = getattr(configuration, "replicas", None)
    return [
        *(getattr(configuration, "groups", None) or []),
        *(replicas if isinstance(replicas, list) else []),
    ]


def privileged(places) -> list[str]:
    return [
        f"privileged containers are not allowed: set {key} to false"
        for place in places
        for key in ("privileged", "docker")
        if getattr(place, key, None)
    ]


def instance_volumes(configuration) -> list[str]:
    return [
        f"instance volume {volume.instance_path!r} is not allowed: remove it"
        for volume in configuration.volumes
        if getattr(volume, "instance_path", None) is not None
    ]


def distributed(configuration, groups) -> list[str]:
    if configuration.type != "task":
        return []
    nodes = max(configuration.nodes or 1, sum(group.nodes or 1 for group in groups))
    if nodes <= 1:
        return []
    return [f"tasks of more than one node are not allowed, and this one has {nodes}"]


def ssh_key(key: str | None) -> list[str]:
    if key is None or is_one_key(key):
        return []
    return ["the public SSH key is not one plain key on one line"]

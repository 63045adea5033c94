"""Requests and answers of dstack's REST plugin protocol, plus our own key "process"."""

from __future__ import annotations

import json

from dstack_isolation._transport import UnavailableError


def dump(spec) -> str:
    """A spec as JSON text, pydantic v2 or v1."""
    if hasattr(spec, "model_dump_json"):
        return spec.model_dump_json()
    return spec.json()


def parse(model, value):
    """A spec from parsed JSON, pydantic v2 or v1; raises if the model refuses it."""
    if hasattr(model, "model_validate_json"):
        return model.model_validate_json(json.dumps(value))
    return model.parse_obj(value)


def build_body(user: str, project: str, spec_json: str, process: dict) -> bytes:
    # The spec is put in as text: parsing it to serialise it once more could change it.
    head = f'{{"user":{json.dumps(user)},"project":{json.dumps(project)},"spec":'
    return f'{head}{spec_json},"process":{json.dumps(process)}}}'.encode()


def parse_answer(answer: bytes):
    """(spec, error) of an answer; UnavailableError unless it is exactly of the protocol's shape."""
    malformed = "the policy server's answer is malformed: "
    try:
        data = json.loads(
            answer.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant
        )
    except (ValueError, RecursionError):
        raise UnavailableError(malformed + "it is not JSON") from None
    if not isinstance(data, dict):
        raise UnavailableError(malformed + "it is not an object")
    for key in ("spec", "error"):
        if key not in data:
            raise UnavailableError(malformed + "it has no " + key)
    spec, error = data["spec"], data["error"]
    if not isinstance(spec, dict):
        raise UnavailableError(malformed + "its spec is not an object")
    if error is not None and not isinstance(error, str):
        raise UnavailableError(malformed + "its error is not a text")
    if error is not None and not error.strip():
        raise UnavailableError(malformed + "its error is empty")
    return spec, error


def unique(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def no_constant(_name: str):
    raise ValueError("not JSON")


def same(left, right) -> bool:
    """Equal as JSON. Python's own comparison takes 1, 1.0 and true for the same."""
    return json.dumps(left, sort_keys=True) == json.dumps(right, sort_keys=True)

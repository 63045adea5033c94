"""What the plugin sends, and what it does with an answer of the protocol's shape."""

import json

import pytest
from conftest import SECRET, TOKEN, answer, ask, make, refusal, refuse, send, specs, unavailable

from dstack_isolation._protocol import dump


@pytest.mark.parametrize("name", ["run", "service", "fleet", "volume", "gateway"])
def test_accepted_spec_is_returned_as_it_was(policy, server, name):
    spec = specs()[name]
    kind = "run" if name == "service" else name

    assert ask(policy, spec=spec) is spec

    (request,) = server.requests
    assert request["method"] == "POST"
    assert request["path"] == f"/apply_policies/on_{kind}_apply"
    assert request["headers"]["authorization"] == f"Bearer {TOKEN}"
    assert request["headers"]["content-type"] == "application/json"
    body = json.loads(request["body"])
    assert sorted(body) == ["process", "project", "spec", "user"]
    assert (body["user"], body["project"]) == ("ada", "nlp")
    dumped = spec.model_dump_json() if hasattr(spec, "model_dump_json") else spec.json()
    assert body["spec"] == json.loads(dumped)


def test_files_and_groups_reach_the_policy_server(policy, server):
    ask(policy, "run")
    ask(policy, "service")
    run, service = (json.loads(request["body"])["spec"] for request in server.requests)
    assert run["file_archives"][0]["id"] == "5a3b8d5e-3f0c-4c64-9f3c-6a6f0a1d7b11"
    groups = service["configuration"].get("groups") or service["configuration"]["replicas"]
    assert [group["privileged"] for group in groups] == [True, None]
    assert [group["docker"] for group in groups] == [None, True]


def test_names_are_sent_as_json_strings(policy, server):
    policy.on_run_apply(user='a"\\\nü\ud800', project="p", spec=specs()["run"])
    assert json.loads(server.requests[0]["body"])["user"] == 'a"\\\nü\ud800'


def test_refusal_is_the_policy_servers_message(policy, server):
    message = 'privileged containers are not allowed in project "nlp": set … [isolation rev=1]'
    server.scripts = [refuse(message)] * 4
    for kind in ("run", "fleet", "volume", "gateway"):
        assert refusal(policy, kind) == message


def test_refusal_has_no_cause_that_a_log_could_print(policy, server):
    server.scripts = [answer(b"not json " + SECRET.encode())]
    with pytest.raises(ValueError, match=r"^This run is refused") as caught:
        ask(policy)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_other_spec_replaces_the_sent_one(policy, server):
    def rename(sock, request):
        spec = json.loads(request["body"])["spec"]
        spec["run_name"] = "renamed"
        send(sock, json.dumps({"spec": spec, "error": None}).encode())

    server.scripts = [rename]
    spec = specs()["run"]
    changed = ask(policy, spec=spec)
    assert type(changed) is type(spec)
    assert changed.run_name == "renamed"
    assert changed.configuration == spec.configuration


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec.clear(),
        lambda spec: spec["configuration"].update(type="no such type"),
        lambda spec: spec["configuration"].update(no_such_key=1),
        lambda spec: spec.update(configuration=None),
    ],
)
def test_other_spec_that_dstack_does_not_accept(policy, server, change):
    def script(sock, request):
        spec = json.loads(request["body"])["spec"]
        change(spec)
        send(sock, json.dumps({"spec": spec, "error": None}).encode())

    server.scripts = [script]
    assert refusal(policy) == unavailable(
        "the policy server's answer holds a spec that this dstack does not accept"
    )


SPEC = b'{"configuration":{}}'
MALFORMED = "the policy server's answer is malformed: "


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", MALFORMED + "it is not JSON"),
        (b"<html>", MALFORMED + "it is not JSON"),
        (b'{"spec":' + SPEC + b',"error":null', MALFORMED + "it is not JSON"),
        (b'{"spec":' + SPEC + b',"error":null} x', MALFORMED + "it is not JSON"),
        (b'{"spec":' + SPEC + b',"error":NaN}', MALFORMED + "it is not JSON"),
        (b'{"spec":{"a":1,"a":2},"error":null}', MALFORMED + "it is not JSON"),
        (b'{"spec":{},"error":"no","error":null}', MALFORMED + "it is not JSON"),
        (b'{"spec":{"a":"\xff"},"error":null}', MALFORMED + "it is not JSON"),
        (b"[" * 200_000, MALFORMED + "it is not JSON"),
        (b"null", MALFORMED + "it is not an object"),
        (b"[]", MALFORMED + "it is not an object"),
        (b'"ok"', MALFORMED + "it is not an object"),
        (b"{}", MALFORMED + "it has no spec"),
        (b'{"error":"no"}', MALFORMED + "it has no spec"),
        (b'{"spec":' + SPEC + b"}", MALFORMED + "it has no error"),
        (b'{"spec":null,"error":null}', MALFORMED + "its spec is not an object"),
        (b'{"spec":[],"error":null}', MALFORMED + "its spec is not an object"),
        (b'{"spec":"{}","error":null}', MALFORMED + "its spec is not an object"),
        (b'{"spec":{},"error":5}', MALFORMED + "its error is not a text"),
        (b'{"spec":{},"error":false}', MALFORMED + "its error is not a text"),
        (b'{"spec":{},"error":["no"]}', MALFORMED + "its error is not a text"),
        (b'{"spec":{},"error":""}', MALFORMED + "its error is empty"),
        (b'{"spec":{},"error":" \\n"}', MALFORMED + "its error is empty"),
    ],
)
def test_malformed_answer(policy, server, body, reason):
    server.scripts = [answer(body)]
    assert refusal(policy) == unavailable(reason)


def test_true_one_and_one_point_zero_are_three_values():
    from dstack_isolation._protocol import same

    assert same({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]})
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    for left, right in [(1, True), (1, 1.0), (0, False), ("1", 1), ([], {}), (None, False)]:
        assert not same({"a": left}, {"a": right})


def test_spec_that_cannot_be_serialised(policy, server):
    class Broken:
        def json(self):
            raise TypeError(SECRET)

    with pytest.raises(ValueError, match=r"^This run is refused") as caught:
        policy.on_run_apply(user="ada", project="nlp", spec=Broken())
    assert caught.value.args == (unavailable("the isolation plugin failed (TypeError)"),)
    assert server.requests == []


FLEETS = [{"project": None, "name": "a100"}, {"project": "other", "name": "gpu"}]


def fill(sock, request):
    """What the policy server answers for a run that names no fleet."""
    spec = json.loads(request["body"])["spec"]
    spec["configuration"]["fleets"] = FLEETS
    send(sock, json.dumps({"spec": spec, "error": None}).encode())


@pytest.mark.parametrize("name", ["run", "service"])
@pytest.mark.parametrize("fleets", ["absent", None, []])
def test_fleets_that_are_filled_in_are_those_that_dstack_uses(policy, server, name, fleets):
    server.scripts = [fill]
    spec = specs()[name]
    if fleets != "absent":
        spec.configuration.fleets = fleets
    filled = ask(policy, spec=spec)
    assert type(filled) is type(spec)
    assert [(ref.project, ref.name) for ref in filled.configuration.fleets] == [
        (None, "a100"),
        ("other", "gpu"),
    ]
    # What dstack places a run by.
    assert filled.merged_profile.fleets == filled.configuration.fleets
    before, after = json.loads(dump(spec)), json.loads(dump(filled))
    after["configuration"]["fleets"] = before["configuration"]["fleets"]
    assert after == before


def test_filled_fleets_replace_those_of_the_profile_that_an_empty_list_hid(policy, server):
    server.scripts = [fill]
    spec = make(
        type(specs()["run"]),
        {
            "configuration": {"type": "task", "commands": ["true"], "fleets": []},
            "profile": {"name": "p", "fleets": ["elsewhere"]},
        },
    )
    assert spec.merged_profile.fleets == []
    assert [ref.name for ref in ask(policy, spec=spec).merged_profile.fleets] == ["a100", "gpu"]

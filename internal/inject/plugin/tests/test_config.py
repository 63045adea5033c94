"""The merged copies of config.yml, read as dstack reads them: with PyYAML, whose YAML 1.1
differs from what the Go code that merges reads."""

import pytest
import yaml
from conftest import PLUGIN_DIR
from dstack._internal.server.services.config import ServerConfig

CASES = sorted(path.parent for path in (PLUGIN_DIR.parent / "testdata/merge").glob("*/in.yml"))


def load(path):
    with open(path) as file:  # as dstack opens it: text mode, so line breaks are unified
        return yaml.safe_load(file.read())


def as_dstack(config):
    known = {key: config[key] for key in ("projects", "plugins") if key in config}
    known["projects"] = []  # the cases' projects are about scalars, not about dstack
    if hasattr(ServerConfig, "model_validate"):
        return ServerConfig.model_validate(known)
    return ServerConfig.parse_obj(known)


def test_there_are_cases():
    assert len(CASES) > 30


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_only_our_plugin_is_new(case):
    before, after = load(case / "in.yml"), load(case / "out.yml")
    plugins = before.get("plugins") or []
    if "dstack_isolation" not in plugins:
        plugins = ["dstack_isolation", *plugins]
    assert after == {**before, "plugins": plugins}
    assert as_dstack(after).plugins == plugins

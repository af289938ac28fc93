"""The schema, the reference and the examples are those of the models."""

import json
import re
import subprocess

import pytest
from deploy_tools import tool

from proxy.settings.files import check_files
from proxy.settings.load import load
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError
from proxy.settings.reference import reference
from proxy.settings.schema import keys_at, schema

EXAMPLES = (
    "ext-proc.yaml",
    "gateway.yaml",
    "monitor/1-watch.yaml",
    "monitor/2-fitted.yaml",
    "monitor/3-enforce.yaml",
    "mtls.yaml",
    "protocols.yaml",
    "redis-cluster.yaml",
    "replicas.yaml",
    "sidecar.yaml",
)
ENVIRONMENT = {
    "BARTIZAN_ADMIN_TOKEN": "a" * 32,
    "BARTIZAN_CLIENT_SECRET": "b" * 32,
    "BARTIZAN_REDIS_PASSWORD": "c",
}


def every_key(node=None):
    """All keys of the configuration, at any depth."""
    document = json.loads(schema())
    return {
        key
        for part in (document, *document["$defs"].values())
        for key in part.get("properties", ())
    }


def test_the_stored_schema_is_current(repository):
    stored = (repository / "config" / "schema.json").read_text()
    assert stored == schema(), "run: bartizan config schema > config/schema.json"


def test_the_stored_reference_is_current(repository):
    stored = (repository / "docs" / "configuration.md").read_text()
    assert stored == reference(), "run: bartizan config reference > docs/configuration.md"


def test_the_reference_names_and_explains_every_key():
    page = reference()
    keys = every_key()
    assert len(keys) > 70
    for key in keys:
        rows = re.findall(rf"^\| `{key}` \|.*$", page, re.MULTILINE)
        assert rows, key
        assert all(len(row.split(" | ")[-1].strip(" |")) > 10 for row in rows), rows


def test_there_are_no_other_examples(repository):
    config = repository / "config"
    found = [path.relative_to(config) for path in config.rglob("*.yaml")]
    assert sorted(map(str, (path for path in found if path.parts[0] != "policy_tests"))) == list(
        EXAMPLES
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_valid_and_names_its_schema(repository, name):
    path = repository / "config" / name
    assert load(path, environment=ENVIRONMENT).endpoints
    above = "../" * name.count("/")
    first = f"# yaml-language-server: $schema={above}schema.json\n"
    assert path.read_text().startswith(first)


def test_every_example_is_valid_by_a_tool_that_knows_the_schema_alone(repository):
    command = [tool("check-jsonschema"), "--schemafile", repository / "config" / "schema.json"]
    paths = [repository / "config" / name for name in EXAMPLES]
    done = subprocess.run([*command, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_is_closed_and_described():
    document = json.loads(schema())
    assert document["$schema"].endswith("2020-12/schema")
    for part in (document, *document["$defs"].values()):
        if "properties" in part:
            assert part["additionalProperties"] is False
            assert part["description"]
            assert all("description" in node for node in part["properties"].values())


def test_the_keys_at_a_place():
    assert set(keys_at(())) == set(Settings.model_fields)
    assert "burst_rows" in keys_at(("endpoints", 0, "limits"))
    assert set(keys_at(("endpoints", 3, "contract"))) == {"inputs", "columns", "refresh_seconds"}
    assert {"name", "calls", "server", "model"} <= set(keys_at(("endpoints", 0, "protocol")))
    assert "datatype" in keys_at(("endpoints", 3, "contract", "inputs", 0))
    assert set(keys_at(("endpoints", 0, "rules", "BZ-300"))) == {"mode", "exclude"}
    assert keys_at(("nothing", "such")) == []


def test_files_that_are_missing_are_named(tmp_path):
    (tmp_path / "keys").write_text("a:raw\n")
    (tmp_path / "c.yaml").write_text("""\
audit: {path: none/audit.jsonl}
client: {api_keys: keys}
trusted_keys: [a.pem]
endpoints:
  - {name: d, match: /v2/models/d, upstream: "http://127.0.0.1:1", bundle: d.bundle}
""")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path / "c.yaml", checks=[check_files])
    places = [(problem.file, problem.line) for problem in caught.value.problems]
    configuration = str(tmp_path / "c.yaml")
    assert places == [(configuration, n) for n in (1, 3, 5)] + [(str(tmp_path / "keys"), 1)]
    (tmp_path / "none").mkdir()
    for name in ("a.pem", "d.bundle"):
        (tmp_path / name).touch()
    (tmp_path / "keys").write_text(f"a:{'0' * 64}\n")
    assert load(tmp_path / "c.yaml", checks=[check_files])

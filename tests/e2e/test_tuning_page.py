"""docs/tuning.md: its commands are run as printed, beside a gateway that has served; and whatever
else it names, keys and their values, options, metrics, is there.
"""

import json
import os
import re
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from gateway import METRICS
from recorder import MODEL
from traffic import ask
from walkthrough import follow

from loadtest.payloads import infer_request, infer_target
from proxy.cli import main
from proxy.settings.load import load
from proxy.settings.problems import SettingsError

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "tuning.md").read_text()
BLOCKS = re.compile(r"```(\w+)\n(.*?)```\n", re.S)
CODE = set(re.findall(r"`([^`\n]+)`", BLOCKS.sub("", TEXT)))
YAML = [text for kind, text in BLOCKS.findall(TEXT) if kind == "yaml"]


@pytest.fixture
def served(recorder, gateway, digits_bundle, images):
    """A gateway that refused one request, and what the page's reader has beside it."""
    one = gateway([recorder.endpoint(bundle=str(digits_bundle))], audit={"replay": True})
    shutil.copy(digits_bundle, one.folder / "digits.bundle")
    np.save(one.folder / "more.npy", images)
    odd = np.full((1, 64), 50.0)
    for row in (*images[:20, None], odd):
        request = infer_request(row.astype(np.float32), "localhost", infer_target(MODEL))
        answer = ask(one.address, request)
    assert answer.status == 403
    one.refused = answer.headers["x-request-id"]
    one.process.wait_until(lambda: len(one.records()) == 21)
    (one.client,) = {record["client"] for record in one.records()}
    return one


def test_the_commands_do_what_the_page_says(served):
    page = served.folder / "page.md"
    page.write_text(re.sub(r"```yaml\n.*?```\n", "", TEXT, flags=re.S))
    ran = follow(
        page,
        served.folder,
        environment={
            "PATH": f"{REPOSITORY / '.venv' / 'bin'}:{os.environ['PATH']}",
            "ID": served.refused,
        },
    )
    assert ran == 3
    exposed = served.ask_admin(METRICS).body.decode()
    metrics = {name for code in CODE if (name := code.partition("{")[0])[:9] == "bartizan_"}
    assert len(metrics) == 10
    absent = {name for name in metrics if f"\n{name}" not in exposed}
    assert absent == {"bartizan_second_opinions_total"}  # of a bundle that has them
    admin = ["--config", str(served.configuration)]
    for words, said in (
        (["inspect", str(served.folder / "digits.bundle")], "guarantee"),
        (["clients", "show", served.client, *admin], served.client),
        (["clients", "forgive", served.client, *admin], ""),
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0 and said in done.output, done.output


def test_every_command_and_option_is_there():
    commands, options = set(), set()

    def walk(group, name):
        context = click.Context(group)
        for child in group.list_commands(context):
            command = group.get_command(context, child)
            commands.add(f"{name} {child}".strip())
            options.update(word for given in command.params for word in given.opts)
            if isinstance(command, click.Group):
                walk(command, f"{name} {child}")

    walk(main, "")
    named = {code.removeprefix("bartizan ") for code in CODE if code.startswith("bartizan ")}
    assert len(named) == 11
    for words in named:
        assert any(f"{words} ".startswith(f"{command} ") for command in commands), words
    wanted = {word for code in CODE for word in re.findall(r"(?<!\S)--[\w-]+", code)}
    assert len(wanted) == 8
    assert wanted - options == set()


def test_every_key_is_a_key():
    schema = json.loads((REPOSITORY / "config" / "schema.json").read_text())
    keys = set()

    def walk(part):
        if isinstance(part, dict):
            keys.update(part.get("properties", {}))
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(schema)
    words = {code for code in CODE if re.fullmatch(r"[a-z]+(_[a-z]+)+", code)}
    words -= {code for code in words if code.startswith("bartizan_")}
    assert len(words) == 7
    assert words - keys == set()


ENDPOINT = {"name": "digits", "match": "/v2/models/digits", "upstream": "http://127.0.0.1:1"}
ENDPOINT["bundle"] = "digits.bundle"
PLACES = {
    "endpoint": lambda part: {"endpoints": [ENDPOINT | part]},
    "second_opinion": lambda part: {
        "endpoints": [ENDPOINT | {"second_opinion": {"when": "suspicious"} | part}]
    },
    "client": lambda part: {"endpoints": [ENDPOINT], "client": part},
    "top": lambda part: {"endpoints": [ENDPOINT], **part},
}


def test_every_fragment_of_a_configuration_loads(tmp_path):
    """Each somewhere: a page says in words where."""
    fragments = [*YAML, *(code for code in CODE if re.match(r"[a-z_]+: \S", code))]
    assert len(fragments) == 15
    for text in fragments:
        part = yaml.safe_load(text)
        for key, value in {"audit": {"path": "a.jsonl"}}.items():
            if key in part:
                part[key] = value | part[key]
        faults = []
        for place, nested in PLACES.items():
            path = tmp_path / "bartizan.yaml"
            path.write_text(yaml.safe_dump({"listen": "127.0.0.1:0", **nested(part)}))
            try:
                load(path)
            except SettingsError as error:
                faults.append(f"{place}: {error}")
        assert len(faults) == len(PLACES) - 1, (text, faults)

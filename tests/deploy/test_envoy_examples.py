"""What deploy/envoy holds is what the real Envoy and the real settings take."""

import json

import pytest
import yaml

from proxy.settings.load import load_for_envoy

SERVED = ["envoy.yaml", "envoy-monitor.yaml"]


def leaves(value, path=()):
    """Every scalar of a document with its place."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*path, number))
    else:
        yield path, value


@pytest.mark.parametrize("name", SERVED)
def test_envoy_takes_it(name, deploy, run_tool):
    done = run_tool("envoy", "--mode", "validate", "-c", deploy / "envoy" / name)
    told = done.stdout + done.stderr
    assert "OK" in told
    assert "deprecated" not in told.lower()
    assert "unknown field" not in told.lower()


def test_envoy_would_say_what_it_does_not_know(deploy, run_tool, tmp_path):
    """So that the test before this one means something."""
    settings = yaml.safe_load((deploy / "envoy" / "envoy.yaml").read_text())
    listener = settings["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["failure_mode_alow"] = False
    wrong = tmp_path / "envoy.yaml"
    wrong.write_text(json.dumps(settings))
    done = run_tool("envoy", "--mode", "validate", "-c", wrong, check=False)
    assert done.returncode
    assert "failure_mode_alow" in done.stdout + done.stderr


def test_the_monitoring_one_differs_in_two_settings(deploy):
    one, other = (
        dict(leaves(yaml.safe_load((deploy / "envoy" / name).read_text()))) for name in SERVED
    )
    differing = {key[-1]: (one.get(key), other.get(key)) for key in one | other
                 if one.get(key) != other.get(key)}  # fmt: skip
    assert differing == {"failure_mode_allow": (False, True), "message_timeout": ("10s", "1s")}


def test_both_sides_agree(deploy):
    """Sizes, times and ports of Envoy's configuration and of the processor's fit together."""
    settings = load_for_envoy(deploy / "envoy" / "bartizan.yaml")
    envoy = yaml.safe_load((deploy / "envoy" / "envoy.yaml").read_text())["static_resources"]
    [listener], [model, processor] = envoy["listeners"], envoy["clusters"]
    [endpoint] = settings.endpoints
    held = listener["per_connection_buffer_limit_bytes"]
    assert held == model["per_connection_buffer_limit_bytes"]
    assert held > max(endpoint.limits.body_bytes, endpoint.answer.body_bytes)
    [where] = processor["load_assignment"]["endpoints"][0]["lb_endpoints"]
    place = where["endpoint"]["address"]["socket_address"]
    assert settings.ext_proc is not None
    assert place == {"address": settings.ext_proc.listen.host,
                     "port_value": settings.ext_proc.listen.port}  # fmt: skip
    health = where["endpoint"]["health_check_config"]["port_value"]
    assert health == settings.admin.listen.port
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    [route] = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert float(route["route"]["timeout"].removesuffix("s")) < settings.ext_proc.answer_seconds
    [limits] = processor["circuit_breakers"]["thresholds"]
    assert limits["max_requests"] == limits["max_retries"] == settings.ext_proc.exchanges

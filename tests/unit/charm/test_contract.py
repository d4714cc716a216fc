# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What Juju, the deployment tool and the neighbours rely on, line by line."""

import pathlib
import re
from typing import Any

import pytest
import yaml
from charms.epa_orchestrator.v0 import epa_client

import epa_snap
import interfaces
import models
import tenants

ROOT = pathlib.Path(__file__).parents[3]
CHARM: dict[str, Any] = yaml.safe_load((ROOT / "charmcraft.yaml").read_text())
SNAP: dict[str, Any] = yaml.safe_load((ROOT / "snap/snapcraft.yaml").read_text())
TYPES = {"string": str, "int": int, "boolean": bool}
PARAMETERS = {
    "list-allocations": models.ListAllocationsParams,
    "history": models.HistoryParams,
    "allocate-cores": models.AllocateCoresParams,
    "release": models.ReleaseParams,
}


def test_name_base_and_kind():
    assert CHARM["name"] == "epa-orchestrator"
    assert CHARM["base"] == "ubuntu@24.04"
    assert set(CHARM["platforms"]) == {"amd64", "arm64"}
    assert CHARM["subordinate"] is True
    assert CHARM["assumes"] == ["juju >= 3.6"]


def test_endpoints():
    ends = CHARM["requires"]
    assert set(ends) == {"sunbeam-machine", "tracing"}
    principal, tracing = ends["sunbeam-machine"], ends["tracing"]
    assert principal["interface"] == "sunbeam-machine"
    assert principal["scope"] == "container"
    assert principal["limit"] == 1
    assert tracing["interface"] == "tracing"
    assert tracing["limit"] == 1
    assert tracing["optional"] is True
    assert "provides" not in CHARM
    assert "peers" not in CHARM


def test_the_resource_is_an_optional_file():
    assert CHARM["resources"]["epa-orchestrator-snap"]["type"] == "file"


def test_options_are_those_of_the_model_with_its_types_and_defaults():
    options = CHARM["config"]["options"]
    fields = models.CharmConfig.model_fields
    assert {name.replace("-", "_") for name in options} == set(fields)
    defaults = models.CharmConfig()
    for name, option in options.items():
        assert option["description"]
        assert getattr(defaults, name.replace("-", "_")) == option.get("default"), name
        assert str(TYPES[option["type"]].__name__) in str(
            fields[name.replace("-", "_")].annotation
        )


def test_the_deployment_tools_option_is_a_string():
    option = CHARM["config"]["options"]["snap-channel"]
    assert option["type"] == "string"
    assert option["default"] == ""


def test_actions_are_exactly_these():
    assert list(CHARM["actions"]) == [
        "list-allocations",
        "list-hugepages",
        "history",
        "show-topology",
        "show-ovs-affinity",
        "allocate-cores",
        "release",
        "health-check",
        "refresh-snap",
        "restart-daemon",
    ]


@pytest.mark.parametrize("name", CHARM["actions"])
def test_an_action_is_described_closed_and_agrees_with_its_model(name: str):
    action = CHARM["actions"][name]
    assert action["description"]
    assert action["additionalProperties"] is False
    params: dict[str, Any] = action.get("params", {})
    model = PARAMETERS.get(name)
    if model is None:
        assert not params
        return
    fields = model.model_fields
    assert [key.replace("-", "_") for key in params] == list(fields)
    required = [key for key, field in fields.items() if field.is_required()]
    assert [key.replace("-", "_") for key in action.get("required", [])] == required
    schema = model.model_json_schema()["properties"]
    for key, param in params.items():
        assert param["description"]
        mine = schema[key.replace("-", "_")]
        plain = next((p for p in mine.get("anyOf", ()) if p.get("type") != "null"), mine)
        for rule in ("type", "minimum", "maximum", "minLength", "maxLength", "enum"):
            assert plain.get(rule) == param.get(rule), (key, rule)
        if "default" in param:
            assert mine["default"] == param["default"]


def test_refresh_snap_takes_no_parameters():
    assert "params" not in CHARM["actions"]["refresh-snap"]


def test_the_snap_is_the_one_that_the_charm_looks_for():
    assert SNAP["name"] == epa_snap.NAME
    assert epa_snap.SLOT in SNAP["slots"]
    assert epa_snap.SERVICE in SNAP["apps"]
    assert epa_snap.PEOPLES_COMMAND in SNAP["apps"]
    assert SNAP["slots"]["epa-info"]["interface"] == "content"


def test_every_plug_of_the_daemon_is_connected_by_the_charm():
    assert set(interfaces.DAEMON_PLUGS) == set(SNAP["apps"]["daemon"]["plugs"])


def test_the_client_that_the_neighbours_know_is_the_default():
    assert models.CharmConfig().plugs == (
        models.SnapPlug(snap="openstack-hypervisor", plug="epa-info"),
    )
    assert interfaces.TRIGGERS == {"openstack-hypervisor": "configure-trigger"}


def test_the_socket_is_where_clients_look_for_it():
    assert epa_client.DEFAULT_SOCKET == "/var/snap/epa-orchestrator/current/data/epa.sock"


def test_reference_files_are_where_other_charms_look_for_them():
    assert pathlib.Path("/opt/singleton_snaps") == tenants.FOLDER


def test_the_charm_keeps_nothing_and_defers_nothing():
    for module in (ROOT / "src").glob("*.py"):
        code = module.read_text()
        assert "StoredState" not in code
        assert ".defer(" not in code
        assert "open_port" not in code
        assert "epa_daemon" not in code, "the packed charm has src and lib alone"


def test_the_library_has_what_a_charm_library_needs():
    source = pathlib.Path(epa_client.__file__).read_text()
    assert epa_client.LIBAPI == 0
    assert epa_client.LIBPATCH >= 1
    assert re.fullmatch(r"[0-9a-f]{32}", epa_client.LIBID)
    assert epa_client.__doc__ is not None
    assert "EpaClient()" in epa_client.__doc__
    imports = re.findall(r"^(?:import|from) (\S+)", source, re.MULTILINE)
    assert set(imports) <= {"contextlib", "json", "socket", "typing"}

"""The CRD generator: what it turns models into, what it refuses, and that the committed files are its output."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, Field

from ratchet_api import crdgen
from ratchet_api.base import ApiModel, StatusModel
from ratchet_api.conditions import Condition, Reason
from ratchet_api.crdgen_chart import ValuesError, chart_readme
from ratchet_api.kinds import KINDS
from ratchet_api.rules import MUTABLE_ONCE_STARTED, ROOT_RULES, RULES, immutable_once_started
from ratchet_api.schema import SchemaError, structural_schema
from ratchet_api.training_run import RLTrainingRunSpec

ROOT = Path(__file__).resolve().parents[2]
Text = Annotated[str, Field(max_length=8)]


def schema_of(annotation: Any, *, base: type[BaseModel] = ApiModel) -> dict[str, Any]:
    """Schema of the one field `some` of a model made for the occasion."""
    model = type("Model", (base,), {"__annotations__": {"some": annotation}, "__module__": __name__})
    made: dict[str, Any] = structural_schema(model)["properties"]["some"]
    return made


def described(annotation: Any, **field: Any) -> Any:
    return Annotated[annotation, Field(description="some: thing.", **field)]


class Inner(ApiModel):
    """A part."""

    low: Annotated[int, Field(default=1, ge=0, le=9, description="low: bound.")]
    high: Annotated[int, Field(default=5, ge=0, le=9, description="high: bound.")]


@pytest.mark.parametrize(
    ("annotation", "want"),
    [
        pytest.param(
            described(float, gt=0, lt=1),
            {"type": "number", "minimum": 0, "exclusiveMinimum": True, "maximum": 1, "exclusiveMaximum": True},
            id="exclusive bounds as OpenAPI 3.0 has them",
        ),
        pytest.param(
            described(float, ge=0, lt=0.5),
            {
                "type": "number",
                "minimum": 0,
                "maximum": 0.5,
                "x-kubernetes-validations": [{"rule": "self < 0.5", "message": "should be less than 0.5"}],
            },
            id="a bound that the server would round, as a rule",
        ),
        pytest.param(
            described(int, ge=1, le=7),
            {"type": "integer", "format": "int64", "minimum": 1, "maximum": 7},
            id="integers",
        ),
        pytest.param(
            described(Literal["a"]), {"type": "string", "enum": ["a"]}, id="one value is an enum, never a const"
        ),
        pytest.param(
            described(Text | None, default=None), {"type": "string", "maxLength": 8}, id="optional is absent, not null"
        ),
        pytest.param(
            described(tuple[Text, ...], max_length=2, default=()),
            {
                "type": "array",
                "default": [],
                "maxItems": 2,
                "x-kubernetes-list-type": "atomic",
                "items": {"type": "string", "maxLength": 8},
            },
            id="lists",
        ),
        pytest.param(
            described(dict[Text, Text], max_length=3, default_factory=dict),
            {
                "type": "object",
                "default": {},
                "maxProperties": 3,
                "additionalProperties": {"type": "string", "maxLength": 8},
            },
            id="maps",
        ),
        pytest.param(described(datetime), {"type": "string", "format": "date-time"}, id="times"),
        pytest.param(
            described(bool, default=False), {"type": "boolean", "default": False}, id="a default that is false"
        ),
    ],
)
def test_a_field_becomes(annotation: Any, want: Mapping[str, Any]) -> None:
    assert schema_of(annotation) == {"description": "some: thing.", **want}


def test_a_models_default_holds_only_what_its_own_defaults_do_not() -> None:
    assert schema_of(described(Inner, default=Inner(high=7)))["default"] == {"high": 7}


def test_a_default_list_of_models_is_written_out() -> None:
    assert schema_of(described(tuple[Inner, ...], default=(Inner(high=7),), max_length=2))["default"] == [{"high": 7}]


def test_a_field_says_its_own_description_and_not_its_models() -> None:
    assert schema_of(described(Inner))["description"] == "some: thing."


def test_a_status_carries_no_defaults() -> None:
    """Fields that the server adds would make the operator's comparison see a change for ever."""
    assert "default" not in schema_of(described(bool, default=False), base=StatusModel)


def test_conditions_are_a_map_by_type() -> None:
    made = schema_of(described(tuple[Condition, ...], max_length=4, default=()), base=StatusModel)
    assert (made["x-kubernetes-list-type"], made["x-kubernetes-list-map-keys"]) == ("map", ["type"])


@pytest.mark.parametrize(
    ("annotation", "want"),
    [
        pytest.param(described(int), "unbounded integer; add minimum and maximum", id="integer"),
        pytest.param(described(float, ge=0), "unbounded number; add maximum", id="half-bounded number"),
        pytest.param(described(str), "unbounded string; add maxLength", id="string"),
        pytest.param(described(tuple[Text, ...]), "unbounded array; add maxItems", id="list"),
        pytest.param(described(tuple[str, ...], max_length=1), r"some\[\]: unbounded string", id="item of a list"),
        pytest.param(described(dict[Text, Text]), "unbounded object; add maxProperties", id="map"),
        pytest.param(described(dict[str, Text], max_length=1), "keys with max_length", id="keys of a map"),
        pytest.param(described(Text | int), "no single type", id="union"),
        pytest.param(described(dict[str, Any] | None), "keys with max_length", id="anything"),
        pytest.param(Text, "description that starts with 'some: '", id="field without a description"),
        pytest.param(
            Annotated[bool, Field(description="whether.")],
            "starts with 'some: '",
            id="description that hides its field",
        ),
    ],
)
def test_the_generator_refuses_and_says_what_to_add(annotation: Any, want: str) -> None:
    with pytest.raises(SchemaError, match=want):
        schema_of(annotation)


def test_an_unbounded_number_is_possible_only_on_purpose() -> None:
    loss = described(float, json_schema_extra={"x-unbounded": True})
    assert schema_of(loss) == {"description": "some: thing.", "type": "number"}


# the schemas we ship


def nodes(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from nodes(field, f"{path}.{name}".lstrip("."))
    for part in ("items", "additionalProperties"):
        if part in schema:
            yield from nodes(schema[part], f"{path}[]")


SHIPPED = {
    name: yaml.safe_load((ROOT / f"crds/ratchet.dev_{kind.plural}.yaml").read_text()) for name, kind in KINDS.items()
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_construct_stands_in_a_crd_that_a_structural_schema_forbids(kind: str) -> None:
    for path, node in nodes(SHIPPED[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]):
        for word in ("$ref", "$defs", "anyOf", "oneOf", "allOf", "const", "title", "nullable", "uniqueItems"):
            assert word not in node, f"{kind}.{path} holds {word}"
        assert isinstance(node.get("exclusiveMinimum", True), bool), f"{kind}.{path}"
        assert node.get("additionalProperties") is not False, f"{kind}.{path}"


@pytest.mark.parametrize("kind", KINDS)
def test_no_field_of_a_spec_can_name_another_namespace_or_a_pods_inner_life(kind: str) -> None:
    """P21, P20: what is not in the schema cannot be asked for."""
    spec = SHIPPED[kind]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    banned = {"namespace", "serviceaccountname", "podspec", "securitycontext", "volumes", "hostpath", "command", "env"}
    let_in = "serving.httpRoute.parentRefs[].namespace"  # of a Gateway, whose listener says which namespaces it lets in
    names = {path.split(".")[-1].removesuffix("[]").lower() for path, _ in nodes(spec) if path != let_in}
    assert not names & banned
    references = [node for path, node in nodes(spec) if path.endswith(("Ref.name", "publishTo.name"))]
    assert all("/" not in node["pattern"].replace("(/", "") for node in references)
    assert references or kind == "FeedbackDataset"


def test_every_rule_stands_in_a_shipped_crd() -> None:
    shipped = {
        rule["rule"]
        for crd in SHIPPED.values()
        for _, node in nodes(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        for rule in node.get("x-kubernetes-validations", ())
    }
    declared = {rule.cel for rules in (*RULES.values(), *ROOT_RULES.values()) for rule in rules}
    assert declared <= shipped


def test_every_field_of_a_runs_spec_is_immutable_or_named_as_mutable() -> None:
    fields = {field.alias for field in RLTrainingRunSpec.model_fields.values()}
    (rule,) = ROOT_RULES["RLTrainingRun"]
    compared = set(re.findall(r"== oldSelf\.spec\.(\w+)", rule.cel))
    named = set(re.findall(r"'spec\.(\w+) '", rule.message_expression or ""))
    assert compared == named == fields - set(MUTABLE_ONCE_STARTED)


def test_a_mutable_field_that_does_not_exist_is_a_mistake() -> None:
    with pytest.raises(ValueError, match=r"has no field \['suspended'\]"):
        immutable_once_started(RLTrainingRunSpec, ("suspended",))


# files


def test_the_committed_files_are_what_the_models_say() -> None:
    assert crdgen.stale(crdgen.outputs(ROOT), ROOT) == []


def test_the_charts_crds_are_byte_identical() -> None:
    names = sorted(path.name for path in (ROOT / "crds").glob("*.yaml"))
    assert len(names) == len(KINDS)
    for name in names:
        assert (ROOT / "crds" / name).read_bytes() == (ROOT / "charts/ratchet/files/crds" / name).read_bytes()


def test_check_tells_what_is_missing_what_differs_and_what_nobody_generates(tmp_path: Path) -> None:
    files = {"crds/a.yaml": "a", "crds/b.yaml": "b"}
    crdgen.write(files, tmp_path)
    assert crdgen.stale(files, tmp_path) == []
    (tmp_path / "crds/a.yaml").write_text("edited")
    (tmp_path / "crds/b.yaml").unlink()
    (tmp_path / "crds/old.yaml").write_text("of a kind that was removed")
    assert crdgen.stale(files, tmp_path) == [
        "crds/a.yaml: differs from its source; run `make generate`",
        "crds/b.yaml: missing; run `make generate`",
        "crds/old.yaml: no model generates it; delete it",
    ]
    assert crdgen.run(files, tmp_path, check=True) == 1
    assert crdgen.write(files, tmp_path) == ["crds/a.yaml", "crds/b.yaml"]
    assert crdgen.write(files, tmp_path) == [], "a second run writes nothing"


def test_the_reference_names_every_field_and_every_reason() -> None:
    api = (ROOT / "docs/reference/api.md").read_text()
    for crd in SHIPPED.values():
        properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        for part in ("spec", "status"):
            for path, node in nodes(properties[part], part):
                if path != part and "description" in node and not path.endswith("[]"):
                    assert f"`{path}`" in api
    reasons = (ROOT / "docs/reference/reasons.md").read_text()
    assert all(f"| `{reason}` |" in reasons for reason in Reason)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        pytest.param("# What it is.\na: 1\n", "| `a` | `1` | What it is. |", id="a scalar"),
        pytest.param("g:\n  # Two\n  # lines.\n  a: {}\n", "| `g.a` | `{}` | Two lines. |", id="a group"),
        pytest.param("# All.\na:\n  x: [1, b]\n", "| `a` | `{x: [1, b]}` | All. |", id="a filled map shown whole"),
    ],
)
def test_a_value_is_shown_with_its_path_default_and_comment(values: str, want: str) -> None:
    chart = "name: c\ndescription: d\nversion: 1.0.0\nkubeVersion: '>=1.31.0-0'\n"
    assert want in chart_readme(values, chart)


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(ValuesError, match=r"g\.a has no comment"):
        chart_readme("g:\n  a: 1\n", "name: c\ndescription: d\nversion: 1.0.0\nkubeVersion: '>=1'\n")

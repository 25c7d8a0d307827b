"""Turns API models into structural OpenAPI schemas, as a CustomResourceDefinition wants them.

Decides how pydantic's JSON schema is rewritten: references inlined, `null` alternatives dropped (an absent field is
the null), single-value enums for constants, exclusive bounds in OpenAPI 3.0's form, defaults cut to what differs
from the nested defaults, CEL rules attached. Refuses what an API server must never store: unbounded numbers,
strings, lists and maps, and fields without a description that starts with their name. Never writes a file and never
invents a bound. Called by `crdgen` and by tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from ratchet_api.base import ApiModel
from ratchet_api.conditions import Condition
from ratchet_api.placement import LABEL_KEY_PATTERN
from ratchet_api.rules import RULES

Schema = dict[str, Any]

UNBOUNDED = "x-unbounded"
"""In a field's json_schema_extra: this number has no bound by nature (a loss). Never reaches the CRD."""

_DEFINITION = "#/$defs/"
_MODEL = "x-model"  # marks an object that is a model until it is inlined, and goes no further


class SchemaError(ValueError):
    """A model cannot become a CRD schema; the text names the field and what to add to it."""


class _StructuralSchema(GenerateJsonSchema):
    """pydantic's generator with the constructs replaced that a structural schema cannot express."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Titles repeat the field's name; Kubernetes has no use for them."""
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """An optional field is one that may be absent; the API server drops explicit nulls."""
        return self.generate_inner(schema["schema"])

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        """Always an enum, never `const`: a second value can be added later without changing the form."""
        return {"type": "string", "enum": [str(value) for value in schema["expected"]]}

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        """Integers are 64 bits wide."""
        return {"type": "integer", "format": "int64"} | _bounds(super().int_schema(schema))

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """Numbers, with exclusive bounds in OpenAPI 3.0's form."""
        made: Schema = {"type": "number"} | _bounds(super().float_schema(schema))
        low = made.get("minimum", 0)
        if low != int(low):
            # the server rounds a bound down before it compares it with a whole number: 0 would pass minimum 0.1
            rule = {"rule": f"self >= {low}", "message": f"should be greater than or equal to {low}"}
            made["x-kubernetes-validations"] = [rule]
        high = made.get("maximum", 0)
        if high != int(high) and made.pop("exclusiveMaximum", False):
            # likewise: 0 would be refused below 0.5, because the server asks whether it is below 0
            rule = {"rule": f"self < {high}", "message": f"should be less than {high}"}
            made.setdefault("x-kubernetes-validations", []).append(rule)
        return made

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """Maps with one value type; the pattern of their keys becomes a CEL rule."""
        keys = self.generate_inner(schema["keys_schema"])
        made: Schema = {
            "type": "object",
            "additionalProperties": self.generate_inner(schema["values_schema"]),
        }
        if "max_length" in schema:
            made["maxProperties"] = schema["max_length"]
        if "maxLength" not in keys:
            raise SchemaError("a map needs keys with max_length")
        if "pattern" in keys:
            made["x-kubernetes-validations"] = [_key_rule(keys)]
        return made

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Defaults as the API server fills them in: a nested model's own defaults are left to the model."""
        made = self.generate_inner(schema["schema"])
        if schema.get("default_factory") is dict:
            return made | {"default": {}}
        default = schema.get("default")
        if default is None:
            return made
        if isinstance(default, tuple):
            return made | {"default": [_default_on_the_wire(each) for each in default]}
        return made | {"default": _default_on_the_wire(default)}

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """An object with its CEL rules; closed by the server's strict field validation, not by the schema."""
        made = super().model_schema(schema)
        made.pop("title", None)
        made.pop("additionalProperties", None)
        made[_MODEL] = schema["cls"].__name__
        if rules := RULES.get(schema["cls"]):
            made["x-kubernetes-validations"] = [rule.to_wire() for rule in rules]
        return made

    def generate(self, schema: Any, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        """Generate, then replace every reference by what it points to."""
        made = super().generate(schema, mode)
        definitions = made.pop("$defs", {})
        inlined: Schema = _inline(made, definitions, ())
        return inlined


def _default_on_the_wire(default: Any) -> Any:
    if not isinstance(default, BaseModel):
        return default
    # the server judges a default by the model's rules before it fills in the nested defaults
    whole = type(default) in RULES
    return default.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=not whole)


def _bounds(made: JsonSchemaValue) -> Schema:
    bounds: Schema = {}
    for plain, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if plain in made:
            bounds[plain] = made[plain]
        elif exclusive in made:
            bounds |= {plain: made[exclusive], exclusive: True}
    return bounds


def _key_rule(keys: Mapping[str, Any]) -> Schema:
    pattern, longest = keys["pattern"], keys["maxLength"]
    shape = "be a label's key, as in example.com/name" if pattern == LABEL_KEY_PATTERN else f"match {pattern}"
    quoted = pattern.replace("\\", "\\\\").replace("'", "\\'")
    return {
        "rule": f"self.all(key, size(key) <= {longest} && key.matches('{quoted}'))",
        "message": f"each key must have at most {longest} characters and {shape}",
    }


def _inline(node: Any, definitions: Mapping[str, Schema], inside: tuple[str, ...]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions, inside) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if reference is None:
        return {key: _inline(value, definitions, inside) for key, value in node.items()}
    name = reference.removeprefix(_DEFINITION)
    if name in inside:
        raise SchemaError(f"{name} contains itself; a structural schema cannot recurse")
    target = _inline(definitions[name], definitions, (*inside, name))
    # what the field says (description, default) goes before what its model says
    return target | {key: value for key, value in node.items() if key != "$ref"}


def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the model's structural schema with every reference inlined.

    Args:
        model: a spec or status model. Defaults are emitted for specs only: status has one writer, which compares
            what it wants with what it reads, and fields that the server adds would make the two differ for ever.

    Raises:
        SchemaError: names the first field that is unbounded or undescribed.
    """
    made = model.model_json_schema(by_alias=True, schema_generator=_StructuralSchema, mode="validation")
    return _finished(made, model.__name__, defaults=issubclass(model, ApiModel) and _closed(model))


def _closed(model: type[BaseModel]) -> bool:
    return model.model_config.get("extra") == "forbid"


def _finished(node: Schema, path: str, *, defaults: bool) -> Schema:
    """Return the node in a fixed key order, checked, without our own markers."""
    _refuse_unbounded(node, path)
    made = {key: value for key, value in node.items() if key not in (_MODEL, UNBOUNDED, "default", "uniqueItems")}
    if defaults and "default" in node:
        made["default"] = node["default"]
    if "properties" in node:
        made["properties"] = {}
        for name, field in node["properties"].items():
            _refuse_undescribed(field, name, path)
            made["properties"][name] = _finished(field, f"{path}.{name}", defaults=defaults)
    if "items" in node:
        made["items"] = _finished(node["items"], f"{path}[]", defaults=defaults)
        made |= _list_type(node)
    if "additionalProperties" in node:
        made["additionalProperties"] = _finished(node["additionalProperties"], f"{path}{{}}", defaults=defaults)
    rank = {key: place for place, key in enumerate(_KEY_ORDER)}
    if unknown := set(made) - set(rank):
        raise SchemaError(f"{path}: {sorted(unknown)} cannot stand in a structural schema")
    return dict(sorted(made.items(), key=lambda item: rank[item[0]]))


_KEY_ORDER = (
    "description", "type", "format", "enum", "default", "pattern", "minLength", "maxLength",
    "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum", "minItems", "maxItems", "maxProperties",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "required", "properties", "additionalProperties", "items",
    "x-kubernetes-validations",
)  # fmt: skip


def _list_type(node: Mapping[str, Any]) -> Schema:
    """Conditions are a map by type, as everywhere in Kubernetes; unique lists are sets, so the server says what repeats."""
    if node["items"].get(_MODEL) == Condition.__name__:
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    kind: Literal["set", "atomic"] = "set" if node.get("uniqueItems") else "atomic"
    return {"x-kubernetes-list-type": kind}


def _refuse_undescribed(field: Mapping[str, Any], name: str, path: str) -> None:
    if not str(field.get("description", "")).startswith(f"{name}: "):
        raise SchemaError(f"{path}.{name}: give the field a description that starts with {name + ': '!r}")


def _refuse_unbounded(node: Mapping[str, Any], path: str) -> None:
    kind = node.get("type")
    if kind is None:
        raise SchemaError(f"{path}: has no single type; a structural schema needs one")
    missing: list[str] = []
    if kind in ("integer", "number") and not node.get(UNBOUNDED):
        missing = [bound for bound in ("minimum", "maximum") if bound not in node]
    elif kind == "string" and "enum" not in node and node.get("format") != "date-time":
        missing = [] if "maxLength" in node else ["maxLength"]
    elif kind == "array":
        missing = [] if "maxItems" in node else ["maxItems"]
    elif kind == "object" and "additionalProperties" in node:
        missing = [] if "maxProperties" in node else ["maxProperties"]
    if missing:
        raise SchemaError(f"{path}: unbounded {kind}; add {' and '.join(missing)}")

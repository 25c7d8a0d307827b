"""Renders the chart's README from the comments in its values.yaml.

Decides how a value is shown: its path, its default as it stands there, the comment above it. Refuses a value without a
comment. Pure: takes and returns text. Called by `crdgen`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import yaml

_GENERATED = "<!-- Generated from values.yaml by `make generate`. Do not edit. -->\n"


class ValuesError(ValueError):
    """values.yaml cannot be documented; the text names the value and what to add."""


def chart_readme(values: str, chart: str) -> str:
    """Return charts/ratchet/README.md.

    Args:
        values: text of values.yaml.
        chart: text of Chart.yaml.

    Raises:
        ValuesError: a value has no comment above it.
    """
    meta = yaml.safe_load(chart)
    rows = "\n".join(_rows(yaml.compose(values, Loader=yaml.SafeLoader), values.splitlines(), ""))
    return f"""# Chart {meta["name"]}

{_GENERATED}
{meta["description"]}. Version {meta["version"]}, Kubernetes {meta["kubeVersion"].removesuffix("-0")}.

```
helm install ratchet charts/ratchet --namespace ratchet --create-namespace --set store.uri=s3://my-bucket
```

[Installing](../../docs/how-to/install.md) tells about the store's Secret, namespaces, monitoring, upgrades and removal.

## Values
`values.schema.json` is closed: an unknown or misspelt value fails the installation.

| value | default | meaning |
| --- | --- | --- |
{rows}

## What the operator may do
Each rule stands with its reason in [`templates/_rules.tpl`](templates/_rules.tpl); a test compares the rules with the
calls that the operator's code makes. It may not read Secrets, write Pods or touch anything outside the namespaces it watches,
its own heartbeat Lease aside.
"""


def _rows(node: yaml.Node | None, lines: Sequence[str], path: str) -> Iterator[str]:
    if not isinstance(node, yaml.MappingNode):
        raise ValuesError(f"{path or 'values.yaml'} must be a mapping")
    for key, value in node.value:
        here = f"{path}.{key.value}".lstrip(".")
        comment = _comment_above(lines, key.start_mark.line)
        # a filled map without a comment of its own is a group; with one it is a single value, as resources are
        if isinstance(value, yaml.MappingNode) and value.value and not comment:
            yield from _rows(value, lines, here)
            continue
        if not comment:
            raise ValuesError(f"values.yaml: {here} has no comment; say above it what it does and what empty means")
        yield f"| `{here}` | `{_default(value, here)}` | {comment.replace('|', chr(92) + '|')} |"


def _comment_above(lines: Sequence[str], line: int) -> str:
    found: list[str] = []
    for text in reversed(lines[:line]):
        if not text.strip().startswith("#"):
            break
        found.insert(0, text.strip().lstrip("#").strip())
    return " ".join(found)


def _default(node: yaml.Node, path: str) -> str:
    """The default on one line, in YAML's flow style."""
    if isinstance(node, yaml.ScalarNode):
        return node.value or '""'
    text = yaml.serialize(node, Dumper=_Flow, width=10_000)
    if not isinstance(text, str):
        raise ValuesError(f"values.yaml: {path} cannot be shown")
    return text.strip()


class _Flow(yaml.SafeDumper):
    def serialize_node(self, node: yaml.Node, parent: yaml.Node | None, index: object) -> None:
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = True
        super().serialize_node(node, parent, index)

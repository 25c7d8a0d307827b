"""Tell whether YAML, JSON and TOML files parse: a hook of pre-commit, and one of the checks on the work tree.

    python -m tests.tools.syntax FILE...

Decides only well-formedness; what a manifest means is checked by the API's models.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from tests.tools.files import RepoFile

# Helm templates are YAML only after rendering.
TEMPLATE = re.compile(r"^charts/[^/]+/templates/")


class _UniqueKeys(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, which YAML forbids and PyYAML silently accepts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if repeated := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise yaml.constructor.ConstructorError(None, None, f"key {repeated[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str) -> object:
    return list(yaml.load_all(text, Loader=_UniqueKeys))


PARSERS: Mapping[str, Callable[[str], object]] = {
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".json": json.loads,
    ".toml": tomllib.loads,
}


def unparsable(files: Iterable[RepoFile]) -> list[str]:
    """Find files that are not what their name says."""
    findings = []
    for file in files:
        parse = PARSERS.get(Path(file.path).suffix)
        if parse is None or TEMPLATE.match(file.path):
            continue
        try:
            parse(file.text)
        except (yaml.YAMLError, ValueError) as error:  # JSON and TOML errors are ValueErrors
            findings.append(f"{file.path}: {' '.join(str(error).split())}; correct it")
    return findings


def main(paths: Sequence[str]) -> int:
    """Check the named files; 1 when one does not parse."""
    findings = unparsable(RepoFile(path, Path(path).read_bytes()) for path in paths)
    for finding in findings:
        print(finding, file=sys.stderr)
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

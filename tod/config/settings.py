"""Settings as people write them: YAML in which `1e-4` is a number, and `KEY=VALUE` overrides."""

import itertools
import os
import re
from collections.abc import Iterable
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if str(key.value) in keys:
                problem = f"the key {key.value} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            keys.add(str(key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader, or another one, would read as a number."""


INT, FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE])|\.inf)([eE][-+]?[0-9]+)?$|\.nan$"
# PyYAML follows YAML 1.1, where 010 is 8 and 1:30 is 90, where a number needs a dot, and a sign in
# its exponent.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag not in (INT, FLOAT)]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(INT, re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(FLOAT, re.compile(_FLOAT), list("-+.0123456789"))


def parse(document: str | bytes) -> Any:
    """The plain data of a YAML document; nothing is executed. ValueError says what is wrong."""
    try:
        text = document if isinstance(document, str) else document.decode("utf-8")
        return yaml.load(text, _Loader)
    # PyYAML raises many kinds of errors, such as an IndexError for `!!int ''`.
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        reason = getattr(error, "problem", None) or str(error) or type(error).__name__
        reason = shortened(" ".join(reason.split()))
        raise ValueError(f"it is not YAML: {line}{reason}") from None


def as_yaml(settings: dict[str, Any]) -> str:
    """A YAML document that `parse` reads as these settings."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, default_flow_style=None)


def put(settings: dict[str, Any], override: str) -> str:
    """Puts the value of `KEY=VALUE` into nested settings, and returns the dotted key.

    ValueError says why the text is no `KEY=VALUE`, or its value no YAML.
    """
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError("it has no value")
    value = parse(text)
    *sections, last = key.strip().split(".")
    for section in sections:
        if not isinstance(settings.get(section), dict):
            settings[section] = {}
        settings = settings[section]
    settings[last] = value
    return key.strip()


def shortened(line: str, length: int = 100) -> str:
    """Text for a message: printable and short."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return shown if len(shown) <= length else shown[: length - 3] + "..."


def counted(count: int, noun: str) -> str:
    """A number with its noun, as in `1 image` and `1,000 images`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def in_spans(numbers: Iterable[int]) -> str:
    """Numbers in ascending order, of which four in a row and more are a span: `0, 2 to 9`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    shown = ([f"{s[0]} to {s[-1]}"] if len(s) > 3 else map(str, s) for s in spans)
    return ", ".join(itertools.chain(*shown))


def expanded(path: str) -> str:
    """A path as the shell expands it: `~` is the user's home folder."""
    return os.path.expanduser(path)  # noqa: PTH111 - pathlib's raises for an unknown user


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested settings to dotted keys."""
    values: dict[str, Any] = {}
    for key, value in settings.items():
        inner = isinstance(value, dict)
        values |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return values

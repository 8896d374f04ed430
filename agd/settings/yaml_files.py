"""Reads YAML so that a file means what its writer sees: a key twice, or 010 for 8, is refused. Imports nothing heavy."""

import re
from pathlib import Path

import yaml

from agd.runtime.errors import UserError, one_line

_MERGE = "tag:yaml.org,2002:merge"
# Numbers that YAML 1.1 reads otherwise than people do: octal 010, and 1:30 as 90.
ODD_NUMBER = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+)")
_LONGEST_NUMBER = 30


def read(path: str | Path) -> dict:
    """Read a YAML file that holds a mapping; an empty one is {}. Raises UserError, naming file and line, if it is no YAML,
    or ambiguous, or contains itself."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        loader = yaml.SafeLoader(
            text
        )  # its twin in C is faster, and ends the process where brackets are thousands deep
        node = loader.get_single_node()
        _check(node, path, ())
        found = loader.construct_document(node) if node else None
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise UserError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({one_line(error)}); mend it") from None
    except (ValueError, RecursionError):  # a date such as 2024-99-99; thousands of brackets
        raise UserError(f"{path}: holds a value that can't be read; mend it") from None
    if not isinstance(found, dict | None):
        raise UserError(f"{path}: holds no keys with values; write it as config/default.yaml is")
    return found or {}


def _check(node, path, above: tuple) -> None:
    if any(node is one for one in above):
        raise UserError(f"{path}, line {node.start_mark.line + 1}: contains itself; write it out")
    if isinstance(node, yaml.ScalarNode):
        odd = node.tag.endswith(":int") and node.style is None and ODD_NUMBER.fullmatch(node.value)
        if odd or (node.tag.endswith((":int", ":float")) and len(node.value) > _LONGEST_NUMBER):
            shown, line = node.value[:_LONGEST_NUMBER], node.start_mark.line + 1
            raise UserError(
                f"{path}, line {line}: {shown} is an ambiguous number; write it in plain digits, or quote it"
            )
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, path, (*above, node))
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.tag != _MERGE and (key.tag, str(key.value)) in seen:
                raise UserError(f"{path}, line {key.start_mark.line + 1}: {key.value} is there twice; keep one")
            seen.add((key.tag, str(key.value)))
            _check(value, path, (*above, node))

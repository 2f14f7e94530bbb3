"""Makes a template of Helm from an object: values take the place of some of its entries."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from controller import __version__

Json = dict[str, Any]
Places = Mapping[str, str]

CONSTANTS = {
    "namespace: virtsync-system": "namespace: {{ .Release.Namespace }}",
    "app.kubernetes.io/managed-by: kustomize": "app.kubernetes.io/managed-by: {{ .Release.Service }}",
    f"app.kubernetes.io/version: {__version__}": "app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}",
}
"""Lines that Helm knows better."""
RUNBOOKS = re.compile(r"(?<= runbook_url: )https://virtsync\.dev/runbooks(?=/\w+/$)", re.MULTILINE)
"""Where the runbooks are: the beginning of the annotation of each alert."""
RUNBOOKS_OF_USERS = '{{ .Values.prometheusRule.runbookUrl | trimSuffix "/" }}'
MARKED_ENTRY = re.compile(r"^(?P<before> *(?:- )?)place-(?P<number>\d+): null$", re.MULTILINE)
MARKED_ITEM = re.compile(r"^(?P<before> *)- place-(?P<number>\d+)$", re.MULTILINE)
ADDED = "+"
LONG = 100


class _Dumper(yaml.SafeDumper):
    """Writes long texts as blocks, so that people can read them."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else ">" if len(text) > LONG else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def template(it: Json, places: Places) -> str:
    """The object as a template.

    A place is the path of an entry, words separated by spaces, and the lines that replace the entry. A path that ends
    with `+` is that of a mapping or a list to which the lines are added. In the lines, `nindent +2` means two columns
    more than the entry has. KeyError if the object has no such entry.
    """
    marked = it
    for number, path in enumerate(places):
        marked = _mark(marked, path.split(), f"place-{number}")
    text = yaml.dump(marked, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    # What looks like an action of Helm is none: alerts have such braces.
    text = text.replace("{{", '{{ "{{" }}')
    for line, known in CONSTANTS.items():
        text = re.sub(rf"^( *(?:- )?){re.escape(line)}$", rf"\g<1>{known}", text, flags=re.MULTILINE)
    text = RUNBOOKS.sub(RUNBOOKS_OF_USERS, text)
    lines = list(places.values())
    for marked_line in (MARKED_ENTRY, MARKED_ITEM):
        text = marked_line.sub(lambda found: _indented(lines[int(found["number"])], found["before"]), text)
    return text


def _mark(it: Any, path: list[str], mark: str) -> Any:
    """A copy in which a mark stands where the entry was."""
    step, *rest = path
    if isinstance(it, list):
        if step == ADDED:
            return [*it, mark]
        index = int(step)
        return [*it[:index], _mark(it[index], rest, mark) if rest else mark, *it[index + 1 :]]
    if step == ADDED:
        return it | {mark: None}
    return dict(_replaced(it, step, rest, mark))


def _replaced(it: Json, step: str, rest: list[str], mark: str) -> Iterator[tuple[str, Any]]:
    if step not in it:
        raise KeyError(f"{step} is not among {', '.join(it)}")
    for key, value in it.items():
        if key != step:
            yield key, value
        elif rest:
            yield key, _mark(value, rest, mark)
        else:
            yield mark, None


def _indented(lines: str, before: str) -> str:
    indent = len(before)
    absolute = re.sub(r"nindent \+(\d+)", lambda found: f"nindent {indent + int(found[1])}", lines.rstrip("\n"))
    return before + f"\n{' ' * indent}".join(absolute.splitlines())

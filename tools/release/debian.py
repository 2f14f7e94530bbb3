"""The Debian packages of an image, from what dpkg has noted in it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from release.image import ImageArchive

STATUS = "var/lib/dpkg/status"
RELEASE = "usr/lib/os-release"


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """One installed package."""

    name: str
    version: str
    architecture: str
    distribution: str
    """As package URLs have it: `debian-12`."""
    needs: tuple[str, ...]
    """The names of the installed packages that it depends on."""


def debian_packages(image: ImageArchive) -> list[DebianPackage]:
    """Return the packages of an image, sorted by name. KeyError if it is no Debian."""
    texts = image.texts({STATUS, RELEASE}.__contains__)
    facts = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', texts[RELEASE], re.MULTILINE))
    return installed(texts[STATUS], f"{facts['ID']}-{facts['VERSION_ID']}")


def installed(status: str, distribution: str) -> list[DebianPackage]:
    """Return the installed packages of dpkg's status file, sorted by name. Pure."""
    stanzas = [stanza for stanza in _stanzas(status) if stanza["Status"].endswith(" installed")]
    providers = {stanza["Package"]: stanza["Package"] for stanza in stanzas}
    for stanza in stanzas:
        for name in _names(stanza.get("Provides", "")):
            providers.setdefault(name, stanza["Package"])
    return sorted(
        (
            DebianPackage(
                stanza["Package"],
                stanza["Version"],
                stanza["Architecture"],
                distribution,
                tuple(sorted(_needs(stanza, providers) - {stanza["Package"]})),
            )
            for stanza in stanzas
        ),
        key=lambda package: package.name,
    )


def _stanzas(status: str) -> Iterator[dict[str, str]]:
    for text in status.strip().split("\n\n"):
        # A line that begins with a space continues the field before it.
        yield dict(re.findall(r"^([\w-]+): ?(.*(?:\n .*)*)", text, re.MULTILINE))


def _needs(stanza: Mapping[str, str], providers: Mapping[str, str]) -> set[str]:
    """The installed packages that a package depends on: of alternatives, the first one that is there."""
    given = ",".join(filter(None, (stanza.get("Pre-Depends"), stanza.get("Depends"))))
    alternatives = ([providers[name] for name in _names(one, "|") if name in providers] for one in given.split(","))
    return {names[0] for names in alternatives if names}


def _names(given: str, separator: str = ",") -> list[str]:
    """The names of a relation, such as `libc6 (>= 2.36)`, without versions and architectures."""
    return [found[0] for one in given.split(separator) if (found := re.match(r"[a-z0-9][a-z0-9+.-]*", one.strip()))]

"""Lists the domains of a host once, for a command that then ends."""

from __future__ import annotations

import libvirt

from controller.hypervisor.host import list_all, listed_domain
from controller.hypervisor.pool import Opener, close
from controller.hypervisor.text import error_text
from controller.policy.view import Domain
from controller.runtime.errors import Transient

OPEN_WITHIN_S = 30.0
"""The timeout for opening the connection. It allows for a libvirt that is reached through SSH."""


def domains_of(uri: str) -> list[Domain]:
    """Return all domains of the libvirt with this URI. Raises Transient with a message."""
    libvirt.registerErrorHandler(lambda *_: None, None)  # the default handler writes each error to stderr
    try:
        connection = Opener(uri).open(OPEN_WITHIN_S)
    except libvirt.libvirtError as error:
        raise Transient(error_text(error)) from error
    except TimeoutError:
        raise Transient(f"it has not accepted a connection within {OPEN_WITHIN_S:g} s") from None
    try:
        return [listed_domain(*listed) for listed in list_all(connection)]
    finally:
        close(connection)

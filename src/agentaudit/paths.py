"""Paths as they are written, without what changes nothing in them.

Links that somebody has made are not followed: all of this is about names.
"""

from __future__ import annotations

import posixpath
import re
from typing import Final

_ROOT_AGAIN: Final = re.compile(r"/proc/[^/]+(/task/[^/]+)?/root(?=/|$)")
"""What every process has as its own name for the root of all paths."""


def normal_path(path: str) -> str:
    """Return a path without what changes nothing in it.

    >>> normal_path("//etc//x/../passwd"), normal_path("/proc/self/root/etc")
    ('/etc/passwd', '/etc')
    """
    # Two slashes at the beginning are kept by the library, and mean one on every host.
    path = posixpath.normpath(re.sub("^/+", "/", path))
    while found := _ROOT_AGAIN.match(path):
        path = path[found.end() :] or "/"
    return path

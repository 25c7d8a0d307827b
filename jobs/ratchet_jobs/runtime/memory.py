"""How much memory this pod may use.

Decides nothing about what it is used for. Called by recipes that keep something they could also compute again.
"""

from __future__ import annotations

import os
from pathlib import Path

LIMIT_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where the kernel tells a container its limit: cgroup v2, then v1."""


def memory_bytes(limit_files: tuple[Path, ...] = LIMIT_FILES) -> int:
    """Bytes that the container may use, or the machine's if nothing limits it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in limit_files:
        try:
            limit = int(file.read_text())
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
        return min(limit, total)  # v1 tells a number above any machine's where there is no limit
    return total

"""How much memory a pod may use: what limits its container, else what the machine has."""

import os
from pathlib import Path

from ratchet_jobs.runtime.memory import memory_bytes


def test_the_containers_limit_counts_and_else_the_machines_memory(tmp_path: Path) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limited, unlimited, absent = tmp_path / "limited", tmp_path / "unlimited", tmp_path / "absent"
    limited.write_text("1048576\n")
    unlimited.write_text("max\n")
    huge = tmp_path / "huge"  # cgroup v1 without a limit
    huge.write_text("9223372036854771712\n")
    assert memory_bytes((limited, absent)) == 1 << 20
    assert memory_bytes((absent, limited)) == 1 << 20
    assert memory_bytes((unlimited, absent)) == machine
    assert memory_bytes((absent, huge)) == machine

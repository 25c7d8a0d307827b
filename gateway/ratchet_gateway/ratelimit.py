"""How many events a key and a subject may send: the generic cell rate algorithm, one number per name.

Decides whether a request as a whole passes; a batch costs its events. Counts per process: with N replicas behind one
Service the limit is up to N times as high. Never sleeps and never starts a thread; the clock is an argument. Called by
the routes before anything is stored.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping

MAX_NAMES = 100_000


class RateLimit:
    """At most `per_minute` events at once and per minute, refilled steadily.

    Args:
        per_minute: events.
        clock: monotonic seconds.
        max_names: names remembered; the one used longest ago is forgotten first, and with it what it had used up.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float], *, max_names: int = MAX_NAMES) -> None:
        self.per_minute = per_minute
        self._seconds_each = 60.0 / per_minute
        self._clock, self._max_names = clock, max_names
        self._full_at: OrderedDict[str, float] = OrderedDict()  # when the name may again send per_minute at once

    def take(self, costs: Mapping[str, int]) -> int:
        """Count events of several names, all of them or none.

        Args:
            costs: events by name.

        Returns:
            0 when they pass, else the seconds after which they would; a batch beyond `per_minute` never passes.
        """
        now = self._clock()
        after = {
            name: max(self._full_at.get(name, now), now) + cost * self._seconds_each for name, cost in costs.items()
        }
        late = max(after.values(), default=now) - now - 60.0
        if late > 1e-6:
            return math.ceil(late)
        for name, full_at in after.items():
            self._full_at[name] = full_at
            self._full_at.move_to_end(name)
        while len(self._full_at) > self._max_names:
            self._full_at.popitem(last=False)
        return 0

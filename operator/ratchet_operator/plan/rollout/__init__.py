"""A rollout decided: a new version gets a little traffic, then more, then all of it, or none. Pure.

`plan_rollout(world)` asks the rules in order; the first that speaks wins. All that a rollout remembers is in its
status, so that another operator, or the same one after a crash, goes on from there. No data never raises a share, and
never promotes; nothing but a shown harm, an absent server, a passed deadline or a person takes a candidate out.
"""

from __future__ import annotations

from collections.abc import Callable

from ratchet_operator.plan.rollout.ab import begin_test, deal_test, end_unwanted_test, run_test, watch_arms
from ratchet_operator.plan.rollout.commands import obey
from ratchet_operator.plan.rollout.rules import (
    await_routers,
    choose,
    end_replaced,
    end_untried,
    expose,
    finish,
    follow_champion,
    hold,
    measure,
    mend_clock,
    rest,
    roll_back,
    shadow,
    step,
    take_out_the_broken,
    take_out_the_gone,
    watch_readiness,
)
from ratchet_operator.plan.rollout.world import Decision, RolloutWorld

RULES: tuple[Callable[[RolloutWorld], Decision | None], ...] = (
    mend_clock,  # times that are yet to come
    obey,  # pause, resume, abort, promote, undo
    take_out_the_gone,  # the candidate was deleted
    end_replaced,  # it shall answer by another config
    end_untried,  # nobody wants trials any more
    end_unwanted_test,  # nor this test with fixed shares
    watch_arms,  # its versions that are gone, silent, or shown to be worse
    take_out_the_broken,  # what cannot be loaded, or dies again and again
    watch_readiness,  # since when it has not answered
    measure,  # what the user's own numbers show, and since when
    roll_back,  # shown to be worse, or absent, or undecided for too long
    follow_champion,  # somebody chose another champion
    await_routers,  # nothing goes on before every router applied the table
    begin_test,  # versions that are tried beside each other
    deal_test,  # all their shares at once
    run_test,  # its end
    choose,  # the newest version goes on trial
    shadow,  # asked beside the champion, and nobody gets its answers
    expose,  # its first share
    hold,  # paused, or no evidence that can be trusted
    finish,  # promoted
    step,  # the next share
)


def plan_rollout(world: RolloutWorld) -> Decision:
    """Decide what a pass does for a rollout. Equal worlds give equal decisions."""
    for rule in RULES:
        decided = rule(world)
        if decided is not None:
            return decided
    return rest(world)

"""What somebody meant who named an answer's reward by another word than ours.

The field's usual words for rewards (BLEU, distinct-n, critic, regular expression) lead to the type that gives them.
Decides words alone; which types there are is `answer_reward`'s. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_FORMULA = "{{type: expression, expression: {}}}"

_MEANT: dict[str, str] = {
    **{name: _FORMULA.format("bleu1") for name in ("bleu", "bleu1", "bleuscore", "sacrebleu")},
    "bleu2": _FORMULA.format("bleu2"),
    **{name: _FORMULA.format("distinct") for name in ("distinct", "distinct1", "dist1", "diversity")},
    **{name: _FORMULA.format("distinct2") for name in ("distinct2", "dist2")},
    "distincttogether": _FORMULA.format("distinct_together"),
    **{name: _FORMULA.format(name) for name in ("overlap", "repetition", "ended")},
    **dict.fromkeys(("regex", "regexp", "pattern"), "{type: format, pattern: ...}"),
    **dict.fromkeys(("json", "jsonschema", "schema"), "{type: format, jsonSchema: ...}"),
    **dict.fromkeys(("llm", "llmjudge", "llmasjudge"), "{type: judge, judge: ...}"),
    **dict.fromkeys(("critic", "sharedcritic"), "{type: rewardModel} with stages.rewardModel.scores: judge"),
    **dict.fromkeys(("rm", "reward", "model"), "{type: rewardModel}"),
    **dict.fromkeys(("recommender", "recommend", "rank"), "{type: recommendation}"),
    **dict.fromkeys(("items", "item"), "{type: itemRatio}"),
    **dict.fromkeys(("emotion", "sentiment"), "{type: empathy, classifier: ...}"),
    **dict.fromkeys(("blocklist", "safetywords", "toxicity"), "{type: safety, words: [...]}"),
    **dict.fromkeys(("python", "custom", "function", "own"), "{type: entryPoint, entryPoint: MODULE:FUNCTION}"),
}
"""Words as people write them, without case and punctuation, and what they should write."""


def meant_by(name: str, types: Sequence[str]) -> str | None:
    """What somebody should write instead; None = nothing is like it.

    Args:
        name: no type that there is.
        types: that there are.
    """
    plain = _plain(name)
    known = {_plain(each): each for each in types}
    if plain not in known and plain in _MEANT:
        return _MEANT[plain]
    near = difflib.get_close_matches(plain, known, n=1, cutoff=0.75)
    return f"{{type: {known[near[0]]}}}" if near else None


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())

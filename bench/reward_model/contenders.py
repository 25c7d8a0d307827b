"""The contenders: words counted, an encoder fine-tuned as one would by hand, and Ratchet's reward model.

Each learns from ratings and then scores texts. Run by `measure.py`, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from torch import nn

from bench.reward_model.task import Rating
from ratchet_jobs.rlhf.reward_model import Rated, RewardSettings, train_reward_model
from ratchet_jobs.rlhf.scorers import Answer, EncoderScorer

Floats = NDArray[np.float64]
Scores = Callable[[Sequence[str]], Floats]
"""Of texts, higher is better."""
MAX_TOKENS = 64
PLAIN_PAIRS, PLAIN_STEPS, PLAIN_RATE, LEAST_GAP = 22, 600, 5e-5, 0.5
EPOCHS, BATCH, RATE, HEAD_RATE, HELD_OUT = 2, 16, 1e-4, 2e-3, 0.1


def words(base: Path, train: Sequence[Rating], *, seed: int, effort: float) -> Scores:
    """tf-idf of words and pairs of words, ridge regression on the mean rating."""
    tfidf = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    ridge = Ridge(alpha=1.0).fit(tfidf.fit_transform([each.text for each in train]), [each.mean for each in train])
    return lambda texts: np.asarray(ridge.predict(tfidf.transform(list(texts))), dtype=np.float64)


def plain(base: Path, train: Sequence[Rating], *, seed: int, effort: float) -> Scores:
    """Bradley-Terry on drawn pairs: all weights, mean pooling, AdamW, warm-up and linear decay."""
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(base))
    encoder = transformers.AutoModel.from_pretrained(str(base), add_pooling_layer=False)
    head = nn.Linear(encoder.config.hidden_size, 1)

    def scored(texts: Sequence[str]) -> torch.Tensor:
        batch = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt")
        hidden = encoder(**batch).last_hidden_state
        weight = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
        found: torch.Tensor = head((hidden * weight).sum(1) / weight.sum(1)).squeeze(-1)
        return found

    steps, draws = max(1, round(PLAIN_STEPS * effort)), np.random.default_rng(seed)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PLAIN_RATE)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    encoder.train()
    for _ in range(steps):
        better, worse = [], []
        while len(better) < PLAIN_PAIRS:
            first, second = (train[int(place)] for place in draws.integers(0, len(train), 2))
            if abs(first.mean - second.mean) >= LEAST_GAP:
                above, below = (first, second) if first.mean > second.mean else (second, first)
                better.append(above.text)
                worse.append(below.text)
        raw = scored(better + worse)
        loss = -nn.functional.logsigmoid(raw[:PLAIN_PAIRS] - raw[PLAIN_PAIRS:]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    encoder.eval()

    def score(texts: Sequence[str]) -> Floats:
        with torch.inference_mode():
            parts = [scored(texts[at : at + 64]) for at in range(0, len(texts), 64)]
        return torch.cat(parts).double().numpy()

    return score


def ratchet(base: Path, train: Sequence[Rating], *, seed: int, effort: float) -> Scores:
    """The reward-model stage's training with `baseModel: {method: full}`: every text's mean rating, calibrated."""
    share = min(1.0, effort)
    rows = [Rated(*_halves(each.text), each.score) for each in train[: max(100, round(share * len(train)))]]
    settings = RewardSettings(
        num_epochs=EPOCHS,
        batch_size=BATCH,
        learning_rate=RATE,
        head_learning_rate=HEAD_RATE,
        held_out_share=HELD_OUT,
    )
    scorer = EncoderScorer(base, lora=None, max_tokens=MAX_TOKENS, seed=seed, device="cpu")
    model, _ = train_reward_model(scorer, rows, settings, seed=seed)
    return lambda texts: model.scores([Answer(*_halves(text)) for text in texts], batch_size=64)


def _halves(text: str) -> tuple[str, str]:
    """A text as a prompt and how somebody went on; the encoder reads them as one."""
    said = text.split()
    return " ".join(said[: len(said) // 2]), " ".join(said[len(said) // 2 :])


CONTENDERS: Mapping[str, Callable[..., Scores]] = {"words": words, "plain": plain, "ratchet": ratchet}

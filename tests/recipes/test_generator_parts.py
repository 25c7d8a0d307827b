"""What the stages of generators are made of: template, base model, adapter, merged model, answers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from ratchet_api.training_run import BaseModelRef, Lora
from ratchet_jobs.data.turns import Turn
from ratchet_jobs.generators.answering import IGNORED, Pair, generate, score, stacked
from ratchet_jobs.generators.artifact import MERGED_FOLDER, save_adapter, save_merged
from ratchet_jobs.generators.card import GeneratorCard, read_generator_card
from ratchet_jobs.generators.loading import build_generator, load_generator
from ratchet_jobs.generators.templates import Wording, load_wording
from ratchet_jobs.models.classifier import read_card
from ratchet_jobs.runtime.errors import BadConfigError, BadDataError, BadModelError
from tests.tiny_bert import write_tiny_bert
from tests.tiny_llama import WORDS, dialogues, write_tiny_llama

LORA = Lora(rank=4, alpha=8.0)
USER = Turn("user", "the card")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base") / "tiny")


def build(folder: Path, **changes: Any) -> tuple[Any, Wording]:
    return build_generator(folder, **{"lora": LORA, "max_tokens": 32, "seed": 0} | changes)


def disturbed(model: Any) -> Any:
    """The model with adapters that do something."""
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def pairs(wording: Wording, count: int) -> list[Pair]:
    return [Pair(wording.prompt([Turn("user", p)]), wording.response(r)) for p, r in dialogues(count, seed=3)]


# templates


def words(ids: list[int]) -> list[str]:
    return [WORDS[number] for number in ids]


def test_a_chat_template_words_the_turns_and_ends_where_the_assistant_begins(base: Path) -> None:
    wording = load_wording(base)
    assert words(wording.prompt([Turn("system", "said"), USER])) == [
        "<|system|>", "said", "<|user|>", "the", "card", "<|assistant|>",
    ]  # fmt: skip
    assert words(wording.response("never called")) == ["never", "called", "</s>"]


def test_without_a_chat_template_turns_are_lines_that_begin_with_who_speaks(tmp_path: Path) -> None:
    wording = load_wording(write_tiny_llama(tmp_path / "plain", chat=False))
    assert wording.template == "plain"
    assert words(wording.prompt([USER])) == ["User", ":", "the", "card", "Assistant", ":"]


def test_a_chat_template_in_a_file_of_its_own_is_taken(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    shutil.copytree(base, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "chat_template.jinja").write_text(settings.pop("chat_template"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_wording(folder).prompt([USER]) == load_wording(base).prompt([USER])


def test_an_answer_reads_back_up_to_its_end(base: Path) -> None:
    wording = load_wording(base)
    ids = wording.response("please block your card")
    assert wording.text([*ids, *wording.response("never")]) == "please block your card"


def test_a_tokenizer_without_pad_fills_up_with_its_end_and_masks_it(base: Path) -> None:
    wording = load_wording(base)
    assert (wording.eos_id, wording.pad_id) == (3, 3)
    batch = stacked([Pair([5], [6, 3]), Pair([5, 6], [7, 8, 3])], pad_id=wording.pad_id)
    assert batch.token_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    # the end of the response is learned, what fills up is not, though it is the same token
    assert batch.labels.tolist() == [[IGNORED, 6, 3, IGNORED, IGNORED], [IGNORED, IGNORED, 7, 8, 3]]


def test_the_end_of_a_sequence_may_be_named_by_the_models_config_alone(tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "quiet")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))
    _, wording = build(folder)
    assert wording.eos_id == 3


def test_turns_that_the_template_refuses_are_named(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(base, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ raise_exception('roles must alternate') }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadDataError, match=r"refuses the turns user, user: roles must alternate; change the rows"):
        load_wording(folder).prompt([USER, USER])


def test_a_template_cannot_reach_out_of_its_sandbox(base: Path, tmp_path: Path) -> None:
    """P22."""
    folder = tmp_path / "bad"
    shutil.copytree(base, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{{ messages.__class__.__base__.__subclasses__() }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadDataError, match="unsafe"):
        load_wording(folder).prompt([USER])


# base models


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def broken(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text("{")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def half(folder: Path) -> None:
    tensors = {}
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if "layers.1" not in name}
    from safetensors.torch import save_file

    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def remote(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))


def endless(folder: Path) -> None:
    for name, key in (("config.json", "eos_token_id"), ("tokenizer_config.json", "eos_token")):
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | {key: None}))


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tokenizer": (without("tokenizer.json"), r"tokenizer\.json is missing \(found: config\.json"),
    "a broken tokenizer": (broken("tokenizer.json"), r"tokenizer\.json cannot be read"),
    "a broken config": (broken("config.json"), "transformers cannot load it"),
    "a pickle": (pickled, r"no \*\.safetensors \(found: .*pytorch_model\.bin.*convert the weights"),
    "half of the weights": (half, r"tensors are missing in its safetensors, first model\.layers\.1"),
    "code of its own": (remote, "transformers cannot load it"),
    "nothing that ends a sequence": (endless, r"neither tokenizer_config\.json \(eos_token\) nor config\.json"),
    "an encoder": (write_tiny_bert, "names BertModel, which is no causal language model"),
}


@pytest.mark.parametrize(("spoil", "says"), SPOILT.values(), ids=SPOILT.keys())
def test_a_base_that_cannot_be_used_is_refused_with_what_to_do(
    spoil: Callable[[Path], Any], says: str, base: Path, tmp_path: Path
) -> None:
    """P22, P39."""
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    spoil(folder)
    with pytest.raises(BadModelError, match=says):
        build(folder)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_tokens": 65}, r"stages\.supervised\.maxTokens: 65 is above the 64 positions"),
        ({"lora": Lora(target_modules=("query",))}, r"lora\.targetModules: 'query' is no linear layer .*q_proj"),
        ({"lora": Lora(last_blocks=3)}, r"lora\.lastBlocks: 3, but the base model has 2 blocks"),
    ],
)
def test_settings_that_do_not_fit_the_base_are_refused(changes: dict[str, Any], says: str, base: Path) -> None:
    with pytest.raises(BadConfigError, match=says):
        build(base, **changes)


# adapters and artifacts


def test_an_untrained_policy_says_what_its_base_says(base: Path) -> None:
    model, wording = build(base)
    found = score(model, pairs(wording, 8), pad_id=wording.pad_id)
    assert found.nll == found.base_nll
    assert found.kl == 0


def test_scores_are_those_of_each_row_alone_and_of_the_response_only(base: Path) -> None:
    model, wording = build(base)
    disturbed(model)
    rows = pairs(wording, 6)
    whole = score(model, rows, pad_id=wording.pad_id)
    alone = [score(model, [row], pad_id=wording.pad_id) for row in rows]
    assert whole.tokens == sum(len(row.response) for row in rows)
    for name in ("nll", "base_nll", "kl"):
        assert getattr(whole, name) == pytest.approx(sum(getattr(each, name) for each in alone), rel=1e-5)
    # by the definition, token by token, on one row
    row = rows[0]
    ids = torch.tensor([[*row.prompt, *row.response]])
    with torch.no_grad():
        ours = model(input_ids=ids).logits[0].log_softmax(-1)
        with model.disable_adapter():
            theirs = model(input_ids=ids).logits[0].log_softmax(-1)
    places = range(len(row.prompt) - 1, row.length - 1)
    nll = -sum(float(ours[place, ids[0, place + 1]]) for place in places)
    kl = sum(float((ours[place].exp() * (ours[place] - theirs[place])).sum()) for place in places)
    assert (alone[0].nll, alone[0].kl) == pytest.approx((nll, kl), rel=1e-5)
    assert kl > 0.01


def test_a_policy_comes_back_from_its_adapter_and_from_its_merged_model(base: Path, tmp_path: Path) -> None:
    model, wording = build(base)
    disturbed(model)
    card = GeneratorCard(template="chat", max_tokens=32, base_model=BaseModelRef(uri="store://m", sha256="0" * 64))
    save_adapter(model, tmp_path, card=card, tokenizer_from=base)
    loaded, again, told = load_generator(tmp_path, base)
    assert told == card
    rows = pairs(wording, 8)
    assert score(loaded, rows, pad_id=again.pad_id) == score(model, rows, pad_id=wording.pad_id)

    prompts = [row.prompt for row in rows]
    answers = generate(model, prompts, wording=wording, max_new_tokens=8)
    save_merged(loaded, tmp_path / MERGED_FOLDER, wording=again, tokenizer_from=tmp_path)
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / MERGED_FOLDER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / MERGED_FOLDER)
    assert generate(merged, prompts, wording=again, max_new_tokens=8) == answers
    said = [{"role": "user", "content": "the card"}]
    assert list(tokenizer.apply_chat_template(said, add_generation_prompt=True)["input_ids"]) == wording.prompt([USER])


@pytest.mark.parametrize("tied", [True, False])
def test_weights_that_are_shared_are_written_once_and_others_each(tied: bool, tmp_path: Path) -> None:
    folder = write_tiny_llama(tmp_path / "base", tied=tied)
    model, wording = build(folder)
    save_merged(disturbed(model), tmp_path / "merged", wording=wording, tokenizer_from=folder)
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert ("lm_head.weight" in names) is not tied
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) is tied
    assert not {each.suffix for each in (tmp_path / "merged").iterdir()} - {".json", ".safetensors", ".jinja"}


def test_equal_policies_are_equal_bytes(base: Path, tmp_path: Path) -> None:
    card = GeneratorCard(template="chat", max_tokens=32, base_model=BaseModelRef(uri="store://m", sha256="0" * 64))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_adapter(build(base)[0], tmp_path / name, card=card, tokenizer_from=base)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    card = GeneratorCard(template="chat", max_tokens=32, base_model=BaseModelRef(uri="store://m", sha256="0" * 64))
    save_adapter(build(base, lora=Lora(last_blocks=1))[0], tmp_path, card=card, tokenizer_from=base)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(BadModelError, match="adapter does not fit the base model, first at base_model"):
        load_generator(tmp_path, base)


def test_each_kind_of_policy_refuses_the_other_by_name(base: Path, tmp_path: Path) -> None:
    card = GeneratorCard(template="chat", max_tokens=32, base_model=BaseModelRef(uri="store://m", sha256="0" * 64))
    save_adapter(build(base)[0], tmp_path, card=card, tokenizer_from=base)
    with pytest.raises(BadModelError, match="policyType 'generator', a classifier is needed"):
        read_card(tmp_path)
    (tmp_path / "policy.json").write_text('{"policyType": "classifier"}')
    with pytest.raises(BadModelError, match="policyType 'classifier', a generator is needed"):
        read_generator_card(tmp_path)
    (tmp_path / "policy.json").unlink()
    with pytest.raises(BadModelError, match=r"policy\.json cannot be read"):
        read_generator_card(tmp_path)


# answers


def test_an_answer_does_not_depend_on_the_prompts_beside_it(base: Path) -> None:
    model, wording = build(base)
    disturbed(model)
    prompts = [row.prompt for row in pairs(wording, 6)]
    assert len({len(prompt) for prompt in prompts}) > 1
    together = generate(model, prompts, wording=wording, max_new_tokens=6)
    assert together == [generate(model, [prompt], wording=wording, max_new_tokens=6)[0] for prompt in prompts]
    assert all(1 <= len(answer) <= 6 for answer in together)


def test_answers_are_drawn_anew_only_with_a_temperature(base: Path) -> None:
    model, wording = build(base)
    prompts = [wording.prompt([USER])] * 8
    torch.manual_seed(0)
    assert len({tuple(ids) for ids in generate(model, prompts, wording=wording, max_new_tokens=6)}) == 1
    drawn = generate(model, prompts, wording=wording, max_new_tokens=6, temperature=2.0)
    assert len({tuple(ids) for ids in drawn}) > 1


def test_an_answer_ends_where_somebody_asks_it_to(base: Path) -> None:
    model, wording = build(base)
    asked = iter([False, True])
    answers = generate(model, [wording.prompt([USER])], wording=wording, max_new_tokens=20, stop=lambda: next(asked))
    assert len(answers[0]) == 2


def test_a_perfect_guess_has_a_perplexity_of_one_and_an_even_one_that_of_the_vocabulary(base: Path) -> None:
    model, wording = build(base)
    with torch.no_grad():
        model.get_input_embeddings().weight.zero_()  # and with it the head: every word is as likely as any other
    found = score(model, pairs(wording, 3), pad_id=wording.pad_id)
    assert math.exp(found.nll / found.tokens) == pytest.approx(len(WORDS), rel=1e-5)

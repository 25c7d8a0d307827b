"""Building, saving and loading a classifier policy; what a base model may and may not be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from torch import nn

from ratchet_api.training_run import BaseModelRef, Lora
from ratchet_jobs.models.batching import pad
from ratchet_jobs.models.card import PolicyCard
from ratchet_jobs.models.classifier import (
    Classifier,
    build_classifier,
    check_vocabulary,
    find_targets,
    load_classifier,
    load_encoder,
    save_classifier,
)
from ratchet_jobs.models.tokenizing import load_tokenizer, tokenize
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError
from tests.tiny_bert import WORDS, reviews, write_tiny_bert

CARD = PolicyCard(
    labels=("card", "loan", "mortgage"), max_tokens=32, base_model=BaseModelRef(uri="store://tiny", sha256="0" * 64)
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("base"))


def build(base: Path, *, max_tokens: int = 32, seed: int = 0, **lora: object) -> Classifier:
    settings = Lora.model_validate({"rank": 4, "alpha": 8.0} | lora)
    return build_classifier(base, classes=3, lora=settings, max_tokens=max_tokens, seed=seed)


def stir(classifier: Classifier) -> Classifier:
    """Give every trainable tensor values as after training: a fresh adapter's B is 0, which hides mistakes."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in classifier.trainable().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return classifier


def batch(base: Path, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return pad(tokenize(load_tokenizer(base, max_tokens=32), texts).rows, pad_id=0)


def texts(count: int) -> list[str]:
    return [text for text, _ in reviews(count, seed=3)]


def test_untrained_policy_computes_what_the_base_computes(base: Path) -> None:
    ids, token_mask = batch(base, texts(5))
    with torch.inference_mode():
        pooled = build(base).pool(ids, token_mask)
        hidden = load_encoder(base).eval()(input_ids=ids, attention_mask=token_mask).last_hidden_state
    for row in range(5):
        want = hidden[row, token_mask[row].bool()].mean(0)
        torch.testing.assert_close(pooled[row], want, atol=1e-5, rtol=0)


def test_extra_padding_changes_nothing(base: Path) -> None:
    ids, token_mask = batch(base, texts(4))
    wider = nn.functional.pad(ids, (0, 9)), nn.functional.pad(token_mask, (0, 9))
    classifier = stir(build(base))
    with torch.inference_mode():
        torch.testing.assert_close(classifier(ids, token_mask), classifier(*wider), atol=1e-5, rtol=0)


def test_row_without_real_tokens_gets_the_heads_bias_and_not_nan(base: Path) -> None:
    classifier = stir(build(base))
    with torch.inference_mode():
        logits = classifier(torch.zeros((1, 3), dtype=torch.long), torch.zeros((1, 3), dtype=torch.long))
    torch.testing.assert_close(logits[0], classifier.head.bias.detach())


def test_only_adapters_and_head_are_trained(base: Path) -> None:
    classifier = build(base)
    assert len(classifier.trainable()) == 2 * 6 * 2 + 2  # A and B of 6 linear layers in each of 2 blocks, head
    assert all("lora_" in name or name.startswith("head.") for name in classifier.trainable())


def test_equal_seeds_start_equal_and_leave_the_global_generator_alone(base: Path) -> None:
    torch.manual_seed(5)
    want_next = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = build(base, seed=1), build(base, seed=1), build(base, seed=2)
    assert torch.equal(torch.rand(1), want_next)
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


def peft_forward(classifier: Classifier) -> Classifier:
    """Undo the folding: drop the instances' own forward, so peft's class method is back."""
    for layer in classifier.modules():
        if isinstance(layer, LoraLinear):
            del layer.forward
    return classifier


def test_folded_adapters_agree_with_peft_in_values_and_gradients(base: Path) -> None:
    ids, token_mask = batch(base, texts(6))
    folded, plain = stir(build(base)), peft_forward(stir(build(base)))
    losses = [
        nn.functional.cross_entropy(c(ids, token_mask), torch.tensor([0, 1, 2, 0, 1, 2])) for c in (folded, plain)
    ]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)
    for name, parameter in folded.trainable().items():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(parameter.grad, plain.trainable()[name].grad, atol=1e-6, rtol=1e-4, msg=name)


def test_adapter_dropout_is_left_to_peft_and_acts_in_training_only(base: Path) -> None:
    ids, token_mask = batch(base, texts(6))
    classifier = stir(build(base, dropout=0.5))
    assert not any("forward" in vars(layer) for layer in classifier.modules() if isinstance(layer, LoraLinear))
    with torch.inference_mode():
        classifier.train_mode()
        assert not torch.equal(classifier(ids, token_mask), classifier(ids, token_mask))
        classifier.eval()
        assert torch.equal(classifier(ids, token_mask), classifier(ids, token_mask))


def test_base_models_own_dropout_is_off_in_training(base: Path) -> None:
    ids, token_mask = batch(base, texts(6))
    classifier = stir(build(base))
    classifier.train_mode()
    with torch.inference_mode():
        assert torch.equal(classifier(ids, token_mask), classifier(ids, token_mask))


def test_saved_policy_loads_to_the_same_answers(base: Path, tmp_path: Path) -> None:
    classifier = stir(build(base))
    save_classifier(classifier, tmp_path, card=CARD, tokenizer_from=base)
    loaded = load_classifier(tmp_path, base)
    ids, token_mask = batch(base, texts(7))
    with torch.inference_mode():
        assert torch.equal(loaded.classifier(ids, token_mask), classifier(ids, token_mask))
    assert loaded.card == CARD
    assert tokenize(loaded.tokenizer, texts(1)).rows[0].tolist() == ids[0, token_mask[0].bool()].tolist()


def test_saved_bytes_depend_on_the_weights_alone_and_name_no_local_folder(base: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        save_classifier(stir(build(base)), tmp_path / name, card=CARD, tokenizer_from=base)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "policy.json",
        "tokenizer.json",
    ]
    for name in files:
        data = (tmp_path / "one" / name).read_bytes()
        assert data == (tmp_path / "two" / name).read_bytes(), name
        assert str(base).encode() not in data, name


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_itself_reads_the_adapter(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    classifier = stir(build(base))
    save_classifier(classifier, tmp_path, card=CARD, tokenizer_from=base)
    theirs = PeftModel.from_pretrained(load_encoder(base), str(tmp_path)).eval()
    ids, token_mask = batch(base, texts(3))
    with torch.inference_mode():
        hidden = theirs(input_ids=ids, attention_mask=token_mask).last_hidden_state
        weight = token_mask.unsqueeze(-1).float()
        want = (hidden * weight).sum(1) / weight.sum(1)
        torch.testing.assert_close(classifier.pool(ids, token_mask), want, atol=1e-5, rtol=0)


def test_default_targets_are_every_linear_layer_of_the_blocks(base: Path) -> None:
    names = find_targets(load_encoder(base), None)
    assert len(names) == 12
    assert all(name.startswith("encoder.layer.") for name in names)


def test_chosen_targets_are_matched_by_whole_name_parts(base: Path) -> None:
    encoder = load_encoder(base)
    assert [name.rsplit(".", 1)[-1] for name in find_targets(encoder, ["query", "value"])] == ["query", "value"] * 2
    assert len(find_targets(encoder, ["attention.output.dense"])) == 2


def test_last_blocks_are_counted_from_the_output_and_those_below_get_no_gradient(base: Path) -> None:
    encoder = load_encoder(base)
    assert {name.split(".")[2] for name in find_targets(encoder, None, last_blocks=1)} == {"1"}
    assert find_targets(encoder, ["query"], last_blocks=1) == ["encoder.layer.1.attention.self.query"]
    assert find_targets(encoder, None, last_blocks=2) == find_targets(encoder, None)

    classifier = stir(build(base, last_blocks=1))
    seen: dict[str, bool] = {}
    for name, module in classifier.named_modules():
        if name.endswith((".layer.0", ".layer.1")):
            module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name[-1]: out.requires_grad}))
    classifier.train_mode()
    classifier(*batch(base, texts(3)))
    assert seen == {"0": False, "1": True}


def test_more_last_blocks_than_there_are_is_refused_with_their_number(base: Path) -> None:
    with pytest.raises(BadConfigError, match=r"lora\.lastBlocks: 3, but the base model has 2 blocks; lower it"):
        build(base, last_blocks=3)


def test_target_that_matches_nothing_is_refused_with_names_that_exist(base: Path) -> None:
    with pytest.raises(BadConfigError, match=r"lora\.targetModules: 'q_proj'.*dense, key, query, value"):
        build(base, target_modules=["query", "q_proj"])


def test_half_a_name_is_no_match(base: Path) -> None:
    with pytest.raises(BadConfigError, match="'uery'"):
        build(base, target_modules=["uery"])


def test_max_tokens_above_the_positions_is_refused_with_the_limit(base: Path) -> None:
    with pytest.raises(BadConfigError, match="65 is above the 64 positions"):
        build(base, max_tokens=65)
    build(base, max_tokens=64)


def test_positions_that_roberta_reserves_do_not_count(tmp_path: Path) -> None:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=34, pad_token_id=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(tmp_path)
    build(tmp_path, max_tokens=32)
    with pytest.raises(BadConfigError, match="33 is above the 32 positions"):
        build(tmp_path, max_tokens=33)


def test_folder_without_safetensors_is_refused_and_says_what_is_there(base: Path, tmp_path: Path) -> None:
    """P22: a pickled checkpoint is not an alternative."""
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n(S'exit 3'\ntR.")
    with pytest.raises(BadModelError, match=r"no \*\.safetensors \(found: config\.json, pytorch_model\.bin\)"):
        load_encoder(tmp_path)


def test_code_beside_a_model_is_never_run(base: Path, tmp_path: Path) -> None:
    """P22: a config that points to its own Python file is refused, and the file stays unread."""
    folder = write_tiny_bert(tmp_path / "evil")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil", "AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(BadModelError, match="transformers cannot load it"):
        load_encoder(folder)
    assert not (tmp_path / "ran").exists()


def test_weights_that_lack_tensors_are_refused(base: Path, tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadModelError, match=r"1 tensors are missing.*encoder\.layer\.1\.output\.dense\.weight"):
        load_encoder(folder)


def test_pooler_is_neither_needed_nor_kept(base: Path, tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path)
    weights = {name: t for name, t in load_file(folder / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_encoder(folder).pooler is None
    assert load_encoder(base).pooler is None


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(BadModelError, match="transformers cannot load it"):
        load_encoder(folder)


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model

    T5Model(T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(BadModelError, match="t5 is no plain encoder"):
        load_encoder(tmp_path)


def test_missing_tokenizer_is_refused_and_says_what_is_there(base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(BadModelError, match=r"tokenizer\.json is missing \(found: config\.json\)"):
        load_tokenizer(tmp_path, max_tokens=16)


def test_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadModelError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path, max_tokens=16)


def test_tokenizer_with_more_entries_than_the_embedding_is_refused(base: Path, tmp_path: Path) -> None:
    folder = write_tiny_bert(tmp_path)
    tokenizer = load_tokenizer(folder, max_tokens=16)
    check_vocabulary(load_encoder(base), tokenizer)
    tokenizer.add_tokens(["extra"])
    with pytest.raises(BadModelError, match=f"{len(WORDS) + 1} entries but the embedding only {len(WORDS)} rows"):
        check_vocabulary(load_encoder(base), tokenizer)


def test_texts_are_cut_to_max_tokens_with_their_frame(base: Path) -> None:
    rows = tokenize(load_tokenizer(base, max_tokens=6), ["card " * 50, "card"])
    assert rows.lengths.tolist() == [6, 3]
    assert [WORDS[i] for i in rows.rows[0]] == ["[CLS]", "card", "card", "card", "card", "[SEP]"]


def test_text_that_leaves_no_token_is_told_apart(base: Path) -> None:
    rows = tokenize(load_tokenizer(base, max_tokens=6), ["card", "​‍", "\x00\x01", "?"])
    assert rows.has_words.tolist() == [True, False, False, True]  # "?" is unknown, but it is a token


def test_max_tokens_without_room_for_text_is_refused(base: Path) -> None:
    with pytest.raises(BadConfigError, match="maxTokens: 2 leaves no room beside 2 special tokens"):
        load_tokenizer(base, max_tokens=2)


def test_tokenising_in_pieces_gives_what_one_by_one_gives(base: Path) -> None:
    tokenizer = load_tokenizer(base, max_tokens=16)
    many = texts(5000)
    rows = tokenize(tokenizer, many)
    assert len(rows.rows) == 5000
    for place in (0, 4095, 4096, 4999):
        np.testing.assert_array_equal(rows.rows[place], tokenizer.encode(many[place]).ids)


def test_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    save_classifier(stir(build(base)), tmp_path, card=CARD, tokenizer_from=base)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    first = sorted(weights)[0]
    weights[first] = torch.zeros(4, 31)
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(BadModelError, match="adapter does not fit the base model"):
        load_classifier(tmp_path, base)


def test_head_of_another_label_map_is_refused(base: Path, tmp_path: Path) -> None:
    card = CARD.model_copy(update={"labels": ("card", "loan")})
    save_classifier(stir(build(base)), tmp_path, card=card, tokenizer_from=base)
    with pytest.raises(BadModelError, match="head does not fit 2 labels"):
        load_classifier(tmp_path, base)


def test_missing_card_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BadModelError, match=r"policy\.json cannot be read"):
        load_classifier(tmp_path, base)

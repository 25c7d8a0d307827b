"""A language model out of one GGUF file, as a base model's folder: config, fast tokenizer, safetensors.

Decides that quantised weights become float32, since nothing can be trained on the others, that every number of the file
must have found its place in the model, positions stretched for long texts included, and that a folder which holds
something is left alone. transformers does the reading, with the package gguf; no code comes with such a file. Called by
`ratchet gguf`.
"""

from __future__ import annotations

import copy
import shutil
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from safetensors import SafetensorError

from ratchet_jobs.data.base_model import local_digest
from ratchet_jobs.runtime.errors import BadConfigError, BadModelError, is_disk_full

if TYPE_CHECKING:
    from gguf import GGUFReader

_MAGIC = b"GGUF"
_UNREADABLE = (
    OSError, ValueError, TypeError, RuntimeError, LookupError, ArithmeticError, AttributeError, ImportError,
    struct.error,
)  # fmt: skip
"""What transformers raises at files that are cut off, damaged, of no known architecture, or need another package."""
_COMPUTED = "rope_freqs.weight"
"""Factors of the wavelengths of positions, for llama.cpp; a model computes them for itself from its config."""


def convert_gguf(file: Path, folder: Path) -> str:
    """Write the folder and return its digest, as a run's spec.baseModel.sha256 wants it.

    Args:
        file: one GGUF file with weights and tokenizer of a causal language model.
        folder: made; may exist if it is empty.

    Raises:
        BadModelError: the file is no GGUF, or holds no causal language model that transformers can read whole.
        BadConfigError: the folder holds something, the disk is full, or the package gguf is missing.
    """
    if not file.is_file():
        raise BadModelError(f"{file}: is no file; name one that ends in .gguf")
    with file.open("rb") as opened:
        begin = opened.read(len(_MAGIC))
    if begin != _MAGIC:
        raise BadModelError(f"{file}: begins with {begin!r} and not with GGUF; name a GGUF file, whole and unpacked")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadConfigError(f"{folder}: holds something already; name a new folder")
    try:
        import gguf
    except ImportError as error:
        raise BadConfigError("reading a GGUF file needs the package gguf; install ratchet[gguf]") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, tokenizer = _read(file)
    reader = gguf.GGUFReader(str(file))
    _check_whole(file, model, reader)
    _check_positions(file, model, reader)
    return _write(model, tokenizer, folder.absolute())  # "." has no name


def _write(model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase, folder: Path) -> str:
    """Write the folder beside its place, then put it there; returns its digest."""
    unfinished = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f"{folder.name}.unfinished-", dir=folder.parent))
        unfinished.chmod(0o755)
        _plain(model).save_pretrained(str(unfinished))
        tokenizer.save_pretrained(str(unfinished))
        digest = local_digest(unfinished)
        if folder.is_dir():  # kept, as somebody may stand in it
            for made in unfinished.iterdir():
                made.rename(folder / made.name)
            unfinished.rmdir()
        else:
            unfinished.rename(folder)
    except (OSError, SafetensorError) as error:
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        if is_disk_full(error):
            raise BadConfigError(f"{folder}: the disk is full; free space, the weights need four bytes each") from error
        raise BadConfigError(f"{folder}: cannot be written: {error}; name another folder") from error
    return digest


def _read(file: Path) -> tuple[transformers.PreTrainedModel, transformers.PreTrainedTokenizerBase]:
    place = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(str(file.parent), **place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), **place)
        model, notes = transformers.AutoModelForCausalLM.from_pretrained(
            str(file.parent), config=config, dtype=torch.float32, output_loading_info=True, **place
        )
    except _UNREADABLE as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadModelError(
            f"{file}: transformers cannot read it: {first}; give a GGUF file of an architecture that it knows, or the "
            "model's own safetensors"
        ) from error
    if missing := sorted(notes["missing_keys"]):
        raise BadModelError(f"{file}: {len(missing)} tensors are missing, first {missing[0]}; give the whole file")
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerFast):
        raise BadModelError(f"{file}: its tokenizer cannot be saved as tokenizer.json; take the model's own folder")
    return model, tokenizer


def _plain(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The same weights in a model that knows nothing of the file: transformers saves none that was read from GGUF."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):  # no memory until it is given the weights
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    return plain


def _check_whole(file: Path, model: transformers.PreTrainedModel, reader: GGUFReader) -> None:
    """Refuse a file of which transformers left something out: it drops tensors whose names it does not know.

    Raises:
        BadModelError: the model has not as many numbers as the file.
    """
    given = sum(int(tensor.n_elements) for tensor in reader.tensors if tensor.name != _COMPUTED)
    taken = sum(parameter.numel() for parameter in model.parameters())  # shared ones once, as in the file
    if given != taken:
        raise BadModelError(
            f"{file}: its {len(reader.tensors)} tensors hold {given} numbers, but the {type(model).__name__} that "
            f"transformers makes of it has {taken}, so something was left out; take the model's own safetensors"
        )


def _check_positions(file: Path, model: transformers.PreTrainedModel, reader: GGUFReader) -> None:
    """Refuse a file whose positions are stretched while the model's are not: transformers drops that of most models.

    Raises:
        BadModelError: the model would read texts as if its positions had never been stretched.
    """
    if ((getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")) != "default":
        return
    stretching = [
        tensor.name for tensor in reader.tensors if tensor.name == _COMPUTED and not bool((tensor.data == 1).all())
    ]
    for name, field in reader.fields.items():
        if name.endswith(".rope.scaling.type") and field.contents() != "none":
            stretching.append(f"{name} {field.contents()!r}")
    if stretching:
        raise BadModelError(
            f"{file}: stretches its positions ({', '.join(stretching)}), which transformers leaves out of the model; "
            "take the model's own safetensors"
        )

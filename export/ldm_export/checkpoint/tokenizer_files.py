"""What the files of a tokenizer say: found, read, and each value of a type that can be honoured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from ldm_engine.errors import CheckpointError, ConfigError

from .json_files import read_json

#: The attributes of transformers' tokenizers that name a special token, in its order.
NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
#: Settings of tokenizer_config.json that would change ids: the values that change none.
_ACCEPTED_SETTINGS: dict[str, tuple[Any, ...]] = {
    "do_basic_tokenize": (True,),
    "never_split": (None, []),
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "split_special_tokens": (False,),
    "init_inputs": ([],),
    "fast_tokenizer_files": ([], ["tokenizer.json"]),
}
_AGAIN = "Save the tokenizer again with transformers' `save_pretrained`, or use the files of one."
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of one tokenizer, as far as they are there; JSON is read."""

    vocabulary: Path | None  #: one token a line
    tokenizer_path: Path | None  #: `tokenizer.json`
    config_path: Path  #: `tokenizer_config.json`, there or not
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Mapping[str, Any] | None = None  #: of `tokenizer_path`
    special_tokens_map: Mapping[str, Any] = field(default_factory=dict)
    added_tokens: Mapping[str, Any] = field(default_factory=dict)
    is_replaced: bool = False  #: the vocabulary was named by the user, not found beside the rest

    @property
    def path(self) -> Path:
        """The file that the vocabulary is read from."""
        path = self.vocabulary if self.tokenizer_path is None or self.is_replaced else None
        path = path or self.tokenizer_path
        assert path is not None, "find_tokenizer found one of them"
        return path


def find_tokenizer(folders: Sequence[Path], vocab: Path | None) -> TokenizerFiles:
    """The files in `folders`, of each kind the first; `vocab` stands for what it is named as.

    Raises:
        CheckpointError: if there is no vocabulary, or a file is no JSON object.
        ConfigError: if the config holds a setting that cannot be honoured.
    """
    vocabulary, tokenizer = _first(folders, "vocab.txt"), _first(folders, "tokenizer.json")
    if vocab is not None:
        tokenizer, vocabulary = (vocab, None) if vocab.suffix == ".json" else (tokenizer, vocab)
    candidates = [folder / n for folder in folders for n in ("tokenizer.json", "vocab.txt")]
    if not (vocab.is_file() if vocab is not None else vocabulary or tokenizer):
        looked = ", ".join(f"`{c}`" for c in ([vocab] if vocab is not None else candidates))
        raise CheckpointError(
            f"The checkpoint has no vocabulary: there is no file {looked}.\n"
            "  Put the `tokenizer.json` or `vocab.txt` of the tokenizer there that the model was "
            "trained with, or pass its path as `vocab` (CompVis' published models were trained "
            "with that of huggingface.co/google-bert/bert-base-uncased)."
        )
    config_path = _first(folders, "tokenizer_config.json") or folders[0] / "tokenizer_config.json"
    config = _read(config_path)
    _check_settings(config_path, config)
    return TokenizerFiles(
        vocabulary=vocabulary,
        tokenizer_path=tokenizer,
        config_path=config_path,
        config=config,
        tokenizer=read_json(tokenizer) if tokenizer is not None else None,
        special_tokens_map=_read(_first(folders, "special_tokens_map.json")),
        added_tokens=_read(_first(folders, "added_tokens.json")),
        is_replaced=vocab is not None and vocab == vocabulary,
    )


def _first(folders: Sequence[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _read(path: Path | None) -> Mapping[str, Any]:
    return read_json(path) if path is not None and path.is_file() else {}


def _check_settings(path: Path, config: Mapping[str, Any]) -> None:
    for name, accepted in _ACCEPTED_SETTINGS.items():
        if name in config and config[name] not in accepted:
            shown = " or ".join(json.dumps(value) for value in accepted)
            raise ConfigError(
                f"`{path}` says `{name}`: {as_json(config[name])}; {shown} is accepted.\n"
                "  It would change what prompts mean to the model. Use a tokenizer without it."
            )


def flag(path: Path, config: Mapping[str, Any], name: str, default: bool | None) -> bool | None:
    """A setting that is true or false, or null where that is its default."""
    value = config.get(name, default)
    if isinstance(value, bool) or (value is None and default is None):
        return value
    accepted = "true, false or null" if default is None else "true or false"
    raise ConfigError(
        f"`{path}`: `{name}` is {as_json(value)}; {accepted} is accepted.\n"
        "  Use the file published with the checkpoint."
    )


def as_json(value: Any) -> str:
    """A value as its file has it, at most a line of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_text(value: str) -> bool:
    """Whether it is neither empty nor holds half of a surrogate pair."""
    return value != "" and value.encode(errors="replace").decode() == value


def token_of(value: Any, where: str, *, special: bool) -> AddedToken:
    """A token as JSON has it: its text, or an object with its flags."""
    if isinstance(value, str) and _is_text(value):
        return AddedToken(value, special=special, normalized=not special)
    if isinstance(value, Mapping):
        known = {"content", "id", "__type", *_FLAGS}
        content = value.get("content")
        flags = {n: value[n] for n in _FLAGS if n in value} | ({"special": True} if special else {})
        flags.setdefault("normalized", not flags.get("special", False))
        if (
            isinstance(content, str)
            and _is_text(content)
            and value.keys() <= known
            and all(isinstance(given, bool) for given in flags.values())
        ):
            return AddedToken(content, **flags)
    raise CheckpointError(
        f"{where} is {as_json(value)}; text, or an object of `content`, {', '.join(_FLAGS)} is "
        "accepted.\n"
        "  Save the tokenizer again with transformers' `save_pretrained`."
    )


def token_id(value: Any, where: str) -> int:
    """An id as JSON has it: a number, or one in quotes as a key."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
        return value
    raise CheckpointError(
        f"{where} has the id {as_json(value)}; a number from 0 is accepted.\n"
        "  Save the tokenizer again with transformers' `save_pretrained`."
    )


def refusal(path: Path | None, given: str, accepted: str, remedy: str = _AGAIN) -> CheckpointError:
    """The error that `path` says what is `given`, with what is `accepted` and what to do."""
    return CheckpointError(f"`{path}` {given}; {accepted}.\n  {remedy}")


def listed_tokens(files: TokenizerFiles) -> list[Mapping[str, Any]]:
    """The added tokens of `tokenizer.json`."""
    listed = (files.tokenizer or {}).get("added_tokens", [])
    if isinstance(listed, list) and all(isinstance(entry, Mapping) for entry in listed):
        return listed
    raise refusal(files.tokenizer_path, "has `added_tokens` of another form",
                  "a list of objects is accepted")  # fmt: skip


def special_texts(files: TokenizerFiles) -> Iterator[tuple[str, str]]:
    """File name and text of each special token that the config and the map name."""
    for name, content in (("tokenizer_config.json", files.config),
                          ("special_tokens_map.json", files.special_tokens_map)):  # fmt: skip
        for key in (*NAMED_TOKENS, "additional_special_tokens", "extra_special_tokens"):
            value = content.get(key)
            for token in value if isinstance(value, list) else [value]:
                text = token.get("content") if isinstance(token, Mapping) else token
                if isinstance(text, str):
                    yield name, text

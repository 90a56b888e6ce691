"""Whether all that the files of a tokenizer say is true of what transformers makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ldm_engine.bundle.model import TokenizerInfo

from .tokenizer_files import (
    TokenizerFiles,
    as_json,
    listed_tokens,
    refusal,
    special_texts,
    token_id,
    token_of,
)


def check_kind(files: TokenizerFiles) -> None:
    """Refuse a `tokenizer.json` of another kind by the name of what is other."""
    if files.tokenizer is None:
        return
    wanted = {"model": "WordPiece", "normalizer": "BertNormalizer",
              "pre_tokenizer": "BertPreTokenizer"}  # fmt: skip
    for part, accepted in wanted.items():
        section = files.tokenizer.get(part)
        kind = section.get("type", accepted) if isinstance(section, Mapping) else section
        # Older files do not say which model it is.
        if kind == accepted and "merges" not in (section or {}):
            continue
        raise refusal(
            files.tokenizer_path,
            f"has the {part} {kind if isinstance(kind, str) else repr(kind)}",
            f"{accepted} is accepted",
            "Pass a checkpoint whose texts are divided by WordPiece, as BERT does.",
        )


def check_tokenizer_json(files: TokenizerFiles, made: dict[str, Any], is_bert: bool) -> None:
    """All that `tokenizer.json` says must be true of what transformers makes of it."""
    if files.tokenizer is None:
        return
    stated = {"handle_chinese_chars": "tokenize_chinese_chars", "lowercase": "do_lower_case",
              "strip_accents": "strip_accents"}  # fmt: skip
    for part in ("model", "normalizer"):
        for name, value in files.tokenizer[part].items():
            setting = stated.get(name)
            if name == "vocab" or value == made[part].get(name):
                continue
            if is_bert and setting in files.config:
                continue  # the config counts, as in transformers
            remedy = "Open it with the class PreTrainedTokenizerFast (in model_index.json), "
            if setting is not None:
                remedy = f"Say `{setting}` in `{files.config_path}`, or remove what it says here, "
            raise refusal(
                files.tokenizer_path,
                f"says `{name}`: {as_json(value)} in its {part}",
                f"transformers' class for it takes {as_json(made[part].get(name))} all the same",
                f"{remedy}or save the tokenizer again with transformers' `save_pretrained`.",
            )
    for section, setting in (("padding", "padding_side"), ("truncation", "truncation_side")):
        match files.tokenizer.get(section):
            case {"direction": side}:
                pass
            case _:
                side = "Right"
        if side != "Right" and setting not in files.config:
            raise refusal(files.tokenizer_path, f"has the {section} on the side {side!r}",
                          "'Right' is accepted")  # fmt: skip


def check_numbers(files: TokenizerFiles, backend: Tokenizer) -> None:
    """Every added token must be what each of the files says."""
    made = backend.get_added_tokens_decoder()
    decoder = files.config.get("added_tokens_decoder") or {}
    entries: list[tuple[Path | None, Any, Any]] = []
    entries += [(files.config_path, number, entry) for number, entry in decoder.items()]
    entries += [(files.tokenizer_path, entry.get("id"), entry) for entry in listed_tokens(files)]
    named = files.config_path.with_name("added_tokens.json")
    entries += [(named, number, content) for content, number in files.added_tokens.items()]
    for path, number, entry in entries:
        token = token_of(entry, f"An added token of `{path}`", special=False)
        found = made.get(token_id(number, f"`{path}`: {entry!r}"))
        if found is None or found.content != token.content:
            given = backend.token_to_id(token.content)
            raise refusal(
                path,
                f"gives {token.content!r} the id {number}",
                f"transformers gives it {'none' if given is None else given}",
            )
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        other = [f for f in flags if getattr(found, f) != getattr(token, f)]
        if other and not isinstance(entry, str):
            stated = f"says of {token.content!r} `{other[0]}`: {getattr(token, other[0])}"
            raise refusal(path, stated, "transformers takes the other value")
    contents = {token.content for token in made.values()}
    for name, text in special_texts(files):
        if text not in contents:
            raise refusal(files.config_path.with_name(name), f"has the special token {text!r}",
                          "transformers does not add it")  # fmt: skip


def tokens_around(files: TokenizerFiles, backend: Tokenizer) -> tuple[str, str] | None:
    """The tokens before and behind a text by the post-processor of `tokenizer.json`."""
    if files.tokenizer is None:
        return None
    section = files.tokenizer.get("post_processor")
    match section:
        case {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": str(cls)}},
                {"Sequence": {"id": "A"}},
                {"SpecialToken": {"id": str(sep)}},
            ],
            "special_tokens": dict() as ids,
        }:
            found = [ids.get(name) for name in (cls, sep)]
            numbers = [f.get("ids") if isinstance(f, Mapping) else None for f in found]
        case {
            "type": "BertProcessing",
            "cls": [str(cls), int(first)],
            "sep": [str(sep), int(last)],
        }:
            numbers = [[first], [last]]
        case _:
            kind = section.get("type") if isinstance(section, Mapping) else section
            raise refusal(
                files.tokenizer_path,
                f"has the post_processor {kind}",
                "one that sets a token before the text and one behind it is accepted "
                "(TemplateProcessing, BertProcessing)",
            )
    if numbers != [[backend.token_to_id(cls)], [backend.token_to_id(sep)]]:
        raise refusal(files.tokenizer_path, f"gives {cls!r} and {sep!r} other ids in its "
                      "post_processor than elsewhere", "both must say the same")  # fmt: skip
    return cls, sep


def check_names(
    files: TokenizerFiles, names: dict[str, Any], around: tuple[str, str] | None
) -> None:
    """All special tokens must be named, and be those that stand around a text."""
    missing = [name for name, content in names.items() if not content]
    if missing:
        raise refusal(files.config_path, f"has no `{missing[0]}`", "one is needed")
    if around is not None and around != (names["cls_token"], names["sep_token"]):
        raise refusal(
            files.tokenizer_path,
            f"sets {around[0]!r} before a text and {around[1]!r} behind it",
            f"transformers' class for it takes {names['cls_token']!r} and {names['sep_token']!r}",
        )


def check_patterns(files: TokenizerFiles, backend: Tokenizer, info: TokenizerInfo) -> None:
    """Added tokens that cannot be told from each other once they are normalized."""
    tokens = [token for token in info.added_tokens or () if token.normalized]
    patterns = [backend.normalizer.normalize_str(token.content) for token in tokens]
    twice = [p for p, count in Counter(patterns).items() if count > 1 or not p]
    if twice:
        alike = [t.content for t, p in zip(tokens, patterns, strict=True) if p == twice[0]]
        raise refusal(
            files.path,
            f"adds tokens that the normalizer makes {twice[0]!r} of: {alike}",
            "one for each normalized text, which is not empty, is accepted",
            "Remove all but one, or say `normalized`: false of them.",
        )

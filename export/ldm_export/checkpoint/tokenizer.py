"""A checkpoint's tokenizer as transformers makes it of its files, checked against all they say."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from ldm_engine.bundle.model import DEFAULT_ADDED_TOKENS, TokenizerInfo
from ldm_engine.bundle.model import AddedToken as AddedTokenInfo
from ldm_engine.errors import CheckpointError

from .checkpoint import CheckpointTokenizer
from .tokenizer_files import NAMED_TOKENS, TokenizerFiles, as_json, flag, token_id, token_of

#: Made of the vocabulary and the config; of `tokenizer.json` only what these say too.
BERT_CLASSES = ("BertTokenizer", "BertTokenizerFast")
#: Made of `tokenizer.json` alone.
WHOLE_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
#: What BERT's classes take where no file says otherwise.
_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_MAX_ID = 2**24  #: no model of this family embeds a tenth of it
_AGAIN = "Save the tokenizer again with transformers' `save_pretrained`, or use the files of one."


@dataclass(frozen=True)
class _Tokens:
    """The tokens that the files add to the vocabulary."""

    numbered: dict[int, AddedToken]
    named: dict[str, AddedToken]  #: by attribute, in transformers' order
    extra: list[AddedToken]

    def content(self, attribute: str) -> str | None:
        token = self.named.get(attribute)
        return token.content if token is not None else None


def read_tokenizer(files: TokenizerFiles, class_name: str | None) -> CheckpointTokenizer:
    """What texts become with the tokenizer of `files`.

    Args:
        files: from ``find_tokenizer``.
        class_name: that of transformers which opens the tokenizer; None: what the config says,
            or ``BertTokenizer``.

    Raises:
        CheckpointError: if a file says what cannot be honoured, or two of them do not agree.
        ConfigError: the same, of a setting.
    """
    class_name = class_name or files.config.get("tokenizer_class") or BERT_CLASSES[0]
    if class_name not in (*BERT_CLASSES, *WHOLE_CLASSES):
        raise CheckpointError(
            f"The tokenizer of `{files.path}` is of the class {class_name!r}; accepted: "
            f"{', '.join((*BERT_CLASSES, *WHOLE_CLASSES))}.\n"
            "  Pass a checkpoint whose texts are divided by WordPiece, as BERT does."
        )
    is_bert = class_name in BERT_CLASSES
    _check_kind(files)
    vocab, text = _vocabulary(files)
    tokens = _tokens(files, is_bert)
    backend = _bert_backend(files, vocab, tokens) if is_bert else _whole_backend(files, vocab)
    _add_tokens(backend, tokens)
    made = json.loads(backend.to_str())
    _check_tokenizer_json(files, made, is_bert)
    _check_numbers(files, backend)
    around = _around(files, backend)
    if files.tokenizer is not None:
        _parse(files, files.tokenizer)
    names = {
        "unk_token": made["model"]["unk_token"],
        "cls_token": around[0] if around and not is_bert else tokens.content("cls_token"),
        "sep_token": around[1] if around and not is_bert else tokens.content("sep_token"),
        "pad_token": tokens.content("pad_token"),
    }
    _check_names(files, names, around)
    implied = frozenset(n for n in _BERT_TOKENS.values() if is_bert and n not in vocab)
    info = _info(made, names, vocab, implied)
    _check_patterns(files, backend, info)
    return CheckpointTokenizer(
        files.path, text, info, implied - {t.content for t in tokens.numbered.values()}
    )


def _refuse(path: Path | None, given: str, accepted: str, remedy: str = _AGAIN) -> CheckpointError:
    return CheckpointError(f"`{path}` {given}; {accepted}.\n  {remedy}")


def _check_kind(files: TokenizerFiles) -> None:
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
        raise _refuse(
            files.tokenizer_path,
            f"has the {part} {kind if isinstance(kind, str) else repr(kind)}",
            f"{accepted} is accepted",
            "Pass a checkpoint whose texts are divided by WordPiece, as BERT does.",
        )


def _vocabulary(files: TokenizerFiles) -> tuple[dict[str, int], bytes]:
    """Ids by token, and the text of the vocabulary file that says the same."""
    stated = None
    if files.tokenizer is not None:
        stated = files.tokenizer["model"].get("vocab")
        if not isinstance(stated, dict) or not stated:
            raise _refuse(files.tokenizer_path, "has no `vocab` of ids by token", "one is needed")
        stated = {t: token_id(n, f"`{files.tokenizer_path}`: {t!r}") for t, n in stated.items()}
    if files.vocabulary is None:
        assert stated is not None
        return stated, _lines(files, stated)
    text = files.vocabulary.read_bytes()
    vocab = _read_lines(files.vocabulary)
    if stated is not None and stated != vocab and not files.is_replaced:
        other = sorted(dict(stated.items() ^ vocab.items()))
        raise _refuse(
            files.vocabulary,
            f"and `{files.tokenizer_path}` give {len(other)} tokens other ids, such as "
            f"{other[0]!r}",
            "both must say the same",
            "Remove the one that the model was not trained with (transformers 5 reads "
            "tokenizer.json, older versions vocab.txt), or pass the right one as `vocab`.",
        )
    return vocab, text


def _read_lines(path: Path) -> dict[str, int]:
    try:
        return dict(WordPiece.read_file(str(path)))
    except Exception as error:  # the Rust library raises bare Exception
        raise _refuse(
            path, f"is not a WordPiece vocabulary: {error}", "UTF-8, one token a line, is accepted",
            "Use the vocabulary published with the checkpoint.",
        ) from error  # fmt: skip


def _lines(files: TokenizerFiles, vocab: Mapping[str, int]) -> bytes:
    """A vocabulary file of `vocab`; what it cannot hold is refused."""
    largest = max(vocab.values())
    if largest > _MAX_ID:
        raise _refuse(files.path, f"has the id {largest}", f"ids up to {_MAX_ID} are accepted")
    # The later of two equal lines counts, so the last token holds the places of ids without one.
    last = max(vocab, key=lambda token: vocab[token])
    lines = [last] * (largest + 1)
    for token, number in vocab.items():
        lines[number] = token
    text = "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")
    with tempfile.NamedTemporaryFile() as file:
        file.write(text)
        file.flush()
        held = _read_lines(Path(file.name))
    other = sorted(dict(held.items() ^ vocab.items()))
    if other:
        raise _refuse(
            files.path,
            f"has tokens that no vocabulary file can hold, or two with one id: {other[:8]}",
            "tokens without line breaks or white space at their end, each with its own id, are "
            "accepted",
        )
    return text


def _tokens(files: TokenizerFiles, is_bert: bool) -> _Tokens:
    """What is added to the vocabulary; which of the files count is as in transformers."""
    config, numbered = files.config, {}
    has_decoder = "added_tokens_decoder" in config
    stated = dict(config)
    if not has_decoder:
        stated |= files.special_tokens_map
    extra = config.get("extra_special_tokens") or stated.get("additional_special_tokens") or []
    if not has_decoder and isinstance(files.special_tokens_map.get("extra_special_tokens"), list):
        extra = [*extra, *files.special_tokens_map["extra_special_tokens"]]
    for number, entry in _numbered(files, has_decoder):
        where = f"An added token of `{files.config_path.parent}`"
        numbered[number] = token_of(entry, where, special=False)
    defaults = _BERT_TOKENS if is_bert else {}
    others = [
        name
        for name, value in stated.items()
        if name.endswith("_token") and name not in NAMED_TOKENS and isinstance(value, (str, dict))
    ]
    named = {}
    for attribute in (*NAMED_TOKENS, *others):
        value = stated.get(attribute, defaults.get(attribute))
        if value is not None:
            where = f"`{files.config_path}`: `{attribute}`"
            named[attribute] = token_of(value, where, special=True)
    if isinstance(extra, Mapping):
        extra = list(extra.values())
    if not isinstance(extra, list):
        raise _refuse(
            files.config_path,
            f"or the map beside it has extra special tokens of another form: {as_json(extra)}",
            "a list is accepted",
        )
    where = f"`{files.config_path}`: an extra special token"
    return _Tokens(numbered, named, [token_of(value, where, special=True) for value in extra])


def _numbered(files: TokenizerFiles, has_decoder: bool) -> Iterator[tuple[int, Any]]:
    """Ids and tokens of the place that transformers reads them from."""
    if has_decoder:
        decoder = files.config["added_tokens_decoder"]
        if not isinstance(decoder, dict):
            raise _refuse(files.config_path, f"has `added_tokens_decoder`: {decoder!r}",
                          "an object of tokens by id is accepted")  # fmt: skip
        for number, entry in decoder.items():
            yield token_id(number, f"`{files.config_path}`: {entry!r}"), entry
        return
    special = {token for _, token in _special_texts(files)}
    for content, number in files.added_tokens.items():
        is_special = content in special
        entry = {"content": content, "normalized": not is_special, "special": is_special}
        yield token_id(number, f"added_tokens.json: {content!r}"), entry
    for entry in _listed(files):
        yield token_id(entry.get("id"), f"`{files.tokenizer_path}`: {entry!r}"), entry


def _listed(files: TokenizerFiles) -> list[Mapping[str, Any]]:
    """The added tokens of `tokenizer.json`."""
    listed = (files.tokenizer or {}).get("added_tokens", [])
    if isinstance(listed, list) and all(isinstance(entry, Mapping) for entry in listed):
        return listed
    raise _refuse(files.tokenizer_path, "has `added_tokens` of another form",
                  "a list of objects is accepted")  # fmt: skip


def _special_texts(files: TokenizerFiles) -> Iterator[tuple[str, str]]:
    """File name and text of each special token that the config and the map name."""
    for name, content in (("tokenizer_config.json", files.config),
                          ("special_tokens_map.json", files.special_tokens_map)):  # fmt: skip
        for key in (*NAMED_TOKENS, "additional_special_tokens", "extra_special_tokens"):
            value = content.get(key)
            for token in value if isinstance(value, list) else [value]:
                text = token.get("content") if isinstance(token, Mapping) else token
                if isinstance(text, str):
                    yield name, text


def _bert_backend(files: TokenizerFiles, vocab: dict[str, int], tokens: _Tokens) -> Tokenizer:
    unknown = tokens.content("unk_token")
    if unknown is None:
        raise _refuse(files.config_path, "has no `unk_token`", "one is needed")
    strip = flag(files.config_path, files.config, "strip_accents", None)
    chinese = flag(files.config_path, files.config, "tokenize_chinese_chars", True)
    lowercase = flag(files.config_path, files.config, "do_lower_case", True)
    backend = Tokenizer(WordPiece(vocab, unk_token=unknown))
    backend.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(chinese),
        strip_accents=strip,
        lowercase=bool(lowercase),
    )
    backend.pre_tokenizer = BertPreTokenizer()
    return backend


def _whole_backend(files: TokenizerFiles, vocab: dict[str, int]) -> Tokenizer:
    if files.tokenizer is None:
        raise _refuse(files.path, "is all that there is of a tokenizer of its class",
                      "tokenizer.json is needed")  # fmt: skip
    return _parse(files, {**files.tokenizer, "model": {**files.tokenizer["model"], "vocab": vocab}})


def _parse(files: TokenizerFiles, content: Mapping[str, Any]) -> Tokenizer:
    """Have the library read it, as transformers does: the form of what else there is in it."""
    try:
        return Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the Rust library raises bare Exception
        raise _refuse(files.tokenizer_path, f"cannot be read: {error}",
                      "what the library tokenizers writes is accepted") from error  # fmt: skip


def _add_tokens(backend: Tokenizer, tokens: _Tokens) -> None:
    """As transformers does, in its order, since ids are given as they come."""
    present = {repr(token) for token in backend.get_added_tokens_decoder().values()}
    added = [t for _, t in sorted(tokens.numbered.items()) if repr(t) not in present]
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    known |= {token.content for token in added}
    for token in (*tokens.named.values(), *tokens.extra):
        if token.content not in known:
            added.append(token)
            known.add(token.content)
    names = {token.content for token in tokens.named.values()}
    for token in added:
        token.special = token.special or token.content in names
    backend.add_tokens(added)


def _check_tokenizer_json(files: TokenizerFiles, made: dict[str, Any], is_bert: bool) -> None:
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
            raise _refuse(
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
            raise _refuse(files.tokenizer_path, f"has the {section} on the side {side!r}",
                          "'Right' is accepted")  # fmt: skip


def _check_numbers(files: TokenizerFiles, backend: Tokenizer) -> None:
    """Every added token must be what each of the files says."""
    made = backend.get_added_tokens_decoder()
    decoder = files.config.get("added_tokens_decoder") or {}
    entries: list[tuple[Path | None, Any, Any]] = []
    entries += [(files.config_path, number, entry) for number, entry in decoder.items()]
    entries += [(files.tokenizer_path, entry.get("id"), entry) for entry in _listed(files)]
    named = files.config_path.with_name("added_tokens.json")
    entries += [(named, number, content) for content, number in files.added_tokens.items()]
    for path, number, entry in entries:
        token = token_of(entry, f"An added token of `{path}`", special=False)
        found = made.get(token_id(number, f"`{path}`: {entry!r}"))
        if found is None or found.content != token.content:
            given = backend.token_to_id(token.content)
            raise _refuse(
                path,
                f"gives {token.content!r} the id {number}",
                f"transformers gives it {'none' if given is None else given}",
            )
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        other = [f for f in flags if getattr(found, f) != getattr(token, f)]
        if other and not isinstance(entry, str):
            stated = f"says of {token.content!r} `{other[0]}`: {getattr(token, other[0])}"
            raise _refuse(path, stated, "transformers takes the other value")
    contents = {token.content for token in made.values()}
    for name, text in _special_texts(files):
        if text not in contents:
            raise _refuse(files.config_path.with_name(name), f"has the special token {text!r}",
                          "transformers does not add it")  # fmt: skip


def _around(files: TokenizerFiles, backend: Tokenizer) -> tuple[str, str] | None:
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
            raise _refuse(
                files.tokenizer_path,
                f"has the post_processor {kind}",
                "one that sets a token before the text and one behind it is accepted "
                "(TemplateProcessing, BertProcessing)",
            )
    if numbers != [[backend.token_to_id(cls)], [backend.token_to_id(sep)]]:
        raise _refuse(files.tokenizer_path, f"gives {cls!r} and {sep!r} other ids in its "
                      "post_processor than elsewhere", "both must say the same")  # fmt: skip
    return cls, sep


def _check_names(
    files: TokenizerFiles, names: dict[str, Any], around: tuple[str, str] | None
) -> None:
    missing = [name for name, content in names.items() if not content]
    if missing:
        raise _refuse(files.config_path, f"has no `{missing[0]}`", "one is needed")
    if around is not None and around != (names["cls_token"], names["sep_token"]):
        raise _refuse(
            files.tokenizer_path,
            f"sets {around[0]!r} before a text and {around[1]!r} behind it",
            f"transformers' class for it takes {names['cls_token']!r} and {names['sep_token']!r}",
        )


def _info(
    made: dict[str, Any], names: dict[str, Any], vocab: dict[str, int], implied: frozenset[str]
) -> TokenizerInfo:
    normalizer, model = made["normalizer"], made["model"]
    added = tuple(AddedTokenInfo(**entry) for entry in made["added_tokens"])
    info = TokenizerInfo(
        kind="wordpiece",
        lowercase=normalizer["lowercase"],
        strip_accents=normalizer["strip_accents"],
        handle_chinese_chars=normalizer["handle_chinese_chars"],
        clean_text=normalizer["clean_text"],
        max_input_chars_per_word=model["max_input_chars_per_word"],
        continuing_subword_prefix=model["continuing_subword_prefix"],
        added_tokens=added,
        **names,
    )
    usual = {(n, vocab[n], True, False) for n in DEFAULT_ADDED_TOKENS if n in vocab}
    found = {(t.content, t.id, t.special, t.normalized) for t in added}
    if found == usual and not any(t.single_word or t.lstrip or t.rstrip for t in added):
        return replace(info, added_tokens=None)
    return info


def _check_patterns(files: TokenizerFiles, backend: Tokenizer, info: TokenizerInfo) -> None:
    """Added tokens that cannot be told from each other once they are normalized."""
    tokens = [token for token in info.added_tokens or () if token.normalized]
    patterns = [backend.normalizer.normalize_str(token.content) for token in tokens]
    twice = [p for p, count in Counter(patterns).items() if count > 1 or not p]
    if twice:
        alike = [t.content for t, p in zip(tokens, patterns, strict=True) if p == twice[0]]
        raise _refuse(
            files.path,
            f"adds tokens that the normalizer makes {twice[0]!r} of: {alike}",
            "one for each normalized text, which is not empty, is accepted",
            "Remove all but one, or say `normalized`: false of them.",
        )

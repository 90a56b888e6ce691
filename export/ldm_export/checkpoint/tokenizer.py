"""A checkpoint's tokenizer as transformers makes it of its files, in the form of a bundle."""

from __future__ import annotations

import json
import tempfile
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
from .tokenizer_checks import (
    check_kind,
    check_names,
    check_numbers,
    check_patterns,
    check_tokenizer_json,
    tokens_around,
)
from .tokenizer_files import (
    NAMED_TOKENS,
    TokenizerFiles,
    as_json,
    flag,
    listed_tokens,
    refusal,
    special_texts,
    token_id,
    token_of,
)

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
    check_kind(files)
    vocab, text = _vocabulary(files)
    tokens = _tokens(files, is_bert)
    backend = _bert_backend(files, vocab, tokens) if is_bert else _whole_backend(files, vocab)
    _add_tokens(backend, tokens)
    made = json.loads(backend.to_str())
    check_tokenizer_json(files, made, is_bert)
    check_numbers(files, backend)
    around = tokens_around(files, backend)
    if files.tokenizer is not None:
        _parse(files, files.tokenizer)
    names = {
        "unk_token": made["model"]["unk_token"],
        "cls_token": around[0] if around and not is_bert else tokens.content("cls_token"),
        "sep_token": around[1] if around and not is_bert else tokens.content("sep_token"),
        "pad_token": tokens.content("pad_token"),
    }
    check_names(files, names, around)
    implied = frozenset(n for n in _BERT_TOKENS.values() if is_bert and n not in vocab)
    info = _info(made, names, vocab, implied)
    check_patterns(files, backend, info)
    return CheckpointTokenizer(
        files.path, text, info, implied - {t.content for t in tokens.numbered.values()}
    )


def _vocabulary(files: TokenizerFiles) -> tuple[dict[str, int], bytes]:
    """Ids by token, and the text of the vocabulary file that says the same."""
    stated = None
    if files.tokenizer is not None:
        stated = files.tokenizer["model"].get("vocab")
        if not isinstance(stated, dict) or not stated:
            raise refusal(files.tokenizer_path, "has no `vocab` of ids by token", "one is needed")
        stated = {t: token_id(n, f"`{files.tokenizer_path}`: {t!r}") for t, n in stated.items()}
    if files.vocabulary is None:
        assert stated is not None
        return stated, _lines(files, stated)
    text = files.vocabulary.read_bytes()
    vocab = _read_lines(files.vocabulary)
    if stated is not None and stated != vocab and not files.is_replaced:
        other = sorted(dict(stated.items() ^ vocab.items()))
        raise refusal(
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
        raise refusal(
            path, f"is not a WordPiece vocabulary: {error}", "UTF-8, one token a line, is accepted",
            "Use the vocabulary published with the checkpoint.",
        ) from error  # fmt: skip


def _lines(files: TokenizerFiles, vocab: Mapping[str, int]) -> bytes:
    """A vocabulary file of `vocab`; what it cannot hold is refused."""
    largest = max(vocab.values())
    if largest > _MAX_ID:
        raise refusal(files.path, f"has the id {largest}", f"ids up to {_MAX_ID} are accepted")
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
        raise refusal(
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
        raise refusal(
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
            raise refusal(files.config_path, f"has `added_tokens_decoder`: {decoder!r}",
                          "an object of tokens by id is accepted")  # fmt: skip
        for number, entry in decoder.items():
            yield token_id(number, f"`{files.config_path}`: {entry!r}"), entry
        return
    special = {token for _, token in special_texts(files)}
    for content, number in files.added_tokens.items():
        is_special = content in special
        entry = {"content": content, "normalized": not is_special, "special": is_special}
        yield token_id(number, f"added_tokens.json: {content!r}"), entry
    for entry in listed_tokens(files):
        yield token_id(entry.get("id"), f"`{files.tokenizer_path}`: {entry!r}"), entry


def _bert_backend(files: TokenizerFiles, vocab: dict[str, int], tokens: _Tokens) -> Tokenizer:
    unknown = tokens.content("unk_token")
    if unknown is None:
        raise refusal(files.config_path, "has no `unk_token`", "one is needed")
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
        raise refusal(files.path, "is all that there is of a tokenizer of its class",
                      "tokenizer.json is needed")  # fmt: skip
    return _parse(files, {**files.tokenizer, "model": {**files.tokenizer["model"], "vocab": vocab}})


def _parse(files: TokenizerFiles, content: Mapping[str, Any]) -> Tokenizer:
    """Have the library read it, as transformers does: the form of what else there is in it."""
    try:
        return Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # the Rust library raises bare Exception
        raise refusal(files.tokenizer_path, f"cannot be read: {error}",
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

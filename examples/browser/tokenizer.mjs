// Text to input_ids: BERT WordPiece, padded, without any mask. Twin:
// engine/ldm_engine/sampling/tokenizer.py.
import { ensure } from "./errors.mjs";
import * as characters from "./characters.mjs";

/** Ranges of code points, from text such as "9-a,d". */
class Characters {
  constructor(text) {
    this.ends = text.split(",").map((range) => range.split("-").map((end) => parseInt(end, 16)));
  }

  has(codePoint) {
    let [low, high] = [0, this.ends.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.ends[middle].at(-1) < codePoint) low = middle + 1;
      else high = middle;
    }
    return low < this.ends.length && this.ends[low][0] <= codePoint;
  }
}

const REMOVED = new Characters(characters.REMOVED);
const BLANKS = new Characters(characters.SPACES);
const IDEOGRAPHS = new Characters(characters.IDEOGRAPHS);
const ACCENTS = new Characters(characters.ACCENTS);
const PUNCTUATION = new Characters(characters.PUNCTUATION);
const NORMALIZED = new Characters(characters.NORMALIZED);
const WORDS = new Characters(characters.WORD_CHARACTERS);
const SMALL = new Map(
  characters.LOWERCASE.split(",").flatMap((entry) => {
    const [first, last, step, shift] = entry.split(" ").map((number) => parseInt(number, 16));
    return Array.from({ length: (last - first) / step + 1 }, (_, i) => [
      first + i * step,
      first + i * step + shift,
    ]);
  }),
);
const BLANK = 0x20;
const isWhite = (c) => BLANKS.has(c) || c === 0xb || c === 0xc || c === 0x85;

// A text is a list of characters [code point, where in the text as it was given].

export class Tokenizer {
  constructor(vocabulary, model, info) {
    this.info = info;
    this.length = model.token_length;
    const lines = vocabulary.split("\n");
    if (lines.at(-1) === "") lines.pop();
    this.pieces = new Map(lines.map((line, id) => [withoutTrailingWhite(line), id]));
    const defaults = ["[UNK]", "[SEP]", "[CLS]", "[PAD]", "[MASK]"].filter((name) =>
      this.pieces.has(name),
    );
    const added =
      info.added_tokens ?? defaults.map((content) => ({ content, id: this.pieces.get(content) }));
    const find = (name) =>
      added.find((token) => token.content === name)?.id ?? this.pieces.get(name);
    [this.cls, this.sep, this.pad] = [info.cls_token, info.sep_token, info.pad_token].map(find);
    this.unknown = this.pieces.get(info.unk_token);
    const ids = [this.cls, this.sep, this.pad, this.unknown];
    const largest = Math.max(lines.length - 1, ...added.map((token) => token.id));
    ensure(
      !ids.includes(undefined) && largest < model.vocab_size && this.#areNumbered(added),
      "vocab.txt is not the text encoder's: it lacks a special token, or its ids are others. Export the bundle again.",
    );
    const patterns = added
      .map((token) => ({ token, text: this.#pattern(token) }))
      .filter(({ text }) => text.length);
    this.givenPatterns = patterns.filter(({ token }) => !token.normalized);
    this.normalizedPatterns = patterns.filter(({ token }) => token.normalized);
  }

  /** Whether added tokens have the ids that they have where texts are divided. */
  #areNumbered(added) {
    let next = this.pieces.size; // those that the vocabulary lacks follow it as they come
    return [...added]
      .sort((a, b) => a.id - b.id)
      .every(({ content, id }) => {
        const given = this.pieces.get(content) ?? next;
        next = Math.max(next, given + 1);
        return given === id;
      });
  }

  #pattern({ content, normalized, lstrip }) {
    const given = characterList(content);
    const text = (normalized ? normalize(given, this.info) : given).map(([c]) => c);
    ensure(
      !(lstrip && text.length && text.every(isWhite)),
      "The bundle's tokenizer adds white space alone with `lstrip`; other text is accepted. Use a tokenizer without it.",
    );
    return text;
  }

  /** The ids, BigInt64Array [token_length], and what was cut off from the text, "" if nothing. */
  encode(text) {
    const tokens = [[this.cls, 0]];
    divide(this.givenPatterns, characterList(text), tokens, (given) =>
      divide(this.normalizedPatterns, normalize(given, this.info), tokens, (plain) =>
        this.#addWords(plain, tokens),
      ),
    );
    tokens.push([this.sep, text.length]);
    const ids = tokens.slice(0, this.length).map(([id]) => id);
    const cut = tokens.length > this.length ? text.slice(tokens[this.length - 1][1]) : "";
    if (tokens.length > this.length) ids[this.length - 1] = this.sep;
    return {
      ids: BigInt64Array.from({ length: this.length }, (_, i) => BigInt(ids[i] ?? this.pad)),
      cut,
    };
  }

  #addWords(text, tokens) {
    for (let at = 0; at < text.length;) {
      const begin = at++;
      if (isWhite(text[begin][0])) continue;
      if (!PUNCTUATION.has(text[begin][0])) {
        while (at < text.length && !isWhite(text[at][0]) && !PUNCTUATION.has(text[at][0])) at++;
      }
      tokens.push(...this.#pieces(text.slice(begin, at)));
    }
  }

  /** A word as the longest pieces that the vocabulary has. */
  #pieces(word) {
    const found = [];
    const unknown = [[this.unknown, word[0][1]]];
    if (word.length > this.info.max_input_chars_per_word) return unknown;
    for (let begin = 0, end; begin < word.length; begin = end) {
      let id;
      for (end = word.length; end > begin; end--) {
        const piece = String.fromCodePoint(...word.slice(begin, end).map(([c]) => c));
        id = this.pieces.get((begin ? this.info.continuing_subword_prefix : "") + piece);
        if (id !== undefined) break;
      }
      if (id === undefined) return unknown;
      found.push([id, word[begin][1]]);
    }
    return found;
  }
}

/** Add the tokens that `patterns` find, leftmost and then longest first, and what lies between. */
function divide(patterns, text, tokens, addPlain) {
  const touches = (at) => at >= 0 && at < text.length && WORDS.has(text[at][0]);
  let done = 0;
  for (let at = 0; at < text.length;) {
    const here = patterns.filter(({ text: wanted }) =>
      wanted.every((c, i) => text[at + i]?.[0] === c),
    );
    if (!here.length) {
      at++;
      continue;
    }
    const { token, text: wanted } = here.reduce((a, b) => (b.text.length > a.text.length ? b : a));
    let [begin, end] = [at, at + wanted.length];
    at = end;
    if (token.single_word && (touches(begin - 1) || touches(end))) continue;
    while (token.lstrip && begin > done && isWhite(text[begin - 1][0])) begin--;
    while (token.rstrip && end < text.length && isWhite(text[end][0])) end++;
    if (begin > done) addPlain(text.slice(done, begin));
    tokens.push([token.id, text[begin][1]]);
    done = end;
  }
  if (done < text.length) addPlain(text.slice(done));
}

function normalize(text, info) {
  let result = [];
  for (const [c, at] of text) {
    if (info.clean_text && REMOVED.has(c)) continue;
    const kept = [info.clean_text && BLANKS.has(c) ? BLANK : c, at];
    const isApart = info.handle_chinese_chars && IDEOGRAPHS.has(c);
    result.push(...(isApart ? [[BLANK, at], kept, [BLANK, at]] : [kept]));
  }
  if (info.strip_accents ?? info.lowercase)
    result = decompose(result).filter(([c]) => !ACCENTS.has(c));
  return info.lowercase ? result.flatMap(inSmallLetters) : result;
}

/** Canonical decomposition, of what the tokenizer's Unicode decomposes or reorders. */
function decompose(text) {
  const result = [];
  for (let i = 0; i < text.length; i++) {
    const parts = [];
    for (; i < text.length && NORMALIZED.has(text[i][0]); i++) {
      const apart = String.fromCodePoint(text[i][0]).normalize("NFD");
      parts.push(...Array.from(apart, (part) => [part.codePointAt(0), text[i][1]]));
    }
    for (const part of String.fromCodePoint(...parts.map(([c]) => c)).normalize("NFD")) {
      const from = parts.findIndex(([c]) => c === part.codePointAt(0));
      result.push(...parts.splice(from, 1));
    }
    if (i < text.length) result.push(text[i]);
  }
  return result;
}

function inSmallLetters([c, at]) {
  if (c === 0x130)
    return [
      ["i".codePointAt(0), at],
      [0x307, at],
    ]; // the one that becomes two
  return [[SMALL.get(c) ?? c, at]];
}

function characterList(text) {
  let at = 0;
  return Array.from(text, (character) => [
    character.codePointAt(0),
    (at += character.length) - character.length,
  ]);
}

function withoutTrailingWhite(line) {
  let end = line.length;
  while (end && isWhite(line.charCodeAt(end - 1))) end--;
  return line.slice(0, end);
}

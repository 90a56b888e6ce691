// What the digest of a bundle holds of its tokenizer.
#include "bundle/model.hpp"

#include "bundle/json.hpp"

namespace ldm_engine {
namespace {

Json described(const AddedToken& token) {
  return {{"content", token.content},       {"id", token.id},
          {"special", token.special},       {"normalized", token.normalized},
          {"single_word", token.single_word}, {"lstrip", token.lstrip},
          {"rstrip", token.rstrip}};
}

}  // namespace

std::string digest_line(const TokenizerInfo& info) {
  const TokenizerInfo by_default;
  Json more = Json::object();  // its names are sorted
  const auto add = [&more](const char* name, const auto& value, const auto& other) {
    if (value != other) more[name] = value;
  };
  if (info.strip_accents) more["strip_accents"] = *info.strip_accents;
  add("handle_chinese_chars", info.handle_chinese_chars, by_default.handle_chinese_chars);
  add("clean_text", info.clean_text, by_default.clean_text);
  add("max_input_chars_per_word", info.max_input_chars_per_word,
      by_default.max_input_chars_per_word);
  add("continuing_subword_prefix", info.continuing_subword_prefix,
      by_default.continuing_subword_prefix);
  add("unk_token", info.unk_token, by_default.unk_token);
  add("cls_token", info.cls_token, by_default.cls_token);
  add("sep_token", info.sep_token, by_default.sep_token);
  add("pad_token", info.pad_token, by_default.pad_token);
  if (info.added_tokens) {
    more["added_tokens"] = Json::array();
    for (const AddedToken& token : *info.added_tokens) {
      more["added_tokens"].push_back(described(token));
    }
  }
  return more.empty() ? "" : more.dump() + "  tokenizer\n";
}

}  // namespace ldm_engine

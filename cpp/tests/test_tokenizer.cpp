#include <doctest/doctest.h>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "manifests.hpp"
#include "sampling/tokenizer.hpp"

using namespace ldm_engine;

namespace {

/// What the manifest's section `tokenizer` says.
TokenizerInfo info_of(const Json& section) {
  Json manifest = read_vectors("manifests.json").at("base");
  manifest["tokenizer"] = section;
  return parse_manifest("somewhere", sealed(manifest)).tokenizer;
}

void check(const Tokenizer& tokenizer, const std::string& text, std::vector<std::int64_t> expected,
           std::size_t cut_bytes) {
  CAPTURE(text);
  const auto length = static_cast<std::size_t>(tokenizer.token_length());
  expected.resize(length);  // [PAD] is 0
  std::vector<std::int64_t> ids(length, -1);
  const auto cut = tokenizer.encode(text, ids.data());
  CHECK(ids == expected);
  CHECK((cut ? cut->size() : 0) == cut_bytes);
}

}  // namespace

TEST_CASE("ids are those of the shared vectors") {
  const auto vectors = read_vectors("tokenizer.json");
  const int length = vectors.at("token_length").get<int>();
  const int vocab_size = vectors.at("vocab_size").get<int>();
  const auto vocabulary = data_file("wordpiece_vocab.txt");
  for (const std::string name : {"uncased", "cased"}) {
    TokenizerInfo info;
    info.lowercase = name == "uncased";
    const Tokenizer tokenizer(vocabulary, length, info, vocab_size);
    for (const auto& entry : vectors.at("texts")) {
      check(tokenizer, entry.at("text").get<std::string>(),
            entry.at(name).get<std::vector<std::int64_t>>(),
            entry.value(name + "_cut_bytes", std::size_t{0}));
    }
  }
  for (const auto& options : vectors.at("options")) {
    CAPTURE(options.at("tokenizer").dump());
    const Tokenizer tokenizer(vocabulary, length, info_of(options.at("tokenizer")), 1 << 20);
    for (const auto& entry : options.at("texts")) {
      check(tokenizer, entry.at("text").get<std::string>(),
            entry.at("ids").get<std::vector<std::int64_t>>(),
            entry.value("cut_bytes", std::size_t{0}));
    }
  }
}

TEST_CASE("a bad vocabulary is refused") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "vocab.txt";
  const std::string specials = "[CLS]\n[SEP]\n[PAD]\n[UNK]\n";
  for (const std::string& content :
       {std::string(), std::string("hello\nworld\n"), std::string("\xff\xfe\0", 3),
        std::string("[CLS]\n[SEP]\n[PAD]\n"), specials + "a\nb\n", specials + "\xc3\n"}) {
    CAPTURE(content);
    write_file(path, content);
    try {
      Tokenizer tokenizer(path, 8, {}, 5);
      FAIL("accepted");
    } catch (const BundleError& error) {
      CHECK(std::string(error.what()).find("vocab.txt") != std::string::npos);
    }
  }
  std::filesystem::remove(path);
  CHECK_THROWS_AS(Tokenizer(path, 8, {}, 5), BundleError);
  write_file(path, specials + "last");
  CHECK_NOTHROW(Tokenizer(path, 8, {}, 5));
  write_file(path, "[CLS]  \r\n[SEP]\xc2\xa0\n[PAD]\n[UNK]\n[CLS]\n");
  std::int64_t ids[3] = {};
  CHECK_FALSE(Tokenizer(path, 3, {}, 5).encode("", ids));
  CHECK(ids[0] == 4);  // the later of two equal lines counts
  CHECK(ids[1] == 1);
}

TEST_CASE("one token leaves room for the end alone") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "vocab.txt";
  write_file(path, "[CLS]\n[SEP]\n[PAD]\n[UNK]\n");
  std::int64_t id = -1;
  CHECK(Tokenizer(path, 1, {}, 4).encode("abc", &id) == "abc");
  CHECK(id == 1);
}

TEST_CASE("an added token of white space that takes more of it along is refused") {
  const auto vocabulary = data_file("wordpiece_vocab.txt");
  const auto next = read_vectors("tokenizer.json").at("vocab_size").get<std::int64_t>();
  for (const bool normalized : {true, false}) {
    TokenizerInfo info;
    info.added_tokens = {{"[CLS]", 2}, {" \t", next, false, normalized, false, true, false}};
    CHECK_THROWS_AS(Tokenizer(vocabulary, 8, info, 1 << 20), BundleError);
    info.added_tokens->back().lstrip = false;
    CHECK_NOTHROW(Tokenizer(vocabulary, 8, info, 1 << 20));
  }
}

TEST_CASE("added tokens have the ids that the bundle says") {
  const auto vocabulary = data_file("wordpiece_vocab.txt");
  const auto next = read_vectors("tokenizer.json").at("vocab_size").get<std::int64_t>();
  TokenizerInfo info;
  info.added_tokens = {{"<y>", next + 1}, {"[CLS]", 2}, {"<x>", next}};
  CHECK_NOTHROW(Tokenizer(vocabulary, 8, info, 1 << 20));
  CHECK_THROWS_AS(Tokenizer(vocabulary, 8, info, static_cast<int>(next) + 1), BundleError);
  info.added_tokens->front().id = next + 2;
  CHECK_THROWS_AS(Tokenizer(vocabulary, 8, info, 1 << 20), BundleError);
  info.added_tokens = {{"[CLS]", 3}};
  CHECK_THROWS_AS(Tokenizer(vocabulary, 8, info, 1 << 20), BundleError);
}

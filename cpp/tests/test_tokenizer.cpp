#include <doctest/doctest.h>

#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "sampling/tokenizer.hpp"

using namespace ldm_engine;

TEST_CASE("ids are those of the shared vectors") {
  const auto vectors = read_vectors("tokenizer.json");
  const int length = vectors.at("token_length").get<int>();
  for (const std::string name : {"uncased", "cased"}) {
    const Tokenizer tokenizer(data_file("wordpiece_vocab.txt"), length, name == "uncased",
                              vectors.at("vocab_size").get<int>());
    for (const auto& entry : vectors.at("texts")) {
      CAPTURE(entry.dump());
      std::vector<std::int64_t> expected = entry.at(name).get<std::vector<std::int64_t>>();
      expected.resize(static_cast<std::size_t>(length));  // [PAD] is 0
      std::vector<std::int64_t> ids(static_cast<std::size_t>(length), -1);
      const auto cut = tokenizer.encode(entry.at("text").get<std::string>(), ids.data());
      CHECK(ids == expected);
      CHECK((cut ? cut->size() : 0) == entry.value(name + "_cut_bytes", std::size_t{0}));
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

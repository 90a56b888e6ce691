#include <doctest/doctest.h>

#include "command_line.hpp"
#include "images.hpp"

namespace {

CommandLine read(std::vector<std::string> words) {
  words.insert(words.begin(), "ldm-generate");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  return read_command_line(static_cast<int>(words.size()), arguments.data());
}

}  // namespace

TEST_CASE("options are read, with dashes or underscores") {
  const CommandLine command =
      read({"bundle", "a_b", "--num_inference_steps=7", "--seed", "3", "-o", "out", "c",
            "--guidance-scale", "2.5", "--negative_prompt", "no_no", "--timings"});
  CHECK(command.bundle == "bundle");
  CHECK(command.prompts == std::vector<std::string>{"a_b", "c"});
  CHECK(command.request.num_inference_steps == 7);
  CHECK(command.request.guidance_scale.values == std::vector<double>{2.5});
  CHECK(command.request.negative_prompt.values.front() == "no_no");
  CHECK(command.request.seed.values == std::vector<std::int64_t>{3});
  CHECK(command.output == "out");
  CHECK(command.shows_timings);
  CHECK(command.options.memory == "auto");
  CHECK(read({"bundle", "--", "--height"}).prompts.front() == "--height");
  CHECK(read({"bundle", "a", "-oout"}).output == "out");
  CHECK(read({"bundle", "a", "--negative-prompt", "--a_b"}).request.negative_prompt.values[0] ==
        "--a_b");
  CHECK(read({"bundle", "", "-"}).prompts == std::vector<std::string>{"", "-"});
  CHECK(read({"-h"}).wants_help);
}

TEST_CASE("bad usage is refused") {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{},
                                             {"bundle"},
                                             {"bundle", "a", "--seed"},
                                             {"bundle", "a", "--seed", "x"},
                                             {"bundle", "a", "--seed", "1.5"},
                                             {"bundle", "a", "--height", "99999999999"},
                                             {"bundle", "a", "--batch-size", "0"},
                                             {"bundle", "a", "--batch-size", "1025"},
                                             {"bundle", "a", "--heig", "64"},
                                             {"bundle", "a", "--timings=1"},
                                             {"bundle", "a", "-x"},
                                             {"bundle", "a", "-o"},
                                             {"bundle", "a", "--eta", "0x1p-1"},
                                             {"bundle", "a", "--none"},
                                             {"bundle", "a", "--eta", "much"},
                                             {"bundle", "a", "--num-images", "0"}}) {
    CHECK_THROWS_AS(read(words), UsageError);
  }
}

TEST_CASE("a slug is that of Python") {
  CHECK(slug("A small Red circle!") == "a-small-red-circle");
  CHECK(slug("caf\xc3\xa9 \xef\xac\x81ne") == "cafe-fine");
  CHECK(slug("\xe6\x97\xa5\xe6\x9c\xac") == "image");
  CHECK(slug(std::string(59, 'a') + " b c") == std::string(59, 'a'));
  CHECK(slug("") == "image");
}

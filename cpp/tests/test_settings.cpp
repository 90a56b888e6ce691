#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "command_line.hpp"
#include "folders.hpp"
#include "ldm_engine/errors.hpp"
#include "sampling/settings.hpp"

using namespace ldm_engine;

namespace {

/// What settings.json calls the type of a field.
struct Kind {
  const char* operator()(std::monostate) const { return "text"; }
  const char* operator()(int Request::*) const { return "whole number"; }
  const char* operator()(std::optional<int> Request::*) const { return "whole number"; }
  const char* operator()(PerImage<std::int64_t> Request::*) const { return "whole number"; }
  const char* operator()(PerImage<double> Request::*) const { return "number"; }
  const char* operator()(PerImage<std::string> Request::*) const { return "text"; }
  const char* operator()(std::string Request::*) const { return "text"; }
  const char* operator()(std::vector<int> Request::*) const { return "list"; }
  const char* operator()(std::optional<double> Request::*) const { return "number"; }
  const char* operator()(std::vector<Image> Request::*) const { return "picture"; }
};

Json number(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

/// The request of a command line that gives prompts alone.
Request command_defaults() {
  char name[] = "ldm-generate", bundle[] = "bundle", prompt[] = "a";
  char* words[] = {name, bundle, prompt, nullptr};
  return read_command_line(3, words).request;
}

/// `text` with a single space wherever it has white space.
std::string on_one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line;
  for (std::string word; words >> word;) line += word + " ";
  return line;
}

}  // namespace

TEST_CASE("settings are those of the shared list") {
  const Request library, command = command_defaults();
  const Json list = read_vectors("settings.json");
  REQUIRE(settings().size() == list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Setting& setting = settings()[i];
    CAPTURE(setting.name);
    CHECK(list[i].at("name") == setting.name);
    CHECK(list[i].at("field") == setting.option());
    CHECK(list[i].at("kind") == std::visit(Kind(), setting.field));
    CHECK(list[i].at("default") == setting_value(setting, library));
    CHECK(list[i].at("command_default") == setting_value(setting, command));
    CHECK(list[i].at("minimum") == number(setting.minimum));
    CHECK(list[i].at("maximum") == number(setting.maximum));
  }
}

TEST_CASE("every setting but those without help is an option of the command") {
  const std::string help = on_one_line(help_text());
  for (const Setting& setting : settings()) {
    std::string option = "--" + std::string(setting.option()) + " ";
    std::replace(option.begin() + 2, option.end(), '_', '-');
    CAPTURE(option);
    CHECK((help.find(option) != std::string::npos) == (*setting.help != '\0'));
    CHECK(help.find(on_one_line(setting.help)) != std::string::npos);
  }
}

TEST_CASE("seeds count up from one, are kept as a list, or are random") {
  CHECK(spread_seeds(5, 3) == std::vector<std::uint32_t>{5, 6, 7});
  CHECK(spread_seeds({9, 9}, 2) == std::vector<std::uint32_t>{9, 9});
  CHECK(spread_seeds({}, 4).size() == 4);
  CHECK(spread_seeds({}, 4) != spread_seeds({}, 4));
  CHECK_THROWS_AS(spread_seeds(INT64_MAX, 2), InvalidArgumentError);
  CHECK_THROWS_AS(spread_seeds(INT64_MIN, 2), InvalidArgumentError);
}

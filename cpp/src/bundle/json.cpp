// JSON files read with distrust: every failure names the file.
#include "bundle/json.hpp"

#include <cerrno>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include "ldm_engine/errors.hpp"
#include "machine/files.hpp"
#include "machine/messages.hpp"

namespace ldm_engine {
namespace {

/// Python's reader gives up at about a thousand; no file of a bundle needs ten.
constexpr int kMaxDepth = 200;

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  std::optional<std::string> content = read_whole(path);
  if (!content) {
    throw BundleError(path.string() + " cannot be read: " + std::strerror(errno) +
                      ". " + kCopyAgain);
  }
  return *std::move(content);
}

Json parse_json_object(std::string_view text, const std::filesystem::path& path,
                       const std::string& remedy) {
  const auto guard = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) throw std::runtime_error("it is nested too deeply");
    return true;
  };
  Json content;
  try {
    // The parser would pass over a byte order mark, which Python's refuses.
    if (text.substr(0, 3) == "\xEF\xBB\xBF") throw std::runtime_error("it begins with a BOM");
    content = Json::parse(text.begin(), text.end(), guard);
  } catch (const std::exception& error) {
    throw BundleError(path.string() + " cannot be read: " + error.what() + ". " + remedy);
  }
  if (!content.is_object()) {
    throw BundleError(path.string() + " holds a " + type_name(content) +
                      "; a JSON object is expected. " + remedy);
  }
  return content;
}

std::string shown(const Json& value) {
  if (value.is_structured()) return std::string("a JSON ") + type_name(value);
  if (value.is_string()) return in_quotes(value.get_ref<const std::string&>());
  return value.dump();
}

const char* type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "boolean";
    case Json::value_t::string:
      return "string";
    case Json::value_t::array:
      return "list";
    case Json::value_t::object:
      return "object";
    case Json::value_t::number_float:
      return "fraction";
    default:
      return "whole number";
  }
}

}  // namespace ldm_engine

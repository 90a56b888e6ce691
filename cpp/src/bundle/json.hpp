// JSON files read with distrust: every failure names the file. Python has this in its library.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace ldm_engine {

using Json = nlohmann::json;

/// What to do about a file of a bundle that cannot be read.
inline constexpr char kCopyAgain[] = "Copy the bundle again, or export it again.";

/// The bytes of a file. Throws BundleError if it cannot be read.
std::string read_file(const std::filesystem::path& path);

/// The JSON object that `text`, read from `path`, holds.
/// Throws BundleError, with the `remedy`, if it is not JSON, not an object, or nested too deeply.
Json parse_json_object(std::string_view text, const std::filesystem::path& path,
                       const std::string& remedy = kCopyAgain);

/// A value for error messages: short, and never deeper than one level.
std::string shown(const Json& value);

/// What error messages call the type of a value.
const char* type_name(const Json& value);

}  // namespace ldm_engine

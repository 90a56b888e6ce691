// Folders and bundles that the tests work on.
#pragma once

#include <stdlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>

/// A folder that is gone with its owner.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "ldm-engine-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// A file of tests/data.
inline std::filesystem::path data_file(const std::string& name) {
  return std::filesystem::path(LDM_ENGINE_TEST_DATA) / name;
}

inline nlohmann::json read_vectors(const std::string& name) {
  std::ifstream file(data_file(name));
  if (!file) throw std::runtime_error("tests/data/" + name + " is missing");
  return nlohmann::json::parse(file);
}

/// The bundle to render with, or none: ctest and pytest set the variable.
inline std::optional<std::filesystem::path> test_bundle() {
  const char* folder = std::getenv("LDM_ENGINE_TEST_BUNDLE");
  if (!folder || !*folder) return std::nullopt;
  return std::filesystem::path(folder);
}

inline void write_file(const std::filesystem::path& path, const std::string& content) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

/// Leaves a test that needs a bundle when there is none.
#define REQUIRE_BUNDLE(name)                                        \
  const auto name##_folder = test_bundle();                         \
  if (!name##_folder) {                                             \
    MESSAGE("passed over: LDM_ENGINE_TEST_BUNDLE names no bundle"); \
    return;                                                         \
  }                                                                 \
  const std::filesystem::path name = *name##_folder

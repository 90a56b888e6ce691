// The user's cache folder: what can be recomputed, kept so that a second start is fast.
#include "machine/cache.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <system_error>
#include <utility>
#include <vector>

#include "ldm_engine/errors.hpp"
#include "machine/files.hpp"
#include "machine/sha256.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

constexpr auto kKept = std::chrono::hours(30 * 24);
constexpr std::size_t kKeptFiles = 8;
constexpr char kSeal[] = ".sha256";

std::optional<fs::path> root() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value ? value : "");
  };
  const std::string own = variable("LDM_ENGINE_CACHE");
  if (own == "off") return std::nullopt;
  if (!own.empty()) return fs::path(own) / "ldm-engine";  // old things in it are ours
  const std::string base = variable("XDG_CACHE_HOME");
  if (!base.empty()) return fs::path(base) / "ldm-engine";
  const std::string home = variable("HOME");
  if (home.empty()) return std::nullopt;
  return fs::path(home) / ".cache" / "ldm-engine";
}

/// Remove the siblings of `folder` that nothing has used for long.
void remove_stale(const fs::path& folder) {
  std::error_code error;
  const auto now = fs::file_time_type::clock::now();
  for (fs::directory_iterator at(folder.parent_path(), error), end; !error && at != end;
       at.increment(error)) {
    std::error_code ignored;
    const auto written = fs::last_write_time(at->path(), ignored);
    if (!ignored && at->path() != folder && at->is_directory(ignored) && now - written > kKept) {
      fs::remove_all(at->path(), ignored);
    }
  }
}

std::vector<fs::path> files_with(const fs::path& folder, const std::string& extension) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    if (at->path().extension() == extension) paths.push_back(at->path());
  }
  return paths;
}

fs::path seal_of(const fs::path& path) { return path.string() + kSeal; }

void seal(const fs::path& path, const std::string& hash, const std::string& stamp) {
  try {
    write_atomically(seal_of(path), hash + stamp);
  } catch (const OutputError&) {
    // It is compiled anew next time.
  }
}

std::string stamp_of(const fs::path& path) {
  std::string text;
  for (const std::int64_t number : stamp_file(path)) text += " " + std::to_string(number);
  return text;
}

}  // namespace

std::optional<fs::path> cache_folder(const std::string& kind, const std::string& name) {
  const std::optional<fs::path> base = root();
  if (!base) return std::nullopt;
  const fs::path folder = name.empty() ? *base / kind : *base / kind / name;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return std::nullopt;
  fs::last_write_time(folder, fs::file_time_type::clock::now(), error);  // in use
  if (error || ::access(folder.c_str(), W_OK | X_OK) != 0) return std::nullopt;
  if (!name.empty()) remove_stale(folder);
  return folder;
}

void drop_unsealed(const fs::path& folder, const std::string& extension) {
  for (const fs::path& path : files_with(folder, extension)) {
    const std::string text = read_whole(seal_of(path)).value_or("");
    const std::string hash = text.substr(0, text.find(' ')), stamp = stamp_of(path);
    if (!hash.empty() && text == hash + stamp) continue;
    // It was copied, or sealed before there were stamps, or written.
    if (!hash.empty() && hash == sha256_of_file(path)) {
      seal(path, hash, stamp);
    } else {
      std::error_code ignored;
      fs::remove(path, ignored);
    }
  }
  for (const fs::path& path : files_with(folder, kSeal)) {
    std::error_code ignored;
    if (fs::path file = path; !fs::exists(file.replace_extension(), ignored)) {
      fs::remove(path, ignored);
    }
  }
}

void seal_files(const fs::path& folder, const std::string& extension) {
  std::error_code ignored;
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  for (fs::path& path : files_with(folder, extension)) {
    const auto written = fs::last_write_time(path, ignored);
    files.emplace_back(written, std::move(path));
  }
  std::sort(files.rbegin(), files.rend());
  for (std::size_t i = 0; i < files.size(); ++i) {
    const fs::path& path = files[i].second;
    if (i >= kKeptFiles) {
      fs::remove(path, ignored);
      fs::remove(seal_of(path), ignored);
    } else if (!fs::exists(seal_of(path), ignored)) {
      const std::string stamp = stamp_of(path);
      if (const auto hash = sha256_of_file(path)) seal(path, *hash, stamp);
    }
  }
}

}  // namespace ldm_engine

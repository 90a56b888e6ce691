// Files verified and unchanged since; they are not hashed again.
#include "bundle/stamps.hpp"

#include <optional>
#include <system_error>

#include "bundle/json.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/cache.hpp"
#include "machine/files.hpp"
#include "machine/sha256.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

std::optional<fs::path> place(const fs::path& folder) {
  const std::optional<fs::path> parent = cache_folder("verified");
  std::error_code error;
  const fs::path resolved = fs::canonical(folder, error);
  if (!parent || error) return std::nullopt;
  return *parent / (sha256_of_text(resolved.string()).substr(0, 32) + ".json");
}

Json read_notes(const fs::path& folder) {
  const std::optional<fs::path> path = place(folder);
  const std::optional<std::string> text = path ? read_whole(*path) : std::nullopt;
  if (!text) return Json::object();
  try {
    return parse_json_object(*text, *path);
  } catch (const BundleError&) {
    return Json::object();
  }
}

}  // namespace

std::vector<std::string> changed_files(const fs::path& folder,
                                       const std::map<std::string, std::string>& hashes) {
  const Json notes = read_notes(folder);
  std::vector<std::string> changed;
  for (const auto& [name, hash] : hashes) {
    const auto note = notes.find(name);
    const Stamp now = stamp_file(folder / name);
    if (now.empty() || note == notes.end() || *note != Json::array({hash, now})) {
      changed.push_back(name);
    }
  }
  return changed;
}

std::map<std::string, Stamp> stamp_files(const fs::path& folder,
                                         const std::vector<std::string>& names) {
  std::map<std::string, Stamp> stamps;
  for (const std::string& name : names) stamps[name] = stamp_file(folder / name);
  return stamps;
}

void remember_files(const fs::path& folder, const std::map<std::string, std::string>& hashes,
                    const std::map<std::string, Stamp>& stamps) {
  const std::optional<fs::path> path = place(folder);
  if (!path) return;
  Json notes = read_notes(folder);
  for (const auto& [name, stamp] : stamps) notes[name] = Json::array({hashes.at(name), stamp});
  try {
    write_atomically(*path, notes.dump());
  } catch (const std::exception&) {
    // Without a note the files are read again next time.
  }
}

}  // namespace ldm_engine

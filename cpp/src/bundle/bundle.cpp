// An opened bundle: what its manifest says, and whether its files are whole.
#include "bundle/bundle.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <system_error>
#include <thread>

#include "bundle/stamps.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/cpu.hpp"
#include "machine/messages.hpp"
#include "machine/sha256.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

/// Run `work(i)` for every i below `count`, on as many threads as there are cores.
template <typename Work>
void in_parallel(std::size_t count, const Work& work) {
  std::atomic<std::size_t> next{0};
  const auto run = [&] {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  };
  const std::size_t threads = std::min(count, static_cast<std::size_t>(available_threads()));
  std::vector<std::thread> others;
  others.reserve(threads);  // a started thread must not be lost to a vector that cannot grow
  try {
    for (std::size_t i = 1; i < threads; ++i) others.emplace_back(run);
  } catch (const std::system_error&) {
    // No more threads are to be had: those that there are do the work.
  }
  run();
  for (std::thread& thread : others) thread.join();
}

}  // namespace

std::optional<ManifestStamp> manifest_stamp(const fs::path& folder) {
  struct stat status {};
  if (::stat((folder / kManifest).c_str(), &status) != 0) return std::nullopt;
  return ManifestStamp{
      static_cast<std::int64_t>(status.st_ino), static_cast<std::int64_t>(status.st_dev),
      static_cast<std::int64_t>(status.st_size),
      std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec};
}

std::vector<std::string> Bundle::formats() const {
  std::vector<std::string> found;
  for (const char* format : kFormats) {
    const auto& needed = required_programs();
    const bool in_all = std::all_of(needed.begin(), needed.end(), [&](const std::string& name) {
      return programs.at(name).formats.count(format) > 0;
    });
    if (in_all) found.emplace_back(format);
  }
  return found;
}

std::string Bundle::digest() const {
  std::set<std::string> names = {kSchedulerConfig, kVocabulary};
  for (const std::string& program : required_programs()) {
    for (const auto& [format, info] : programs.at(program).formats) {
      names.insert(info.files.begin(), info.files.end());
    }
  }
  return files_digest({names.begin(), names.end()}, digest_line(tokenizer));
}

std::string Bundle::program_digest(const std::string& program) const {
  std::vector<std::string> names;
  for (const auto& [format, info] : programs.at(program).formats) {
    names.insert(names.end(), info.files.begin(), info.files.end());
  }
  return files_digest(std::move(names));
}

std::string Bundle::files_digest(std::vector<std::string> names,
                                 const std::string& last_line) const {
  std::sort(names.begin(), names.end());
  Sha256 hash;
  for (const std::string& name : names) {
    const std::string line = files.at(name).sha256 + "  " + name + "\n";
    hash.update(line.data(), line.size());
  }
  hash.update(last_line.data(), last_line.size());
  return hash.hex();
}

std::vector<fs::path> Bundle::program_files(const std::string& program,
                                            const std::string& format) const {
  if (stamp && stamp != manifest_stamp(path)) {
    throw BundleError("The bundle " + path.string() +
                      " was replaced or removed since it was opened. Open it again.");
  }
  const auto& present = programs.at(program).formats;
  const auto found = present.find(format);
  if (found == present.end()) {
    std::vector<std::string> names, wanted = formats();
    for (const char* name : kFormats) {
      if (present.count(name)) names.emplace_back(name);
    }
    wanted.push_back(format);
    throw BundleError(path.string() + " holds " + program + " as " + joined(names) + ", not as " +
                      format + ". Export again with --formats " + joined(wanted, ",") + ".");
  }
  std::vector<fs::path> paths;
  for (const std::string& name : found->second.files) {
    // Libraries render with what is left of a file, or die of it.
    std::error_code error;
    const fs::path file = path / name;
    const bool is_file = fs::is_regular_file(file, error);
    const std::uintmax_t size = is_file ? fs::file_size(file, error) : 0;
    const auto recorded = files.find(name);
    const bool is_whole =
        recorded == files.end() || size == static_cast<std::uintmax_t>(recorded->second.bytes);
    if (!is_file || error || !is_whole) {
      throw BundleError(file.string() + (is_file ? " is not whole" : " is missing") +
                        ". Copy the bundle again from its source, or export it again.");
    }
    paths.push_back(file);
  }
  return paths;
}

void Bundle::check_files(const std::vector<std::string>& names) const {
  std::vector<std::string> faults(names.size());
  in_parallel(names.size(), [&](std::size_t i) { faults[i] = fault(names[i]); });
  std::string listing;
  for (const std::string& found : faults) {
    if (!found.empty()) listing += "  - " + found + "\n";
  }
  if (!listing.empty()) {
    throw BundleError("The bundle " + path.string() + " is damaged:\n" + listing +
                      "Copy it again from its source, or export it again.");
  }
}

void Bundle::check_changed_files(const std::vector<std::string>& names) const {
  std::map<std::string, std::string> hashes;
  for (const std::string& name : names) hashes[name] = files.at(name).sha256;
  const std::vector<std::string> changed = changed_files(path, hashes);
  if (changed.empty()) return;
  const std::map<std::string, Stamp> stamps = stamp_files(path, changed);
  check_files(changed);
  remember_files(path, hashes, stamps);
}

std::string Bundle::fault(const std::string& name) const {
  const FileInfo& expected = files.at(name);
  const fs::path file = path / name;
  std::error_code error;
  if (!fs::is_regular_file(file, error)) return name + " is missing";
  const std::uintmax_t size = fs::file_size(file, error);
  if (error || size != static_cast<std::uintmax_t>(expected.bytes)) {
    return name + " has " + std::to_string(size) + " bytes, not " + std::to_string(expected.bytes);
  }
  try {
    if (sha256_of_file(file) != expected.sha256) {
      return name + " does not match the sha256 in the manifest";
    }
  } catch (const std::exception& failure) {
    return name + " could not be hashed: " + failure.what();
  }
  return "";
}

}  // namespace ldm_engine

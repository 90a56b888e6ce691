// The CPU quota and the memory limit of this process's control groups, of versions 1 and 2.
#include "machine/cgroups.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "machine/lists.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

/// A hierarchy of groups that is mounted.
struct Mount {
  std::string kind;  ///< "cgroup" or "cgroup2"
  std::vector<std::string> options;
  std::string group;  ///< the one that is mounted
  fs::path folder;
};

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

std::vector<std::string> read_lines(const fs::path& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// The words of a small file.
std::vector<std::string> read_words(const fs::path& path) {
  std::vector<std::string> words;
  std::ifstream file(path);
  for (std::string word; file >> word;) words.push_back(word);
  return words;
}

/// A whole number, or none: "max" and -1 stand for no limit.
std::optional<std::int64_t> number(const std::string& word) {
  if (word.empty() || word.size() > 19 ||
      word.find_first_not_of("0123456789") != std::string::npos) {
    return std::nullopt;
  }
  try {
    return std::stoll(word);
  } catch (const std::out_of_range&) {
    return std::nullopt;
  }
}

std::optional<std::int64_t> read_number(const fs::path& path) {
  const std::vector<std::string> words = read_words(path);
  return words.size() == 1 ? number(words[0]) : std::nullopt;
}

/// A mount point as mountinfo writes it, with "\040" for a space.
std::string unescaped(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view digits = text.substr(i + 1, 3);
    if (text[i] == '\\' && digits.size() == 3 &&
        digits.find_first_not_of("01234567") == std::string_view::npos) {
      plain += static_cast<char>((digits[0] - '0') * 64 + (digits[1] - '0') * 8 + digits[2] - '0');
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::vector<Mount> mounts(const fs::path& root) {
  const fs::path file = root / "proc/self/mountinfo";
  std::vector<std::string> lines = read_lines(file);
  if (!std::ifstream(file)) lines = {"0 0 0:0 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw"};
  std::vector<Mount> found;
  for (const std::string& line : lines) {
    const std::size_t middle = line.find(" - ");
    if (middle == std::string::npos) continue;
    std::vector<std::string> fields;
    std::vector<std::string> rest;
    std::istringstream left(line.substr(0, middle));
    std::istringstream right(line.substr(middle + 3));
    for (std::string word; left >> word;) fields.push_back(word);
    for (std::string word; right >> word;) rest.push_back(word);
    if (fields.size() < 5 || rest.size() < 3) continue;
    if (rest[0] != "cgroup" && rest[0] != "cgroup2") continue;
    found.push_back({rest[0], split(rest[2], ','), fields[3],
                     root / fs::path(unescaped(fields[4])).relative_path()});
  }
  return found;
}

/// `path` relative to the group that is `mounted`; empty where it does not lie below that.
fs::path below(const std::string& path, std::string mounted) {
  if (mounted == "/") mounted.clear();
  if (path.compare(0, mounted.size(), mounted) != 0) return {};
  const std::string inner = path.substr(mounted.size());
  if (inner.empty() || inner[0] != '/' || contains(split(inner, '/'), "..")) return {};
  return fs::path(inner).relative_path();
}

/// The folders of the process's groups with this `controller`, each before its parent.
std::vector<fs::path> groups(const std::string& controller, const fs::path& root) {
  const std::vector<std::string> own = read_lines(root / "proc/self/cgroup");
  std::vector<fs::path> folders;
  for (const Mount& mount : mounts(root)) {
    const bool is_first_version = mount.kind == "cgroup";
    if (is_first_version && !contains(mount.options, controller)) continue;
    std::vector<std::string> paths;
    for (const std::string& line : own) {
      const std::size_t first = line.find(':');
      const std::size_t second = line.find(':', first + 1);
      if (first == std::string::npos || second == std::string::npos) continue;
      const std::string names = line.substr(first + 1, second - first - 1);
      if (is_first_version ? contains(split(names, ','), controller)
                           : line.compare(0, 3, "0::") == 0) {
        paths.push_back(line.substr(second + 1));
      }
    }
    if (paths.empty()) paths = {"/"};
    for (const std::string& path : paths) {
      const fs::path inner = below(path, mount.group);
      fs::path folder = inner.empty() ? mount.folder : mount.folder / inner;
      folders.push_back(folder);
      while (folder != mount.folder) {
        folder = folder.parent_path();
        folders.push_back(folder);
      }
    }
  }
  return folders;
}

}  // namespace

std::optional<double> cpu_limit(const fs::path& root) {
  std::optional<double> least;
  for (const fs::path& group : groups("cpu", root)) {
    std::vector<std::string> words = read_words(group / "cpu.max");
    if (words.empty()) {
      words = read_words(group / "cpu.cfs_quota_us");
      for (const std::string& word : read_words(group / "cpu.cfs_period_us")) words.push_back(word);
    }
    if (words.size() != 2) continue;
    const auto quota = number(words[0]);
    const auto period = number(words[1]);
    if (!quota || !period || *period == 0) continue;
    const double cores = static_cast<double>(*quota) / static_cast<double>(*period);
    least = least ? std::min(*least, cores) : cores;
  }
  return least;
}

std::optional<std::int64_t> group_free_memory(const fs::path& root) {
  struct Names {
    const char* limit;
    const char* used;
    const char* cache;
  };
  std::optional<std::int64_t> least;
  for (const fs::path& group : groups("memory", root)) {
    for (const Names& names :
         {Names{"memory.max", "memory.current", "inactive_file"},
          Names{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"}}) {
      const auto limit = read_number(group / names.limit);
      const auto used = read_number(group / names.used);
      if (!limit || !used) continue;
      std::int64_t dropped = 0;
      std::int64_t bound = *limit;
      for (const std::string& line : read_lines(group / "memory.stat")) {
        const std::vector<std::string> words = split(line, ' ');
        const auto value = words.size() == 2 ? number(words[1]) : std::nullopt;
        if (value && words[0] == names.cache) dropped = *value;
        // That of a parent which is not mounted here binds too.
        if (value && words[0] == "hierarchical_memory_limit") bound = std::min(bound, *value);
      }
      const std::int64_t left = std::max<std::int64_t>(0, bound - *used + dropped);
      least = least ? std::min(*least, left) : left;
    }
  }
  return least;
}

}  // namespace ldm_engine

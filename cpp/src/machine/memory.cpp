// Memory as Linux counts it: what is free.
#include "machine/memory.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace ldm_engine {
namespace {

/// The number after `name` in a file of lines such as "name 12" or "name: 12 kB".
std::optional<std::int64_t> read_number(const char* path, const std::string& name) {
  std::ifstream file(path);
  std::string key;
  std::int64_t value = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    if (words >> key >> value && key == name) return value;
  }
  return std::nullopt;
}

std::optional<std::int64_t> read_number(const char* path) {
  std::ifstream file(path);
  std::int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

}  // namespace

std::optional<std::int64_t> free_memory_bytes() {
  std::optional<std::int64_t> free = read_number("/proc/meminfo", "MemAvailable:");
  if (free) *free *= 1024;
  const auto limit = read_number("/sys/fs/cgroup/memory.max");  // no number where it says "max"
  const auto used = read_number("/sys/fs/cgroup/memory.current");
  if (!limit || !used) return free;
  const std::int64_t cache = read_number("/sys/fs/cgroup/memory.stat", "inactive_file").value_or(0);
  const std::int64_t left = std::max<std::int64_t>(0, *limit - *used + cache);
  return free ? std::min(*free, left) : left;
}

}  // namespace ldm_engine

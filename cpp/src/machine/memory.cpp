// Memory as Linux counts it: what is free.
#include "machine/memory.hpp"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "machine/cgroups.hpp"

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

}  // namespace

std::optional<std::int64_t> free_memory_bytes() {
  std::optional<std::int64_t> free = read_number("/proc/meminfo", "MemAvailable:");
  if (free) *free *= 1024;
  const std::optional<std::int64_t> left = group_free_memory();
  if (!free || !left) return free ? free : left;
  return std::min(*free, *left);
}

}  // namespace ldm_engine

// What the processor offers: cores and instructions.
#include "machine/cpu.hpp"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "machine/cgroups.hpp"
#include "machine/sha256.hpp"

namespace ldm_engine {
namespace {

/// What the lines are called that tell kinds apart, of x86 and of ARM.
constexpr const char* kKind[] = {"model name", "flags", "CPU implementer", "CPU part", "Features"};

/// The line of /proc/cpuinfo with this name, or nothing; all cores are listed alike.
std::string fact(const std::string& name) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(name, 0) == 0) return line;
  }
  return "";
}

bool has_bf16_flag() {
  std::istringstream flags(fact("flags"));
  for (std::string flag; flags >> flag;) {
    if (flag == "avx512_bf16" || flag == "amx_bf16") return true;
  }
  return false;
}

}  // namespace

int available_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int cores = ::sched_getaffinity(0, sizeof(set), &set) == 0
                        ? CPU_COUNT(&set)
                        : static_cast<int>(std::thread::hardware_concurrency());
  const double quota = std::ceil(cpu_limit().value_or(cores));
  return std::max(1, static_cast<int>(std::min<double>(cores, quota)));
}

bool supports_bf16() {
  static const bool supported = has_bf16_flag();
  return supported;
}

std::string processor() {
  static const std::string kind = [] {
    std::string facts;
    for (const char* name : kKind) facts += fact(name);
    return facts.empty() ? "" : sha256_of_text(facts).substr(0, 8);
  }();
  return kind;
}

}  // namespace ldm_engine

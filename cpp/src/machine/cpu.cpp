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

namespace ldm_engine {
namespace {

bool has_bf16_flag() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream flags(line);
    for (std::string flag; flags >> flag;) {
      if (flag == "avx512_bf16" || flag == "amx_bf16") return true;
    }
    return false;  // all cores are listed alike
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

}  // namespace ldm_engine

// Which runtimes were built in, and which one a bundle gets on this machine.
#include "runtime.hpp"

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "cpu.hpp"
#include "json.hpp"
#include "ldm_engine/errors.hpp"
#include "runtimes.hpp"

namespace ldm_engine {
namespace {

constexpr int kMaxThreads = 1024;  // libraries abort the process when they cannot start theirs
const std::vector<std::string> kPrecisions = {"fp32", "fp16", "bf16", "int8"};

bool contains(const std::vector<std::string>& items, const std::string& item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

/// Why `runtime` cannot run `bundle` in `precision` here, or nothing.
std::string obstacle(const Bundle& bundle, const Runtime& runtime, const std::string& precision) {
  if (!contains(runtime.precisions(), precision)) {
    return "on the CPU it computes in " + joined(runtime.precisions()) + " only";
  }
  std::vector<std::string> held = bundle.formats();
  if (!contains(held, runtime.format())) {
    const std::string told = held.empty() ? "no format" : joined(held);
    held.push_back(runtime.format());
    return "the bundle holds " + told + ", not " + runtime.format() +
           "; export again with --formats " + joined(held, ",");
  }
  for (const auto& [name, program] : bundle.programs) {
    if (!program.formats.count(runtime.format_of(name, precision))) {
      return "the bundle holds no " + precision + " " + name + "; export again with --formats " +
             joined(held, ",") + " --" + precision;
    }
  }
  if (precision == "bf16" && !supports_bf16()) {
    return "this CPU has no bf16 instructions (avx512_bf16 or amx_bf16); use fp32";
  }
  return "";
}

}  // namespace

std::string Runtime::format_of(const std::string&, const std::string&) const { return format(); }

const std::vector<std::unique_ptr<Runtime>>& built_in_runtimes() {
  static const std::vector<std::unique_ptr<Runtime>> runtimes = [] {
    std::vector<std::unique_ptr<Runtime>> made;
    made.push_back(make_openvino_runtime());
#ifdef LDM_ENGINE_WITH_PADDLE
    made.push_back(make_paddle_runtime());
#endif
    return made;
  }();
  return runtimes;
}

const Runtime& choose_runtime(const Bundle& bundle, const std::string& name,
                              const std::string& precision) {
  if (!contains(kPrecisions, precision)) {
    throw InvalidArgumentError("`precision` is " + in_quotes(precision) + "; " +
                               joined(kPrecisions) + " is accepted.");
  }
  std::vector<std::string> names, passed_over;
  for (const auto& runtime : built_in_runtimes()) {
    names.push_back(runtime->name());
    if (name != "auto" && name != runtime->name()) continue;
    const std::string reason = obstacle(bundle, *runtime, precision);
    if (reason.empty()) return *runtime;
    if (name != "auto") {
      throw RuntimeUnavailableError("The runtime " + name + " cannot be used for " + precision +
                                    ": " + reason + ".");
    }
    passed_over.push_back(runtime->name() + ": " + reason);
  }
  if (name != "auto") {
    throw InvalidArgumentError("`runtime` is " + in_quotes(name) + "; auto or " + joined(names) +
                               " is accepted by this build.");
  }
  throw RuntimeUnavailableError("No runtime of this build can open this bundle for " + precision +
                                ": " + joined(passed_over, "; ") + ".");
}

RuntimeOptions resolve_options(const Options& options) {
  const std::string& device = options.device;
  const bool is_numbered = device.size() > 4 && device.size() < 8 &&
                           device.compare(0, 4, "gpu:") == 0 &&
                           device.find_first_not_of("0123456789", 4) == std::string::npos;
  if (device != "cpu" && device != "gpu" && !is_numbered) {
    throw InvalidArgumentError("`device` is " + in_quotes(device) +
                               "; cpu, or gpu:0, gpu:1, ... is accepted.");
  }
  if (device != "cpu") {
    throw RuntimeUnavailableError("`device` is " + in_quotes(device) +
                                  "; the C++ library runs on the CPU only. Use cpu, or the Python "
                                  "package.");
  }
  const int threads = options.threads.value_or(available_threads());
  if (threads < 1 || threads > kMaxThreads) {
    throw InvalidArgumentError("`threads` is " + std::to_string(threads) +
                               "; a whole number from 1 to " + std::to_string(kMaxThreads) +
                               ", or none for all " + std::to_string(available_threads()) +
                               " cores, is accepted.");
  }
  return {options.precision, threads, options.cache};
}

std::string program_precision(const std::string& program, const std::string& precision) {
  if (program == "time_encoder") return "fp32";
  if (precision == "int8" && program != "unet") return supports_bf16() ? "bf16" : "fp32";
  return precision;
}

std::vector<std::string> needed_files(const Bundle& bundle, const Runtime& runtime,
                                      const std::string& precision) {
  std::vector<std::string> needed;
  for (const auto& [name, program] : bundle.programs) {
    const auto& files = program.formats.at(runtime.format_of(name, precision)).files;
    needed.insert(needed.end(), files.begin(), files.end());
  }
  for (const auto& [name, info] : bundle.files) {
    if (name.find('/') == std::string::npos) needed.push_back(name);
  }
  return needed;
}

std::int64_t weight_bytes(const Bundle& bundle, const Runtime& runtime, const std::string& program,
                          const std::string& precision) {
  const std::string format = runtime.format_of(program, precision);
  std::int64_t stored = 0;
  for (const auto& path : bundle.program_files(program, format)) {
    stored += static_cast<std::int64_t>(std::filesystem::file_size(path));
  }
  const bool is_widened = bundle.programs.at(program).formats.at(format).weights == "fp16" &&
                          program_precision(program, precision) == "fp32";
  return is_widened ? 2 * stored : stored;
}

std::string last_line(const char* message) {
  constexpr std::size_t kLongest = 300;
  std::istringstream lines(message);
  std::string last;
  for (std::string line; std::getline(lines, line);) {
    const std::size_t begin = line.find_first_not_of(" \t\r");
    if (begin != std::string::npos) last = line.substr(begin, kLongest);
  }
  return last.empty() ? "no reason was told." : last;
}

}  // namespace ldm_engine

// Which runtimes were built in, and which one a bundle gets on this machine.
#include "runtimes/choice.hpp"

#include "ldm_engine/errors.hpp"
#include "machine/cpu.hpp"
#include "machine/lists.hpp"
#include "machine/messages.hpp"
#include "runtimes/openvino.hpp"
#include "runtimes/paddle.hpp"

namespace ldm_engine {
namespace {

constexpr int kMaxThreads = 1024;  // libraries abort the process when they cannot start theirs
const std::vector<std::string> kPrecisions = {"fp32", "fp16", "bf16", "int8"};

/// Why `runtime` cannot run `bundle` in `precision` here, or nothing.
std::string obstacle(const Bundle& bundle, const Runtime& runtime, const std::string& precision) {
  if (!contains(runtime.precisions(), precision)) {
    return "on the CPU it computes in " + joined(runtime.precisions()) + " only";
  }
  const auto outside = bundle.outside.find({runtime.name(), precision});
  if (outside != bundle.outside.end()) {
    return "the export measured this model outside its tolerance in it (" + outside->second +
           "); use another precision, such as fp32";
  }
  std::vector<std::string> formats = bundle.formats();
  if (!contains(formats, runtime.format())) {
    const std::string present = formats.empty() ? "no format" : joined(formats);
    formats.push_back(runtime.format());
    return "the bundle holds " + present + ", not " + runtime.format() +
           "; export again with --formats " + joined(formats, ",");
  }
  for (const auto& [name, program] : bundle.programs) {
    if (!program.formats.count(runtime.format_of(name, precision))) {
      return "the bundle holds no " + precision + " " + name + "; export again with --formats " +
             joined(formats, ",") + " --" + precision;
    }
  }
  if (precision == "bf16" && !supports_bf16()) {
    return "this CPU has no bf16 instructions (avx512_bf16 or amx_bf16); use fp32";
  }
  return "";
}

}  // namespace

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

}  // namespace ldm_engine

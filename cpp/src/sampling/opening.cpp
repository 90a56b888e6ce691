// Opening a bundle to run it: manifest, runtime, options, noise schedule and hashes, each once.
#include "sampling/opening.hpp"

#include <optional>
#include <vector>

#include "bundle/json.hpp"
#include "bundle/manifest.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/memory.hpp"
#include "machine/messages.hpp"
#include "runtimes/choice.hpp"
#include "sampling/solvers_file.hpp"

namespace ldm_engine {
namespace {

/// The memory mode to use: with "auto" the one that suits the machine.
std::string resolve_memory(const Bundle& bundle, const Runtime& runtime, const Options& options) {
  const std::string& memory = options.memory;
  if (memory == "resident" || memory == "sequential") return memory;
  if (memory != "auto") {
    throw InvalidArgumentError("`memory` is " + in_quotes(memory) +
                               "; 'resident', 'sequential' or 'auto' is accepted.");
  }
  std::int64_t needed = 0;
  for (const std::string& name : required_programs()) {
    needed += weight_bytes(bundle, runtime, name, options.precision);
  }
  const std::optional<std::int64_t> free = free_memory_bytes();
  return !free || needed <= *free / 2 ? "resident" : "sequential";
}

/// All files but those of programs.
void check_small_files(const Bundle& bundle) {
  std::vector<std::string> names;
  for (const auto& [name, info] : bundle.files) {
    if (name.find('/') == std::string::npos) names.push_back(name);
  }
  bundle.check_changed_files(names);
}

NoiseSchedule read_schedule(const Bundle& bundle) {
  const std::filesystem::path path = bundle.path / kSchedulerConfig;
  return NoiseSchedule(parse_json_object(read_file(path), path));
}

}  // namespace

std::unique_ptr<Program> Opened::open_program(const std::string& name) const {
  return runtime.open(bundle, name, options);
}

void Opened::check_programs() const {
  if (!checks_hashes) return;
  std::vector<std::string> needed;
  for (const auto& [name, program] : bundle.programs) {
    const std::string format = runtime.format_of(name, options.precision);
    const auto& files = program.formats.at(format).files;
    needed.insert(needed.end(), files.begin(), files.end());
  }
  bundle.check_changed_files(needed);
}

Opened open_to_run(const std::filesystem::path& path, const Options& options) {
  Bundle bundle = open_bundle(path);
  const Runtime& runtime = choose_runtime(bundle, options.runtime, options.precision);
  RuntimeOptions resolved = resolve_options(options);
  std::string memory = resolve_memory(bundle, runtime, options);
  if (options.check_hashes) check_small_files(bundle);
  NoiseSchedule schedule = read_schedule(bundle);
  Tables tables = load_tables(bundle, schedule);
  return {std::move(bundle), runtime,           std::move(resolved),  std::move(schedule),
          std::move(tables), std::move(memory), options.check_hashes};
}

}  // namespace ldm_engine

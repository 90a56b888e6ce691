// Opening a bundle to run it: manifest, runtime, options, noise schedule and hashes, each once.
#include "sampling/opening.hpp"

#include <algorithm>
#include <optional>

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

std::string Opened::no_pictures() const {
  constexpr char kEncoder[] = "vae_encoder";
  if (!bundle.programs.count(kEncoder)) {
    return bundle.path.string() + " has no program " + kEncoder +
           ". Export its checkpoint again, without --no-encoder and with this version of "
           "ldm-engine.";
  }
  const auto measured = bundle.optional_outside.find({runtime.name(), options.precision});
  if (measured == bundle.optional_outside.end()) return "";
  return std::string("The program ") + kEncoder + " cannot be used in " + runtime.name() + " " +
         options.precision + ": the export measured it outside its tolerance there (" +
         measured->second + "). Use another precision, such as fp32.";
}

std::unique_ptr<Program> Opened::open_program(const std::string& name) const {
  const auto& required = required_programs();
  const bool is_optional = std::find(required.begin(), required.end(), name) == required.end();
  if (is_optional && checks_hashes) bundle.check_changed_files(files_of(name));
  return runtime.open(bundle, name, options);
}

void Opened::check_programs() const {
  if (!checks_hashes) return;
  std::vector<std::string> needed;
  for (const std::string& name : required_programs()) {
    const auto files = files_of(name);
    needed.insert(needed.end(), files.begin(), files.end());
  }
  bundle.check_changed_files(needed);
}

std::vector<std::string> Opened::files_of(const std::string& program) const {
  return bundle.programs.at(program).formats.at(runtime.format_of(program, options.precision)).files;
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

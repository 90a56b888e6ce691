// Any bytes as bundle.json and as solvers.json, as they are and with their hash put right; and as a
// scheduler config.
#include <algorithm>
#include <cstdint>
#include <string>

#include "bundle/manifest.hpp"
#include "bundle/seals.hpp"
#include "ldm_engine/errors.hpp"
#include "sampling/solvers.hpp"
#include "sampling/solvers_file.hpp"

using namespace ldm_engine;

namespace {

/// `text` with its right hash under `name`, if it has a place for one.
std::string sealed(std::string text, const char* name) {
  const std::string key = "\"" + std::string(name) + "\": \"";
  const std::size_t begin = text.find(key);
  const std::size_t end = begin == std::string::npos ? begin : text.find('"', begin + key.size());
  if (end == std::string::npos) return text;
  const std::size_t start = begin + key.size();
  const std::string recorded = text.substr(start, end - start);
  return text.replace(start, recorded.size(), seal_of(text, name, recorded));
}

void parse(const std::string& text) {
  try {
    const Bundle bundle = parse_manifest("bundle", text);
    bundle.digest();
    for (const auto& [name, program] : bundle.programs) {
      for (const auto& [format, info] : program.formats) bundle.files_digest(info.files);
    }
  } catch (const BundleError&) {
  }
}

void parse_solvers(const std::string& text) {
  static const NoiseSchedule schedule(Json{{"clip_sample", false}});
  try {
    const std::string digest(64, '5');  // of the corpus
    for (const Table& table : parse_tables("solvers.json", text, digest, schedule)) {
      table.rows(schedule);
      table.digest();
    }
  } catch (const BundleError&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  parse(text);
  parse(sealed(text, kManifestSeal));
  parse_solvers(text);
  parse_solvers(sealed(text, kSolversSeal));
  try {
    const NoiseSchedule schedule(parse_json_object(text, "scheduler_config.json"));
    ddim_rows(schedule, std::min(50, schedule.num_train_timesteps()), 0.5);
  } catch (const BundleError&) {
  } catch (const ConfigError&) {
  }
  return 0;
}

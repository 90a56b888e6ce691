// Which runtimes were built in, and which one a bundle gets on this machine.
// Its twins are engine/ldm_engine/runtimes/base.py and engine/ldm_engine/runtimes/choice.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "ldm_engine/pipeline.hpp"
#include "program.hpp"

namespace ldm_engine {

/// Checked options.
struct RuntimeOptions {
  std::string precision = "fp32";
  int threads = 1;
  bool cache = true;  ///< keep compiled models in the user's cache folder
};

/// A way to execute programs.
class Runtime {
 public:
  virtual ~Runtime() = default;
  virtual std::string name() const = 0;
  virtual std::string format() const = 0;  ///< the bundle format it reads
  virtual std::vector<std::string> precisions() const = 0;

  /// The bundle format that `program` is opened in when `precision` is asked for.
  virtual std::string format_of(const std::string& program, const std::string& precision) const;

  /// Prepare one program of `bundle`, which must outlive it.
  virtual std::unique_ptr<Program> open(const Bundle& bundle, const std::string& program,
                                        const RuntimeOptions& options) const = 0;
};

/// The runtimes of this build, in the order in which "auto" prefers them.
const std::vector<std::unique_ptr<Runtime>>& built_in_runtimes();

/// The runtime called `name`, or for "auto" the first that can open `bundle` here.
/// Throws InvalidArgumentError or RuntimeUnavailableError.
const Runtime& choose_runtime(const Bundle& bundle, const std::string& name,
                              const std::string& precision);

/// Check device and threads, and fill in the thread count; the precision was chosen for before.
/// Throws InvalidArgumentError, or RuntimeUnavailableError if no runtime offers that device.
RuntimeOptions resolve_options(const Options& options);

/// What `program` runs in where `precision` was asked for: "fp32", "bf16" or "int8".
///
/// The time encoder always runs in fp32: in bf16 its frequencies are off by whole units. In int8
/// only the UNet does, and all else runs in bf16 where the CPU has it.
std::string program_precision(const std::string& program, const std::string& precision);

/// The files that a pipeline in this runtime and precision reads.
std::vector<std::string> needed_files(const Bundle& bundle, const Runtime& runtime,
                                      const std::string& precision);

/// About what one copy of a program's weights takes in memory.
std::int64_t weight_bytes(const Bundle& bundle, const Runtime& runtime, const std::string& program,
                          const std::string& precision);

/// What a library said went wrong: its last line, not too long.
std::string last_line(const char* message);

}  // namespace ldm_engine

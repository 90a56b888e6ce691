// Opening a bundle to run it: manifest, runtime, options, noise schedule and hashes, each once.
// Whoever runs a bundle begins here. Its twin is engine/ldm_engine/sampling/opening.py.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "ldm_engine/options.hpp"
#include "runtimes/base.hpp"
#include "sampling/fitted.hpp"
#include "sampling/schedule.hpp"

namespace ldm_engine {

/// A bundle that was read, and how it is run here. No program is loaded.
struct Opened {
  Bundle bundle;
  const Runtime& runtime;
  RuntimeOptions options;
  NoiseSchedule schedule;
  Tables tables;       ///< of the solvers that were fitted to the bundle
  std::string memory;  ///< "resident" or "sequential", whichever is used
  bool checks_hashes;  ///< of the programs' files, before they are loaded

  /// Why no picture can be started from, or nothing.
  std::string no_pictures() const;

  /// Load one program with its weights.
  std::unique_ptr<Program> open_program(const std::string& name) const;

  /// Compare the programs' files with the manifest's hashes, if the options say so. A file that
  /// had its hash is read again only when its size or times have changed. Those of optional
  /// programs are looked at when these are opened.
  /// Throws BundleError naming every missing or altered file.
  void check_programs() const;

 private:
  std::vector<std::string> files_of(const std::string& program) const;
};

/// Read the bundle at `path`, its small files compared with their hashes, and choose how to run it.
/// Throws what Opening's constructor does.
Opened open_to_run(const std::filesystem::path& path, const Options& options);

}  // namespace ldm_engine

// Where and how programs run: what a bundle is opened with.
#pragma once

#include <optional>
#include <string>

namespace ldm_engine {

/// Where and how programs run.
struct Options {
  std::string runtime = "auto";    ///< "auto", "openvino" or, where it was built in, "paddle"
  std::string device = "cpu";      ///< "cpu"
  std::string precision = "fp32";  ///< "fp32", "bf16" or "int8"; never another than this
  std::optional<int> threads;      ///< cores to use; none: all that this process may use
  /// "resident" keeps all programs; "sequential" holds one at a time, which takes less memory and
  /// more time; "auto" does so where their weights are larger than half of the free memory.
  std::string memory = "resident";
  bool check_hashes = true;  ///< compare files with the manifest's sha256 when they have changed
  bool cache = true;         ///< keep compiled models in the user's cache folder
};

}  // namespace ldm_engine

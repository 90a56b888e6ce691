// solvers.json: the solvers that were fitted to a bundle, sealed and read with distrust;
// docs/bundle-format.md documents it. Its twin is engine/ldm_engine/sampling/solvers_file.py;
// tests/data/solvers_files.json holds what both accept and refuse.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bundle/bundle.hpp"
#include "sampling/fitted.hpp"

namespace ldm_engine {

inline constexpr char kSolversSeal[] = "solvers_sha256";  ///< the key of the file's own hash

/// The tables of a bundle; what is wrong with them is thrown when one is asked for.
Tables load_tables(const Bundle& bundle, const NoiseSchedule& schedule);

/// The tables, in order, in the `text` of a file that is called `where` in errors.
/// Throws BundleError, naming the first thing that is not as it must be for the bundle of `digest`.
std::vector<Table> parse_tables(const std::string& where, std::string_view text,
                                const std::string& digest, const NoiseSchedule& schedule);

}  // namespace ldm_engine

// Solvers fitted to a bundle: tables of weights, and which of them serves a request.
// Its twin is engine/ldm_engine/sampling/fitted.py, where they are explained;
// tests/data/solvers_files.json holds both to the same rows.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "sampling/schedule.hpp"
#include "sampling/solvers.hpp"

namespace ldm_engine {

inline constexpr std::size_t kTableDigestDigits = 16;

/// PSNR to the converged pictures of prompts that nothing was fitted to, in dB.
struct Figures {
  double median, tenth_percentile, least;

  /// Whether all of them are at least those of `other`.
  bool reaches(const Figures& other) const;
};

/// One fitted solver.
struct Table {
  double guidance_scale;
  std::vector<int> timesteps;                ///< descending, one a step
  std::vector<std::vector<double>> weights;  ///< a step's a, b[0], b[1], ...
  Figures figures;
  Figures ddim_50;  ///< of DDIM with 50 steps, of the same pictures

  /// Calls of the UNet.
  int steps() const { return static_cast<int>(timesteps.size()); }

  /// A hash of all that makes the pixels.
  std::string digest() const;

  std::vector<Row> rows(const NoiseSchedule& schedule) const;
};

/// The tables of a bundle, which may have none.
struct Tables {
  std::vector<Table> tables;  ///< by guidance, then by steps
  std::string fault;          ///< why those that it has cannot be used

  /// The table for exactly these. Throws BundleError if the bundle's tables cannot be read, and
  /// InvalidArgumentError if there is none.
  Table find(double guidance_scale, int steps) const;

  /// The table of the fewest steps whose figures are all at least DDIM-50's. Throws as find().
  Table fewest(double guidance_scale) const;

 private:
  /// Those for a guidance, mixed where need be, of which there is one at least.
  std::vector<Table> of(double guidance_scale) const;
};

}  // namespace ldm_engine

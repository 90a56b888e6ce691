// Solvers fitted to a bundle: tables of weights, and which of them serves a request.
#include "sampling/fitted.hpp"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <set>

#include "ldm_engine/errors.hpp"
#include "machine/messages.hpp"
#include "machine/sha256.hpp"

namespace ldm_engine {
namespace {

// Weights of two tables are mixed for a guidance between theirs if those are this far apart at most.
constexpr double kMaxGap = 1;

bool are_alike(const Table& one, const Table& other) {
  return one.timesteps == other.timesteps &&
         std::equal(one.weights.begin(), one.weights.end(), other.weights.begin(),
                    [](const auto& a, const auto& b) { return a.size() == b.size(); });
}

/// Weights between those of two tables, if these are near enough to each other and alike.
std::optional<Table> mixed(const Table& low, const Table& high, double scale) {
  const double gap = high.guidance_scale - low.guidance_scale;
  if (gap > kMaxGap || !are_alike(low, high)) return std::nullopt;
  const double share = (scale - low.guidance_scale) / gap;
  // What one of them does not reach is not promised between them.
  Table table = low.figures.reaches(low.ddim_50) ? high : low;
  table.guidance_scale = scale;
  for (std::size_t i = 0; i < table.weights.size(); ++i) {
    for (std::size_t k = 0; k < table.weights[i].size(); ++k) {
      table.weights[i][k] = (1 - share) * low.weights[i][k] + share * high.weights[i][k];
    }
  }
  return table;
}

/// The table that those of so many steps, in order of guidance, have for a guidance.
std::optional<Table> served_by(const std::vector<Table>& tables, int steps, double scale) {
  const Table *below = nullptr, *above = nullptr;
  for (const Table& table : tables) {
    if (table.steps() != steps) continue;
    if (table.guidance_scale <= scale) below = &table;
    if (table.guidance_scale > scale && !above) above = &table;
  }
  if (below && below->guidance_scale == scale) return *below;
  if (!below || !above) return std::nullopt;
  return mixed(*below, *above, scale);
}

std::string steps_of(const std::vector<Table>& tables) {
  std::vector<std::string> steps;
  for (const Table& table : tables) steps.push_back(std::to_string(table.steps()));
  return joined(steps);
}

std::string for_guidance(double scale) {
  return "for a `guidance_scale` of " + number_text(scale);
}

std::string command_for(double scale) {
  return "`ldm-engine fit BUNDLE --guidance " + number_text(scale);
}

}  // namespace

bool Figures::reaches(const Figures& other) const {
  return median >= other.median && tenth_percentile >= other.tenth_percentile &&
         least >= other.least;
}

std::string Table::digest() const {
  std::vector<double> numbers;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    numbers.push_back(timesteps[i]);
    numbers.push_back(static_cast<double>(weights[i].size()));
    numbers.insert(numbers.end(), weights[i].begin(), weights[i].end());
  }
  Sha256 hash;
  hash.update(numbers.data(), numbers.size() * sizeof(double));
  return hash.hex().substr(0, kTableDigestDigits);
}

std::vector<Row> Table::rows(const NoiseSchedule& schedule) const {
  std::vector<Row> rows = dpmsolver_rows(schedule, timesteps);  // of which the data form is taken
  for (std::size_t i = 0; i < rows.size(); ++i) {
    rows[i].a = weights[i].front();
    rows[i].b.assign(weights[i].begin() + 1, weights[i].end());
  }
  return rows;
}

std::vector<Table> Tables::of(double guidance_scale) const {
  if (!fault.empty()) throw BundleError(fault);
  std::set<int> steps;
  std::vector<std::string> had;
  for (const Table& table : tables) {
    steps.insert(table.steps());
    const std::string name = number_text(table.guidance_scale);
    if (had.empty() || had.back() != name) had.push_back(name);
  }
  std::vector<Table> found;
  for (const int count : steps) {
    if (const auto table = served_by(tables, count, guidance_scale)) found.push_back(*table);
  }
  if (!found.empty()) return found;
  throw InvalidArgumentError("The bundle has no fitted solver " + for_guidance(guidance_scale) +
                             (had.empty() ? "" : ", but for " + joined(had)) +
                             "; between two of them at most " + number_text(kMaxGap) +
                             " apart it would be mixed. Make one with " +
                             command_for(guidance_scale) +
                             "`, or use the solver dpmsolver++ with a number of steps.");
}

Table Tables::find(double guidance_scale, int steps) const {
  const std::vector<Table> same = of(guidance_scale);
  for (const Table& table : same) {
    if (table.steps() == steps) return table;
  }
  throw InvalidArgumentError("The bundle has no fitted solver of " + std::to_string(steps) +
                             " steps " + for_guidance(guidance_scale) + ", but of " +
                             steps_of(same) +
                             ". Give one of these as `num_inference_steps`, or auto, or make one "
                             "with " +
                             command_for(guidance_scale) + " --steps " + std::to_string(steps) +
                             "`.");
}

Table Tables::fewest(double guidance_scale) const {
  const std::vector<Table> same = of(guidance_scale);
  for (const Table& table : same) {
    if (table.figures.reaches(table.ddim_50)) return table;
  }
  const int most = same.back().steps();
  throw InvalidArgumentError("No fitted solver of the bundle reaches DDIM's 50 steps at a "
                             "`guidance_scale` of " +
                             number_text(guidance_scale) + "; those of " + steps_of(same) +
                             " steps do not. Fit more steps with " + command_for(guidance_scale) +
                             " --steps " + std::to_string(most + 2) + "," +
                             std::to_string(most + 4) + "`, or give `num_inference_steps`.");
}

}  // namespace ldm_engine

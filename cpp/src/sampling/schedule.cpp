// The noise schedule that a model was trained with, and the timesteps of a step count.
#include "sampling/schedule.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include "ldm_engine/errors.hpp"
#include "machine/messages.hpp"

namespace ldm_engine {
namespace {

constexpr char kPublishedFile[] = "Use the scheduler_config.json published with the checkpoint.";

/// A config being read: its values, and a line for each that is not supported.
class Reading {
 public:
  explicit Reading(const Json& config) : config_(config) {}

  Json value(const char* key, const Json& fallback) const {
    const auto found = config_.find(key);
    return found == config_.end() || found->is_structured() ? wrong_type(found, fallback) : *found;
  }
  void check(const char* key, const Json& value, bool holds, const std::string& accepted) {
    if (!holds)
      violations_ +=
          std::string("\n  - `") + key + "` is " + shown(value) + "; " + accepted + " is accepted";
  }
  /// Check that a key which may be absent has exactly the one value that is supported.
  void check_fixed(const char* key, const Json& accepted, const Json& fallback) {
    const Json given = value(key, fallback);
    check(key, given, given == accepted, shown(accepted));
  }
  const std::string& violations() const { return violations_; }

 private:
  /// Lists and objects are never supported, and are not copied: they may be nested deeply.
  Json wrong_type(Json::const_iterator found, const Json& fallback) const {
    return found == config_.end() ? fallback : Json("a JSON " + std::string(type_name(*found)));
  }

  const Json& config_;
  std::string violations_;
};

bool is_whole(const Json& value, std::int64_t low, std::int64_t high) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT32_MAX) return false;
  const auto number = value.get<std::int64_t>();
  return number >= low && number <= high;
}

bool is_beta(const Json& value) {
  return value.is_number() && value.get<double>() > 0 && value.get<double>() < 1;
}

/// numpy.linspace.
std::vector<double> evenly_spaced(double start, double end, int count) {
  std::vector<double> values(static_cast<std::size_t>(count), start);
  const double step = (end - start) / (count - 1);
  for (int i = 1; i < count; ++i) values[static_cast<std::size_t>(i)] = i * step + start;
  if (count > 1) values.back() = end;
  return values;
}

/// Products of 1 - beta, rounded as the reference does, which computes in float32.
std::vector<double> cumulative_alphas(double start, double end, int count, bool scaled) {
  std::vector<double> values = scaled ? evenly_spaced(std::sqrt(start), std::sqrt(end), count)
                                      : evenly_spaced(start, end, count);
  double product = 1;
  for (double& value : values) {
    const auto beta = static_cast<float>(scaled ? value * value : value);
    product *= static_cast<double>(1.0F - beta);
    value = static_cast<double>(static_cast<float>(product));
  }
  return values;
}

/// The index of the value next to `wanted`; of two as near, the later.
int nearest(const std::vector<double>& descending, double wanted) {
  const auto after = std::lower_bound(descending.begin(), descending.end(), wanted,
                                      [](double value, double bound) { return value > bound; });
  if (after == descending.end()) return static_cast<int>(descending.size()) - 1;
  const auto before = after == descending.begin() ? after : after - 1;
  const bool is_after = *before - wanted >= wanted - *after;
  return static_cast<int>((is_after ? after : before) - descending.begin());
}

}  // namespace

NoiseSchedule::NoiseSchedule(const Json& config) {
  Reading reading(config);
  reading.check_fixed("_class_name", "DDIMScheduler", "DDIMScheduler");
  reading.check_fixed("prediction_type", "epsilon", "epsilon");
  reading.check_fixed("clip_sample", false, true);
  reading.check_fixed("thresholding", false, false);
  reading.check_fixed("rescale_betas_zero_snr", false, false);
  reading.check_fixed("trained_betas", nullptr, nullptr);
  const Json schedule = reading.value("beta_schedule", "linear");
  reading.check("beta_schedule", schedule, schedule == "linear" || schedule == "scaled_linear",
                "linear or scaled_linear");
  const Json spacing = reading.value("timestep_spacing", "leading");
  reading.check("timestep_spacing", spacing, spacing == "leading" || spacing == "linspace",
                "leading or linspace");
  const Json steps = reading.value("num_train_timesteps", 1000);
  reading.check("num_train_timesteps", steps, is_whole(steps, 1, 1'000'000), "1 to 1000000");
  const Json offset = reading.value("steps_offset", 0);
  reading.check("steps_offset", offset, is_whole(offset, 0, 1), "0 or 1");
  const Json to_one = reading.value("set_alpha_to_one", true);
  reading.check("set_alpha_to_one", to_one, to_one.is_boolean(), "true or false");
  const Json start = reading.value("beta_start", 0.0001);
  reading.check("beta_start", start, is_beta(start), "a number between 0 and 1");
  const Json end = reading.value("beta_end", 0.02);
  reading.check("beta_end", end, is_beta(end), "a number between 0 and 1");
  if (!reading.violations().empty()) {
    throw ConfigError("The scheduler config is not one this engine can run:" +
                      reading.violations() + "\n" + kPublishedFile);
  }
  num_train_timesteps_ = steps.get<int>();
  steps_offset_ = offset.get<int>();
  set_alpha_to_one_ = to_one.get<bool>();
  is_leading_ = spacing == "leading";
  alphas_cumprod_ = cumulative_alphas(start.get<double>(), end.get<double>(), num_train_timesteps_,
                                      schedule == "scaled_linear");
  const double first = alphas_cumprod_.front(), last = alphas_cumprod_.back();
  const bool falls = std::adjacent_find(alphas_cumprod_.begin(), alphas_cumprod_.end(),
                                        std::less_equal<>()) == alphas_cumprod_.end();
  if (!(0 < last && first < 1 && falls)) {
    throw ConfigError("The scheduler's betas from " + start.dump() + " to " + end.dump() +
                      " over " + std::to_string(num_train_timesteps_) +
                      " steps take the signal from " + number_text(first) + " to " +
                      number_text(last) +
                      "; it must fall with every step, and stay strictly between 1 and 0. " +
                      kPublishedFile);
  }
}

std::pair<double, double> NoiseSchedule::level(int timestep) const {
  const double alpha = alpha_cumprod(timestep);
  return {std::sqrt(alpha), std::sqrt(1 - alpha)};
}

std::vector<int> NoiseSchedule::timesteps(int num_inference_steps) const {
  std::vector<int> timesteps;
  timesteps.reserve(static_cast<std::size_t>(num_inference_steps));
  if (is_leading_) {
    const int stride = num_train_timesteps_ / num_inference_steps;
    for (int i = 0; i < num_inference_steps; ++i) timesteps.push_back(i * stride + steps_offset_);
  } else {
    for (double timestep : evenly_spaced(0, num_train_timesteps_ - 1, num_inference_steps)) {
      timesteps.push_back(static_cast<int>(std::nearbyint(timestep)));
    }
  }
  std::reverse(timesteps.begin(), timesteps.end());
  return timesteps;
}

std::vector<Transition> NoiseSchedule::transitions(int num_inference_steps) const {
  const double final_alpha = set_alpha_to_one_ ? 1.0 : alpha_cumprod(0);
  const int stride = num_train_timesteps_ / num_inference_steps;
  std::vector<Transition> steps;
  steps.reserve(static_cast<std::size_t>(num_inference_steps));
  for (const int nominal : timesteps(num_inference_steps)) {
    const int previous = nominal - stride;  // whatever the spacing, as in diffusers
    // With an offset of 1, as many steps as training steps would begin one past the table.
    const int timestep = std::min(nominal, num_train_timesteps_ - 1);
    const double a_prev = previous >= 0 ? alpha_cumprod(previous) : final_alpha;
    steps.push_back({timestep, alpha_cumprod(timestep), a_prev});
  }
  return steps;
}

std::vector<Transition> NoiseSchedule::transitions_over(const std::vector<int>& timesteps) const {
  std::vector<Transition> steps;
  for (std::size_t i = 0; i < timesteps.size(); ++i) {
    const double final_alpha = set_alpha_to_one_ ? 1.0 : alpha_cumprod(0);
    const double a_prev =
        i + 1 < timesteps.size() ? alpha_cumprod(timesteps[i + 1]) : final_alpha;
    steps.push_back({timesteps[i], alpha_cumprod(timesteps[i]), a_prev});
  }
  return steps;
}

std::vector<int> NoiseSchedule::log_snr_timesteps(int num_inference_steps) const {
  std::vector<double> values;  // half the log-SNR, descending
  for (const double a : alphas_cumprod_) values.push_back(std::log(std::sqrt(a) / std::sqrt(1 - a)));
  const int last = num_inference_steps - 1;
  const double span = values.front() - values.back();
  std::vector<int> timesteps;
  for (int i = 0; i <= last; ++i) {
    const int near = nearest(values, values.back() + (last > 0 ? span * i / last : 0.0));
    timesteps.push_back(timesteps.empty() ? near : std::min(near, timesteps.back() - 1));
  }
  for (int i = 0; i <= last; ++i) {
    int& timestep = timesteps[static_cast<std::size_t>(i)];
    timestep = std::max(timestep, last - i);  // none comes twice
  }
  return timesteps;
}

}  // namespace ldm_engine

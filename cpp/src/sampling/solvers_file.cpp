// solvers.json: the solvers that were fitted to a bundle, sealed and read with distrust.
#include "sampling/solvers_file.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <regex>
#include <system_error>

#include "bundle/json.hpp"
#include "bundle/seals.hpp"
#include "ldm_engine/errors.hpp"
#include "machine/messages.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

constexpr int kSolversVersion = 1;
constexpr std::size_t kMaxTerms = 16;  // of history, this call's among them
constexpr double kMaxWeight = 100;     // far beyond what a fit gives; keeps float32 finite
constexpr std::size_t kMaxTables = 1000, kMaxSteps = 200;
constexpr double kMaxTableGuidance = 10'000, kMaxDb = 1000;
constexpr std::uintmax_t kMaxBytes = std::uintmax_t{64} << 20;
constexpr char kSolversRemedy[] = "Fit it again with `ldm-engine fit`, or remove the file.";

[[noreturn]] void refuse(const std::string& what) { throw BundleError(what + " " + kSolversRemedy); }

bool is_within(const Json& value, double limit) {
  return value.is_number() && std::abs(value.get<double>()) <= limit;
}

bool is_whole_within(const Json& value, std::int64_t least, std::int64_t most) {
  return value.is_number_integer() && value >= least && value <= most;
}

/// An object of the file, called `where` in errors.
class Entry {
 public:
  Entry(const Json& content, std::string where) : content_(content), where_(std::move(where)) {
    if (!content.is_object()) refuse(where_ + " is " + shown(content) + "; an object is expected.");
  }

  void require(bool holds, const std::string& name, const Json& value,
               const std::string& accepted) const {
    if (holds) return;
    refuse(where_ + ": `" + name + "` is " + shown(value) + "; " + accepted + " is expected.");
  }

  Json value(const std::string& name) const {
    const auto found = content_.find(name);
    return found == content_.end() ? Json() : *found;
  }

  double number(const std::string& name, double limit) const {
    const Json given = value(name);
    require(is_within(given, limit), name, given, "a number up to " + number_text(limit));
    return given.get<double>();
  }

  void check_text(const std::string& name, const char* pattern) const {
    const Json given = value(name);
    const bool holds =
        given.is_string() && std::regex_match(given.get<std::string>(), std::regex(pattern));
    require(holds, name, given, std::string("text of the form ") + pattern);
  }

  void check_count(const std::string& name) const {
    const Json given = value(name);
    require(is_whole_within(given, 1, INT32_MAX), name, given, "a positive whole number");
  }

  Json list(const std::string& name, std::size_t least, std::size_t most) const {
    const Json given = value(name);
    require(given.is_array() && given.size() >= least && given.size() <= most, name, given,
            "a list of " + std::to_string(least) + " to " + std::to_string(most));
    return given;
  }

  Figures figures(const std::string& name) const {
    const Json content = value(name);
    const Entry entry(content, where_ + ", " + name);
    entry.check_count("count");
    return {entry.number("median", kMaxDb), entry.number("tenth_percentile", kMaxDb),
            entry.number("least", kMaxDb)};
  }

  void check_origin() const {
    const Json content = value("origin");
    const Entry entry(content, where_ + ", origin");
    entry.check_text("runtime", "[a-z0-9_-]{1,32}");
    entry.check_text("precision", "[a-z0-9]{1,16}");
    entry.check_count("images");
    entry.check_text("prompts_sha256", "[0-9a-f]{64}");
    entry.check_text("version", "[0-9A-Za-z.+-]{1,64}");
  }

 private:
  const Json& content_;
  std::string where_;
};

bool is_descending(const Json& timesteps, int last) {
  std::int64_t earlier = last + 1;
  for (const Json& timestep : timesteps) {
    if (!is_whole_within(timestep, 0, earlier - 1)) return false;
    earlier = timestep.get<std::int64_t>();
  }
  return true;
}

Table read_table(const Entry& entry, const NoiseSchedule& schedule) {
  const int last = schedule.num_train_timesteps() - 1;
  const Json timesteps = entry.list("timesteps", 1, kMaxSteps);
  entry.require(is_descending(timesteps, last), "timesteps", timesteps,
                "a descending list of whole numbers from " + std::to_string(last) + " to 0");
  const Json weights = entry.list("weights", timesteps.size(), timesteps.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const Json& row = weights[i];
    const std::size_t most = 1 + std::min(i + 1, kMaxTerms);
    const bool holds =
        row.is_array() && row.size() >= 2 && row.size() <= most &&
        std::all_of(row.begin(), row.end(), [](const Json& w) { return is_within(w, kMaxWeight); });
    entry.require(holds, "weights of step " + std::to_string(i + 1), row,
                  "a list of 2 to " + std::to_string(most) + " numbers up to " +
                      number_text(kMaxWeight));
  }
  Table table = {entry.number("guidance_scale", kMaxTableGuidance),
                 timesteps.get<std::vector<int>>(),
                 weights.get<std::vector<std::vector<double>>>(),
                 entry.figures("figures"),
                 entry.figures("ddim_50")};
  entry.figures("dpmsolver");
  entry.number("reference_db", kMaxDb);
  entry.check_origin();
  return table;
}

void check_outline(const std::string& where, std::string_view text, const Json& raw,
                   const std::string& digest) {
  const Json version = raw.value("format_version", Json());
  if (!is_whole_within(version, kSolversVersion, kSolversVersion)) {
    refuse(where + " has format version " + shown(version) + "; " +
           std::to_string(kSolversVersion) +
           " is accepted. Upgrade ldm-engine if the file is newer.");
  }
  if (!is_sealed(text, raw, kSolversSeal)) {
    refuse(where +
           " was altered after it was written: it does not match its recorded sha256.");
  }
  const Json bundle = raw.value("bundle", Json());
  if (bundle != digest) {
    refuse(where + " was fitted to the bundle " + shown(bundle).substr(0, 13) + "…, and this is " +
           digest.substr(0, 12) + "…: weights of another model would make wrong pictures.");
  }
}

}  // namespace

Tables load_tables(const Bundle& bundle, const NoiseSchedule& schedule) {
  const fs::path path = bundle.path / kSolversFile;
  std::error_code error;
  if (!fs::exists(path, error)) return {};
  try {
    if (!fs::is_regular_file(path, error)) refuse(path.string() + " is not a file.");
    const std::uintmax_t size = fs::file_size(path, error);
    if (!error && size > kMaxBytes) {
      refuse(path.string() + " is larger than " + std::to_string(kMaxBytes >> 20) + " MiB.");
    }
    return {parse_tables(path.string(), read_file(path), bundle.digest(), schedule), ""};
  } catch (const BundleError& fault) {
    return {{}, fault.what()};
  }
}

std::vector<Table> parse_tables(const std::string& where, std::string_view text,
                                const std::string& digest, const NoiseSchedule& schedule) {
  const Json raw = parse_json_object(text, where, kSolversRemedy);
  check_outline(where, text, raw, digest);
  std::vector<Table> tables;
  const Json entries = Entry(raw, where).list("tables", 0, kMaxTables);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Entry entry(entries[i], where + ", table " + std::to_string(i + 1));
    tables.push_back(read_table(entry, schedule));
  }
  const auto key = [](const Table& table) {
    return std::pair{table.guidance_scale, table.steps()};
  };
  std::sort(tables.begin(), tables.end(),
            [&](const Table& one, const Table& other) { return key(one) < key(other); });
  const auto same = [&](const Table& one, const Table& other) { return key(one) == key(other); };
  if (std::adjacent_find(tables.begin(), tables.end(), same) != tables.end()) {
    refuse(where + " has two tables for one guidance and step count.");
  }
  return tables;
}

}  // namespace ldm_engine

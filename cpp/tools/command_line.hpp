// The options of ldm-generate, read from its command line.
#pragma once

#include <filesystem>
#include <ldm_engine/pipeline.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

/// The command line cannot be understood.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What was asked for.
struct CommandLine {
  bool wants_help = false;
  bool wants_version = false;
  std::filesystem::path bundle;
  std::vector<std::string> prompts;
  std::filesystem::path output;
  ldm_engine::Options options;
  ldm_engine::Request request;  ///< without seed and callback
  std::optional<std::int64_t> seed;
  int num_images = 1;  ///< a prompt
  int batch_size = 4;
  bool shows_timings = false;

  /// Of all prompts together.
  std::size_t image_count() const { return prompts.size() * static_cast<std::size_t>(num_images); }
};

/// Throws UsageError.
CommandLine read_command_line(int count, char** arguments);

extern const char* const kHelp;

// The options of ldm-generate, read from its command line. Those of an image come from the list of
// settings; the others are declared in command_line.cpp. Its twin is
// engine/ldm_engine/commands/generate.py.
#pragma once

#include <filesystem>
#include <ldm_engine/options.hpp>
#include <ldm_engine/request.hpp>
#include <stdexcept>
#include <string>
#include <vector>

/// The command line cannot be understood.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What the command line says.
struct CommandLine {
  bool wants_help = false;
  bool wants_version = false;
  std::filesystem::path bundle;
  std::vector<std::string> prompts;
  std::filesystem::path output;
  ldm_engine::Options options;
  ldm_engine::Request request;  ///< its seed is that of the first image
  int num_images = 1;           ///< a prompt
  int batch_size = 4;
  bool marks = true;  ///< files state that a model made them
  bool shows_timings = false;

  /// Of all prompts together.
  std::size_t image_count() const { return prompts.size() * static_cast<std::size_t>(num_images); }
};

/// Throws UsageError.
CommandLine read_command_line(int count, char** arguments);

/// What `ldm-generate --help` prints.
std::string help_text();

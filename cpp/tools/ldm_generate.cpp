// The command ldm-generate: prompts and options in, PNG files out.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <iostream>
#include <ldm_engine/pipeline.hpp>
#include <optional>

#include "command_line.hpp"
#include "images.hpp"
#include "machine/files.hpp"
#include "machine/utf8.hpp"
#include "sampling/recipes.hpp"
#include "sampling/settings.hpp"

namespace {

using ldm_engine::Result;

constexpr int kFailure = 1, kUsage = 2;

volatile std::sig_atomic_t received_signal = 0;

void receive(int number) { received_signal = number; }

/// The first signal ends the run after its step; the second one ends the process.
void install_signal_handlers() {
  struct sigaction action {};
  action.sa_handler = receive;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction current {};
    if (::sigaction(number, nullptr, &current) == 0 && current.sa_handler != SIG_IGN) {
      ::sigaction(number, &action, nullptr);
    }
  }
}

/// `text` without control characters: it may come from anywhere.
std::string plain(const std::string& text) {
  std::string result;
  for (const ldm_engine::Character& character : ldm_engine::decode_utf8_leniently(text)) {
    const char32_t c = character.code_point;
    const bool is_control = (c < 0x20 && c != '\n') || (c >= 0x7F && c < 0xA0);
    ldm_engine::append_utf8(is_control ? 0xFFFD : c, result);
  }
  return result;
}

void report(const char* kind, const std::string& message) {
  std::cerr << kind << ": " << plain(message) << "\n";
}

/// What stands on the terminal while images are made.
class Progress {
 public:
  explicit Progress(std::size_t images)
      : images_(images), is_shown_(::isatty(STDERR_FILENO) == 1) {}
  ~Progress() {
    if (is_shown_) std::cerr << "\r\033[K" << std::flush;
  }

  void show(std::size_t first, std::size_t last, int step, int steps) const {
    if (!is_shown_) return;
    std::cerr << "\r\033[Kimages " << first + 1 << "-" << last << " of " << images_ << ", step "
              << step << " of " << steps << std::flush;
  }

 private:
  std::size_t images_;
  bool is_shown_;
};

void show_timings(const ldm_engine::Timings& timings) {
  std::vector<double> steps = timings.steps_ms;
  std::sort(steps.begin(), steps.end());
  std::cerr << "text " << timings.text_ms << " ms, time " << timings.time_ms << " ms, denoise "
            << timings.denoise_ms << " ms (median step "
            << (steps.empty() ? 0.0 : steps[steps.size() / 2]) << " ms), decode "
            << timings.decode_ms << " ms, total " << timings.total_ms << " ms\n";
}

void save(const CommandLine& command, const ldm_engine::Info& info,
          const std::vector<std::string>& prompts, const Result& result) {
  for (std::size_t i = 0; i < result.images.size(); ++i) {
    const ldm_engine::Image& image = result.images[i];
    ldm_engine::Request request = command.request;
    request.seed = result.seeds[i];
    request.height = image.height;
    request.width = image.width;
    const auto texts = ldm_engine::recipe_texts(prompts[i], request, info,
                                                static_cast<int>(prompts.size()), command.marks);
    const std::string name = slug(prompts[i]) + "-" + std::to_string(result.seeds[i]);
    const std::string content = image.encode_png(texts);
    std::cout << ldm_engine::write_new(command.output, name, ".png", content).string() << std::endl;
    if (!std::cout) {
      throw ldm_engine::OutputError(
          "Standard output cannot be written to. The pictures so far are saved; check the file or "
          "the disk it goes to.");
    }
  }
}

/// The seed that was given for the first image, or none: all are random.
std::optional<std::int64_t> first_seed(const CommandLine& command) {
  const auto& seeds = command.request.seed.values;
  return seeds.empty() ? std::nullopt : std::optional(seeds.front());
}

int generate(CommandLine command) {
  const std::optional<std::int64_t> seed = first_seed(command);
  if (seed) {
    ldm_engine::check_seed(*seed);
    ldm_engine::check_seed(*seed + static_cast<std::int64_t>(command.image_count() - 1));
  }
  const ldm_engine::Opening opening(command.bundle, command.options);
  command.request = opening.check(command.prompts, command.request);
  ldm_engine::make_folder(command.output);
  ldm_engine::Pipeline pipe(opening);
  if (command.options.memory == "auto" && pipe.info().memory == "sequential") {
    std::cerr << "Holding one program at a time (--memory sequential): their weights take more "
                 "than half of the free memory.\n";
  }
  const auto batch_size = static_cast<std::size_t>(command.batch_size);
  const std::size_t count = command.image_count();
  const Progress progress(count);
  for (std::size_t start = 0; start < count; start += batch_size) {
    const std::size_t end = std::min(start + batch_size, count);
    std::vector<std::string> batch;
    for (std::size_t image = start; image < end; ++image) {
      batch.push_back(command.prompts[image / static_cast<std::size_t>(command.num_images)]);
    }
    ldm_engine::Request request = command.request;
    if (seed) request.seed = *seed + static_cast<std::int64_t>(start);
    request.on_step_end = [&](const ldm_engine::StepInfo& step) {
      progress.show(start, end, step.index + 1, step.steps);
      return received_signal != 0;
    };
    const Result result = pipe.generate(batch, request);
    if (received_signal != 0) {
      std::cerr << "Interrupted.\n";
      return 128 + received_signal;
    }
    for (const std::string& warning : result.warnings) report("Warning", warning);
    save(command, pipe.info(), batch, result);
    if (command.shows_timings) show_timings(result.timings);
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    const CommandLine command = read_command_line(count, arguments);
    if (command.wants_help) {
      std::cout << help_text();
      return 0;
    }
    if (command.wants_version) {
      std::cout << "ldm-generate, version " << ldm_engine::version() << "\n";
      return 0;
    }
    install_signal_handlers();
    return generate(command);
  } catch (const UsageError& error) {
    report("Error", error.what());
    return kUsage;
  } catch (const ldm_engine::InvalidArgumentError& error) {
    report("Error", error.what());
    return kUsage;
  } catch (const std::exception& error) {
    report("Error", error.what());
    return kFailure;
  }
}

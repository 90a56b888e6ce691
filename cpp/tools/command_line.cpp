// The options of ldm-generate, read from its command line.
#include "command_line.hpp"

#include <getopt.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>

const char* const kHelp = R"(Usage: ldm-generate [OPTIONS] BUNDLE PROMPT...

  Render a picture of each PROMPT with BUNDLE, a folder that `ldm-engine export` made.

  Pictures are PNG files that carry their recipe; no file is ever overwritten.

Options:
  -o, --output PATH              Folder for the pictures.  [default: .]
  --num-inference-steps INTEGER  [default: 50]
  --guidance-scale FLOAT         How closely to follow the prompt; 1.0 is off.  [default: 6.0]
  --eta FLOAT                    [default: 0.0]
  --negative-prompt TEXT         What to guide away from.
  --seed INTEGER                 Images get the seeds S, S+1, ... Default: at random.
  --num-images INTEGER           Images a prompt.  [default: 1]
  --height INTEGER               Pixels. Default: as trained.
  --width INTEGER                Pixels. Default: as trained.
  --batch-size INTEGER           [default: 4]
  --runtime TEXT                 auto, or the name of one.  [default: auto]
  --precision TEXT               fp32, bf16 or int8.  [default: fp32]
  --device TEXT                  [default: cpu]
  --threads INTEGER              Default: all cores of this process.
  --memory TEXT                  resident, sequential (holds one program at a time) or auto (does so
                                 where weights exceed half of the free memory).  [default: auto]
  --timings                      Tell how long each part took, on standard error.
  --version                      Show the version and exit.
  -h, --help                     Show this message and exit.
)";

namespace {

[[noreturn]] void refuse(const std::string& name, const char* value, const std::string& accepted) {
  throw UsageError("Invalid value for '--" + name + "': '" + value + "' is not " + accepted + ".");
}

std::int64_t whole_number(const std::string& name, const char* value) {
  char* end = nullptr;
  errno = 0;
  const long long number = std::strtoll(value, &end, 10);
  if (end == value || *end != '\0' || errno != 0) refuse(name, value, "a whole number");
  return number;
}

int small_number(const std::string& name, const char* value, std::int64_t least) {
  const std::int64_t number = whole_number(name, value);
  if (number < least || number > std::numeric_limits<int>::max()) {
    refuse(name, value,
           "a whole number from " + std::to_string(least) + " to " +
               std::to_string(std::numeric_limits<int>::max()));
  }
  return static_cast<int>(number);
}

double fraction(const std::string& name, const char* value) {
  char* end = nullptr;
  const double number = std::strtod(value, &end);
  if (end == value || *end != '\0') refuse(name, value, "a number");
  return number;
}

constexpr std::int64_t kAny = std::numeric_limits<int>::min();  // judged by the library

using Setter = std::function<void(CommandLine&, const std::string& name, const char* value)>;

/// What each option with a value does.
const std::map<std::string, Setter>& setters() {
  static const std::map<std::string, Setter> table = {
      {"output", [](auto& c, auto&, auto* v) { c.output = v; }},
      {"num-inference-steps",
       [](auto& c, auto& n, auto* v) { c.request.num_inference_steps = small_number(n, v, kAny); }},
      {"guidance-scale",
       [](auto& c, auto& n, auto* v) { c.request.guidance_scale = fraction(n, v); }},
      {"eta", [](auto& c, auto& n, auto* v) { c.request.eta = fraction(n, v); }},
      {"negative-prompt",
       [](auto& c, auto&, auto* v) { c.request.negative_prompt = std::string(v); }},
      {"seed", [](auto& c, auto& n, auto* v) { c.seed = whole_number(n, v); }},
      {"num-images", [](auto& c, auto& n, auto* v) { c.num_images = small_number(n, v, 1); }},
      {"height", [](auto& c, auto& n, auto* v) { c.request.height = small_number(n, v, kAny); }},
      {"width", [](auto& c, auto& n, auto* v) { c.request.width = small_number(n, v, kAny); }},
      {"batch-size", [](auto& c, auto& n, auto* v) { c.batch_size = small_number(n, v, 1); }},
      {"runtime", [](auto& c, auto&, auto* v) { c.options.runtime = v; }},
      {"precision", [](auto& c, auto&, auto* v) { c.options.precision = v; }},
      {"device", [](auto& c, auto&, auto* v) { c.options.device = v; }},
      {"threads", [](auto& c, auto& n, auto* v) { c.options.threads = small_number(n, v, kAny); }},
      {"memory", [](auto& c, auto&, auto* v) { c.options.memory = v; }},
  };
  return table;
}

/// What each option without a value does.
const std::map<std::string, bool CommandLine::*>& flags() {
  static const std::map<std::string, bool CommandLine::*> table = {
      {"help", &CommandLine::wants_help},
      {"timings", &CommandLine::shows_timings},
      {"version", &CommandLine::wants_version},
  };
  return table;
}

/// --num_inference_steps works as well as --num-inference-steps.
std::string with_dashes(std::string argument) {
  if (argument.rfind("--", 0) == 0) {
    const auto end = std::find(argument.begin(), argument.end(), '=');
    std::replace(argument.begin(), end, '_', '-');
  }
  return argument;
}

}  // namespace

CommandLine read_command_line(int count, char** arguments) {
  std::vector<std::string> texts;
  bool is_over = false;  // after "--" all are prompts
  for (int i = 0; i < count; ++i) {
    is_over = is_over || (i > 0 && std::string(arguments[i]) == "--");
    texts.push_back(is_over ? arguments[i] : with_dashes(arguments[i]));
  }
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  std::vector<option> options;
  for (const auto& [name, setter] : setters()) {
    options.push_back({name.c_str(), required_argument, nullptr, 0});
  }
  for (const auto& [name, flag] : flags()) {
    options.push_back({name.c_str(), no_argument, nullptr, 0});
  }
  options.push_back({nullptr, 0, nullptr, 0});

  CommandLine command;
  command.options.memory = "auto";
  command.request.guidance_scale = 6.0;
  int index = 0;
  for (int found = 0; found != -1;) {
    found = ::getopt_long(count, pointers.data(), "o:h", options.data(), &index);
    if (found == '?') throw UsageError("Try 'ldm-generate --help'.");
    if (found == 'h') command.wants_help = true;
    if (found == 'o') command.output = optarg;
    if (found != 0) continue;
    const std::string name = options[static_cast<std::size_t>(index)].name;
    if (const auto flag = flags().find(name); flag != flags().end()) {
      command.*(flag->second) = true;
    } else {
      setters().at(name)(command, name, optarg);
    }
  }
  if (command.wants_help || command.wants_version) return command;
  for (int i = optind; i < count; ++i)
    command.prompts.emplace_back(pointers[static_cast<std::size_t>(i)]);
  if (command.prompts.empty()) throw UsageError("Missing argument 'BUNDLE'.");
  command.bundle = command.prompts.front();
  command.prompts.erase(command.prompts.begin());
  if (command.prompts.empty()) throw UsageError("Missing argument 'PROMPT...'.");
  return command;
}

// The options of ldm-generate, read from its command line.
#include "command_line.hpp"

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

int small_number(const std::string& name, const char* value, std::int64_t least,
                 std::int64_t most = std::numeric_limits<int>::max()) {
  const std::int64_t number = whole_number(name, value);
  if (number < least || number > most) {
    refuse(name, value,
           "a whole number from " + std::to_string(least) + " to " + std::to_string(most));
  }
  return static_cast<int>(number);
}

double fraction(const std::string& name, const char* value) {
  char* end = nullptr;
  const double number = std::strtod(value, &end);
  const bool is_decimal = std::string(value).find_first_of("xX(") == std::string::npos;
  if (end == value || *end != '\0' || !is_decimal) refuse(name, value, "a number");
  return number;
}

constexpr int kMaxBatch = 1024;
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
      {"batch-size",
       [](auto& c, auto& n, auto* v) { c.batch_size = small_number(n, v, 1, kMaxBatch); }},
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

/// The words of a command line, one after the other.
class Words {
 public:
  Words(int count, char** words) : count_(count), words_(words) {}

  /// The next word, or NULL after the last.
  const char* next() { return at_ < count_ ? words_[at_++] : nullptr; }

 private:
  int count_;
  char** words_;
  int at_ = 1;  // the first one is the command's name
};

/// Set the option `name`, whose value is `value`, or if that is NULL the next of `words`.
void set_option(CommandLine& command, const std::string& name, const char* value, Words& words) {
  if (const auto flag = flags().find(name); flag != flags().end()) {
    if (value) throw UsageError("Option '--" + name + "' does not take a value.");
    command.*(flag->second) = true;
    return;
  }
  const auto setter = setters().find(name);
  if (setter == setters().end()) {
    throw UsageError("No such option '--" + name + "'. Try 'ldm-generate --help'.");
  }
  if (!value) value = words.next();
  if (!value) throw UsageError("Option '--" + name + "' requires an argument.");
  setter->second(command, name, value);
}

/// Read an option beginning with "--"; --num_inference_steps works as well as with hyphens.
void read_long_option(CommandLine& command, const std::string& word, Words& words) {
  const std::size_t end = std::min(word.find('='), word.size());
  std::string name = word.substr(2, end - 2);
  std::replace(name.begin(), name.end(), '_', '-');
  set_option(command, name, end < word.size() ? word.c_str() + end + 1 : nullptr, words);
}

void read_short_option(CommandLine& command, const std::string& word, Words& words) {
  if (word == "-h") {
    command.wants_help = true;
  } else if (word[1] == 'o') {
    set_option(command, "output", word.size() > 2 ? word.c_str() + 2 : nullptr, words);
  } else {
    throw UsageError("No such option '" + word + "'. Try 'ldm-generate --help'.");
  }
}

}  // namespace

CommandLine read_command_line(int count, char** arguments) {
  CommandLine command;
  command.options.memory = "auto";
  command.request.guidance_scale = 6.0;
  Words words(count, arguments);
  bool is_over = false;  // after "--" all are prompts
  while (const char* next = words.next()) {
    const std::string word = next;
    if (is_over || word.size() < 2 || word[0] != '-') {
      command.prompts.push_back(word);
    } else if (word == "--") {
      is_over = true;
    } else if (word[1] == '-') {
      read_long_option(command, word, words);
    } else {
      read_short_option(command, word, words);
    }
  }
  if (command.wants_help || command.wants_version) return command;
  if (command.prompts.empty()) throw UsageError("Missing argument 'BUNDLE'.");
  command.bundle = command.prompts.front();
  command.prompts.erase(command.prompts.begin());
  if (command.prompts.empty()) throw UsageError("Missing argument 'PROMPT...'.");
  return command;
}

// The options of ldm-generate, read from its command line.
#include "command_line.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <limits>
#include <regex>
#include <sstream>

#include "machine/messages.hpp"
#include "sampling/settings.hpp"

namespace {

using ldm_engine::PerImage;
using ldm_engine::Request;
using ldm_engine::Setting;

constexpr int kMaxBatch = 1024;
// The library checks the range; the least number of all is its kAutoSteps.
constexpr std::int64_t kAny = std::numeric_limits<int>::min() + 1;
constexpr std::size_t kHelpColumn = 33, kHelpWidth = 100;

/// An option as the command line has it: "--height" without the hyphens, and what it does.
struct Option {
  std::string name;
  std::string metavar;  ///< of its value; empty: it is a flag
  std::string help;
  std::function<void(CommandLine&, const char* value)> set;
};

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

/// Puts a word of the command line into a request, whatever the type of the setting's field.
struct Read {
  Request& request;
  const std::string& name;
  const char* word;
  const char* auto_word;

  void operator()(std::monostate) const {}
  void operator()(int Request::*field) const {
    request.*field = word == std::string(auto_word) ? ldm_engine::kAutoSteps
                                                    : small_number(name, word, kAny);
  }
  void operator()(std::optional<int> Request::*field) const {
    request.*field = small_number(name, word, kAny);
  }
  void operator()(PerImage<double> Request::*field) const { request.*field = fraction(name, word); }
  void operator()(std::optional<double> Request::*field) const {
    request.*field = fraction(name, word);
  }
  void operator()(std::vector<ldm_engine::Image> Request::*field) const {
    request.*field = {ldm_engine::Image::load_png(word)};
  }
  void operator()(PerImage<std::int64_t> Request::*field) const {
    request.*field = whole_number(name, word);
  }
  void operator()(PerImage<std::string> Request::*field) const {
    request.*field = std::string(word);
  }
  void operator()(std::string Request::*field) const { request.*field = word; }
  void operator()(std::vector<int> Request::*field) const {
    (request.*field).clear();
    static const std::regex kList("([0-9]{1,9}(, *[0-9]{1,9})*)?");
    if (!std::regex_match(word, kList)) {
      refuse(name, word, "a list of whole numbers with commas between them");
    }
    std::istringstream parts(word);
    for (std::string part; std::getline(parts, part, ',');) {
      (request.*field).push_back(small_number(name, part.c_str(), kAny));
    }
  }
};

template <typename Field>
bool holds(const Setting& setting) {
  return std::holds_alternative<Field Request::*>(setting.field);
}

std::string metavar(const Setting& setting) {
  if (!setting.choices.empty()) return "[" + ldm_engine::joined(setting.choices, "|") + "]";
  if (*setting.auto_word) return std::string("INTEGER|") + setting.auto_word;
  if (holds<PerImage<double>>(setting) || holds<std::optional<double>>(setting)) return "FLOAT";
  if (holds<std::vector<ldm_engine::Image>>(setting)) return "FILE";
  const bool is_number = holds<int>(setting) || holds<std::optional<int>>(setting) ||
                         holds<PerImage<std::int64_t>>(setting);
  return is_number ? "INTEGER" : "TEXT";
}

std::string option_name(std::string setting) {
  std::replace(setting.begin(), setting.end(), '_', '-');
  return setting;
}

Option option_of(const Setting& setting) {
  const ldm_engine::Json value = ldm_engine::setting_value(setting, {});
  std::string shown = value.is_number() ? value.dump() : "";
  if (!setting.choices.empty()) shown = value.get<std::string>();
  if (setting.command_default) shown = setting.command_default;
  const std::string name = option_name(setting.option());
  const std::string help = shown.empty() ? "" : "  [default: " + shown + "]";
  return {name, metavar(setting), setting.help + help,
          [&setting, name](CommandLine& command, const char* word) {
            std::visit(Read{command.request, name, word, setting.auto_word}, setting.field);
          }};
}

std::vector<Option> make_options() {
  std::vector<Option> options = {{"output", "PATH", "Folder for the pictures.  [default: .]",
                                  [](auto& c, auto* v) { c.output = v; }}};
  for (const Setting& setting : ldm_engine::settings()) {
    if (*setting.help) options.push_back(option_of(setting));
  }
  const auto add = [&](const char* name, const char* value, const char* help, auto set) {
    options.push_back({name, value, help, set});
  };
  add("num-images", "INTEGER", "Images a prompt.  [default: 1]",
      [](auto& c, auto* v) { c.num_images = small_number("num-images", v, 1); });
  add("batch-size", "INTEGER", "Images rendered together.  [default: 4]",
      [](auto& c, auto* v) { c.batch_size = small_number("batch-size", v, 1, kMaxBatch); });
  add("runtime", "TEXT", "Name of a runtime, or auto.  [default: auto]",
      [](auto& c, auto* v) { c.options.runtime = v; });
  add("precision", "TEXT", "fp32, bf16 or int8.  [default: fp32]",
      [](auto& c, auto* v) { c.options.precision = v; });
  add("device", "TEXT", "Device to run on.  [default: cpu]",
      [](auto& c, auto* v) { c.options.device = v; });
  add("threads", "INTEGER", "Cores to use. Default: all cores of this process.",
      [](auto& c, auto* v) { c.options.threads = small_number("threads", v, kAny); });
  add("memory", "TEXT",
      "resident keeps all programs loaded; sequential holds one at a time, which takes less memory "
      "and more time; auto does so where their weights exceed half of the free memory.  "
      "[default: auto]",
      [](auto& c, auto* v) { c.options.memory = v; });
  add("no-mark", "", "Files that do not state that a model made them (IPTC digital source type).",
      [](auto& c, auto*) { c.marks = false; });
  add("timings", "", "Print how long each part took, on standard error.",
      [](auto& c, auto*) { c.shows_timings = true; });
  add("version", "", "Show the version and exit.",
      [](auto& c, auto*) { c.wants_version = true; });
  add("help", "", "Show this message and exit.", [](auto& c, auto*) { c.wants_help = true; });
  return options;
}

const std::vector<Option>& all_options() {
  static const std::vector<Option> options = make_options();
  return options;
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
  const auto option = std::find_if(all_options().begin(), all_options().end(),
                                   [&](const Option& each) { return each.name == name; });
  if (option == all_options().end()) {
    throw UsageError("No such option '--" + name + "'. Try 'ldm-generate --help'.");
  }
  if (option->metavar.empty()) {
    if (value) throw UsageError("Option '--" + name + "' does not take a value.");
  } else if (!value && !(value = words.next())) {
    throw UsageError("Option '--" + name + "' requires an argument.");
  }
  option->set(command, value);
}

/// Read an option beginning with "--"; --num_inference_steps works as well as with hyphens.
void read_long_option(CommandLine& command, const std::string& word, Words& words) {
  const std::size_t end = std::min(word.find('='), word.size());
  set_option(command, option_name(word.substr(2, end - 2)),
             end < word.size() ? word.c_str() + end + 1 : nullptr, words);
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

/// The defaults of the command, where they are not the library's.
CommandLine default_command_line() {
  CommandLine command;
  command.options.memory = "auto";
  for (const Setting& setting : ldm_engine::settings()) {
    if (!setting.command_default) continue;
    std::visit(Read{command.request, setting.name, setting.command_default, setting.auto_word},
               setting.field);
  }
  return command;
}

/// An option's lines in the help, broken between words.
std::string option_help(const Option& option) {
  std::string line = "  ";
  if (option.name == "output") line += "-o, ";
  if (option.name == "help") line += "-h, ";
  line += "--" + option.name;
  if (!option.metavar.empty()) line += " " + option.metavar;
  line.resize(std::max(line.size() + 2, kHelpColumn), ' ');
  std::string text;
  std::istringstream words(option.help);
  for (std::string word; words >> word;) {
    if (line.size() + word.size() > kHelpWidth) {
      text += line + "\n";
      line.assign(kHelpColumn, ' ');
    }
    line += (line.size() > kHelpColumn ? " " : "") + word;
  }
  return text + line + "\n";
}

}  // namespace

std::string help_text() {
  std::string text = R"(Usage: ldm-generate [OPTIONS] BUNDLE PROMPT...

  Render a picture of each PROMPT with BUNDLE, a folder that `ldm-engine export` made.

  Pictures are PNG files that carry their recipe; no file is ever overwritten.

Options:
)";
  for (const Option& option : all_options()) text += option_help(option);
  return text;
}

CommandLine read_command_line(int count, char** arguments) {
  CommandLine command = default_command_line();
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

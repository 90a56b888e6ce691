// Opened programs by name: all of them from the start, or only the one in use.
#include "sampling/programs.hpp"

#include <utility>
#include <vector>

#include "ldm_engine/errors.hpp"
#include "machine/forks.hpp"

namespace ldm_engine {

Programs::Programs(Open open, bool resident)
    : open_(std::move(open)), resident_(resident), process_(process_number()) {
  if (!resident_) return;
  for (const std::string& name : required_programs()) opened_[name] = open_(name);
}

Program& Programs::operator[](const std::string& name) {
  check_open();
  const auto found = opened_.find(name);
  if (found != opened_.end()) return *found->second;
  if (!resident_) free_all();  // before the next program's weights come
  return *(opened_[name] = open_(name));
}

void Programs::close() {
  is_closed_ = true;
  free_all();
}

Programs::~Programs() { free_all(); }

void Programs::free_all() {
  if (are_inherited()) {  // they are kept as they are: their library would wait for threads
    static auto* const kept = new std::vector<std::unique_ptr<Program>>;
    for (auto& [name, program] : opened_) kept->push_back(std::move(program));
  }
  opened_.clear();
}

bool Programs::are_inherited() const { return process_ != process_number(); }

Programs Programs::clone() const {
  check_open();
  if (!resident_) return Programs(open_, false);
  Programs clones(open_, false);
  clones.resident_ = true;
  for (const auto& [name, program] : opened_) clones.opened_[name] = program->clone();
  return clones;
}

void Programs::check_open() const {
  if (are_inherited()) throw ClosedError(inherited("This pipeline"));
  if (is_closed_) {
    throw ClosedError(
        "This pipeline was closed, and its programs are gone. Open the bundle again.");
  }
}

}  // namespace ldm_engine

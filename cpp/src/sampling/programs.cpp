// Opened programs by name: all of them from the start, or only the one in use.
#include "sampling/programs.hpp"

#include <utility>

namespace ldm_engine {

Programs::Programs(Open open, bool resident) : open_(std::move(open)), resident_(resident) {
  if (!resident_) return;
  for (const std::string& name : required_programs()) opened_[name] = open_(name);
}

Program& Programs::operator[](const std::string& name) {
  const auto found = opened_.find(name);
  if (found != opened_.end()) return *found->second;
  opened_.clear();  // frees the weights of the last program before the next ones come
  return *(opened_[name] = open_(name));
}

Programs Programs::clone() const {
  if (!resident_) return Programs(open_, false);
  Programs clones(open_, false);
  clones.resident_ = true;
  for (const auto& [name, program] : opened_) clones.opened_[name] = program->clone();
  return clones;
}

}  // namespace ldm_engine

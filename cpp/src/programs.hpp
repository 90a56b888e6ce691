// Opened programs by name: all of them from the start, or only the one in use.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "program.hpp"

namespace ldm_engine {

/// The programs of one pipeline.
class Programs {
 public:
  using Open = std::function<std::unique_ptr<Program>(const std::string& name)>;

  /// With `resident` all are opened now; else each when it is its turn, which frees the last one.
  Programs(Open open, bool resident);

  Program& operator[](const std::string& name);

  /// Other handles over the same weights if they are resident, else programs of their own.
  Programs clone() const;

 private:
  Open open_;
  bool resident_;
  std::map<std::string, std::unique_ptr<Program>> opened_;
};

}  // namespace ldm_engine

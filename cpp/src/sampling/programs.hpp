// Opened programs by name: all of them from the start, or only the one in use.
// Its twin is engine/ldm_engine/sampling/programs.py.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "runtimes/base.hpp"

namespace ldm_engine {

/// The programs of one pipeline.
class Programs {
 public:
  using Open = std::function<std::unique_ptr<Program>(const std::string& name)>;

  /// With `resident` all that every bundle has are opened now, and an optional one when it is used
  /// first; else each when it is its turn, which frees the last one.
  Programs(Open open, bool resident);
  Programs(Programs&&) noexcept = default;
  ~Programs();

  /// The program called `name`; without `resident` the last one is freed for it.
  Program& operator[](const std::string& name);

  /// Free all of them; a second call does nothing. Every use afterwards throws ClosedError.
  void close();

  /// Other handles over the same weights if they are resident, else programs of their own.
  Programs clone() const;

  /// Throws ClosedError after close(), and in a forked child, where nothing can be used or freed.
  void check_open() const;

  /// Whether this process was forked from the one that made them.
  bool are_inherited() const;

 private:
  void free_all();

  Open open_;
  bool resident_;
  int process_;
  bool is_closed_ = false;
  std::map<std::string, std::unique_ptr<Program>> opened_;
};

}  // namespace ldm_engine

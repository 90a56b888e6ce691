// What lists of texts are asked. Python has this in its language.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace ldm_engine {

/// Whether `item` is one of `items`.
inline bool contains(const std::vector<std::string>& items, const std::string& item) {
  return std::find(items.begin(), items.end(), item) != items.end();
}

}  // namespace ldm_engine

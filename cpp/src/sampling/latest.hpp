// What encoders gave last, kept for whoever asks for the same again.
// Its twin is engine/ldm_engine/sampling/latest.py.
#pragma once

#include <algorithm>
#include <cstddef>
#include <list>
#include <memory>
#include <utility>
#include <vector>

namespace ldm_engine {

/// Arrays by what they were made from: the latest, as many as fit into some bytes.
template <typename Key>
class Latest {
 public:
  using Values = std::shared_ptr<const std::vector<float>>;

  explicit Latest(std::size_t most_bytes) : most_bytes_(most_bytes) {}

  /// The array of `key`, made if it is not there.
  template <typename Make>
  Values get(const Key& key, const Make& make) {
    const auto found = std::find_if(kept_.begin(), kept_.end(),
                                    [&](const auto& entry) { return entry.first == key; });
    if (found != kept_.end()) {
      kept_.splice(kept_.end(), kept_, found);
    } else {
      kept_.emplace_back(key, std::make_shared<const std::vector<float>>(make()));
      bytes_ += kept_.back().second->size() * sizeof(float);
    }
    const Values values = kept_.back().second;
    for (; bytes_ > most_bytes_; kept_.pop_front()) {
      bytes_ -= kept_.front().second->size() * sizeof(float);
    }
    return values;
  }

 private:
  std::size_t most_bytes_;
  std::size_t bytes_ = 0;
  std::list<std::pair<Key, Values>> kept_;
};

}  // namespace ldm_engine

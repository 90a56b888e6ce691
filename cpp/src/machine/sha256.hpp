// SHA-256 of text and files, by OpenSSL's libcrypto.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct evp_md_ctx_st;

namespace ldm_engine {

/// A hash under way.
class Sha256 {
 public:
  Sha256();
  void update(const void* data, std::size_t size);
  /// The hash of all that was given, in hex; nothing may be added afterwards.
  std::string hex();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

std::string sha256_of_text(std::string_view text);

/// Hex sha256 of a file, or none if it cannot be read.
std::optional<std::string> sha256_of_file(const std::filesystem::path& path);

}  // namespace ldm_engine

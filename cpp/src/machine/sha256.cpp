// SHA-256 of text and files, by OpenSSL's libcrypto.
#include "machine/sha256.hpp"

#include <openssl/evp.h>

#include <cstdio>
#include <vector>

#include "ldm_engine/errors.hpp"

namespace ldm_engine {
namespace {

constexpr std::size_t kChunkBytes = 4 << 20;

void require(int done) {
  if (done != 1) throw Error("The system's OpenSSL cannot compute SHA-256; install another build.");
}

}  // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  require(context_ != nullptr ? EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) : 0);
}

void Sha256::update(const void* data, std::size_t size) {
  require(EVP_DigestUpdate(context_.get(), data, size));
}

std::string Sha256::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  require(EVP_DigestFinal_ex(context_.get(), digest, &size));
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  text.reserve(2 * size);
  for (unsigned int i = 0; i < size; ++i) {
    text += kDigits[digest[i] >> 4];
    text += kDigits[digest[i] & 15];
  }
  return text;
}

std::string sha256_of_text(std::string_view text) {
  Sha256 hash;
  hash.update(text.data(), text.size());
  return hash.hex();
}

std::optional<std::string> sha256_of_file(const std::filesystem::path& path) {
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) return std::nullopt;
  std::setvbuf(file.get(), nullptr, _IONBF, 0);
  Sha256 hash;
  std::vector<char> chunk(kChunkBytes);
  while (const std::size_t size = std::fread(chunk.data(), 1, chunk.size(), file.get())) {
    hash.update(chunk.data(), size);
  }
  if (std::ferror(file.get())) return std::nullopt;
  return hash.hex();
}

}  // namespace ldm_engine

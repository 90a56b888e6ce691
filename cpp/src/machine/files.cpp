// Files read whole, and written so that each appears whole or not at all; stamps of files.
#include "machine/files.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>
#include <system_error>

#include "ldm_engine/errors.hpp"

namespace ldm_engine {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kChunkBytes = 1 << 16;

/// An open file, closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int number() const { return number_; }
  bool close() {
    const int number = number_;
    number_ = -1;
    return number < 0 || ::close(number) == 0;
  }

 private:
  int number_;
};

[[noreturn]] void fail(const fs::path& path, int error) {
  throw OutputError(path.string() + " could not be written: " + std::strerror(error) +
                    ". What was there before is unchanged; make room or choose another folder, "
                    "and run again.");
}

bool write_all(int descriptor, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(descriptor, content.data(), content.size());
    if (written < 0 && errno != EINTR) return false;
    if (written > 0) content.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

/// A synced file beside `path`, gone afterwards unless it was renamed.
class TemporaryFile {
 public:
  TemporaryFile(const fs::path& path, std::string_view content) {
    if (has_nul(path)) fail(path, EINVAL);
    Descriptor file(create_beside(path));
    if (file.number() < 0) fail(path, errno);
    if (!write_all(file.number(), content) || ::fsync(file.number()) != 0 || !file.close()) {
      const int error = errno;
      ::unlink(name_.c_str());
      fail(path, error);
    }
  }
  ~TemporaryFile() { ::unlink(name_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  const std::string& name() const { return name_; }

 private:
  /// Sets `name_`; the new file has the permissions that any other would have.
  int create_beside(const fs::path& path) {
    const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
    const std::string begin = "." + path.filename().string().substr(0, 100) + ".";
    std::random_device source;
    int number = -1;
    do {
      name_ = (folder / (begin + std::to_string(source()))).string();
      number = ::open(name_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (number < 0 && errno == EEXIST);
    return number;
  }

  std::string name_;
};

}  // namespace

bool has_nul(const fs::path& path) { return path.native().find('\0') != std::string::npos; }

std::optional<std::string> read_whole(const fs::path& path) {
  // A pipe would wait for who writes into it, at its opening already.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.number() < 0) return std::nullopt;
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) return std::nullopt;
  if (!S_ISREG(status.st_mode)) {
    errno = S_ISDIR(status.st_mode) ? EISDIR : ENOTSUP;
    return std::nullopt;
  }
  std::string content;
  while (true) {
    const std::size_t size = content.size();
    content.resize(size + kChunkBytes);
    const ssize_t count = ::read(file.number(), content.data() + size, kChunkBytes);
    if (count < 0 && errno != EINTR) return std::nullopt;
    content.resize(size + static_cast<std::size_t>(count > 0 ? count : 0));
    if (count == 0) return content;
  }
}

void write_atomically(const fs::path& path, std::string_view content) {
  const TemporaryFile temporary(path, content);
  if (::rename(temporary.name().c_str(), path.c_str()) != 0) fail(path, errno);
}

fs::path write_new(const fs::path& folder, const std::string& stem, const std::string& suffix,
                   std::string_view content) {
  fs::path path = folder / (stem + suffix);
  const TemporaryFile temporary(path, content);
  for (int count = 2;; ++count) {
    // Unlike a rename, this fails if the name is taken.
    if (::link(temporary.name().c_str(), path.c_str()) == 0) return path;
    if (errno != EEXIST) {  // a file system without hard links: take the name, then fill it
      const Descriptor taken(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
      if (taken.number() >= 0) {
        if (::rename(temporary.name().c_str(), path.c_str()) != 0) fail(path, errno);
        return path;
      }
      if (errno != EEXIST) fail(path, errno);
    }
    path = folder / (stem + "-" + std::to_string(count) + suffix);
  }
}

void make_folder(const fs::path& path) {
  std::error_code error;
  const fs::path folder = path.empty() ? fs::path(".") : path;
  if (has_nul(folder)) {
    error = std::make_error_code(std::errc::invalid_argument);
  } else {
    fs::create_directories(folder, error);
  }
  std::error_code ignored;
  const bool is_folder = !has_nul(folder) && fs::is_directory(folder, ignored);
  if (!is_folder || ::access(folder.c_str(), W_OK | X_OK) != 0) {
    const int reason = is_folder ? errno : (error ? error.value() : ENOTDIR);
    throw OutputError("The folder " + folder.string() + " cannot be written to: " +
                      std::strerror(reason) + ". Choose another folder.");
  }
}

Stamp stamp_file(const fs::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) return {};
  const auto nanoseconds = [](const struct timespec& time) {
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  // The time of the last change of the inode cannot be set, unlike that of the content.
  return {static_cast<std::int64_t>(status.st_size), nanoseconds(status.st_mtim),
          nanoseconds(status.st_ctim), static_cast<std::int64_t>(status.st_ino),
          static_cast<std::int64_t>(status.st_dev)};
}

}  // namespace ldm_engine

// Files read whole, and written so that each appears whole or not at all; stamps of files.
// Its twin is engine/ldm_engine/machine/files.py.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ldm_engine {

/// What a change to a file would change; empty if it is not there.
using Stamp = std::vector<std::int64_t>;

/// Whether a path holds a zero byte, where the system would take it to end.
bool has_nul(const std::filesystem::path& path);

/// The bytes of a regular file, or none, with `errno` set, if it is none or cannot be read.
std::optional<std::string> read_whole(const std::filesystem::path& path);

/// Replace `path` by `content` through a synced temporary file beside it.
/// Throws OutputError if it cannot be written; what stood there before is untouched.
void write_atomically(const std::filesystem::path& path, std::string_view content);

/// Write `stem``suffix` into `folder`, or `stem`-2, -3, ... if a file has that name, and return
/// its path. Throws OutputError if it cannot be written; no file is ever replaced.
std::filesystem::path write_new(const std::filesystem::path& folder, const std::string& stem,
                                const std::string& suffix, std::string_view content);

/// Create `path` with its parents and make sure that files can be written into it.
/// Throws OutputError if that is not possible.
void make_folder(const std::filesystem::path& path);

/// The stamp of a file; take it before reading.
Stamp stamp_file(const std::filesystem::path& path);

}  // namespace ldm_engine

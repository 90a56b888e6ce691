// The CPU quota and the memory limit of this process's control groups, of versions 1 and 2.
// Its twin is engine/ldm_engine/machine/cgroups.py; tests/data/cgroups.json holds both to the same
// values.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace ldm_engine {

/// The number of cores' time that this process may use, by its quota, or none without one.
///
/// `root` is the folder in which `proc` and `sys` lie. The groups up to the one that is mounted
/// apply.
std::optional<double> cpu_limit(const std::filesystem::path& root = "/");

/// The bytes that this process may still take under its groups' limits, or none without one.
///
/// What the groups hold of files that they can drop counts as free.
std::optional<std::int64_t> group_free_memory(const std::filesystem::path& root = "/");

}  // namespace ldm_engine

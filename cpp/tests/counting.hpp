// Counts what a thread allocates, whichever way: every way goes through malloc.
#pragma once

#include <cstddef>

/// Not under AddressSanitizer, which has its own malloc.
bool can_count_allocations();

/// Counts this thread's allocations from now on, or no longer.
void count_allocations(bool counting);

/// How many there were while they were counted.
std::size_t allocations_counted();

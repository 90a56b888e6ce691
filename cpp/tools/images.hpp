// The names of picture files. Its twin is engine/ldm_engine/commands/images.py.
#pragma once

#include <string>

/// Letters, digits and hyphens that remind of `text`; safe as a file name anywhere.
std::string slug(const std::string& text);

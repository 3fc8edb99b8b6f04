// What flags may be, refused in words: found this, expected that.
#pragma once

#include <CLI/CLI.hpp>

#include <cstdint>

namespace minimo {

CLI::Validator AtLeast(int64_t least);  // a whole number
// Not NaN either, which CLI::Range lets through.
CLI::Validator NumberIn(double least, double most);

}  // namespace minimo

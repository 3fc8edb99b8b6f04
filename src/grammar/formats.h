// The "format" keyword as patterns.
#pragma once

#include <string>
#include <string_view>

#include "minimo/result.h"

namespace minimo::grammar {

// A pattern for the whole string; empty for a format that says nothing about the text ("password", "int32"). An error
// for a format that is not supported.
Result<std::string> PatternOfFormat(std::string_view format);

}  // namespace minimo::grammar

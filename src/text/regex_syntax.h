// A tokenizer.json's patterns are written for Oniguruma, which reads some constructs otherwise than PCRE2.
#pragma once

#include <string>
#include <string_view>

#include "minimo/result.h"

namespace minimo {

// The pattern for PCRE2 that matches what `pattern` matches in Oniguruma (its own syntax). Constructs that have no
// counterpart (intersections, sets and [:classes:] within a set, \W there, \B, \X) are refused.
Result<std::string> OnigurumaToPcre2(std::string_view pattern);

}  // namespace minimo

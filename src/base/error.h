// Errorf("shard {}: found {} bytes, expected {}", ...): an Error with a formatted message.
#pragma once

#include <fmt/format.h>

#include "minimo/result.h"

namespace minimo {

template <typename... Args>
Error Errorf(fmt::format_string<Args...> format, Args&&... args) {
  return Error{fmt::format(format, std::forward<Args>(args)...)};
}

}  // namespace minimo
